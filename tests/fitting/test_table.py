import json
import math
import sys

import numpy as np
import pytest

from scaling.fitting.observe import observe, read_table
from scaling.spec import Refusal

RUNS = {
    "run_id": ["a", "b", "c"],
    "n_params": [1e6, 2500000.25, 4e6],
    "tokens": [20000000, 20000000, 40000000],
    "loss": [3.5, 3.3000000000000003, 3.1],
    "lr": [1e-3, None, 3e-4],
}


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "runs.csv"
    columns = [["" if cell is None else repr(cell).strip("'") for cell in column] for column in RUNS.values()]
    path.write_text("\n".join(",".join(row) for row in [list(RUNS), *zip(*columns, strict=True)]) + "\n")
    return path


def same(one, two):
    assert one.run_id == two.run_id
    for name in ("n", "d", "flops", "unique", "loss", "loss_se"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.variable("lr"), two.variable("lr"))


def test_json_lines_hold_the_same_runs_as_a_csv(csv, tmp_path):
    rows = [dict(zip(RUNS, values, strict=True)) for values in zip(*RUNS.values(), strict=True)]
    path = tmp_path / "runs.jsonl"
    path.write_text("\ufeff" + "".join(json.dumps(row) + "\n\n" for row in rows))
    one, two = (observe(read_table(file), params="n_params", extra=("lr",)) for file in (csv, path))
    same(one, two)
    np.testing.assert_array_equal(one.loss, RUNS["loss"])
    assert math.isnan(one.variable("lr")[1])


def test_parquet_holds_the_same_runs_as_a_csv(csv, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs pyarrow: pip install -e '.[tables]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    nested = {"config": [{"lr": lr, "shape": [1, 2]} for lr in RUNS["lr"]]}
    plain = {name: column for name, column in RUNS.items() if name != "lr"}
    parquet.write_table(pyarrow.table(plain | nested), tmp_path / "runs.parquet")
    one = observe(read_table(csv), params="n_params", extra=("lr",))
    table = read_table(tmp_path / "runs.parquet", {"lr": "config.lr"})
    same(one, observe(table, params="n_params", extra=("lr",)))
    bad = {name: [*column[:2], -1] for name, column in plain.items() if name != "run_id"}
    parquet.write_table(pyarrow.table(bad), tmp_path / "bad.parquet")
    with pytest.raises(Refusal, match="row 3: n_params = -1.0: must be a finite number above zero"):
        observe(read_table(tmp_path / "bad.parquet"), params="n_params")
    (tmp_path / "no.parquet").write_text("n_params,tokens,loss\n")
    with pytest.raises(Refusal, match="no.parquet: is not a Parquet file"):
        read_table(tmp_path / "no.parquet")


def test_parquet_without_its_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "runs.parquet").write_bytes(b"PAR1")
    with pytest.raises(Refusal, match=r"needs pyarrow: pip install -e '.\[tables\]'"):
        read_table(tmp_path / "runs.parquet")


def test_runs_from_the_api_of_wandb_are_flattened(tmp_path):
    path = tmp_path / "wandb.jsonl"
    lines = [
        {"id": f"x{i}", "name": f"run {i}", "state": state, "tags": ["a"],
         "config": {"model": {"n_params": n}, "lr": 0.1}, "summary": {"_step": 1000 * (i + 1), "val": {"loss": loss}}}
        for i, (n, loss, state) in enumerate([(1e6, 3.0, "finished"), (2e6, 2.9, "finished"), (4e6, "NaN", "crashed")])
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in lines))
    columns = {
        "run_id": "id", "n_params": "config.model.n_params", "tokens": "summary._step*524288",
        "loss": "summary.val.loss",
    }  # fmt: skip
    table = read_table(path, columns)
    o = observe(table, params="n_params", where=["state=finished"])
    assert o.run_id == ("x0", "x1")
    np.testing.assert_array_equal(o.d, [524288000.0, 1048576000.0])
    assert o.dropped == {"not state=finished": 1}
    with pytest.raises(Refusal, match="line 3: loss = NaN: must be a finite number above zero"):
        observe(table, params="n_params")


def test_an_export_of_the_wandb_page_is_a_csv_whose_unfinished_runs_are_said(tmp_path):
    path = tmp_path / "wandb.csv"
    path.write_text(
        '"Name","State","config.n_params","_step","summary.loss"\n"a","finished","1e6","100","3.0"\n'
        '"b","crashed","2e6","50","2.95"\n"c","finished","4e6","100","2.9"\n'
    )
    columns = {"n_params": "config.n_params", "loss": "summary.loss", "tokens": "_step*1e6", "run_id": "Name"}
    assert observe(read_table(path, columns), params="n_params").warnings == (
        "column 'State' has runs that are not finished (1 crashed): --where State=finished",
    )
    o = observe(read_table(path, columns), params="n_params", where=["State=finished"])
    assert (o.run_id, o.warnings) == (("a", "c"), ())


