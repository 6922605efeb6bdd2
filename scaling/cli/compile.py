"""`scaling compile`: whether a run fits a slice of TPUs, what it exchanges there, how long it takes at least.

It is compiled on this machine, which needs none."""

import argparse
import json
import math
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich.console import Console

from scaling.chips import Topology, topology
from scaling.cli import mesh
from scaling.cli.exits import DONE, FAILED
from scaling.cli.locate import study_of
from scaling.cli.mesh import AXES, mesh_options
from scaling.cli.options import json_option, size_option
from scaling.cost import count_params, train_flops
from scaling.report.compiled import shape_name, show, verdict
from scaling.spec import Refusal, RunSpec, compiled_in

if TYPE_CHECKING:
    from scaling.train.placement import How, Placement

TRIES = 2
# JAX itself stays on the CPU; libtpu asks no metadata server what it is, and lets other processes compile meanwhile.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}  # fmt: skip
ASSUMED = (
    "estimates are lower bounds by documented rates: a step takes at least its largest term, as if the others hid "
    "behind it; latency, small matrices and hosts that are late come on top",
    "of a run the steps alone are counted: evaluation, checkpoints, data and compilation come on top",
    "FLOPs are of matrix products, loops by their turns, attention kernels by formula; the extra pass that measures "
    "gradient noise now and then has to fit and is not in the time",
)


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
        "--topology", required=True, metavar="SLICE", help="generation and shape of a slice: v5e:4x4, v5p:4x4x4"
    )
    parser.add_argument("--slices", type=int, default=1, metavar="N", help="that many, joined by the network")
    parser.add_argument(
        "--run", default="largest", metavar="largest|all|ID", dest="which",
        help="the run of most parameters (default), every shape of the study once, or ids with commas between",
    )  # fmt: skip
    mesh_options(parser)
    parser.add_argument(
        "--tries", type=int, default=TRIES, metavar="N",
        help="other placements to compile beside it for a proposal, the best by formula (default: %(default)d)",
    )  # fmt: skip
    json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    slice_of, runs = _asked(arguments)
    os.environ |= ENVIRONMENT
    from scaling.train import ahead
    from scaling.train.placement import Placement

    how = Placement(**mesh.sizes(arguments.mesh)) if arguments.mesh else arguments.placement or "auto"
    say, found = Console(stderr=True), []
    for number, alike in enumerate(runs, 1):

        def compiling(run: RunSpec, placement: Placement, slice_of: Topology, number: int = number) -> ahead.Compiled:
            head = f"{number}/{len(runs)} {_name(run)}"
            with say.status(f"{head}: {placement}, compiling for {slice_of.name}"):
                one = ahead.compile_for(run, placement, slice_of)
            say.print(f"{head}: {verdict(one.to_json(run, slice_of))}", highlight=False, soft_wrap=True)
            return one

        found.append(judged(alike, slice_of, how, arguments.tries, compiling))
    document = described(slice_of) | {"versions": ahead.versions(), "shapes": found}
    if arguments.json:
        print(json.dumps(document, indent=1))
    else:
        show(document, Console())
    return DONE if all(one["fits"] for one in found) else FAILED


