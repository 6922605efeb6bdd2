"""How our figures look: colours, axes, labels, and the way to SVG and PNG. With `plots`, the home of matplotlib.

A figure is drawn once in the colours below. In the page they become CSS variables of the same names, so that it is
right on light and on dark paper; in the files they stay as they are, on white.
"""

import io
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from scaling.record.files import commit_bytes
from scaling.report import words
from scaling.report.marks import Sheet

SIZE = (4.4, 3.3)  # inches
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
RC: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "svg.hashsalt": "scaling",  # ids that are the same each time
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.solid_capstyle": "round",
}


def _viridis(x: float) -> str:
    return to_hex(matplotlib.colormaps["viridis"](x))


# name -> (on light paper, on dark paper). Light values are all different: in the SVG they are the names.
COLOURS = {
    "ink": ("#1d2126", "#e6e8ea"),
    "soft": ("#5d6670", "#9aa4ae"),
    "hair": ("#dde1e5", "#30363d"),
    "paper": ("#fefefe", "#15181b"),
    "accent": ("#1f5fa9", "#79b0ee"),
    "held": ("#b84d00", "#f08a3c"),
    # Okabe and Ito's colours, told apart with any colour vision.
    "a0": ("#0072b2", "#4aa5dc"),
    "a1": ("#cc79a7", "#dd94bd"),
    "a2": ("#009e73", "#2bbd93"),
    "a3": ("#b8860b", "#e6b84c"),
    "a4": ("#7b4fa3", "#ab86cf"),
    # Ordered: viridis, without the end that the paper would swallow.
    **{f"r{i}": (_viridis(0.02 + 0.068 * i), _viridis(0.3 + 0.06 * i)) for i in range(12)},
}
INK, SOFT, HAIR, PAPER, ACCENT, HELD = (COLOURS[n][0] for n in ("ink", "soft", "hair", "paper", "accent", "held"))
ALGORITHMS = [COLOURS[f"a{i}"][0] for i in range(5)]

N_LABELS = {
    "n_params": "N, parameters (non-embedding and head)",
    "n_params_kaplan": "N, parameters (non-embedding)",
    "n_params_total": "N, parameters (all)",
}
D_LABEL = "D, training tokens"
C_LABEL = "C, training FLOPs"
LOSS_LABEL = "loss, nats per token"


def ordered(count: int) -> list[str]:
    """Colours for `count` things with an order, small to large."""
    if count == 1:
        return [COLOURS["r5"][0]]
    return [COLOURS[f"r{round(11 * i / (count - 1))}"][0] for i in range(count)]


def sheet(x_label: str, y_label: str, *, right: float = 0.81) -> tuple[Sheet, Axes]:
    """An empty figure with one pair of logarithmic axes; the margin right of `right` is for labels of curves."""
    figure, (axes,) = sheets(x_label, [y_label], right=right)
    return figure, axes


