"""`scaling compile` as it is asked: what is refused before anything is compiled, and how the answer reads."""

import io
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from scaling.chips import topology
from scaling.cli.compile import ASSUMED, chosen, described, shapes, unfit
from scaling.cli.main import main
from scaling.report.compiled import show, verdict
from scaling.spec import RunSpec

ASK = ["compile", "compute", "--size", "pod"]


def test_every_fault_of_a_request_is_told_at_once(capsys: pytest.CaptureFixture[str]):
    assert (
        main(
            [
                *ASK,
                "--topology",
                "v5e:5x5",
                "--slices",
                "0",
                "--mesh",
                "fsdp=x,depth=2",
                "--run",
                "abc",
                "--tries",
                "-1",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    for fault in ("v5e is offered as", "--slices = 0", "--mesh fsdp=x", "--mesh depth=2", "--run abc", "--tries = -1"):
        assert fault in said


def test_a_placement_takes_the_devices_of_its_slices_neither_more_nor_fewer(capsys: pytest.CaptureFixture[str]):
    assert unfit({"data": 4, "microbatches": 2}, topology("v5e:2x2")) == []
    assert unfit({"data": 4, "tensor": 2}, topology("v5e:2x2", 2)) == []
    for size in ({"data": 4, "tensor": 2}, {"data": 2}):
        assert "1 x v5e:2x2 has 4" in unfit(size, topology("v5e:2x2"))[0]
    assert "one at a time" in unfit({"data": 2, "member": 2}, topology("v5e:2x2"))[0]
    assert main([*ASK, "--topology", "v5e:2x2", "--mesh", "data=7"]) == 2
    said = capsys.readouterr().err
    assert "must divide batch of every run" in said and "takes 7 devices" in said


def test_a_refusal_needs_neither_jax_nor_the_text_of_the_study():
    code = (
        "import sys; from scaling.cli.main import main; "
        f"status = main({[*ASK, '--topology', 'v5e:9x9']!r}); sys.exit(10 * ('jax' in sys.modules) + status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and "v5e is offered as" in done.stderr and "corpus" not in done.stderr


def test_runs_of_one_program_are_compiled_once(tiny: RunSpec):
    longer, faster = replace(tiny, steps=40), replace(tiny, optim=replace(tiny.optim, peak_lr=1e-3), seed=3)
    wider = replace(tiny, model=replace(tiny.model, d_model=32))
    found = shapes([wider, tiny, longer, faster, replace(tiny, batch=4)])
    assert [len(alike) for alike in found] == [1, 3, 1] and found[1][0] == longer and found[2] == [wider]
    assert chosen([tiny, wider, longer], "largest") == [wider]
    assert chosen([tiny, wider, longer], f"{longer.id},{tiny.id}") == [longer, tiny]


def placed(mesh: str, fits: bool, **terms: float) -> dict[str, Any]:
    one = {"mesh": mesh, "fits": fits, "over": 0 if fits else 3 << 30, "compile_seconds": 31.4}
    one["hbm"] = {"limit": 16 << 30, "peak": (12 if fits else 19) << 30, "argument": 2 << 30, "temporary": 10 << 30}
    if not fits:
        return one
    largest = max(terms, key=lambda name: terms[name])
    estimate = {**terms, "network": 0.0, "bound": largest, "seconds": terms[largest],
                "seconds_in_turn": sum(terms.values()), "mfu": 0.61}  # fmt: skip
    return one | {
        "estimate": estimate, "flops": {"compiled": 3e15, "ratio": 1.31},
        "collectives": {"all-gather": {"count": 80, "bytes": 6 << 30, "sent": 5 << 30}},
    }  # fmt: skip


def test_what_does_not_fit_is_said_not_to_with_the_placement_that_would():
    bad, good = placed("data=16", False), placed("fsdp=16", True, compute=1.5, memory=0.5, interconnect=0.25)
    shape = {
        "name": "3.2B parameters", "asked": bad, "tried": [good], "proposed": "fsdp=16",
        "runs": [{"id": f"{n:012x}", "steps": 2400} for n in range(5)],
    }  # fmt: skip
    document = described(topology("v5e:4x4")) | {"shapes": [shape]}
    console = Console(width=120, record=True, file=io.StringIO())
    show(document, console)
    said = console.export_text()
    for words in (
        "on v5e:4x4, 16 chips", "no, 3 GiB over", "proposed: --mesh fsdp=16, bound by compute; a step takes 1.5 s",
        "2.25 s if nothing does", "1.31 times our exact count", "all-gather: 80 a step of 6 GiB in all",
        "2,400 steps, 1 hours at least, 1.5 if nothing hides", "and 2 more runs", "61%", *ASSUMED,
    ):  # fmt: skip
        assert words in said.replace("\n", " "), words
    assert verdict(bad) == "data=16 does not fit: needs 19 GiB of 16 GiB a device, 3 GiB too much"
    assert "fsdp=16 fits: 12 GiB of 16 GiB a device" in verdict(good)
    shape |= {"tried": [], "proposed": None}
    show(document, console)
    assert "none of these fits" in console.export_text()
