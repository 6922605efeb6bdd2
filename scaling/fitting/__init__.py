"""From a table of runs to laws, with intervals and with what the table cannot tell.

`observe` reads the table, `laws` holds the formulas, `robust` finds their parameters, `surface` is the whole fit of
L(N, D), `uncertainty` its intervals and `forecast` what it says of a run not yet trained. `isoflop` is approach 2,
`power` a law in one variable, and `compare` prices one algorithm in the compute of another.
"""
