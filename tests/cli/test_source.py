import argparse

import pytest

from scaling.cli.source import arguments, conventions, read
from scaling.spec import Refusal

TEXT = (
    "run,params_M,n_params_total,D,bits,lr,set\n"
    "a,1.5,2e6,2e7,4.5,1e-3,x\nb,2.5,3e6,2e7,4.25,2e-3,x\nc,4,5e6,4e7,4,1e-3,y\nd,8,9e6,4e7,nan,1e-3,x\n"
)
COLUMNS = ["--columns", "run_id=run, n_params=params_M*1e6,tokens=D", "--columns", "loss=bits*ln2"]


@pytest.fixture
def parsed(tmp_path):
    def parse(*words):
        (tmp_path / "runs.csv").write_text(TEXT)
        parser = argparse.ArgumentParser()
        arguments(parser)
        return parser.parse_args([str(tmp_path / "runs.csv"), *words])

    return parse


def test_the_options_choose_name_and_convert(parsed):
    o = read(parsed(*COLUMNS, "--params", "n_params", "--where", "set=x", "--where", "params_M<9", "--drop-bad"))
    assert o.run_id == ("a", "b")
    assert list(o.n) == [1.5e6, 2.5e6]
    assert list(o.loss) == pytest.approx([3.1192, 2.9459], abs=1e-4)
    assert o.dropped == {"not set=x": 1, "bad row: loss not finite": 1}


def test_without_leave_to_drop_a_bad_row_is_refused(parsed):
    with pytest.raises(Refusal, match="line 5: loss = nan: must be a finite number above zero"):
        read(parsed(*COLUMNS, "--params", "n_params"))


def test_a_law_asks_for_its_own_variables(parsed):
    o = read(parsed(*COLUMNS, "--where", "bits>0"), "power", x="d", extra=("lr",))
    assert list(o.variable("d")) == [2e7, 2e7, 4e7]
    assert sorted(o.variable("lr")) == [1e-3, 1e-3, 2e-3]
    with pytest.raises(Refusal, match="--params COLUMN: say which column counts parameters"):
        read(parsed(*COLUMNS))
    with pytest.raises(Refusal, match="--law nonsense: there is no such law; there are chinchilla"):
        read(parsed(*COLUMNS), "nonsense")


def test_all_conventions_are_those_the_table_has(parsed):
    every = parsed(*COLUMNS, "--params", "all", "--where", "bits>0")
    assert conventions(every) == ("n_params", "n_params_total")
    assert [read(every, params=name).n[0] for name in conventions(every)] == [1.5e6, 2e6]
    assert read(every, "all", params="n_params_total").params == "n_params_total"
    with pytest.raises(Refusal, match="--params all: is for `scaling fit`"):
        read(every)
    assert conventions(parsed("--params", "params_M")) == ("params_M",)


@pytest.mark.parametrize("text", ["tokens", "tokens=", "=D", "a=b,,c"])
def test_what_is_no_pair_of_names_is_refused(parsed, text):
    with pytest.raises(Refusal, match="must be OURS=THEIRS, e.g. tokens=D"):
        read(parsed("--columns", text, "--params", "n_params"))


def test_a_name_can_be_given_once(parsed):
    with pytest.raises(Refusal, match="--columns tokens: is given twice"):
        read(parsed("--columns", "tokens=D", "--columns", "tokens=run", "--params", "n_params"))
