"""Tables as people send them: each ends in the right verdict, and no number is fitted that the runs cannot tell."""

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pandas
import pytest

from scaling.cli.main import main
from scaling.fitting.fit import fit
from scaling.fitting.forecast import forecast
from scaling.fitting.laws import Chinchilla
from scaling.fitting.observe import observe, read_table
from scaling.fitting.rows import strange_flops
from scaling.spec import Refusal

HEAD = "run_id,n_params,tokens,flops,loss\n"
N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e9, 4), np.geomspace(1e9, 6e10, 4), indexing="ij"))
TRUE = Chinchilla(E=1.7, A=400.0, B=410.0, alpha=0.34, beta=0.28)
NOISE = 0.002 * np.random.default_rng(7).normal(size=len(N))  # on ln L


def line(n, d, loss, name="x", flops=None):
    return f"{name},{n:.12g},{d:.12g},{6 * n * d if flops is None else flops:.12g},{loss:.12g}\n"


def rows(n=N, d=D, loss=None):
    loss = TRUE(n, d) * np.exp(NOISE[: len(n)]) if loss is None else loss
    return [line(*row, name=f"r{i}") for i, row in enumerate(zip(n, d, loss, strict=True))]


GOOD = rows()
TEXT = HEAD + "".join(GOOD)

