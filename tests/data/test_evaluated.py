"""A run that is measured on the held-out text of another source."""

import dataclasses
import itertools

import numpy as np
import pytest

from scaling.data import faults, held_out, open_evaluated, open_source, overlap, provenance
from scaling.data.corpus import Corpus
from scaling.data.stdlib import STDLIB
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, Refusal, RunSpec


def _run(source: str, evaluated: str = "", vocab_size: int = 256, **data) -> RunSpec:
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=vocab_size, context=12),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=source, **data),
        eval=EvalSpec(tokens=240, source=evaluated),
        batch=2,
        steps=5,
    )


def _words(seed: int, count: int) -> bytes:
    """Text in which nothing stands twice."""
    return np.random.default_rng(seed).integers(97, 123, count, np.uint8).tobytes()


def test_the_loss_is_measured_on_the_held_out_text_of_the_source_named():
    own, other = _run("bytes:stdlib-code"), _run("bytes:stdlib-code", "bytes:stdlib-prose")
    prose = open_source(DataSpec(source="bytes:stdlib-prose"), other.model)
    assert open_evaluated(other) is prose
    assert open_evaluated(own) is open_source(own.data, own.model)
    texts = [held_out(open_evaluated(run), 240, 12).token_RxT for run in (own, other)]
    assert (texts[0] != texts[1]).any()
    np.testing.assert_array_equal(texts[1], held_out(prose, 240, 12).token_RxT)
    assert faults(own) == faults(other) == []
    assert faults(_run("bytes:stdlib-prose", "bytes:stdlib-code")) == []
    assert faults(_run("bytes:stdlib", "bytes:stdlib-code")) == []


def test_a_record_names_and_hashes_the_text_that_it_was_measured_on():
    run = _run("bytes:stdlib-code", "bytes:stdlib-prose")
    facts, own = provenance(run), open_source(run.data, run.model).provenance
    assert own.items() <= facts.items() and provenance(_run("bytes:stdlib-code")) == own
    assert facts["eval_source"] == "bytes:stdlib-prose"
    for name in ("sha256", "sha256_held_out", "held_out_tokens", "python"):
        assert facts[f"eval_{name}"] == open_evaluated(run).provenance[name]
    assert facts["eval_sha256"] != facts["sha256"]
    assert all(isinstance(value, str) for value in facts.values())


def test_parts_of_one_library_share_next_to_nothing():
    for source, evaluated in itertools.permutations(STDLIB, 2):
        assert float(provenance(_run(source, evaluated))["eval_trained_on"]) < 0.02


def test_a_text_that_is_trained_on_is_no_held_out_text(tmp_path):
    """Under another name, in another order of documents, or as a part of something else."""
    for i in range(40):
        (tmp_path / "folder" / f"{i}").mkdir(parents=True)
        (tmp_path / "folder" / f"{i}" / "a.txt").write_bytes(_words(i, 2000))
    (tmp_path / "copy.txt").write_bytes(b"".join(_words(i, 2000) for i in range(40)))
    (tmp_path / "other.txt").write_bytes(_words(99, 80_000))
    for source, evaluated in (("folder", "copy.txt"), ("copy.txt", "folder"), ("folder", "folder/7/../7/a.txt")):
        run = _run(f"text:{tmp_path}/{source}", f"text:{tmp_path}/{evaluated}")
        run = dataclasses.replace(run, eval=dataclasses.replace(run.eval, tokens=48))
        (line,) = faults(run)
        assert line.startswith(f"eval.source = 'text:{tmp_path}/{evaluated}': ") and "in the training text of" in line
    assert faults(_run(f"text:{tmp_path}/folder", f"text:{tmp_path}/other.txt")) == []


def test_the_share_that_is_trained_on_is_the_share_of_passages(tmp_path):
    held = _words(1, 100_000)
    for share in (0.0, 0.3, 1.0):
        part = held[: int(share * len(held))]
        (tmp_path / "a.txt").write_bytes(_words(2, 12_345) + part + _words(3, 50_001 + len(part) // 19 + 1))
        (tmp_path / "b.txt").write_bytes(_words(4, 19 * len(held)) + held)
        a, b = (open_source(DataSpec(source=f"text:{tmp_path}/{n}.txt"), _run("").model) for n in "ab")
        assert isinstance(a, Corpus) and isinstance(b, Corpus)
        assert overlap.trained_share(a, b) == pytest.approx(share, abs=0.04)


def test_a_text_too_large_to_be_looked_through_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setattr(overlap, "MOST_BYTES", 1000)
    for i, name in enumerate("ab"):
        (tmp_path / name).write_bytes(_words(i, 9000))
    run = _run(f"text:{tmp_path}/a", f"text:{tmp_path}/b")
    assert faults(run) == [] and provenance(run)["eval_trained_on"] == "not looked for"


@pytest.mark.parametrize("source, evaluated, vocab_size", [
    ("bytes:stdlib", "zipf-facts", 256), ("zipf-facts", "bytes:stdlib", 192), ("zipf-facts", "tokens:{}/a.npy", 192),
    ("tokens:{}/a.npy", "tokens:{}/b.npy", 256), ("bytes:stdlib", "tokens:{}/a.npy", 256),
    ("zipf-facts", "zipf-facts:symbols=8", 192),
])  # fmt: skip
def test_tokens_of_another_vocabulary_are_refused(tmp_path, source: str, evaluated: str, vocab_size: int):
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", np.zeros(9000, np.uint8))
    source, evaluated = source.format(tmp_path), evaluated.format(tmp_path)
    lines = faults(_run(source, evaluated, vocab_size))
    assert len(lines) == 1 and lines[0].startswith(f"eval.source = {evaluated!r}: "), lines


def test_facts_with_noise_are_measured_on_the_facts_and_their_entropy():
    run = _run("zipf-facts:noise=0.5", "zipf-facts", 192)
    assert faults(run) == []
    assert open_evaluated(run).entropy == open_source(DataSpec(source="zipf-facts"), run.model).entropy
    assert provenance(run)["eval_noise"] == "0.1" and provenance(run)["noise"] == "0.5"
    assert "eval_trained_on" not in provenance(run)  # of another stream always


def test_faults_of_both_texts_are_listed_at_once(tmp_path):
    lines = faults(_run("bytes:stdlbi", f"text:{tmp_path}/none"))
    assert [line.split(" = ")[0] for line in lines] == ["data.source", "eval.source"]
    with pytest.raises(Refusal, match="^eval.source = 'bytes:stdlbi': no such source; did you mean bytes:stdlib"):
        open_evaluated(_run("bytes:stdlib", "bytes:stdlbi"))
    (line,) = faults(dataclasses.replace(_run("bytes:stdlib", "bytes:stdlib-prose"), eval=EvalSpec(tokens=10**6)))
    assert line.startswith("eval.tokens = 1000000: bytes:stdlib holds out")
    long = EvalSpec(tokens=10**6, source="bytes:stdlib-prose")
    (line,) = faults(dataclasses.replace(_run("bytes:stdlib"), eval=long))
    assert line.startswith("eval.tokens = 1000000: bytes:stdlib-prose holds out")
