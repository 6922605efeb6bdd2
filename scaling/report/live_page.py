"""The page of a sweep that goes on, and what it asks for every second or two.

The page holds nothing of the study. Its one script puts what comes into text nodes, never into markup, and the policy
lets no other script, style or address in.
"""

import json
from dataclasses import asdict
from typing import Any

from scaling.record.live import Live, by_interest
from scaling.report import figure, markup, style

MOST = 3000  # runs in the first document; those that change later come whatever their number
SCRIPTS = ("words.js", "live_page.js")

SHEET = """.counts{display:flex;flex-wrap:wrap;gap:.4rem 1.8rem;margin:1.2rem 0 .4rem;padding:0;list-style:none}
.counts b{font-size:1.5rem;font-weight:650;font-variant-numeric:tabular-nums;margin-right:.35rem}
.counts .bad b,.gone{color:var(--held)}
progress{appearance:none;-webkit-appearance:none;border:0;background:var(--hair);width:8rem;height:.45rem;border-radius:3px;
vertical-align:middle;overflow:hidden}
progress.all{display:block;width:100%;max-width:46rem;height:.6rem}
progress::-webkit-progress-bar{background:var(--hair)}
progress::-webkit-progress-value{background:var(--accent)}
progress::-moz-progress-bar{background:var(--accent)}
figure path{fill:none;stroke-width:1.3;stroke-linejoin:round}
figure path.over{opacity:.4}
figure path.bad{stroke-dasharray:4 3}
figure line{stroke:var(--hair)}
figure text{fill:var(--soft);font-size:11px}
.key{display:flex;flex-wrap:wrap;gap:.1rem .9rem;font-size:.8rem;color:var(--soft)}
.key i{display:inline-block;width:.9rem;height:.2rem;margin-right:.35rem;vertical-align:middle}
td.why{white-space:normal;min-width:16rem;overflow-wrap:anywhere}
[hidden]{display:none}
"""
BODY = """<main>
<header>
<p class="name"><b id="study"></b></p>
<h1 id="question"></h1>
<p id="state" class="warn" role="status" hidden></p>
<noscript><p class="warn">This page shows a sweep as it goes on, by a script of its own; <code>scaling status</code>
shows the same in a terminal.</p></noscript>
</header>
<ul id="counts" class="counts"></ul>
<progress id="all" class="all" value="0" aria-label="runs that are over"></progress>
<ul id="who" class="note"></ul>
<section id="curves" hidden>
<h2>Training loss as it falls</h2>
<p class="soft">A point where a run is over is its held-out loss; broken lines are runs that failed or diverged.</p>
<div id="key" class="key"></div>
<div id="panels" class="panels"></div>
</section>
<section id="left" hidden>
<h2>Stopped, and why</h2>
<div class="scroll"><table><thead><tr><th>run</th><th>group</th><th class="number">N</th><th>status</th>
<th class="number">step</th><th>reason</th><th>way out</th></tr></thead><tbody id="stopped"></tbody></table></div>
</section>
<section id="live" hidden>
<h2>Under way</h2>
<div class="scroll"><table><thead><tr><th>run</th><th>group</th><th class="number">N</th><th>progress</th>
<th class="number">step</th><th class="number">training loss</th><th class="number">tokens/s</th><th>host</th></tr>
</thead><tbody id="running"></tbody></table></div>
</section>
<p id="more" class="soft"></p>
</main>
"""


def document(live: Live, since: int | None) -> dict[str, Any]:
    """What changed after the refresh `since`; with None everything, but for runs that wait."""
    changed = {run.id: (run, curve) for run, curve in live.changed(since or 0)}
    runs = [run for run, _ in changed.values() if since is not None or run.status != "pending"]
    sent = []
    for run in by_interest(runs)[: MOST if since is None else None]:
        curve, known = changed[run.id][1], -1 if since is None else since
        whole = curve.whole_since > known
        entry = asdict(run) | {"fraction": run.fraction, "whole": whole, "curve": curve.points(-1 if whole else known)}
        sent.append(entry)
    counts, every = live.counts, live.runs
    return {
        "whole": since is None,
        "study": live.study["name"],
        "question": live.study["question"],
        "planned": len(every),
        "counts": counts,
        "shown": sum(counts.get(status, 0) for status in ("running", "begun", "failed", "diverged")),
        "over": live.over,
        "go_on": live.go_on,
        "groups": [*dict.fromkeys(run.group for run in every)],
        "sizes": sorted({run.n for run in every}),
        "participants": [
            {"host": p.host, "job": p.job, "live": p.live, "in_hand": len(p.runs)} for p in live.participants
        ],
        "runs": sent,
    }


def page() -> tuple[str, str]:
    """The page, and the content security policy to send with it."""
    sheet = style.sheet(figure.COLOURS) + SHEET
    labels = json.dumps({"x": figure.D_LABEL, "y": figure.LOSS_LABEL})
    script = f"{markup.script(*SCRIPTS)}const LABELS = {labels};\nlook();\n"
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>scaling</title>\n'
        f"<style>{sheet}</style>\n</head>\n<body>\n{BODY}<script>{script}</script>\n</body>\n</html>\n"
    )
    policy = (
        f"default-src 'none'; script-src {markup.hashed(script)}; style-src {markup.hashed(sheet)}; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return html, policy
