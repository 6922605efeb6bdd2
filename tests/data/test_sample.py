"""Unique tokens, copies and corruption: what of a source a run reads."""

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from scaling.data import batches, epochs, faults, held_out, open_source, unique_tokens
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

CONTEXT = 6
WINDOWS = 3166  # of the 19,001 training tokens


@pytest.fixture
def counted(tmp_path) -> RunSpec:
    """A token's id is its place, so that a window is told by its first token."""
    np.save(tmp_path / "ids.npy", np.arange(20_001, dtype=np.uint16))
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=20_001, context=CONTEXT),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=f"tokens:{tmp_path}/ids.npy", max_epochs=32),
        eval=EvalSpec(tokens=900),
        batch=4,
        steps=100,
    )


def on(run: RunSpec, **data) -> RunSpec:
    return dataclasses.replace(run, data=dataclasses.replace(run.data, **data))


def facts(run: RunSpec, **data) -> RunSpec:
    return dataclasses.replace(
        run, model=dataclasses.replace(run.model, vocab_size=192), data=DataSpec(source="zipf-facts", **data)
    )


def rows(run: RunSpec) -> np.ndarray:
    """[R, context + 1] in the order in which the run reads them."""
    return batches(open_source(run.data, run.model), run, 0, run.steps).reshape(-1, CONTEXT + 1)


def windows(run: RunSpec) -> np.ndarray:
    """[R] the window that each row is."""
    row_RxT = rows(run).astype(int)
    np.testing.assert_array_equal(row_RxT, row_RxT[:, :1] + np.arange(CONTEXT + 1))
    assert not (row_RxT[:, 0] % CONTEXT).any()
    return row_RxT[:, 0] // CONTEXT


def test_every_epoch_reads_the_same_unique_windows_in_another_order(counted: RunSpec):
    run = on(counted, unique_tokens=50 * CONTEXT + 5)  # in whole windows
    epoch_ExW = windows(run).reshape(8, 50)
    assert len({tuple(np.sort(epoch_W)) for epoch_W in epoch_ExW}) == 1 and len(set(epoch_ExW[0])) == 50
    assert len({tuple(epoch_W) for epoch_W in epoch_ExW}) == 8
    source = open_source(run.data, run.model)
    assert unique_tokens(source, run) == 50 * CONTEXT and epochs(source, run) == 8
    assert stats.kstest(np.sort(epoch_ExW[0]) / WINDOWS, "uniform").pvalue > 1e-3  # from all over the text


def test_a_smaller_unique_set_is_part_of_a_larger_one_and_of_that_seed_alone(counted: RunSpec):
    sets = [set(windows(on(counted, unique_tokens=count * CONTEXT))) for count in (1, 20, 50, 300)]
    assert [len(found) for found in sets] == [1, 20, 50, 300]
    assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
    assert len(sets[2] & set(windows(on(counted, unique_tokens=50 * CONTEXT, seed=1)))) < 10
    other = dataclasses.replace(on(counted, unique_tokens=50 * CONTEXT), seed=5, batch=2, steps=25)
    assert set(windows(other)) == sets[2]  # neither batch nor steps nor the weights choose another


def test_all_that_there_is_is_what_a_run_reads_by_default(counted: RunSpec):
    np.testing.assert_array_equal(windows(on(counted, unique_tokens=WINDOWS * CONTEXT)), windows(counted))


def test_the_share_of_copies_is_exact_wherever_a_run_ends(counted: RunSpec):
    """Within a block of 256 rows, and floor(share * rows) at the end of each."""
    for share, copied in ((0.1, 3), (0.5, 40), (0.037, 1), (0.9, 7)):
        run = on(counted, duplicated=share, duplicate_tokens=copied * CONTEXT)
        read_R = windows(run)
        few = set(windows(on(counted, unique_tokens=copied * CONTEXT)))  # the copied ones are a prefix, too
        is_copy_R = np.isin(read_R, [*few])
        assert len(set(read_R[is_copy_R])) == copied and len(set(read_R[~is_copy_R])) == (~is_copy_R).sum()
        assert is_copy_R[:256].sum() == Fraction(str(share)) * 256 // 1
        assert abs(is_copy_R.sum() - share * 400) < 15
        times = np.unique(read_R[is_copy_R], return_counts=True)[1]
        assert times.max() - times.min() <= 1  # each as often as the others
        for steps in (1, 17, 64, 100):
            part = dataclasses.replace(run, steps=steps)
            source = open_source(part.data, part.model)
            assert unique_tokens(source, part) == CONTEXT * len(set(read_R[: 4 * steps]))


def test_copies_fall_anywhere_in_a_batch(counted: RunSpec):
    run = dataclasses.replace(on(counted, duplicated=0.25, duplicate_tokens=CONTEXT), steps=1000, batch=4)
    read_RxB = windows(run).reshape(1000, 4)
    is_copy_RxB = read_RxB == np.bincount(read_RxB.ravel()).argmax()
    assert is_copy_RxB.sum() in range(990, 1011)
    assert stats.chisquare(is_copy_RxB.sum(axis=0)).pvalue > 1e-3
    assert len(set(is_copy_RxB.sum(axis=1))) > 2  # some batches have none, some several


def test_unique_windows_and_copies_share_out_the_unique_tokens(counted: RunSpec):
    run = on(counted, unique_tokens=30 * CONTEXT, duplicated=0.5, duplicate_tokens=10 * CONTEXT)
    count_W = np.sort(np.unique(windows(run), return_counts=True)[1])
    assert len(count_W) == 30 and count_W.sum() == 400
    assert np.ptp(count_W[:20]) <= 1 and np.ptp(count_W[20:]) <= 1 and count_W[20] > 1.7 * count_W[19]
    source = open_source(run.data, run.model)
    assert unique_tokens(source, run) == 30 * CONTEXT


