import dataclasses
import hashlib

import numpy as np
import pytest

from scaling.data import batch, batches, epochs, held_out, open_source, unique_tokens
from scaling.data.corpus import Corpus
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, Refusal, RunSpec


def _run(source: str, *, vocab_size: int = 256, context: int = 12, batch: int = 8, steps: int = 10, **data) -> RunSpec:
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=vocab_size, context=context),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=source, **data),
        eval=EvalSpec(tokens=context),
        batch=batch,
        steps=steps,
    )


@pytest.fixture
def counted(tmp_path):
    """A run over a token file in which the id of a token is its place."""
    np.save(tmp_path / "ids.npy", np.arange(10_001, dtype=np.uint32))
    return _run(f"tokens:{tmp_path}/ids.npy", vocab_size=10_001, context=7, batch=5, max_epochs=9)


SPOILT = {"unique_tokens": 1400, "duplicated": 0.3, "duplicate_tokens": 100}


@pytest.fixture(params=["bytes:stdlib", "zipf-facts", "folder", "tokens", "spoilt tokens", "spoilt facts"])
def any_run(request, tmp_path, counted):
    if request.param == "tokens":
        return counted
    if request.param == "spoilt tokens":
        return dataclasses.replace(counted, data=dataclasses.replace(counted.data, corrupted=0.2, **SPOILT))
    if request.param == "spoilt facts":
        return _run("zipf-facts", vocab_size=192, **SPOILT)
    if request.param == "folder":
        for i in range(60):
            (tmp_path / f"{i}.txt").write_bytes(bytes([i]) * (i % 9 * 20 + 1))
        (tmp_path / "ids.npy").unlink()
        return _run(f"text:{tmp_path}")
    return _run(request.param, vocab_size=192 if request.param == "zipf-facts" else 256)


def test_a_batch_is_the_same_in_any_chunks(any_run):
    source = open_source(any_run.data, any_run.model)
    whole = batches(source, any_run, 0, 60)
    assert whole.shape == (60, any_run.batch, any_run.model.context + 1)
    chunks = [batches(source, any_run, start, 7 if start < 56 else 4) for start in range(0, 60, 7)]
    np.testing.assert_array_equal(np.concatenate(chunks), whole)
    np.testing.assert_array_equal(batch(source, any_run, 41), whole[41])


@pytest.mark.parametrize("hosts", [1, 8])
def test_hosts_together_read_the_same_batch(any_run, hosts):
    run = dataclasses.replace(any_run, batch=16)
    source = open_source(run.data, run.model)
    share = 16 // hosts
    parts = [batches(source, run, 3, 5, rows=slice(h * share, (h + 1) * share)) for h in range(hosts)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), batches(source, run, 3, 5))


def test_a_branch_reads_on_where_its_trunk_was_left(any_run):
    longer = dataclasses.replace(any_run, steps=1000, seed=3)
    source = open_source(any_run.data, any_run.model)
    np.testing.assert_array_equal(batches(source, longer, 8, 2), batches(source, any_run, 8, 2))


def test_another_data_seed_reads_another_order_and_the_same_held_out_text(any_run):
    other = dataclasses.replace(any_run, data=dataclasses.replace(any_run.data, seed=1))
    a, b = (open_source(run.data, run.model) for run in (any_run, other))
    assert (batches(a, any_run, 0, 5) != batches(b, other, 0, 5)).mean() > 0.5
    np.testing.assert_array_equal(held_out(a, 36, 12).token_RxT, held_out(b, 36, 12).token_RxT)


def test_windows_take_the_smallest_type_that_holds_the_vocabulary(tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros(1000, np.int64))
    for vocab_size, dtype in [(256, np.uint8), (257, np.uint16), (65_536, np.uint16), (65_537, np.uint32)]:
        run = _run(f"tokens:{tmp_path}/ids.npy", vocab_size=vocab_size)
        source = open_source(run.data, run.model)
        assert batch(source, run, 0).dtype == dtype
        assert held_out(source, 12, 12).token_RxT.dtype == dtype


