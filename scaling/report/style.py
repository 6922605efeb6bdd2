"""The sheet of the page: light and dark, wide and narrow, screen and paper."""

from collections.abc import Mapping

WASH = "#f3f5f7", "#1e2226"  # the ground of what is set off, on light paper and on dark
SHEET = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;color-scheme:light dark}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,
'Helvetica Neue',Arial,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1.6rem 1.5rem 5rem}
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
.answers dd{grid-column:2;min-width:0;margin:0;overflow-wrap:anywhere}
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
td.number,th.number,.numbers td,.numbers th{text-align:right}
.numbers td.text,.numbers th.text{text-align:left}
td.wide{min-width:14rem;white-space:normal;overflow-wrap:anywhere}
tr.lost td{color:var(--held)}
tr.chosen td{font-weight:600}
ul{padding-left:1.1rem;margin:.5rem 0}
li{margin:.3rem 0;overflow-wrap:anywhere}
a{color:var(--accent);text-underline-offset:.15em;text-decoration-thickness:.06em}
a:focus-visible,summary:focus-visible,.scroll:focus-visible,input:focus-visible,select:focus-visible{
outline:2px solid var(--accent);outline-offset:2px;border-radius:2px}
main:focus{outline:none}
nav{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem;margin:0 0 2.2rem;padding-bottom:.7rem;
border-bottom:1px solid var(--hair)}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
details .answers{margin:.6rem 0 1.4rem;font-size:.92rem;gap:.4rem 1.4rem}
.save{font-size:.9rem}
.save a{font-weight:600}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,26rem),1fr));gap:1rem;margin-top:1rem}
.card{background:var(--wash);border-radius:8px;padding:.4rem 1.2rem .8rem;min-width:0}
.card h3{margin:.7rem 0 .1rem;font-size:1.08rem}
.card details{margin:.2rem 0}
.study{margin:1.6rem 0 2.4rem;padding-bottom:1.6rem;border-bottom:1px solid var(--hair)}
.study h3{font-size:1.12rem}
.beside{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:1rem 2.5rem;
align-items:start}
.beside .answers{margin-top:.6rem;font-size:.95rem;gap:.5rem 1.2rem}
.question{font-size:1.05rem}
.skip{position:absolute;left:-100vw;background:var(--paper);padding:.5rem 1rem;z-index:3}
.skip:focus{left:.5rem;top:.5rem}
.runs-of,.from{font-size:.85rem;white-space:nowrap}
:target{scroll-margin-top:3rem}
tr:target td{background:var(--wash);box-shadow:inset 0 0 0 999px color-mix(in srgb,var(--accent) 14%,transparent)}
.plot{position:relative;touch-action:manipulation}
.ring{fill:none;stroke:var(--ink);stroke-width:1.2}
.stop{position:absolute;width:1px;height:1px;outline:none!important}
.plot:has(.stop:focus-visible) .ring{stroke:var(--accent);stroke-width:2}
.tip{position:absolute;z-index:2;max-width:19rem;padding:.5rem .7rem;background:var(--paper);
border:1px solid var(--soft);border-radius:6px;box-shadow:0 2px 10px rgb(0 0 0/.18);font-size:.8rem;line-height:1.38}
.tip dl{display:grid;grid-template-columns:max-content 1fr;gap:.05rem .7rem;margin:.2rem 0}
.tip dt{color:var(--soft)}
.tip dd{margin:0;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
#ask{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,13rem),1fr));gap:.8rem 1rem;
margin:1rem 0 1.4rem;max-width:46rem;padding:1rem;background:var(--wash);border-radius:8px}
label span{display:block;font-size:.82rem;color:var(--soft);margin-bottom:.15rem}
input,select{width:100%;min-height:2.4rem;padding:.3rem .55rem;font:inherit;font-size:.95rem;color:var(--ink);
background:var(--paper);border:1px solid var(--soft);border-radius:5px}
#said .answers{margin-top:.6rem;gap:.35rem 1.4rem}
[hidden]{display:none!important}
summary{cursor:pointer;color:var(--soft);font-size:.9rem;margin:.6rem 0}
@media (max-width:34rem){main{padding:1.8rem 1rem 3rem}.answers{grid-template-columns:1fr;gap:.1rem}
.answers dd{grid-column:1;margin-bottom:.9rem}
#said .answers{grid-template-columns:6rem 1fr;gap:.3rem .8rem}#said dd{grid-column:2;margin:0}
#said dt{white-space:normal}}
@media (prefers-reduced-motion:no-preference){html{scroll-behavior:smooth}}
@page{margin:15mm}
@media print{nav,.behind,.save,#ask,.runs-of,.skip,.tip,.stop,.ring{display:none}a{color:inherit;text-decoration:none}
main{max-width:none;padding:0}body{font-size:10.5pt}figure,tr{break-inside:avoid}h2,h3,h2+p,.question{break-after:avoid}
.panels,.beside{grid-template-columns:1fr 1fr}.study .each{display:none}figure svg{max-height:22cm}
.beside>div{min-width:0}.beside .answers{grid-template-columns:1fr;gap:.1rem}
.beside .answers dd{grid-column:1;margin-bottom:.4rem}.scroll{overflow:visible}.runs{font-size:6pt}
.runs th,.runs td{padding-right:.35rem;white-space:normal}}
"""


def sheet(colours: Mapping[str, tuple[str, str]]) -> str:
    """The CSS, with each colour as a variable: its first value on light paper, its second on dark."""
    light, dark = (";".join(f"--{name}:{pair[i]}" for name, pair in colours.items()) for i in (0, 1))
    return (
        f":root{{{light};--wash:{WASH[0]}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark};--wash:{WASH[1]}}}}}\n{SHEET.strip()}\n"
    )