def _asked(arguments: argparse.Namespace) -> tuple[Topology, list[list[RunSpec]]]:
    """The slices, and the runs by shape. `Refusal` has every fault; nothing of JAX is imported."""
    faults: list[str] = []

    def tried(ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Refusal as refusal:
            faults.extend(refusal.faults)

    slice_of = tried(lambda: topology(arguments.topology, arguments.slices))
    if arguments.tries < 0:
        faults.append(f"--tries = {arguments.tries}: must be at least 0")
    study = tried(lambda: study_of(arguments.experiment, arguments.changes, arguments.size, sources=False)[0])
    runs = study and tried(lambda: chosen([p.run for p in study.runs.runs], arguments.which)) or []
    wrong = mesh.unfit(arguments, runs)
    if arguments.mesh and slice_of and not mesh.malformed(arguments.mesh):
        wrong = [fault for fault in wrong if "--population" not in fault]
        wrong += unfit(mesh.sizes(arguments.mesh), slice_of)
    faults += wrong
    if find_spec("libtpu") is None:
        faults.append(
            "libtpu, which compiles for TPUs, is not installed: pip install -e '.[tpu]', best in a venv of its own"
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
    if unknown := [word for word in which.split(",") if word not in ids]:
        raise Refusal(f"--run {word}: is no run of this study; `scaling plan --json` has their ids" for word in unknown)
    return [ids[word] for word in which.split(",")]


def shapes(runs: Sequence[RunSpec]) -> list[list[RunSpec]]:
    """The runs that one program serves, the smallest model first, each with the longest run first."""
    found: dict[Any, list[RunSpec]] = {}
    for one in runs:
        found.setdefault((one.model, compiled_in(one.optim), one.batch, one.eval.tokens), []).append(one)
    by_length = [sorted(alike, key=lambda one: -one.steps) for alike in found.values()]
    return sorted(by_length, key=lambda alike: (count_params(alike[0].model).total, alike[0].batch))


def unfit(size: dict[str, Any], slice_of: Topology) -> list[str]:
    """A placement on more devices than there are, or on fewer, which not every slice can compile for."""
    if size.get("member", 1) > 1:
        return [
            f"--mesh member={size['member']}: deals out a population, and runs are judged one at a time; leave it out"
        ]
    taken = math.prod(size.get(axis, 1) for axis in AXES)
    if taken == slice_of.devices:
        return []
    there = f"{slice_of.slices} x {slice_of.name} has {slice_of.devices}"
    return [f"--mesh: takes {taken} devices, and {there}; the sizes of a run's axes must multiply to all of them"]


def judged(
    alike: list[RunSpec], slice_of: Topology, how: "Placement | How", tries: int, compiling: Callable[..., Any]
) -> dict[str, Any]:
    """One shape of the document. Where no sizes were given, that some placement fits is enough."""
    from scaling.train import ahead
    from scaling.train.placement import Placement

    of = alike[0]
    shape = {
        "name": _name(of),
        "n_params": count_params(of.model).total,
        "batch_tokens": of.batch_tokens,
        "exact_flops": ahead.step_flops(of),
        "runs": [{"id": one.id, "steps": one.steps, "flops": train_flops(one)} for one in alike],
    }
    try:
        first, others = ahead.judge(of, slice_of, how, tries, compiling)
    except Refusal as refusal:
        return shape | {"fits": False, "fault": f"{refusal}", "proposed": None, "tried": []}
    best = ahead.proposed(first, others)
    return shape | {
        "fits": first.memory.fits if isinstance(how, Placement) else best is not None,
        "asked": first.to_json(of, slice_of),
        "tried": [one.to_json(of, slice_of) for one in others],
        "proposed": str(best.placement) if best else None,
    }


def described(slice_of: Topology) -> dict[str, Any]:
    """The slices and the rates that estimates rest on."""
    of = slice_of.of
    return {
        "topology": slice_of.name,
        "slices": slice_of.slices,
        "chips": slice_of.chips,
        "devices": slice_of.devices,
        "hosts": slice_of.hosts,
        "chip": {
            "kind": of.kind,
            "devices": slice_of.chip.devices,
            "peak_flops": {dtype: peak * slice_of.chip.devices for dtype, peak in slice_of.chip.peaks.items()},
            "hbm": of.hbm,
            "hbm_bandwidth": of.hbm_bandwidth,
            "links": 2 * of.axes,
            "link_bandwidth": of.link,
            "network_bandwidth": of.dcn,
            "source": of.source,
        },
        "assumptions": list(ASSUMED),
    }


def _name(run: RunSpec) -> str:
    return shape_name(run.model, count_params(run.model).total, run.batch)
