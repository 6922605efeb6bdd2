import dataclasses
import re
import time

import numpy as np
import pytest

from scaling.data import faults, open_source
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, Refusal, RunSpec


def _run(source: str, *, vocab_size: int = 256, context: int = 12, batch: int = 8, steps: int = 5,
         eval_tokens: int = 12, **data) -> RunSpec:  # fmt: skip
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=vocab_size, context=context),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=source, **data),
        eval=EvalSpec(tokens=eval_tokens),
        batch=batch,
        steps=steps,
    )


@pytest.fixture
def files(tmp_path):
    (tmp_path / "text.txt").write_bytes(b"abcdefghij" * 100)
    (tmp_path / "empty.txt").touch()
    (tmp_path / "text.txt.gz").write_bytes(b"zzz")
    (tmp_path / "odd.bin").write_bytes(b"abcde")
    (tmp_path / "notes.csv").write_bytes(b"1,2")
    np.arange(1000, dtype="<u2").tofile(tmp_path / "ids.bin")
    np.save(tmp_path / "float.npy", np.zeros(10))
    np.save(tmp_path / "square.npy", np.zeros((10, 10), int))
    np.save(tmp_path / "negative.npy", np.arange(-1, 999))
    np.save(tmp_path / "object.npy", np.array([{}] * 10), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"not an array")
    for name in ("nothing", "lonely", "packed", "ids"):
        (tmp_path / name).mkdir()
    (tmp_path / "lonely" / "a.txt").write_bytes(b"a" * 100)
    for name in ("a.txt", "b.txt", "c.xz"):
        (tmp_path / "packed" / name).write_bytes(b"a" * 100)
    np.arange(10, dtype="<u2").tofile(tmp_path / "ids" / "train.bin")
    return tmp_path


@pytest.mark.parametrize("source, vocab_size", [("bytes:stdlib", 256), ("text:{}/text.txt", 256), ("zipf-facts", 192),
                                                ("tokens:{}/ids.bin", 1000), ("tokens:{}/ids.bin", 1024)])  # fmt: skip
def test_a_sound_run_has_no_fault(files, source, vocab_size):
    assert faults(_run(source.format(files), vocab_size=vocab_size)) == []


@pytest.mark.parametrize("source, line", [
    ("bytes:stdlbi", "no such source; did you mean bytes:stdlib?"),
    ("shakespeare", "there are bytes:stdlib, bytes:stdlib-prose, bytes:stdlib-code, text:PATH, tokens:PATH, zipf-"),
    ("text:", "no such source"),
    ("text:{}/none.txt", "there is no file or folder .*/none.txt"),
    ("text:{}/empty.txt", "empty.txt is empty"),
    ("text:{}/text.txt.gz", "text.txt.gz is compressed; decompress it first"),
    ("text:{}/nothing", "nothing holds no text"),
    ("text:{}/lonely", "at least two documents.* text:.*/lonely/a.txt"),
    ("text:{}/packed", "c.xz is compressed; decompress it first"),
    ("tokens:{}/none.bin", "there is no file or folder .*/none.bin"),
    ("tokens:{}/empty.txt", "must end in .bin or .npy"),
    ("tokens:{}/notes.csv", "notes.csv must end in .bin or .npy"),
    ("tokens:{}/odd.bin", "has 5 B, which is no whole number of uint16 ids"),
    ("tokens:{}/float.npy", "must hold one row of integers; it holds float64 of shape 10"),
    ("tokens:{}/square.npy", "must hold one row of integers; it holds int64 of shape 10x10"),
    ("tokens:{}/negative.npy", "holds token -1; ids must be at least 0"),
    ("tokens:{}/object.npy", "no .npy array of integers"),
    ("tokens:{}/broken.npy", "no .npy array of integers"),
    ("tokens:{}/ids", "must hold train.bin and val.bin, or train.npy and val.npy"),
    ("zipf-facts:skw=1", "no option 'skw'; did you mean skew?"),
    ("zipf-facts:noise=2", r"noise = 2 is a probability, so it must be in \[0, 1\]"),
    ("zipf-facts:noise=nan", "noise = nan"),
    ("zipf-facts:skew=-2", "skew = -2 must be in"),
    ("zipf-facts:symbols=1", "symbols = 1 must be in"),
    ("zipf-facts:symbols=2.5", "symbols = '2.5' must be a whole number"),
])  # fmt: skip
def test_a_bad_source_is_named_with_the_way_out(files, source, line):
    found = faults(_run(source.format(files), vocab_size=1000))
    assert len(found) == 1 and re.search(line, found[0]), found
    assert found[0].startswith(f"data.source = {source.format(files)!r}: ")


def test_a_source_that_cannot_be_read_is_refused_when_opened():
    run = _run("bytes:stdlbi")
    with pytest.raises(Refusal, match="did you mean bytes:stdlib"):
        open_source(run.data, run.model)


