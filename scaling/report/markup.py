"""HTML of our pages: the document and its policy, sentences, tables, data for its script, runs behind a number.

Whatever came from a file goes through here, and comes out as text: escaped in markup, and in data for a script so that
no `<` is left that could end it.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from scaling.record.ledger import RUN_ID
from scaling.report import style, words

SCRIPTS = Path(__file__).parent
NOWHERE = ("base-uri 'none'", "form-action 'none'")  # of a policy: what `default-src` leaves open
PLAIN = "!$()*+,-./:;=?@[]^_{|}~"  # what an address of data may hold as it is, within double quotes
NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")  # HTML has not, or UTF-8


def script(*names: str) -> str:
    """Our own scripts, one after another, as one text."""
    return '"use strict";\n' + "".join((SCRIPTS / name).read_text(encoding="utf-8") for name in names)


def hashed(text: str) -> str:
    """As a policy names the one script or style that it lets in."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def document(title: str, body: Iterable[str], code: str = "") -> str:
    """A page that needs nothing but itself: no network, and no script but `code`. The title is escaped here."""
    from scaling.report import figure  # matplotlib, for the colours alone

    # Styles are inline as matplotlib's drawings have them on their elements, which no hash can name.
    allowed = [f"script-src {hashed(code)}"] if code else []
    policy = "; ".join(["default-src 'none'", *allowed, "style-src 'unsafe-inline'", "img-src data:", *NOWHERE])
    html = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{style.sheet(figure.COLOURS)}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">To the content</a>\n<main id="main" tabindex="-1">\n'
        + "\n".join(filter(None, body))
        + "\n</main>\n"
        + (f"<script>{code}</script>\n" if code else "")
        + "</body>\n</html>\n"
    )
    return NO_TEXT.sub("\ufffd", html)


def heading(text: str) -> str:
    """Of a section, that `contents` links to."""
    return f'<h2 id="{text.lower().replace(" ", "-")}">{text}</h2>'


def contents(body: Iterable[str]) -> str:
    """Links to the sections."""
    found = re.findall(r'<h2 id="([\w-]+)">([^<]+)</h2>', "\n".join(body))
    links = "".join(f'<a href="#{name}">{text}</a>' for name, text in found)
    return f'<nav aria-label="sections">{links}</nav>'


def data(value: Any, name: str = "") -> str:
    """JSON for the script, which cannot end the element that it is in."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    own = f' id="{name}"' if name else ""
    return f'<script type="application/json"{own}>{text}</script>'


def download(name: str, kind: str, text: str) -> str:
    """A link that saves the text as a file, which it holds itself."""
    size = f"{len(text.encode()) / 1000:,.0f} kB"
    return f'<a download="{name}" href="data:{kind};charset=utf-8,{quote(text, safe=PLAIN)}">{name}</a> ({size})'


def prose(text: str) -> str:
    """A sentence, escaped, its numbers and `commands` set in type: minus signs, powers of ten, no line break inside an
    interval."""
    text = re.sub(r"(?<![\w.)\]])-(?=\d)", "−", text)
    text = re.sub(r"\bx(?=\d)", "×", text)
    text = re.sub(r"\b(\d(?:\.\d+)?)e([+-]\d+)\b", lambda m: f"{m[1]}×{words.power(float(f'1e{m[2]}'))}", text)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    text = re.sub(r"(?:\w+ = )?[^\s<>]+(?: nats)? \[[−\d.][^\[\]<>]*\]", r"<span>\g<0></span>", text)
    return re.sub(r"\^([-−]?(?:[\w.]*\w|\((?:[^()]|\([^()]*\))*\)))", r"<sup>\1</sup>", text)


def listed(items: Iterable[str]) -> str:
    return '<ul class="note">\n' + "\n".join(f"<li>{prose(item)}</li>" for item in items) + "\n</ul>"


def answers(items: Iterable[tuple[str, str]]) -> str:
    """A list of (label, <dd> element): a label that comes again is said once."""
    rows, before = [], None
    for label, element in items:
        rows.append(element if label == before else f"<dt>{escape(label)}</dt>{element}")
        before = label
    return '<dl class="answers">\n' + "\n".join(rows) + "\n</dl>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    numbers: Sequence[int] = (),
    lost: Sequence[bool] = (),
    chosen: str | None = None,
    wide: int | None = None,
    kind: str = "",
    ids: Sequence[str] = (),
    links: Sequence[str] = (),
) -> str:
    """An HTML table of text cells, all escaped, in a box that scrolls; `chosen` is the first cell of the row to set
    off, `label` what a screen reader calls it, `ids` are of the rows, and `links` lead on from their first cells."""

    mostly = len(numbers) > len(header) / 2  # what most cells are, the table says for all

    def kinds(i: int) -> str:
        if i == wide:
            return ' class="wide"'
        return "" if (i in numbers) is mostly else ' class="number"' if i in numbers else ' class="text"'

    lines = []
    for at, row in enumerate(rows):
        mark = ' class="lost"' if lost and lost[at] else ' class="chosen"' if chosen == row[0] else ""
        own = f' id="{escape(ids[at])}"' if ids and ids[at] else ""
        said = [escape(cell) for cell in row]
        if links and links[at]:
            said[0] = f'<a href="{escape(links[at])}">{said[0]}</a>'
        cells = "".join(f"<td{kinds(i)}>{cell}</td>" for i, cell in enumerate(said))
        lines.append(f"<tr{own}{mark}>{cells}</tr>")
    head = "".join(f'<th scope="col"{kinds(i)}>{escape(cell)}</th>' for i, cell in enumerate(header))
    top = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return (
        f'<div class="scroll" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table class="{kind}{" numbers" if mostly else ""}">\n{top}<tbody>\n'
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def anchor(run_id: str) -> str:
    """The id of a run's row; empty for what is no run's id."""
    return f"run-{run_id}" if RUN_ID.fullmatch(run_id) else ""


class Behind:
    """The runs that numbers rest on: each set of them is listed once, under an anchor of its own."""

    def __init__(self) -> None:
        self._sets: dict[tuple[str, ...], list[str]] = {}

    def target(self, runs: tuple[str, ...], label: str = "") -> str:
        """The id of the element that shows these runs: a row of the table, or a list; empty where there are none."""
        if len(runs) < 2:
            return anchor(runs[0]) if runs else ""
        labels = self._sets.setdefault(runs, [])
        if label and label not in labels:
            labels.append(label)
        return f"behind-{[*self._sets].index(runs) + 1}"

    def link(self, runs: tuple[str, ...], label: str) -> str:
        """A link from a number to its runs."""
        target = self.target(runs, label)
        return f' <a class="runs-of" href="#{target}">{words.several(len(runs), "run")}</a>' if target else ""

    def lists(self) -> str:
        parts = []
        for i, (runs, labels) in enumerate(self._sets.items(), 1):
            links = " ".join(
                f'<a href="#{anchor(run)}">{escape(run)}</a>' if anchor(run) else escape(run) for run in runs
            )
            what = f": {', '.join(labels)}" if labels else ""
            parts.append(
                f"<details><summary>{words.several(len(runs), 'run')}{escape(what)}</summary>\n"
                f'<p id="behind-{i}" class="id">{links}</p>\n</details>'
            )
        return "\n".join(parts)