@pytest.mark.parametrize("share", [0.03, 0.4])
def test_a_token_is_corrupted_by_its_place_the_same_in_every_epoch(counted: RunSpec, share: float):
    run = dataclasses.replace(on(counted, corrupted=share, unique_tokens=300 * CONTEXT), steps=300)
    spoilt, clean = rows(run), rows(on(run, corrupted=0.0))
    seen: dict[int, set[int]] = {}
    for place, token in zip(clean.ravel().tolist(), spoilt.ravel().tolist(), strict=True):
        seen.setdefault(place, set()).add(token)
    assert all(len(tokens) == 1 for tokens in seen.values())  # as a target, and as the input of the next window
    changed = sum({place} != tokens for place, tokens in seen.items())
    assert stats.binomtest(changed, len(seen), share).pvalue > 1e-3
    drawn = [token for place, tokens in seen.items() for token in tokens - {place}]
    assert stats.kstest(np.array(drawn) / 19_001, "uniform").pvalue > 1e-3 and max(drawn) < 19_001  # of the train text


def test_what_a_smaller_share_corrupts_a_larger_one_corrupts_alike(counted: RunSpec):
    clean, little, much = (rows(on(counted, corrupted=share)) for share in (0.0, 0.1, 0.3))
    np.testing.assert_array_equal(much[little != clean], little[little != clean])
    assert 2 < (much != clean).sum() / (little != clean).sum() < 4
    places = []
    for seed in (0, 1):
        whole = dataclasses.replace(on(counted, seed=seed), steps=WINDOWS // 4)
        same = rows(whole)
        places.append(set(same[rows(on(whole, corrupted=0.1)) != same].tolist()))
    assert len(places[0] & places[1]) < 0.2 * len(places[0])  # another seed corrupts other tokens


def test_held_out_text_is_never_corrupted_and_nothing_of_it_is_drawn(counted: RunSpec):
    run = on(counted, corrupted=1.0, duplicated=0.5, duplicate_tokens=60, unique_tokens=600)
    tested = held_out(open_source(run.data, run.model), 900, CONTEXT).token_RxT
    np.testing.assert_array_equal(tested[:, :-1].ravel(), 19_001 + np.arange(900))
    assert not np.isin(rows(run), tested).any()


def test_only_bytes_that_the_text_uses_take_the_place_of_others(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"abcd" * 500 + b"xyz" * 40)
    run = RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=256, context=12),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=f"text:{tmp_path}/a.txt", corrupted=0.5), eval=EvalSpec(tokens=24), batch=8, steps=20,
    )  # fmt: skip
    found = batches(open_source(run.data, run.model), run, 0, 20)
    assert set(found.tobytes()) == set(b"abcdxyz")
    assert faults(run) == []


def test_a_finite_sample_of_an_endless_source_repeats_and_is_nested(counted: RunSpec):
    endless, few, fewer = (facts(counted, unique_tokens=tokens) for tokens in (0, 240, 120))
    whole = {row.tobytes() for row in rows(endless)}
    some, part = ({row.tobytes() for row in rows(run)} for run in (few, fewer))
    assert len(part) < len(some) <= 40 and part < some < whole
    source = open_source(few.data, few.model)
    assert unique_tokens(source, few) == 240 and epochs(source, few) == 10
    copied = facts(counted, duplicated=0.5, duplicate_tokens=60)
    assert unique_tokens(source, copied) == 60 + CONTEXT * (400 - source.sample(copied.data, CONTEXT).copies(400))


def test_a_run_may_not_read_its_unique_tokens_more_often_than_it_says(counted: RunSpec):
    run = on(counted, unique_tokens=50 * CONTEXT, max_epochs=8)
    assert faults(run) == []
    (line,) = faults(dataclasses.replace(run, steps=101))
    assert line.startswith("steps = 101: reads 2424 training tokens, and data.unique_tokens = 300 has 300 in windows")
    assert line.endswith("set steps to at most 100 or data.max_epochs to at least 9")
    few = facts(counted, unique_tokens=50 * CONTEXT)
    (line,) = faults(few)
    assert line.endswith("set steps to at most 12 or data.max_epochs to at least 8")


def test_copies_do_not_count_as_epochs_and_the_rest_does(counted: RunSpec):
    run = on(counted, duplicated=0.5, duplicate_tokens=6, unique_tokens=601, max_epochs=2)  # 99 windows beside the copy
    sample = open_source(run.data, run.model).sample(run.data, CONTEXT)
    most = max(steps for steps in range(200) if steps * 4 - sample.copies(steps * 4) <= 2 * 99)
    assert 90 < most < 110
    assert faults(dataclasses.replace(run, steps=most)) == []
    (line,) = faults(dataclasses.replace(run, steps=most + 1))
    assert f"set steps to at most {most} or data.max_epochs to at least 3" in line and "of copies" in line


@pytest.mark.parametrize("data, said", [
    ({"unique_tokens": WINDOWS * CONTEXT + 6}, f"data.unique_tokens = {WINDOWS * CONTEXT + 6}: .*at most 18996"),
    ({"duplicated": 0.1, "duplicate_tokens": WINDOWS * CONTEXT}, "data.duplicate_tokens = 18996: .*not all"),
])  # fmt: skip
def test_more_than_there_is_is_refused_with_what_there_is(counted: RunSpec, data: dict, said: str):
    (line,) = faults(on(counted, **data))
    assert re.match(said, line), line


def test_facts_are_not_corrupted_but_have_a_noise_that_is_known(counted: RunSpec):
    (line,) = faults(facts(counted, corrupted=0.1))
    assert line.startswith("data.corrupted = 0.1: zipf-facts has noise of its own") and "eval.source=zipf-facts" in line