def test_bytes_and_facts_need_their_own_vocabulary(files):
    for vocab_size in (255, 257):
        assert faults(_run("bytes:stdlib", vocab_size=vocab_size)) == [
            f"model.vocab_size = {vocab_size}: bytes:stdlib is read as bytes, so it must be 256"
        ]
    (line,) = faults(_run("zipf-facts:symbols=8", vocab_size=192))
    assert line.startswith("model.vocab_size = 192: ") and line.endswith("so it must be 24")


def test_a_token_beyond_the_vocabulary_is_found_wherever_it_is(files, monkeypatch):
    monkeypatch.setattr("scaling.data.corpus._BLOCK_TOKENS", 37)  # 999 is a block of its own
    for place in (0, 36, 37, 640, 999):
        ids = np.zeros(1000, np.int32)
        ids[place] = 5000
        np.save(files / f"one{place}.npy", ids)
        (line,) = faults(_run(f"tokens:{files}/one{place}.npy", vocab_size=5000))
        assert line.startswith("model.vocab_size = 5000: ")
        assert "holds token 5000; set it to at least 5001" in line
        assert faults(_run(f"tokens:{files}/one{place}.npy", vocab_size=5001)) == []


def test_more_training_tokens_than_there_are_need_epochs(files):
    run = _run(f"text:{files}/text.txt", batch=4)  # 950 training bytes: 79 windows of 12, 19 batches of 4
    enough = dataclasses.replace(run, steps=19)
    assert faults(enough) == []
    (line,) = faults(dataclasses.replace(run, steps=20))
    assert line.startswith("steps = 20: reads 960 training tokens, ") and "has 948" in line
    assert line.endswith("set steps to at most 19 or data.max_epochs to at least 2")
    twice = dataclasses.replace(run, data=dataclasses.replace(run.data, max_epochs=2))
    assert faults(dataclasses.replace(twice, steps=39)) == []
    (line,) = faults(dataclasses.replace(twice, steps=40))
    assert line.endswith("set steps to at most 39 or data.max_epochs to at least 3")
    singly = dataclasses.replace(run, batch=1)
    assert faults(dataclasses.replace(singly, steps=79)) == []
    assert len(faults(dataclasses.replace(singly, steps=80))) == 1
    assert faults(_run("zipf-facts", vocab_size=192, steps=10**9)) == []  # endless


def test_more_held_out_tokens_than_there_are_are_refused(files):
    run = _run(f"text:{files}/text.txt", eval_tokens=48)  # 50 held-out bytes: 4 windows of 12
    assert faults(run) == []
    (line,) = faults(dataclasses.replace(run, eval=EvalSpec(tokens=60)))
    assert line.startswith("eval.tokens = 60: ")
    assert "holds out 50 tokens" in line and line.endswith("set it to at most 48")
    (line,) = faults(_run(f"text:{files}/text.txt", context=10, eval_tokens=50))  # the last target would be byte 51
    assert line.endswith("set it to at most 40")


def test_a_text_must_hold_one_window(files):
    lines = faults(_run(f"text:{files}/text.txt", context=950, eval_tokens=950))
    assert [line.split(" has ")[1] for line in lines] == [
        "950 training tokens, fewer than one window of 951",
        "50 held-out tokens, fewer than one window of 951",
    ]


def test_facts_come_in_whole_records():
    (line,) = faults(_run("zipf-facts", vocab_size=192, context=32))
    assert line.startswith("model.context = 32: ") and line.endswith("multiple of 3; near: 30, 33")


def test_every_fault_is_listed_at_once(files):
    lines = faults(_run("bytes:stdlib", vocab_size=100, steps=10**8, eval_tokens=10**8))
    assert [line.split(" = ")[0] for line in lines] == ["model.vocab_size", "steps", "eval.tokens"]
    lines = faults(_run("zipf-facts", vocab_size=100, context=32))
    assert [line.split(" = ")[0] for line in lines] == ["model.vocab_size", "model.context"]
    assert len(faults(_run("zipf-facts:skw=1,noise=3,symbols=x"))) == 3


def test_what_the_spec_already_refuses_is_not_refused_twice():
    for change in ({"batch": 0}, {"context": 0}, {"steps": -1}, {"eval_tokens": 0}, {"vocab_size": 0}):
        assert faults(_run("bytes:stdlib", **change)) == []
    assert faults(_run("bytes:stdlib", batch="8")) == []  # type: ignore[arg-type]


def test_sixty_runs_of_one_source_are_checked_in_a_second():
    runs = [_run("bytes:stdlib", steps=steps) for steps in range(1, 61)]
    start = time.process_time()
    assert not any(faults(run) for run in runs)
    assert time.process_time() - start < 1
