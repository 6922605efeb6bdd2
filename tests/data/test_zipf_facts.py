import dataclasses

import numpy as np
import pytest
from scipy import stats

from scaling.data import batches, held_out, open_source, zipf_facts
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec

OPTIONS = ["zipf-facts", "zipf-facts:symbols=4", "zipf-facts:skew=0,noise=0.5,symbols=7", 
           "zipf-facts:noise=0,symbols=5", "zipf-facts:skew=-1,noise=1,symbols=3"]  # fmt: skip


def _run(name: str, context: int = 48) -> RunSpec:
    symbols = int(name.rpartition("symbols=")[2]) if "symbols" in name else 64
    return RunSpec(
        model=ModelSpec(n_layers=1, d_model=16, d_ff=32, vocab_size=3 * symbols, context=context),
        optim=OptimSpec(peak_lr=1e-3, schedule="constant"),
        data=DataSpec(source=name),
        eval=EvalSpec(tokens=48),
        batch=100,
        steps=10,
    )


def _open(name: str) -> zipf_facts.ZipfFacts:
    run = _run(name)
    source = open_source(run.data, run.model)
    assert isinstance(source, zipf_facts.ZipfFacts)
    return source


def _joint(source: zipf_facts.ZipfFacts) -> np.ndarray:
    """p(a, b, z), term by term from the definition."""
    s = source.symbols
    weight = [rank ** -(1 + source.skew) for rank in range(1, s * s + 1)]
    total, joint = sum(weight), np.zeros((s, s, s))
    for (a, b, fact), w in zip(source.facts_Kx3.tolist(), weight, strict=True):
        for z in range(s):
            joint[a, b - s, z] = w / total * ((z == fact - 2 * s) * (1 - source.noise) + source.noise / s)
    return joint


def _records(row_RxT: np.ndarray, symbols: int) -> np.ndarray:
    return row_RxT[:, :-1].reshape(-1, 3) - symbols * np.arange(3)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_entropy_is_that_of_the_joint_distribution(name):
    source = _open(name)
    joint = _joint(source)
    assert joint.sum() == pytest.approx(1)
    assert source.entropy == pytest.approx(stats.entropy(joint.ravel()) / 3, rel=1e-12)


@pytest.mark.parametrize("name", OPTIONS)
def test_log_probabilities_follow_the_chain_rule(name):
    source = _open(name)
    joint = _joint(source)
    rows = held_out(source, 48 * 40, 48)
    assert rows.log_prob_RxL is not None and rows.log_prob_RxL.dtype == np.float64
    a, b, z = _records(rows.token_RxT, source.symbols).reshape(40, 16, 3).transpose(2, 0, 1)
    last_a = rows.token_RxT[:, -1]
    p_a = joint.sum((1, 2))
    whole_row = np.log(joint[a, b, z]).sum(1) + np.log(p_a[last_a]) - np.log(p_a[a[:, 0]])
    np.testing.assert_allclose(rows.log_prob_RxL.sum(1), whole_row, rtol=1e-10)
    np.testing.assert_allclose(rows.log_prob_RxL[:, 0::3], np.log(joint.sum(2)[a, b] / p_a[a]), rtol=1e-10)
    np.testing.assert_allclose(rows.log_prob_RxL[:, 1::3], np.log(joint[a, b, z] / joint.sum(2)[a, b]), atol=1e-10)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_mean_of_minus_log_p_is_the_entropy(name):
    source = _open(name)
    trained = batches(source, _run(name), 0, 60).reshape(-1, 49)
    tested = held_out(source, 48 * 6000, 48)
    assert tested.log_prob_RxL is not None
    for log_prob in (source.log_prob(trained), tested.log_prob_RxL):
        per_row = -log_prob.mean(1)
        error = per_row.std(ddof=1) / np.sqrt(len(per_row))
        assert abs(per_row.mean() - source.entropy) < 4 * error + 1e-9