# Each is refused with exit status 2 and, for each fault, one line that holds these words.
REFUSED = {
    "nan": (TEXT + "x,1e8,1e10,6e18,nan\n", ["line 18: loss = nan: must be a finite number above zero"]),
    "infinite": (TEXT + "x,inf,1e10,6e18,3\n", ["line 18: n_params = inf: must be a finite number above zero"]),
    "zero": (TEXT + "x,1e8,0,6e18,3\n", ["line 18: tokens = 0: must be a finite number above zero"]),
    "negative": (TEXT + "x,1e8,1e10,6e18,-1\n", ["line 18: loss = -1: must be a finite number above zero"]),
    "empty cell": (TEXT + "x,1e8,1e10,6e18,\n", ["line 18: loss is empty"]),
    "70M": (TEXT + "x,70M,1e10,6e18,3\n", ["line 18: n_params = '70M' is not a number; write it out, as 70e6 for 70M"]),
    "words": (TEXT + "x,1e8,3e9 tokens,6e18,3\n", ["line 18: tokens = '3e9 tokens' is not a number; write it out"]),
    "decimal comma": (TEXT + 'x,1e8,1e10,6e18,"3,25"\n', ["line 18: loss = '3,25' has a comma; write decimals with a"]),
    "thousands": (TEXT + 'x,"100,000,000",1e10,6e18,3\n', ["line 18: n_params = '100,000,000' has thousands"]),
    "underscores": (TEXT + "x,100_000_000,1e10,6e18,3\n", ["line 18: n_params = '100_000_000' has thousands"]),
    "mixed units": (
        "n_params,tokens,loss\n1e8,1e10,3\n2e8,1e10,2.9\n4e8,1e10,2.8\n1000,1e10,2.7\n70,1e10,3.1\n",
        ["column 'n_params' jumps from 1000 to 1e+08: two units in one column (line 5, line 6)"],
    ),
    "C off 6 N D": (
        TEXT + line(1e8, 1e10, 3, flops=6e15),
        ["line 18: flops = 6e+15 are 0.001 times 6 N D, the table's are 1 times: a unit or a column is wrong"],
    ),
    "duplicate ids": (
        TEXT + "r3,1e8,1e10,6e18,3\n",
        [
            "line 5: run_id 'r3' is also on line 18 with other values; a run may count once",
            "line 18: run_id 'r3' is also on line 5 with other values",
        ],
    ),
    "the same run twice": (TEXT + GOOD[3], ["line 18: run_id 'r3' is also on line 5; a run may count once"]),
    "semicolons": (TEXT.replace(",", ";"), ["its columns are separated by ';'; save it with commas"]),
    "tabs": (TEXT.replace(",", "\t"), ["its columns are separated by '\\t'; save it with commas"]),
    "empty file": ("", ["is empty; it needs a header line and one line for each run"]),
    "blank file": ("\n \n", ["is empty; it needs a header line and one line for each run"]),
    "header only": (HEAD, ["has a header line and no runs"]),
    "ragged": (TEXT + "x,1e8,1e10,6e18,3,25\n", ["line 18: 6 cells under 5 names; a comma inside a number or a text?"]),
    "header twice": (TEXT.replace("flops", "tokens"), ["column 'tokens' appears twice"]),
    "not UTF-8": (TEXT.encode() + "é".encode("latin-1") + b",1e8,1e10,6e18,3\n", ["line 18: is not UTF-8 text"]),
    "UTF-16": (TEXT.encode("utf-16"), ["line 1: is not UTF-8 text; save it in UTF-8"]),
    "open quote": (TEXT + '"x,1e8,1e10,6e18,3\n', ["line 18: is not a CSV: unexpected end of data"]),
    "missing column": (TEXT.replace("tokens", "D"), ["column 'tokens' is missing; there are run_id, n_params, D"]),
    "several": (TEXT + "x,70M,0,6e18,\n", ["line 18: n_params", "line 18: tokens = 0", "line 18: loss is empty"]),
}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.mark.parametrize("text,faults", REFUSED.values(), ids=REFUSED)
def test_a_broken_table_is_refused_with_a_line_for_each_fault(file, text, faults, capsys):
    assert main(["fit", str(file(text)), "--params", "n_params"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    said = err.splitlines()
    assert len(said) == len(faults)
    for fault, words in zip(said, faults, strict=True):
        assert fault.startswith("scaling fit: ") and words in fault


def test_the_command_itself_ends_in_a_sentence_and_no_traceback(file):
    words = ["fit", str(file(REFUSED["70M"][0])), "--params", "n_params"]
    done = subprocess.run([sys.executable, "-m", "scaling", *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "scaling fit: line 18: n_params = '70M' is not a number; write it out, as 70e6 for 70M, or give the factor: "
        "--columns OURS=COLUMN*1e6"
    ]


DROPPED = {
    "nan": {"bad row: loss not finite": 1},
    "zero": {"bad row: tokens not above zero": 1},
    "empty cell": {"bad row: loss empty": 1},
    "70M": {"bad row: n_params not a number": 1},
    "C off 6 N D": {"bad row: flops off 6 N D": 1},
    "duplicate ids": {"bad row: run_id repeated with other values": 2},
    "the same run twice": {"bad row: run_id repeated": 1},
    "several": {"bad row: n_params not a number": 1},
}


@pytest.mark.parametrize("case,dropped", DROPPED.items(), ids=DROPPED)
def test_bad_rows_are_dropped_on_request_and_counted(file, case, dropped):
    o = observe(read_table(file(REFUSED[case][0])), params="n_params", drop_bad=True)
    assert o.dropped == dropped
    assert set(o.run_id) == {f"r{i}" for i in range(16)} - ({"r3"} if case == "duplicate ids" else set())


@pytest.mark.parametrize("case", ["mixed units", "missing column"])
def test_a_fault_of_the_whole_table_is_refused_all_the_same(file, case):
    with pytest.raises(Refusal, match="|".join(["two units", "is missing"])):
        observe(read_table(file(REFUSED[case][0])), params="n_params", drop_bad=True)


def test_a_table_of_bad_rows_only_is_refused_with_the_count(file):
    with pytest.raises(Refusal, match="no runs to fit; 2 left out: bad row: loss not finite"):
        observe(read_table(file(HEAD + "a,1,1,1,nan\nb,1,1,1,nan\n")), params="n_params", drop_bad=True)


def fitted(path, capsys, *options):
    assert main(["fit", str(path), "--params", "n_params", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_sound_table_is_fitted_with_or_without_a_byte_order_mark(file, capsys):
    plain = fitted(file(TEXT, "plain.csv"), capsys)
    assert plain["status"] == "converged"
    assert plain["estimates"]["alpha"]["value"] == pytest.approx(TRUE.alpha, rel=0.1)
    assert fitted(file(b"\xef\xbb\xbf" + TEXT.encode(), "bom.csv"), capsys) == plain
    assert fitted(file(TEXT.replace("\n", "\r\n"), "dos.csv"), capsys) == plain


SAME = np.full(12, 1e8)
UNTOLD = {
    "four points": rows(N[[0, 5, 10, 15]], D[[0, 7, 9, 12]]),
    "single N": rows(SAME, np.geomspace(1e9, 1e11, 12)),
    "constant D/N": rows(np.geomspace(1e7, 1e9, 12), 20 * np.geomspace(1e7, 1e9, 12)),
}


@pytest.mark.parametrize("case", UNTOLD)
def test_what_the_runs_cannot_tell_is_named_and_gets_no_number(file, capsys, case):
    found = fitted(file(HEAD + "".join(UNTOLD[case])), capsys)
    assert found["status"] == "unidentified"
    assert {"E", "A", "alpha"} <= set(found["unidentified"])
    assert not set(found["unidentified"]) & {n for n, item in found["estimates"].items() if item["value"] is not None}
    assert not found["optimum"]
    assert found["warnings"]


def test_a_parameter_on_its_bound_says_so(file, capsys):
    # The loss falls in a straight line in ln N over all the sizes there are: it shows no floor.
    loss = (8.0 - 0.25 * np.log(N) + (D / 1e9) ** -0.3) * np.exp(NOISE)
    found = fitted(file(HEAD + "".join(rows(loss=loss))), capsys)
    assert (found["status"], found["at_bound"]) == ("at_bound", ["E"])
    assert found["estimates"]["E"]["interval"] is None
    assert any(words.startswith("E = 0 rests on the edge of its range") for words in found["warnings"])


def test_a_forecast_at_a_thousand_times_the_compute_is_marked(file):
    o = observe(read_table(file(TEXT)), params="n_params")
    n, d = 30 * N[-1], 1000 / 30 * D[-1]
    said = forecast([fit(o)], n, d, 1000 * float(o.flops[-1]))
    assert "1000 times the largest fitted compute: an extrapolation far beyond the runs" in said.warnings
    assert said.loss == pytest.approx(TRUE(n, d), rel=0.01)  # one draw says nothing of coverage
    untold = observe(read_table(file(HEAD + "".join(UNTOLD["constant D/N"]))), params="n_params")
    with pytest.raises(Refusal, match="no law is identified by these runs, so none can forecast"):
        forecast([fit(untold)], n, d, 6 * n * d)


def test_rows_far_outside_the_others_compute_do_not_pass_for_a_unit_error(file):
    n, d = np.append(N, 3e10), np.append(D, 2e12)  # 1,000 times the largest compute of the rest
    o = observe(read_table(file(HEAD + "".join(rows(n, d, TRUE(n, d))))), params="n_params")
    assert o.flops[-1] == pytest.approx(1000 * o.flops[-2])


@pytest.mark.parametrize("header,cut", [(HEAD, 0), (HEAD.removeprefix("run_id,"), 1)], ids=["ids", "no ids"])
@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_rows_changes_nothing(file, header, cut, seed):
    """Copies, replicates without a seed, and rows to drop included."""
    further = [GOOD[2].replace("r2,", "a,"), GOOD[2].replace("r2,", "b,")[:-3] + "9\n", "c,70M,1e9,1e18,3\n"]
    lines = [row.split(",", cut)[-1] for row in GOOD + further]
    mixed = [lines[i] for i in np.random.default_rng(seed).permutation(len(lines))]
    one, two = (
        observe(read_table(file(header + "".join(order))), params="n_params", drop_bad=True, extra=("flops",))
        for order in (lines, mixed)
    )
    for name in ("n", "d", "flops", "unique", "loss", "loss_se"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in ("run_id", "group", "trunk", "seed", "size", "dropped", "warnings", "cost"):
        assert getattr(one, name) == getattr(two, name), name
    np.testing.assert_array_equal(one.variable("flops"), two.variable("flops"))


def test_a_count_that_leaves_embeddings_out_is_no_unit_error():
    """Small models then cost far more than 6 N D, and every token of a larger one more still."""
    full, d = np.repeat(np.geomspace(1e6, 1e9, 6), 3), np.tile([1e9, 2e9, 4e9], 6)
    counted = full**1.6 / 1e9**0.6  # C is 63 times 6 N D for the smallest, 8 in the middle, 1 for the largest
    kaplan = pandas.DataFrame({"n": counted, "tokens": d, "flops": 6 * full * d, "loss": 3.0})
    assert len(observe(kaplan, params="n")) == 18
    kaplan.loc[4, "flops"] *= 4  # no more than the smallest size's multiple, but not its own size's
    with pytest.raises(Refusal) as refused:
        observe(kaplan, params="n")
    assert [fault.split(":")[0] for fault in refused.value.faults] == ["row 4"]


@pytest.mark.parametrize("factor", [0.1, 10])
@pytest.mark.parametrize("row", [1, 3, 6, 8])
def test_flops_of_one_size_are_held_to_those_of_smaller_and_larger_ones(row, factor):
    n = np.geomspace(1e6, 1e9, 10)
    table = pandas.DataFrame({"n": n, "tokens": 1e9, "flops": 6e9 * n, "loss": 3.0})
    table.loc[row, "flops"] *= factor
    with pytest.raises(Refusal, match=rf"^row {row}: flops = \S+ are {factor:g} times 6 N D"):
        observe(table, params="n")


@pytest.mark.parametrize("row,factor", [(0, 0.1), (9, 10), (0, 100), (9, 0.01)])
def test_flops_of_the_smallest_and_the_largest_size_are_held_to_what_a_trend_allows(row, factor):
    n = np.geomspace(1e6, 1e9, 10)
    flops = 6e9 * n
    flops[row] *= factor
    assert [fault.row for fault in strange_flops(n, np.full(10, 1e9), flops)] == [row]


def test_which_flops_are_strange_does_not_hang_on_the_order_of_the_rows():
    rng = np.random.default_rng(3)
    n, d, some = np.repeat(np.geomspace(1e6, 1e9, 3), 8), np.full(24, 1e9), 0
    for _ in range(40):
        flops = 6e9 * n * np.exp(1.2 * rng.normal(size=24))  # so wild that what is strange is a close call
        found = []
        for _ in range(4):
            order = rng.permutation(24)
            found.append({int(order[fault.row]) for fault in strange_flops(n[order], d[order], flops[order])})
        assert all(rows == found[0] for rows in found)
        some += len(found[0])
    assert 0 < some < 40 * 24


def test_one_unit_error_does_not_hide_another():
    n = np.geomspace(1e6, 1e9, 10)
    flops = 6e9 * n
    flops[[3, 5]] *= 10, 20
    assert [fault.row for fault in strange_flops(n, np.full(10, 1e9), flops)] == [3, 5]


def test_a_fault_is_named_by_the_line_that_its_row_starts_on(file):
    text = 'run_id,n_params,tokens,loss\n"a\nb\nc",1e6,1e9,3\n\nd,0,1e9,3\n'
    with pytest.raises(Refusal, match="^line 6: n_params = 0"):
        observe(read_table(file(text)), params="n_params")


def test_runs_that_differ_in_nothing_but_the_loss_are_doubted(file):
    text = "n_params,tokens,loss\n1e6,1e9,3\n1e6,1e9,3.01\n2e6,1e9,2.9\n"
    assert "2 runs differ from another in nothing but their result" in observe(
        read_table(file(text)), params="n_params"
    ).warnings[0]  # fmt: skip
    seeds = "seed,n_params,tokens,loss\n0,1e6,1e9,3\n1,1e6,1e9,3.01\n0,2e6,1e9,2.9\n"
    assert not observe(read_table(file(seeds)), params="n_params").warnings


def test_losses_of_several_texts_are_doubted(file):
    text = "eval_source,n_params,tokens,loss\n{},1e6,1e9,3\nbytes:a,3e6,1e9,2.9\n"
    (said,) = observe(read_table(file(text.format("bytes:b"))), params="n_params").warnings
    assert said.startswith("the losses are of 2 texts (bytes:a, bytes:b)") and said.endswith("eval_source=bytes:a")
    assert not observe(read_table(file(text.format("bytes:a"))), params="n_params").warnings
    one = observe(read_table(file(text.format("bytes:b"))), params="n_params", where=["eval_source=bytes:a"])
    assert len(one) == 1 and not one.warnings


def test_sizes_in_millions_are_doubted(file):
    o = observe(read_table(file("n_params,tokens,loss\n70,1e9,3\n160,1e9,2.9\n")), params="n_params")
    assert "2 runs have n_params from 70 to 160: plain counts?" in o.warnings[0]
    tiny = "n_params,tokens,flops,loss\n768,1e6,2e10,3\n1536,1e6,3e10,2.9\n"  # attention and head come on top
    assert not any("plain counts" in words for words in observe(read_table(file(tiny)), params="n_params").warnings)


def test_a_single_size_has_a_cost_per_token():
    one = pandas.DataFrame({"n": 1e8, "tokens": np.geomspace(1e9, 1e11, 12), "loss": 3.0})
    one["flops"] = 7 * one["n"] * one["tokens"]
    assert observe(one, params="n").cost == pytest.approx((7.0, 1.0))


def test_a_file_is_never_evaluated(file, tmp_path):
    mark = tmp_path / "ran"
    cell = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    for text in (f'run_id,n_params,tokens,loss\na,"{cell}",1e9,3\n', f'"{cell}",n_params,tokens,loss\na,1e6,1e9,3\n'):
        table = read_table(file(text), {"n": "n_params*2"})
        for where in ("n_params=" + "1", f"{cell}=1", "n_params>" + cell.replace("=", "")):
            with pytest.raises(Refusal):
                observe(table, params="n_params", where=[where], needs=("n", "d", cell))
    with pytest.raises(Refusal, match="there is no number above zero, ln2 or column"):
        read_table(file(TEXT), {"n": f"n_params*{cell}"})
    assert not mark.exists()


def test_no_control_character_reaches_a_message(file):
    escape = "\x1b[2J"
    table = read_table(file(f"a{escape},n_params,group,loss,status\n1,{escape}7M,{escape},3,finished\n"))
    with pytest.raises(Refusal) as refused:
        observe(table, params="n_params")
    with pytest.raises(Refusal) as again:
        observe(table, params="n_params", needs=("n",))
    with pytest.raises(Refusal) as third:
        observe(table, params="n_params", needs=("n",), group="x")
    assert escape not in str(refused.value) + str(again.value) + str(third.value)


def test_a_wide_header_is_not_filled_up_without_limit(file):
    """A few bytes a line, 100,000 cells each once the missing ones are filled in."""
    text = ",".join(f"c{i}" for i in range(100_000)) + "\n" + "1,2\n" * 1000
    with pytest.raises(Refusal, match="has more than 2,000,000 cells"):
        read_table(file(text))


def test_a_line_without_end_is_refused_before_it_is_in_memory(tmp_path):
    """A gigabyte of zeros, sparse on disk, by its size; a line of 60 MiB by its length."""
    giant = tmp_path / "giant.csv"
    with giant.open("wb") as out:
        out.truncate(2**30)
    starts = {"long.csv": b"n_params,tokens,loss\n", "long.jsonl": b'{"n_params": 1}\n'}
    for name, start in starts.items():
        with (tmp_path / name).open("wb") as out:
            out.write(start)
            out.truncate(60 * 2**20)
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="has 1024 MiB, 64 are the most"):
            read_table(giant)
        for name in starts:
            with pytest.raises(Refusal, match="line 2 is longer than 1048576 bytes"):
                read_table(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()