BROKEN = {
    "not JSON": ('{"a": 1}\n{"a": }\n', "line 2: is not a run in JSON"),
    "no object": ("[1, 2]\n", r"line 1: is not a run in JSON: must be an object \{column: value, ...\}"),
    "a name twice": ('{"a": 1, "a": 2}\n', "line 1: is not a run in JSON: a name appears twice"),
    "a flattened name twice": ('{"a.b": 1, "a": {"b": 2}}\n', "a name appears twice"),
    "too deep": ('{"a":' * 100_000 + "1" + "}" * 100_000, "line 1: is not a run in JSON"),
    "endless integer": ('{"a": ' + "9" * 10_000 + "}", "line 1: is not a run in JSON"),
    "blank": ("\n\n", "has no runs"),
}


@pytest.mark.parametrize("text,fault", BROKEN.values(), ids=BROKEN)
def test_broken_json_lines_are_refused_by_line(tmp_path, text, fault):
    path = tmp_path / "runs.jsonl"
    path.write_text(text)
    with pytest.raises(Refusal, match=fault):
        read_table(path)


def test_a_folder_is_a_results_folder_or_refused(csv):
    assert len(read_table(csv.parent)) == 3
    csv.rename(csv.parent / "one.csv")
    (csv.parent / "two.csv").write_text("a\n1\n")
    with pytest.raises(Refusal, match="has no runs.csv, .*; it holds one.csv, two.csv: give one of them"):
        read_table(csv.parent)
    with pytest.raises(Refusal, match="no.json: write it as JSON lines"):
        (csv.parent / "no.json").write_text("[]")
        read_table(csv.parent / "no.json")


def test_units_are_factors_and_exact(csv):
    table = read_table(csv, {"m": "n_params*1e-6", "nats": "loss*4.8*ln2", "budget": "n_params*tokens*6", "lr": "loss"})
    o = observe(table, params="n_params", extra=("m", "nats", "budget", "lr"))
    n, d, loss = (np.array(RUNS[name], float) for name in ("n_params", "tokens", "loss"))
    np.testing.assert_array_equal(o.variable("m"), 1e-6 * n)
    np.testing.assert_allclose(o.variable("nats"), 4.8 * np.log(2) * loss, rtol=1e-15)
    np.testing.assert_allclose(o.variable("budget"), 6 * n * d, rtol=1e-15)
    np.testing.assert_array_equal(o.variable("lr"), loss)  # ours replaces the file's


