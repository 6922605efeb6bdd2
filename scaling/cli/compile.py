"""`scaling compile`: whether a run fits a slice of TPUs, what it exchanges there and how long it takes at least; compiled
here, with no TPU."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from scaling.chips import Topology, topology
from scaling.cli.exits import DONE, FAILED
from scaling.cli.locate import study_of
from scaling.cli.options import json_option, size_option
from scaling.cost import count_params, train_flops
from scaling.report.words import power, several, short
from scaling.roofline import gib, mfu
from scaling.spec import Refusal, RunSpec, compiled_in

if TYPE_CHECKING:
    from scaling.train.ahead import Compiled
    from scaling.train.placement import Placement

TRIES = 2  # placements that are compiled beside the one asked for
ASSUMED = (
    "seconds are a lower bound by documented rates: a step takes at least its largest term, as if the others hid behind "
    "it, and `seconds_in_turn` where nothing hides; latency, small matrices and late hosts are not in it",
    "hours of a run are its steps at that bound; evaluation, checkpoints and compilation come on top",
    "FLOPs are of matrix products, loops by their turns; attention kernels by formula; the step that measures gradient "
    "noise now and then is not counted, but has to fit",
)
WIDTH = 120  # characters that the table may take, whatever the terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a name in experiments/, or the path of a file that defines STUDY"
    )
    size_option(parser)
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes",
        help="replace a field of every run, as `scaling run` would",
    )  # fmt: skip
    parser.add_argument(
        "--topology", required=True, metavar="SLICE", help="generation and shape of a slice, e.g. v5e:4x4 or v5p:4x4x4"
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="that many slices, joined by the network")
    parser.add_argument(
        "--run", default="largest", metavar="largest|all|ID", dest="which",
        help="which runs: the one of most parameters (default), every shape of the study once, or one or more ids with "
        "commas between",
    )  # fmt: skip
    parser.add_argument(
        "--mesh", metavar="AXIS=N,...",
        help="the placement to judge, e.g. data=8,fsdp=4,microbatches=2 (default: the best by formula)",
    )  # fmt: skip
    parser.add_argument(
        "--tries", type=int, default=TRIES, metavar="N",
        help="other placements to compile beside it, the best by formula, for a proposal (default: %(default)d)",
    )  # fmt: skip
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    slice_of, runs = _asked(arguments)
    os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    from scaling.train import ahead

    say = Console(stderr=True)
    found = []
    for number, alike in enumerate(runs, 1):
        head = f"{number}/{len(runs)} {name(alike[0])}"
        found.append(judge(alike, slice_of, _mesh(arguments.mesh), arguments.tries, say, head))
    document = as_json(found, slice_of) | {"versions": ahead.versions()}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document, Console())
    return DONE if all(one["fits"] for one in document["shapes"]) else FAILED


def _asked(arguments: argparse.Namespace) -> tuple[Topology, list[list[RunSpec]]]:
    """The slices, and the runs by shape. `Refusal` has every fault; nothing of JAX is imported."""
    faults: list[str] = []

    def tried(ask: Any, *words: Any) -> Any:
        try:
            return ask(*words)
        except Refusal as refusal:
            faults.extend(refusal.faults)

    slice_of = tried(topology, arguments.topology, arguments.slices)
    tried(_mesh, arguments.mesh)
    if arguments.tries < 0:
        faults.append(f"--tries = {arguments.tries}: must be at least 0")
    study = tried(lambda: study_of(arguments.experiment, arguments.changes, arguments.size, sources=False)[0])
    runs = tried(chosen, [p.run for p in study.runs.runs], arguments.which) if study else []
    if find_spec("libtpu") is None:
        faults.append(
            "libtpu is not installed: it compiles for TPUs; pip install 'scaling[tpu]' in an environment of its own"
        )
    if faults:
        raise Refusal(dict.fromkeys(faults))
    return slice_of, shapes(runs)


def chosen(runs: Sequence[RunSpec], which: str) -> list[RunSpec]:
    """`largest`: of most parameters, and of those of most FLOPs. Raises `Refusal` for an id that no run has."""
    if which == "all":
        return list(runs)
    if which == "largest":
        return [max(runs, key=lambda run: (count_params(run.model).total, train_flops(run)))]
    ids = {run.id: run for run in runs}
    unknown = [word for word in which.split(",") if word not in ids]
    if unknown:
        raise Refusal(
            f"--run = {word}: is largest, all or the id of a run; `scaling plan --json` has them" for word in unknown
        )
    return [ids[word] for word in which.split(",")]


def shapes(runs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """The runs that one program serves, the smallest model first, each with the longest run first."""
    found: dict[Any, list[RunSpec]] = {}
    for one in runs:
        found.setdefault((one.model, compiled_in(one.optim), one.batch, one.eval.tokens), []).append(one)
    by_length = [sorted(alike, key=lambda one: -one.steps) for alike in found.values()]
    return sorted(by_length, key=lambda alike: (count_params(alike[0].model).total, alike[0].batch))


def _mesh(text: str | None) -> dict[str, Any] | None:
    """Sizes of a placement by name. Raises `Refusal`."""
    if text is None:
        return None
    names = ("data", "fsdp", "tensor", "microbatches", "remat")
    sizes, faults = {}, []
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in names:
            faults.append(f"--mesh {part}: must be AXIS=N of {', '.join(names)}")
        elif axis == "remat" and size in ("true", "false"):
            sizes[axis] = size == "true"
        elif axis == "remat" or not size.isdecimal() or int(size) < 1:
            faults.append(f"--mesh {part}: must be {'true or false' if axis == 'remat' else 'a whole number above 0'}")
        else:
            sizes[axis] = int(size)
    if faults:
        raise Refusal(faults)
    return sizes


def judge(
    alike: list[RunSpec], slice_of: Topology, mesh: dict[str, Any] | None, tries: int, say: Console, head: str
) -> tuple[list[RunSpec], "Compiled", list["Compiled"]]:
    """(the runs, what was asked for, what was compiled beside it) of one shape."""
    from scaling.train import ahead
    from scaling.train.placement import Placement

    of = alike[0]
    best = ahead.candidates(of, slice_of)
    asked = Placement(**mesh) if mesh else best[0]
    faults = unfit(of, asked, slice_of)
    if faults:
        raise Refusal(faults)

    def compiled(placement: "Placement") -> "Compiled":
        with say.status(f"{head}: compiling for {slice_of.name}, {words(placement)}"):
            one = ahead.compile_for(of, placement, slice_of)
        say.print(f"{head}: {verdict(one)}", highlight=False, soft_wrap=True)
        return one

    first = compiled(asked)
    return alike, first, [compiled(other) for other in [one for one in best if one != asked][:tries]]


def unfit(run: RunSpec, placement: "Placement", slice_of: Topology) -> list[str]:
    """What keeps a run from being placed so, one line each."""
    p, model = placement, run.model
    faults = []
    if p.data * p.fsdp * p.tensor > slice_of.devices:
        faults.append(
            f"--mesh {words(p)}: needs {p.data * p.fsdp * p.tensor} devices; {slice_of.name} has {slice_of.devices}"
        )
    rows = p.data * p.fsdp * max(1, p.microbatches)
    if run.batch % rows:
        faults.append(
            f"--mesh {words(p)}: data x fsdp x microbatches = {rows} must divide the batch of {run.batch} rows"
        )
    if model.d_model % p.fsdp:
        faults.append(f"--mesh fsdp={p.fsdp}: must divide d_model = {model.d_model}")
    return faults


def proposed(first: "Compiled", others: list["Compiled"]) -> "Compiled | None":
    """The one with the best estimate among those that fit."""
    fit = [one for one in (first, *others) if one.estimate]
    return min(fit, key=lambda one: (one.estimate.seconds, one.estimate.seconds_in_turn), default=None)  # type: ignore[union-attr]


def words(placement: "Placement") -> str:
    """As `--mesh` takes it."""
    sizes = {name: getattr(placement, name) for name in ("data", "fsdp", "tensor", "microbatches", "remat")}
    said = [f"{name}={size}".lower() for name, size in sizes.items() if size not in (1, 0, False) or size is True]
    return ",".join(said) or "data=1"


def name(run: RunSpec) -> str:
    m = run.model
    return f"{short(count_params(m).total)} parameters, {m.n_layers} x {m.d_model}, {run.batch} x {m.context}"


def verdict(one: "Compiled") -> str:
    memory = one.memory
    if not memory.fits:
        return (
            f"{words(one.placement)} does not fit: needs {gib(memory.peak)} of {gib(memory.limit)} a device, "
            f"{gib(memory.over)} too much"
        )
    assert one.estimate
    return (
        f"{words(one.placement)} fits: {gib(memory.peak)} of {gib(memory.limit)} a device; a step takes at least "
        f"{seconds(one.estimate.seconds)}, bound by {one.estimate.bound} (compiled in {one.seconds:.0f} s)"
    )


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"


def as_json(found: Sequence[tuple[list[RunSpec], "Compiled", list["Compiled"]]], slice_of: Topology) -> dict[str, Any]:
    """The one document of `--json`, and all that is printed."""
    of = slice_of.of
    return {
        "topology": slice_of.name,
        "slices": slice_of.slices,
        "chips": slice_of.chips,
        "devices": slice_of.devices,
        "hosts": slice_of.hosts,
        "chip": {
            "kind": of.kind, "peak_flops": dict(slice_of.chip.peaks), "devices": slice_of.chip.devices, "hbm": of.hbm,
            "hbm_bandwidth": of.hbm_bandwidth, "link_bandwidth": of.link, "links": 2 * of.axes,
            "network_bandwidth": of.dcn, "source": of.source,
        },
        "assumptions": list(ASSUMED),
        "shapes": [_shape(*one, slice_of) for one in found],
    }  # fmt: skip


def _shape(alike: list[RunSpec], first: "Compiled", others: list["Compiled"], slice_of: Topology) -> dict[str, Any]:
    of, best = alike[0], proposed(first, others)
    return {
        "name": name(of),
        "n_params": count_params(of.model).total,
        "batch_tokens": of.batch_tokens,
        "exact_flops": train_flops(of) / of.steps,
        "fits": first.memory.fits,
        "asked": placed(first, alike, slice_of),
        "tried": [placed(one, alike, slice_of) for one in others],
        "proposed": words(best.placement) if best else None,
    }


def placed(one: "Compiled", alike: list[RunSpec], slice_of: Topology) -> dict[str, Any]:
    """One placement, in numbers; seconds, hours and bytes."""
    of, p = alike[0], one.placement
    used = p.data * p.fsdp * p.tensor
    said: dict[str, Any] = {
        "mesh": words(p),
        "placement": {field: getattr(p, field) for field in ("data", "fsdp", "tensor", "microbatches", "remat")},
        "devices": used,
        "fits": one.memory.fits,
        "over": one.memory.over,
        "hbm": {k: v for k, v in dataclasses.asdict(one.memory).items() if k != "fits"},
        "compile_seconds": round(one.seconds, 1),
    }
    if not (one.estimate and one.flops and one.moved is not None and one.kernel_flops is not None):
        return said
    exact = train_flops(of) / of.steps
    bound = one.estimate.seconds
    return said | {
        "flops": {
            "compiled": one.flops * used, "kernels": one.kernel_flops * used, "ratio": one.flops * used / exact,
        },
        "hbm_traffic": one.moved,
        "collectives": exchanged(one),
        "estimate": {
            **one.estimate.terms, "network": one.estimate.network, "bound": one.estimate.bound, "seconds": bound,
            "seconds_in_turn": one.estimate.seconds_in_turn, "mfu": mfu(of, used, slice_of, bound),
            "mfu_in_turn": mfu(of, used, slice_of, one.estimate.seconds_in_turn),
        },
        "runs": [{"id": run.id, "steps": run.steps, "hours": run.steps * bound / 3600} for run in alike],
    }  # fmt: skip


def exchanged(one: "Compiled") -> dict[str, dict[str, float]]:
    """Collectives of a step by kind: how many operations, bytes of their tensors, bytes that a device sends."""
    kinds: dict[str, dict[str, float]] = {}
    for kind in sorted({tensor.kind for tensor in one.exchanged}):
        of_kind = [tensor for tensor in one.exchanged if tensor.kind == kind]
        kinds[kind] = {
            "count": sum({(t.name, t.times): t.times for t in of_kind}.values()),
            "bytes": sum(t.bytes * t.times for t in of_kind),
            "sent": round(sum(t.sent * t.times for t in of_kind)),
        }
    return kinds


def show(document: dict[str, Any], console: Console) -> None:
    console.width = max(console.width, WIDTH)
    chips = f"{several(document['slices'], 'slice')} of {document['topology']}, {several(document['chips'], 'chip')}"

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    for shape in document["shapes"]:
        line(f"[bold]{shape['name']}[/bold] on {chips}")
        table = Table(box=None, header_style="dim", pad_edge=False)
        names = (
            "placement",
            "fits",
            "HBM",
            "argument",
            "temporary",
            "compute",
            "memory",
            "exchange",
            "step >=",
            "MFU <=",
        )
        for column in names:
            table.add_column(column, justify="left" if column in ("placement", "fits") else "right", no_wrap=True)
        for one in (shape["asked"], *shape["tried"]):
            hbm, estimate = one["hbm"], one.get("estimate")
            row = [one["mesh"], "yes" if one["fits"] else f"no: {gib(one['over'])} over", gib(hbm["peak"])]
            if estimate:
                row += [gib(hbm["argument"]), gib(hbm["temporary"])]
                row += [seconds(estimate[term]) for term in ("compute", "memory", "interconnect", "seconds")]
                row.append(f"{estimate['mfu']:.0%}")
            table.add_row(*row)
        console.print(table)
        _say_best(shape, line)
    for text in document["assumptions"]:
        console.print(f"[dim]{text}[/dim]", highlight=False, soft_wrap=True)


def _say_best(shape: dict[str, Any], line: Any) -> None:
    best = next((o for o in (shape["asked"], *shape["tried"]) if o["mesh"] == shape["proposed"]), None)
    if best is None:
        line("[red]none of these fits[/red]: a larger slice, or --tries for more placements")
        return
    estimate, flops = best["estimate"], best["flops"]
    line(
        f"proposed: --mesh {best['mesh']}, bound by {estimate['bound']}; {seconds(estimate['seconds'])} a step if all else "
        f"hides behind it, {seconds(estimate['seconds_in_turn'])} if nothing does"
    )
    line(f"FLOPs a step: {power(flops['compiled'])} compiled, {flops['ratio']:.2f} times the exact count")
    for kind, of in best["collectives"].items():
        line(f"{kind}: {of['count']:.0f} a step, {gib(of['bytes'])} of tensors, {gib(of['sent'])} sent by each device")
    for one in best["runs"][:3]:
        line(f"run {one['id']}: {one['steps']:,} steps, at least {one['hours']:.2g} hours")
    if len(best["runs"]) > 3:
        line(f"and {len(best['runs']) - 3} more runs of this shape; --json has them all")