@pytest.mark.parametrize("name", OPTIONS[1:])
def test_records_occur_as_often_as_the_law_says(name):
    source = _open(name)
    record_Nx3 = _records(batches(source, _run(name), 0, 100).reshape(-1, 49), source.symbols)
    assert record_Nx3.min() >= 0 and record_Nx3.max() < source.symbols
    seen = np.zeros((source.symbols,) * 3)
    np.add.at(seen, tuple(record_Nx3.T), 1)
    expected = _joint(source) * len(record_Nx3)
    assert not seen[expected == 0].any()
    often = expected > 10
    seen = [*seen[often], seen[~often].sum()]
    expected = [*expected[often], expected[~often].sum()]
    if expected[-1] == 0:
        seen, expected = seen[:-1], expected[:-1]
    assert stats.chisquare(seen, expected).pvalue > 1e-4


def test_records_are_independent():
    name = "zipf-facts:noise=0.5,symbols=4"
    source, run = _open(name), dataclasses.replace(_run(name), batch=1)
    record_Nx3 = _records(batches(source, run, 0, 6000).reshape(-1, 49), 4)
    # The next record and the one in the same place of the next row; a key draw must not return as a noise draw.
    for gap, early, late in [(1, 0, 2), (1, 2, 0), (1, 2, 1), (16, 0, 2), (16, 2, 0)]:
        table = np.zeros((4, 4))
        np.add.at(table, (record_Nx3[:-gap, early], record_Nx3[gap:, late]), 1)
        expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
        statistic = ((table - expected) ** 2 / expected).sum()
        assert stats.chi2.sf(statistic, df=9) > 1e-4


def test_the_entropy_of_sampled_keys_approaches_that_of_the_law():
    source = _open("zipf-facts")
    h_key = stats.entropy(source.key_prob_K)
    misses = []
    for steps in (5, 50, 500):
        a, b, _ = _records(batches(source, _run("zipf-facts"), 0, steps).reshape(-1, 49), 64).T
        count = np.unique(a * 64 + b, return_counts=True)[1]
        # The plug-in estimate lies below by about (keys seen - 1) / 2n (Miller 1955).
        misses.append(h_key - stats.entropy(count) - (len(count) - 1) / (2 * count.sum()))
    assert abs(misses[2]) < 0.01
    assert abs(misses[2]) < abs(misses[1]) < abs(misses[0])


def test_neither_half_of_a_key_tells_the_fact():
    """A model without attention sees b alone; what a would add is worth learning."""
    joint = _joint(_open("zipf-facts"))
    h_given_both = stats.entropy(joint.ravel()) - stats.entropy(joint.sum(2).ravel())
    for half in (joint.sum(1), joint.sum(0)):
        h_given_half = stats.entropy(half.ravel()) - stats.entropy(half.sum(1))
        assert h_given_half > h_given_both + 0.2


def test_the_world_is_the_same_for_every_seed_and_the_same_tomorrow():
    source = _open("zipf-facts")
    assert len({(a, b) for a, b, _ in source.facts_Kx3.tolist()}) == 64**2
    assert source.facts_Kx3.dtype == np.uint8
    assert source.facts_Kx3[:2].tolist() == [[27, 89, 157], [42, 72, 166]]
    assert source.entropy == pytest.approx(1.1262517669176184, rel=1e-12)
    assert held_out(source, 48, 48).token_RxT[0, :9].tolist() == [27, 89, 157] * 3


def test_training_and_held_out_records_have_disjoint_counters(monkeypatch):
    source, run = _open("zipf-facts"), _run("zipf-facts")
    counters = []

    def spy(stream, counter_N, draws=zipf_facts.draws):
        counters.append(counter_N)
        return draws(stream, counter_N)

    monkeypatch.setattr(zipf_facts, "draws", spy)
    trained = batches(source, run, 0, 10)
    far = batches(source, run, 10**12, 1)
    highest_trained = max(int(c.max()) for c in counters)
    counters.clear()
    tested = held_out(source, 48 * 1000, 48).token_RxT
    assert highest_trained < min(int(c.min()) for c in counters)
    rows = {row.tobytes() for row in np.concatenate([trained.reshape(-1, 49), far.reshape(-1, 49)])}
    assert len(rows) == 1100
    assert not rows & {row.tobytes() for row in tested}


def test_tokens_of_a_record_come_from_three_alphabets():
    source = _open("zipf-facts")
    tokens = batches(source, _run("zipf-facts"), 0, 5)
    assert source.vocab_size == 192
    np.testing.assert_array_equal(tokens // 64, np.broadcast_to(np.arange(49) % 3, tokens.shape))