def _open_text(run: RunSpec) -> Corpus:
    source = open_source(run.data, run.model)
    assert isinstance(source, Corpus)
    return source


def test_each_epoch_predicts_every_token_once_in_another_order(counted):
    source = _open_text(counted)
    windows = (source.train_tokens - 1) // 7
    rows = batches(source, counted, 0, 3 * windows // 5 + 1).reshape(-1, 8)[: 3 * windows]
    np.testing.assert_array_equal(rows, rows[:, :1] + np.arange(8))  # each is a window of the file
    starts = rows[:, 0].reshape(3, windows)
    np.testing.assert_array_equal(np.sort(starts, axis=1), np.tile(np.arange(windows) * 7, (3, 1)))
    targets = rows.reshape(3, windows, 8)[0, :, 1:]
    np.testing.assert_array_equal(np.sort(targets.ravel()), 1 + np.arange(windows * 7))
    for one, two in [(0, 1), (0, 2), (1, 2)]:
        assert (starts[one] == starts[two]).mean() < 0.02
    assert source.train_tokens - 1 - windows * 7 < 7  # what no window holds


def test_published_runs_read_the_windows_that_they_read_then(counted):
    """Made before runs could read less than everything."""
    rows = batches(_open_text(counted), counted, 0, 500)
    assert hashlib.sha256(rows.tobytes()).hexdigest().startswith("6d0c88155eb63c8c")


def test_unique_tokens_are_the_targets_that_differ(counted):
    source = _open_text(counted)
    windows = (source.train_tokens - 1) // 7
    for steps in (1, windows // 5, windows // 5 + 40, 2 * windows // 5):
        run = dataclasses.replace(counted, steps=steps)
        seen = np.unique(batches(source, run, 0, steps)[:, :, 1:])
        assert unique_tokens(source, run) == len(seen)
        assert epochs(source, run) == pytest.approx(run.tokens / len(seen))


def test_an_endless_source_never_repeats():
    run = _run("zipf-facts", vocab_size=192, steps=10**9)
    source = open_source(run.data, run.model)
    assert source.train_tokens is None
    assert unique_tokens(source, run) == run.tokens
    assert epochs(source, run) == 1


def test_training_and_held_out_tokens_never_overlap(counted):
    source = _open_text(counted)
    trained = batches(source, counted, 0, 2 * source.train_tokens // 35)
    tested = held_out(source, source.held_out_tokens - 1, 7).token_RxT
    assert len(np.intersect1d(trained, tested)) == 0
    assert source.train_tokens + source.held_out_tokens == 10_001


def test_held_out_windows_are_a_prefix_whatever_is_asked(any_run):
    source = open_source(any_run.data, any_run.model)
    few, more = held_out(source, 25, 12), held_out(source, 60, 12)
    assert few.token_RxT.shape == (2, 13) and more.token_RxT.shape == (5, 13)
    np.testing.assert_array_equal(few.token_RxT, more.token_RxT[:2])
    flat = more.token_RxT[:, :-1].ravel()
    np.testing.assert_array_equal(held_out(source, 60, 6).token_RxT[:, :-1].ravel(), flat)  # one text at any context
    assert (more.log_prob_RxL is None) == (source.entropy is None)


def test_more_held_out_text_than_there_is_is_refused(counted):
    source = _open_text(counted)
    most = (source.held_out_tokens - 1) // 7 * 7
    assert held_out(source, most, 7).token_RxT.shape == (most // 7, 8)
    with pytest.raises(Refusal, match=f"eval.tokens = {most + 7}: .* holds out {source.held_out_tokens} tokens"):
        held_out(source, most + 7, 7)
    with pytest.raises(Refusal):
        held_out(source, source.held_out_tokens, 1)  # the last token is a target only
