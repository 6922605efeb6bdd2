"""From a table of runs to laws, with intervals and with what the table cannot tell.

table, rows, observe     what a table says, and what is wrong with it
laws/                    the formulas
robust                   their parameters: variable projection, then a robust objective
identify                 whether these runs can tell them
components, uncertainty  what noise runs share, and intervals that allow for it
solve, fit, fitted       all of this once: a `Fit`
profile, calibrate       intervals checked: by profile, by simulation of this very design
influence                the fit without each run
tournament, baseline     which law predicts the runs of most compute, and what it must beat
forecast                 what laws say of runs not yet trained
rescale, compare         one algorithm priced in the compute of another, with a law and without
ladder, repetition       one thing that grows alone; what repeated tokens are worth at equal loss
isoflop, envelope, approaches    approaches 2 and 1, and all of them side by side
published/               procedures of papers, whole
curves                   whole training curves
"""
