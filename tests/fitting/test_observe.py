import numpy as np
import pandas
import pytest

from scaling.fitting.observe import observe, read_table
from scaling.spec import Refusal

HEAD = "run_id,n_params,tokens,loss\n"
GOOD = "a,1e6,2e7,3.5\nb,2e6,2e7,3.3\nc,4e6,4e7,3.1\n"


@pytest.fixture
def table(tmp_path):
    def write(text, **columns):
        path = tmp_path / "runs.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, columns)

    return write


BROKEN_CELLS = {
    "nan": ("d,nan,2e7,3.5", "line 5: n_params = nan: must be a finite number above zero"),
    "zero": ("d,1e6,0,3.5", "line 5: tokens = 0: must be a finite number above zero"),
    "negative": ("d,1e6,2e7,-3.5", "line 5: loss = -3.5: must be"),
    "unit": ("d,70M,2e7,3.5", "line 5: n_params = '70M' is not a number; write it out, as 70e6 for 70M"),
    "empty": ("d,1e6,,3.5", "line 5: tokens is empty"),
    "infinite": ("d,1e6,2e7,inf", "line 5: loss = inf"),
    "short": ("d,1e6,2e7", "line 5: loss is empty"),
    "word": ("d,1e6,2e7,diverged", "line 5: loss = 'diverged' is not a number"),
    "twice": ("a,1e6,2e7,3.5", "line 5: run_id 'a' is also on line 2"),
    "units": ("d,30,2e7,3.5", "column 'n_params' jumps from 30 to 1e+06: two units"),
}


@pytest.mark.parametrize("row,fault", BROKEN_CELLS.values(), ids=BROKEN_CELLS)
def test_a_bad_cell_is_refused_by_line(table, row, fault):
    with pytest.raises(Refusal) as refused:
        observe(table(HEAD + GOOD + row + "\n"), params="n_params")
    assert len(refused.value.faults) == 1
    assert refused.value.faults[0].startswith(fault)


def test_every_bad_cell_is_named_at_once_and_blank_lines_count(table):
    with pytest.raises(Refusal) as refused:
        observe(table(HEAD + "\n" + GOOD + "d,70M,0,3\n\ne,1e6,2e7,\n"), params="n_params")
    assert sorted(fault.split(":")[0] for fault in refused.value.faults) == ["line 6", "line 6", "line 8"]


BROKEN_FILES = {
    "empty": (b"", "is empty"),
    "header": (HEAD.encode(), "has a header line and no runs"),
    "semicolons": (b"run_id;n_params;tokens;loss\na;1e6;2e7;3,5\n", "separated by ';'"),
    "tabs": (b"run_id\tn_params\tloss\na\t1e6\t3.5\n", "separated by '\\t'"),
    "utf-16": ((HEAD + GOOD).encode("utf-16"), "is not UTF-8 text"),
    "ragged": ((HEAD + GOOD + "d,1e6,2e7,3.5,7,8\n").encode(), "line 5: 6 cells under 4 names"),
}


@pytest.mark.parametrize("text,fault", BROKEN_FILES.values(), ids=BROKEN_FILES)
def test_a_broken_file_is_refused_with_a_sentence(table, text, fault):
    with pytest.raises(Refusal, match="runs.csv") as refused:
        observe(table(text), params="n_params")
    assert fault in str(refused.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refusal, match="there is no such file"):
        read_table(tmp_path / "no.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_name(table):
    assert (
        len(observe(table(b"\xef\xbb\xbf" + b"n_params,tokens,loss\n1e6,2e7,3.5\n2e6,2e7,3.4\n"), params="n_params"))
        == 2
    )


def test_each_missing_column_is_named_with_the_way_out(table):
    with pytest.raises(Refusal) as refused:
        observe(table("N,D,loss\n1e6,2e7,3.5\n"), params="n_params")
    assert [fault.split(" is missing")[0] for fault in refused.value.faults] == ["column 'n_params'", "column 'tokens'"]
    assert "there are N, D, loss" in refused.value.faults[0]
    assert "--columns n_params=THEIR_NAME" in refused.value.faults[0]


def test_columns_are_found_under_other_names(table):
    o = observe(table("N,D,loss\n1e6,2e7,3.5\n", n_params="N", tokens="D"), params="n_params")
    assert (o.n[0], o.d[0], o.flops[0], o.flops_measured) == (1e6, 2e7, 1.2e14, False)
    with pytest.raises(Refusal, match="there is no column 'X'; there are N, D, loss"):
        table("N,D,loss\n1e6,2e7,3.5\n", n_params="X")


def test_only_finished_and_fitted_runs_count_and_the_rest_is_counted(table):
    text = (
        "run_id,status,role,group,n_params,tokens,loss\n"
        "a,finished,fitted,adamw,1e6,2e7,3.5\nb,diverged,fitted,adamw,1e6,2e7,\nc,finished,held_out,adamw,2e6,4e7,3.1\n"
        "d,finished,compare,sgd,1e6,2e7,3.9\n"
    )
    o = observe(table(text), params="n_params")
    assert o.run_id == ("a",)
    assert o.dropped == {"role = compare": 1, "role = held_out": 1, "status = diverged": 1}
    assert observe(table(text), params="n_params", group="sgd").run_id == ("d",)
    assert observe(table(text), params="n_params", roles=("fitted", "compare")).run_id == ("a", "d")
    with pytest.raises(Refusal, match="there is no such group|no such group; there are adamw, sgd"):
        observe(table(text), params="n_params", group="muon")


def test_the_order_of_the_rows_does_not_matter(table):
    rows = GOOD.splitlines(keepends=True)
    one, two = (observe(table(HEAD + "".join(order)), params="n_params") for order in (rows, rows[::-1]))
    assert one.run_id == two.run_id
    np.testing.assert_array_equal(one.loss, two.loss)


def test_a_run_without_a_trunk_is_its_own(table):
    o = observe(
        table("run_id,trunk,n_params,tokens,loss\na,t,1e6,2e7,3\nb,t,1e6,4e7,2.9\nc,,2e6,2e7,2.8\n"), params="n_params"
    )
    assert o.trunk == ("t", "t", "c")


def test_the_cost_of_a_token_is_fitted_where_flops_are_measured():
    n, d = np.geomspace(1e4, 1e6, 6), np.full(6, 1e7)
    table = pandas.DataFrame({"n_params": n, "tokens": d, "loss": 3.0, "flops": 40 * n**0.9 * d})
    assert observe(table, params="n_params").cost == pytest.approx((40, 0.9))
    assert observe(table.drop(columns="flops"), params="n_params").cost == (6.0, 1.0)


def test_flops_far_from_6nd_are_said():
    table = pandas.DataFrame({"n_params": [1e6, 2e6], "tokens": [2e7, 2e7], "loss": [3.0, 2.9], "flops": [6e16, 12e16]})
    assert "times 6 N D" in observe(table, params="n_params").warnings[0]