def test_a_column_may_hold_an_asterisk_and_two_may_change_places(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N*1e6,loss,tokens\n2,1e9,3.5\n")
    o = observe(read_table(path, {"n": "N*1e6", "tokens": "loss", "loss": "tokens"}), params="n")
    assert (o.n[0], o.d[0], o.loss[0]) == (2, 1e9, 3.5)


@pytest.mark.parametrize(
    "theirs", ["n_params*", "n_params*x", "n_params*-1", "n_params*nan", "n_params*0", "n_params**2"]
)
def test_what_is_no_factor_is_refused(csv, theirs):
    with pytest.raises(Refusal, match="there is no number above zero, ln2 or column .*; there are run_id, n_params"):
        read_table(csv, {"n": theirs})


def test_every_fault_of_the_columns_is_said_at_once(csv):
    with pytest.raises(Refusal) as refused:
        read_table(csv, {"a": "x", "b": "loss*q", "c": "1e6*loss"})
    assert [fault.split(":")[0] for fault in refused.value.faults] == [
        "--columns a=x", "--columns b=loss*q", "--columns c=1e6*loss",
    ]  # fmt: skip


WHERE = {
    "n_params>=2500000.25": "bc",
    "n_params > 2.5e6": "bc",
    "n_params<4000000": "ab",
    "n_params <= 1e6": "a",
    "n_params=4000000.0": "c",
    "n_params!=4e6": "ab",
    "run_id=b": "b",
    "run_id!=b": "ac",
    "run_id<c": "ab",
    "lr!=": "ac",
    "lr=": "b",
    "lr>0": "ac",
    "lr<=1": "ac",
}


@pytest.mark.parametrize("clause,kept", WHERE.items())
def test_a_condition_keeps_the_rows_it_says(csv, clause, kept):
    o = observe(read_table(csv), params="n_params", where=[clause])
    assert "".join(o.run_id) == kept
    assert o.dropped == {f"not {clause}": 3 - len(kept)}


def test_conditions_must_all_hold_and_each_counts_what_it_left_out(csv):
    o = observe(read_table(csv), params="n_params", where=["run_id!=a", "loss<3.2"])
    assert o.run_id == ("c",)
    assert o.dropped == {"not run_id!=a": 1, "not loss<3.2": 1}


FAULTY_WHERE = {
    "n_params": "must be COLUMN OP VALUE with OP one of = != < <= > >=",
    "": "must be COLUMN OP VALUE",
    "n_params==1": "must be COLUMN OP VALUE",
    "1<n_params<2": "must be COLUMN OP VALUE",
    "size>1": "there is no column 'size'; there are run_id, n_params, tokens, loss, lr",
    "n_params>1M": "'1M' is not a number and the column has numbers",
}


@pytest.mark.parametrize("clause,fault", FAULTY_WHERE.items())
def test_a_faulty_condition_is_refused(csv, clause, fault):
    with pytest.raises(Refusal) as refused:
        observe(read_table(csv), params="n_params", where=[clause])
    assert fault in str(refused.value)


def test_conditions_that_leave_nothing_say_what_left(csv):
    with pytest.raises(Refusal, match="no runs to fit; 3 left out: not loss>9"):
        observe(read_table(csv), params="n_params", where=["loss>9"])


PUBLISHED = {
    "epoch": ("epoch_chinchilla.csv", {}, {"params": "n_params"}, 245),
    "besiroglu": ("epoch_chinchilla.csv", {}, {"params": "n_params", "where": ["dropped_by_besiroglu=False"]}, 240),
    "gadre": ("gadre_overtrain_rpj.csv", {}, {"params": "n_params", "extra": ("cc_mult", "err_avg")}, 35),
    "gadre, downstream": ("gadre_overtrain_rpj.csv", {}, {"needs": ("loss",), "response": "err_avg"}, 35),
    "muennighoff": (
        "muennighoff_repeat.csv", {}, {"params": "n_params", "needs": ("n", "d", "u"), "where": ["set=fit182"]}, 182,
    ),
    "porian": ("porian_isoflop.csv", {}, {"params": "n_params"}, 579),
    "porian, optima": (
        "porian_optima.csv", {}, {"needs": ("c",), "response": "n_opt", "where": ["n_opt>0"]}, None,
    ),
    "step law": ("steplaw_dense.csv", {}, {"params": "n_params_nonemb", "extra": ("lr", "batch_tokens")}, 1746),
    "nanochat": (
        "nanochat_optima.csv", {"n_params": "n_opt", "tokens": "d_opt", "loss": "bpb*4.8*ln2"},
        {"params": "n_params", "where": ["group=Kaplan-style"]}, 4,
    ),
    "routing": (
        "routing_sbase.csv", {"flops": "flops_per_step*step", "tokens": "step*1048576"},
        {"params": "n_params", "where": ["group=Dense"]}, 13,
    ),
    "broken law": (
        "bnsl_4digit_addition.csv", {}, {"needs": ("dataset_size",), "where": ["split=train"]}, 14,
    ),
    "one curve": (
        "mpl_curves_100m.csv", {"run_id": "step"}, {"needs": ("step",), "extra": ("lr",),
        "where": ["schedule=cosine_24000"]}, None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name,columns,how,runs", PUBLISHED.values(), ids=PUBLISHED)
def test_published_tables_are_read_as_they_are(published, name, columns, how, runs):
    o = observe(published(name, columns), **how)
    assert runs is None or len(o) == runs
    for variable in (*how.get("needs", ("n", "d")), how.get("response", "loss")):
        assert np.isfinite(o.variable(variable)).all() and (o.variable(variable) > 0).all()
    assert sum(o.dropped.values()) + len(o) == len(published(name))
    assert (o.unique <= o.d).all() or "d" not in how.get("needs", ("n", "d"))
    assert not o.warnings


def test_a_law_of_other_variables_needs_only_their_columns(csv, tmp_path):
    path = tmp_path / "lr.csv"
    path.write_text("flops,lr\n1e18,1e-3\n1e19,7e-4\n")
    o = observe(read_table(path), needs=("c",), response="lr")
    np.testing.assert_array_equal(o.variable("c"), [1e18, 1e19])
    np.testing.assert_array_equal(o.variable("lr"), [1e-3, 7e-4])
    assert np.isnan(o.n).all() and np.isnan(o.d).all() and np.isnan(o.loss).all()
    assert (o.params, o.cost, len(o)) == ("", (6.0, 1.0), 2)
    with pytest.raises(Refusal, match="column 'tokens' is missing"):
        observe(read_table(path), needs=("u",), response="lr")
    with pytest.raises(Refusal, match="--params COLUMN: say which column counts parameters; there is no default"):
        observe(read_table(csv))
    with pytest.raises(Refusal, match="'lr': is no column of these runs; there are n, d, c, u, loss"):
        observe(read_table(csv), params="n_params").variable("lr")


def test_compute_is_6_n_d_where_a_law_needs_it_and_the_table_lacks_it(csv):
    o = observe(read_table(csv), params="n_params", needs=("c",))
    np.testing.assert_array_equal(o.variable("c"), 6 * o.n * o.d)
    with pytest.raises(Refusal, match="column 'flops' is missing"):
        observe(read_table(csv), needs=("c",))


def test_a_bad_cell_of_a_column_that_no_law_needs_is_no_fault(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n_params,tokens,loss\n70M,1e9,3\n160M,2e9,2.9\n")
    o = observe(read_table(path), params="n_params", needs=("d",))
    assert np.isnan(o.n).all() and list(o.d) == [1e9, 2e9]


def test_unique_tokens_are_at_most_those_seen(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("n_params,tokens,unique_tokens,loss\n1e6,1e9,4e9,3\n2e6,4e9,1e9,2.9\n")
    o = observe(read_table(path), params="n_params", needs=("n", "d", "u"))
    assert list(o.variable("u")) == [1e9, 1e9]
