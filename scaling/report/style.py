"""The sheet of the page: light and dark, wide and narrow, screen and paper."""

from collections.abc import Mapping

SHEET = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,
'Helvetica Neue',Arial,sans-serif}
main{max-width:64rem;margin:0 auto;padding:3.5rem 1.5rem 5rem}
p,ul,.answers,figcaption{max-width:46rem}
h1{font-size:clamp(1.5rem,1.1rem + 1.6vw,2.1rem);line-height:1.2;font-weight:650;letter-spacing:-.015em;
margin:.3rem 0 .8rem;max-width:46rem;text-wrap:balance}
h2{font-size:1.2rem;line-height:1.3;font-weight:650;margin:3.2rem 0 .7rem;padding-top:.9rem;
border-top:1px solid var(--hair)}
h3{font-size:1rem;font-weight:650;margin:1.8rem 0 .4rem}
p{margin:.5rem 0}
.name,.soft,figcaption,th,.note{color:var(--soft)}
.name{font-size:.85rem;letter-spacing:.02em;margin:0}
.name b{color:var(--accent);font-weight:650}
.soft,.note,figcaption{font-size:.9rem}
.answers{margin:1.6rem 0 0;display:grid;grid-template-columns:max-content 1fr;gap:.65rem 1.4rem}
.answers dt{font-weight:650;white-space:nowrap}
.answers dd{margin:0;overflow-wrap:anywhere}
.answers .unknown,.warn{color:var(--held)}
.formula{font-size:1.05rem;margin:.6rem 0;overflow-wrap:anywhere}
code,.id{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.87em}
pre{background:var(--wash);border-radius:6px;padding:.8rem 1rem;overflow-x:auto;margin:.6rem 0}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,26rem),1fr));
gap:2rem 2.5rem;margin-top:1rem}
figure{margin:0;min-width:0}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figcaption{margin-top:.5rem;line-height:1.5}
figcaption b{color:var(--ink)}
dd span,figcaption span,li span{white-space:nowrap}
sub,sup{line-height:0}
.scroll{overflow-x:auto;margin:.8rem 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;font-size:.87rem;font-variant-numeric:tabular-nums}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;vertical-align:baseline;border-bottom:1px solid var(--hair)}
th{font-weight:500;vertical-align:bottom}
td,.runs th{white-space:nowrap}
td.number,th.number{text-align:right}
td.wide{min-width:14rem;white-space:normal;overflow-wrap:anywhere}
tr.lost td{color:var(--held)}
tr.chosen td{font-weight:600}
ul{padding-left:1.1rem;margin:.5rem 0}
li{margin:.3rem 0;overflow-wrap:anywhere}
summary{cursor:pointer;color:var(--soft);font-size:.9rem;margin:.6rem 0}
@media (max-width:34rem){main{padding:1.8rem 1rem 3rem}.answers{grid-template-columns:1fr;gap:.1rem}
.answers dd{margin-bottom:.9rem}}
@media print{main{max-width:none;padding:0}body{font-size:10.5pt}figure,tr{break-inside:avoid}h2,h3{break-after:avoid}
.panels{grid-template-columns:1fr 1fr}.scroll{overflow:visible}.runs{font-size:6pt}
.runs th,.runs td{padding-right:.35rem;white-space:normal}}
"""


def sheet(colours: Mapping[str, tuple[str, str]]) -> str:
    """The CSS, with each colour as a variable: its first value on light paper, its second on dark."""
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in colours.items()) for i in (0, 1))
    return (
        f":root{{{light};--wash:#f3f5f7}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark};--wash:#1e2226}}}}\n{SHEET.strip()}\n"
    )