def sheets(x_label: str, y_labels: Sequence[str], *, right: float = 0.81) -> tuple[Sheet, list[Axes]]:
    """The same with a pair of axes for each label, one below another."""
    wide, high = SIZE
    figure, count = Sheet(figsize=(wide, high * len(y_labels)), facecolor=PAPER), len(y_labels)
    found = []
    for i, y_label in enumerate(y_labels):
        axes = figure.add_axes((0.115, (count - 1 - i + 0.145) / count, right - 0.115, 0.76 / count), facecolor="none")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.tick_params(which="both", length=0, colors=SOFT, labelcolor=SOFT)
        axes.grid(color=HAIR, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color(SOFT)
        axes.set_xlabel(x_label, color=INK, labelpad=5)
        axes.text(-0.13, 1.04, y_label, transform=axes.transAxes, color=INK, ha="left", va="bottom")
        found.append(axes)
    return figure, found


def frame(axes: Axes, x: Iterable[float], y: Iterable[float], *, x_as: Any = words.short, y_as: Any = None) -> None:
    """Limits that hold all finite values, and few ticks in plain numbers."""
    for axis, values, name in ((axes.xaxis, x, x_as), (axes.yaxis, y, y_as or _plain)):
        finite = [v for v in values if math.isfinite(v) and v > 0]
        low, high = min(finite), max(finite)
        pad = max((high / low) ** 0.05, 1.02)
        low, high = low / pad, high * pad
        at = ticks(low, high)
        (axes.set_xlim if axis is axes.xaxis else axes.set_ylim)(low, high)
        axis.set_ticks(at, [name(v) for v in at])
        axis.set_ticks([], minor=True)


def ticks(low: float, high: float) -> list[float]:
    """Three to six round values in (low, high): of a decade where it spans several, else evenly spaced."""
    decades = math.log10(high / low)
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for digits, wide in (((1,), 2.6), ((1, 3), 1.3), ((1, 2, 5), 0.9)):
        if decades > wide:
            found = [d * 10.0**e for e in range(first, last + 1) for d in digits if low <= d * 10.0**e <= high]
            return found[:: math.ceil(len(found) / 6)]
    steps = [d * 10.0**e for e in range(first - 4, last + 1) for d in (1, 2, 2.5, 5)]
    step = min(steps, key=lambda s: abs((high - low) / s - 4.5))
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _plain(value: float) -> str:
    return f"{value:.6g}"


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], *, gap: float = 10.5) -> None:
    """Text right of the end of each curve, (x, y, text, colour), at least `gap` points below one another."""
    if not ends:
        return
    to_points = 72 / axes.figure.dpi
    at = [axes.transData.transform((x, y)) * to_points for x, y, _, _ in ends]
    order = sorted(range(len(ends)), key=lambda i: at[i][1])
    want = [at[i][1] for i in order]
    leader = {"arrowstyle": "-", "linewidth": 0.9, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)}
    for i, y in enumerate(_apart(want, gap)):
        x_end, y_end, text, colour = ends[order[i]]
        axes.annotate(
            text, (x_end, y_end), xytext=(11, y - want[i]), textcoords="offset points", va="center", ha="left",
            color=INK, fontsize=8, annotation_clip=False,
            arrowprops=leader | {"color": colour},
        )  # fmt: skip


def _apart(want: Sequence[float], gap: float) -> list[float]:
    """Rising positions nearest `want` (rising) with `gap` between neighbours: pool those that are too close."""
    pools: list[list[float]] = []  # [sum of (want - own offset), count]
    for i, y in enumerate(want):
        pools.append([y - i * gap, 1])
        while len(pools) > 1 and pools[-2][0] / pools[-2][1] > pools[-1][0] / pools[-1][1]:
            total, count = pools.pop()
            pools[-1][0] += total
            pools[-1][1] += count
    start = [total / count for total, count in pools for _ in range(int(count))]
    return [base + i * gap for i, base in enumerate(start)]


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write NAME.svg and NAME.png on white into `folder`; returns the SVG element for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    commit_bytes(folder / f"{name}.svg", _svg(figure, "path").replace(PAPER, "#ffffff").encode())
    picture = io.BytesIO()
    with matplotlib.rc_context(RC):
        figure.savefig(picture, format="png", dpi=200, facecolor="#ffffff", metadata={"Software": None})
    commit_bytes(folder / f"{name}.png", picture.getvalue())
    return inline(figure, name)


def inline(figure: Figure, name: str) -> str:
    """The SVG element for a page, in its CSS variables; its ids begin with `name`."""
    return _inline(_svg(figure, "none"), name)


def _svg(figure: Figure, fonttype: str) -> str:
    text = io.StringIO()
    with matplotlib.rc_context(RC | {"svg.fonttype": fonttype}):
        figure.savefig(text, format="svg", facecolor=PAPER, metadata={"Date": None})
    return text.getvalue()


def _inline(svg: str, name: str) -> str:
    """The <svg> element alone: no prolog, metadata or remote name, ids of its own, the page's fonts and colours, and
    places to a hundredth of a point."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    svg = re.sub(r"<[^>]*>\s*", lambda tag: _compact(tag[0]), svg)
    svg = svg.replace("'DejaVu Sans'", SANS.replace('"', "'"))
    for key, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{key})")
    return svg


def _compact(tag: str) -> str:
    """A tag, and the space behind it, without line ends and with two decimals."""
    tag = re.sub(r"\s*\n\s*", " ", tag).replace("> ", ">")
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
