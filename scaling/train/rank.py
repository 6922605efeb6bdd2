"""Which placements on a slice are worth compiling: by formula, since each compile takes a minute."""

import itertools
from dataclasses import replace
from typing import get_args

from scaling.chips import Topology
from scaling.roofline import Cut, Estimate, estimate, expected
from scaling.spec import RunSpec
from scaling.train.placement import Devices, How, Placement, Remat, auto

# Of a device's memory that a placement may need by `roofline.expected` to be worth compiling: the formula leaves out
# what a compiler adds.
HEADROOM = 0.85


def by_rule(run: RunSpec, topology: Topology, how: How = "auto") -> list[Placement]:
    """What `--placement` would try on the slice, one after another, from the first that fits by formula."""
    found = auto(
        run,
        Devices(count=topology.devices, memory=topology.device_hbm, platform="tpu", processes=topology.hosts),
        how=how,
    )
    found = tuple(cut for cut in found if cut.devices == topology.devices)
    fit = [n for n, cut in enumerate(found) if expected(run, cut, topology).hbm <= HEADROOM * topology.device_hbm]
    return list(found[fit[0] :] if fit else found[-1:])


def candidates(run: RunSpec, topology: Topology) -> list[Placement]:
    """Every placement on all devices of a topology, the best first by `roofline.expected`, of those that fit by it:
    each with the fewest microbatches that do, rematerialised where that takes fewer. Where none does, the thriftiest.
    None where rows, heads and widths of the run cannot be dealt out to all devices: fewer do not compile (v5e)."""
    model = run.model
    heads = (model.n_heads, model.kv_heads) if model.attention == "causal" else (model.d_model,)
    cuts = [
        (data, fsdp, tensor)
        for data, fsdp, tensor in itertools.product(_divisors(run.batch), _divisors(run.batch), _divisors(model.d_ff))
        if data * fsdp * tensor == topology.devices and run.batch % (data * fsdp) == 0 == model.d_model % fsdp
        and all(size % tensor == 0 for size in (*heads, model.vocab_size))
    ]  # fmt: skip
    found, thrifty = [], []
    for data, fsdp, tensor in cuts:
        for remat in get_args(Remat):
            whole = Placement(data=data, fsdp=fsdp, tensor=tensor, remat=remat)
            finer = [replace(whole, microbatches=n) for n in _divisors(run.batch // (data * fsdp)) if n > 1]
            needs = {cut: expected(run, cut, topology).hbm for cut in (whole, *finer)}
            fit = next((cut for cut in needs if needs[cut] <= HEADROOM * topology.device_hbm), None)
            if fit and not (found and fit == replace(found[-1], remat=remat)):  # it would only compute more
                found.append(fit)
            thrifty.append(min(needs, key=lambda cut: needs[cut]))
    if not found:
        return sorted(thrifty, key=lambda cut: expected(run, cut, topology).hbm)[:1]
    return sorted(found, key=lambda cut: _worth(run, cut, topology))


def formula(run: RunSpec, cut: Cut, topology: Topology) -> Estimate:
    """Of a step, before anything is compiled."""
    of = expected(run, cut, topology)
    return estimate(topology, run.model.compute_dtype, of.flops, of.memory, of.exchanges)


def _worth(run: RunSpec, cut: Placement, topology: Topology) -> tuple[float, float]:
    found = formula(run, cut, topology)
    return found.seconds, found.seconds_in_turn


def _divisors(n: int) -> list[int]:
    return [k for k in range(1, n + 1) if n % k == 0]
