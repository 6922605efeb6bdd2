"""What MFU is measured against."""

import functools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from scaling import machine
from scaling.chips import CHIPS
from scaling.cost import flops_per_token
from scaling.record import Clock, RunRecord
from scaling.spec import RunSpec
from scaling.train import peak, train

pytestmark = pytest.mark.usefixtures("small_chunks")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peak.peak.cache_clear()
    yield
    peak.peak.cache_clear()


def devices(monkeypatch: pytest.MonkeyPatch, kind: str, count: int = 1) -> None:
    stand_ins = [SimpleNamespace(device_kind=kind)] * count
    monkeypatch.setattr(peak.jax, "local_devices", lambda: stand_ins)
    monkeypatch.setattr(peak.jax, "local_device_count", lambda: count)


@pytest.mark.parametrize(
    "kind, bfloat16",
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("TPU v4", 275e12), ("TPU v5 lite", 197e12), ("TPU v6 lite", 918e12),
    ],
)  # fmt: skip
def test_a_known_device_has_its_documented_dense_peak(kind: str, bfloat16: float, monkeypatch: pytest.MonkeyPatch):
    devices(monkeypatch, kind, count=4)
    assert peak.peak("bfloat16") == (4 * bfloat16, "documented")
    assert not machine.table_path().exists()  # and nothing is measured


def test_float32_is_not_that_of_the_tensor_cores():
    """The trainer multiplies float32 as float32, which no vendor's tensor cores do."""
    for kind, chip in CHIPS.items():
        if "bfloat16" in chip.peaks and "float32" in chip.peaks:
            assert chip.peaks["float32"] < 0.51 * chip.peaks["bfloat16"], kind
        assert not (kind.startswith("TPU") and "float32" in chip.peaks)


@pytest.mark.parametrize(
    "kind, dtype", [("NVIDIA Z9", "bfloat16"), ("Tesla V100-SXM2-16GB", "bfloat16"), ("cpu", "float32")]
)
def test_what_is_not_documented_is_measured_once_for_the_machine(kind, dtype, monkeypatch: pytest.MonkeyPatch):
    measured: list[str] = []
    monkeypatch.setattr(peak, "measured_ceiling", lambda dtype: measured.append(dtype) or 5e10)
    devices(monkeypatch, kind)
    for _ in range(2):
        assert peak.peak(dtype) == (5e10, "measured")
        peak.peak.cache_clear()  # as in another process
    assert measured == [dtype]
    assert machine.measured()[0].ceilings == {machine.ceiling_key(dtype, 1): 5e10}


def test_a_home_that_cannot_be_written_to_costs_a_measurement_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(peak, "measured_ceiling", lambda dtype: 5e10)
    assert peak.peak("float32") == (5e10, "measured")


def test_the_measured_ceiling_is_that_of_products_as_fast_as_any():
    """No other product of that kind, timed by itself, is much faster: on all devices together."""
    import time

    ceiling = peak.measured_ceiling("float32")
    mesh = jax.make_mesh((jax.device_count(),), ("each",), axis_types=(jax.sharding.AxisType.Auto,))
    own = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("each"))
    a = jax.device_put(jnp.ones((jax.device_count(), 256, 256)), own)
    multiply = jax.jit(functools.partial(jnp.einsum, "gmk,gkn->gmn"))
    multiply(a, a).block_until_ready()
    spans = []
    for _ in range(20):
        began = time.perf_counter()
        multiply(a, a).block_until_ready()
        spans.append(time.perf_counter() - began)
    # Beside other programs either may be slow for a while.
    assert 0.1 < ceiling / (2 * 256**3 * jax.device_count() / min(spans)) < 30


def test_mfu_is_exact_flops_over_the_peak(tiny: RunSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(peak, "measured_ceiling", lambda dtype: 1e9)
    clock = train(tiny, results=tmp_path).clock
    assert (clock.peak_flops, clock.peak_source) == (1e9, "measured")
    # By hand: of each token six FLOPs a weight that multiplies it, and per layer 12 d a key met, 6.5 of 12 on average.
    D, F, V, layers, L = 16, 32, 192, 2, 12
    per_token = 6 * (layers * (4 * D * D + 2 * D * F) + V * D) + layers * 12 * D * (L + 1) // 2
    assert per_token == flops_per_token(tiny.model, "exact")
    assert clock.mfu == pytest.approx(20 * 8 * L * per_token / clock.train / 1e9)


def test_records_from_before_there_was_an_mfu_load(tiny: RunSpec, tmp_path: Path):
    record = train(tiny, results=tmp_path)
    values = record.to_json()
    old = {"compile": 1.0, "train": 2.0, "evaluate": 0.5, "steps": 20, "tokens_per_second": 960.0,
           "flops_per_second": 1e8}  # fmt: skip
    loaded = RunRecord.from_json(values | {"clock": old})
    assert loaded.clock == Clock(**old) and loaded.clock.mfu is None and loaded.clock.peak_source == ""
    assert RunRecord.from_json(values).clock == record.clock
