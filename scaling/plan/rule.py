"""How the numbers of an optimizer move with tokens and parameters: one written rule, applied when a plan is made.

Width and depth are the parametrization's (`OptimSpec.parametrization`); this is the rest: batch, second moment,
warm-up, weight decay and the drift of the best learning rate with the horizon. A `Rule` is anchored at a reference run
whose numbers were tuned, and at that run it changes nothing but a warm-up that is too long.

Exponents found at 10^8 to 10^12 tokens need not hold at 10^6: tune at two sizes and two horizons before trusting them.
"""

from dataclasses import dataclass, replace

from scaling.cost import count_params
from scaling.spec import Refusal, RunSpec

BETA2 = 0.9, 0.9999  # between which the half-life is kept; outside, Adam is another optimizer


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Exponents and bounds; an exponent of 0 leaves that number as the reference run has it."""

    # B ~ D^this; 0.383 (arXiv:2505.13738) and 0.571 (arXiv:2503.04715) were found at 10^9 tokens and more
    batch_exponent: float = 0.45
    min_steps: int = 1000  # the batch shrinks below its power law before a run has fewer
    lr_exponent: float = -0.3  # peak_lr ~ D^this at a fixed batch (openathena.ai/blog/delphi)
    lr_batch_exponent: float = 0.5  # peak_lr ~ B^this under Adam (arXiv:2205.10287); 1 under sgd (arXiv:1706.02677)
    warmup_share: float = 0.05  # of the steps at most
    # Tokens for each parameter at most (arXiv:2406.19146, where runs have about 20 in all). Small models trained on
    # hundreds may want more: with math.inf the share alone bounds it
    warmup_tokens: float = 1.0
    half_life: bool = True  # beta2 keeps its half-life in tokens, beta2^(B / B_ref) (arXiv:2507.07101)
    timescale: bool = True  # weight decay keeps lr * decay * steps, its timescale in runs (arXiv:2405.13698)

    def apply(self, reference: RunSpec, run: RunSpec, tokens: float, shortest: float | None = None) -> RunSpec:
        """`run`, its batch, steps and optimizer moved from those of `reference` to `tokens`.

        Of `run` the model, data, evaluation and seed are taken. Batches are of 2^k or 3 2^k windows, which cut evenly
        into parts and over devices. For a trunk `tokens` is the longest of its horizons and
        `shortest` the shortest: its branches share one batch, learning rate, beta2 and weight decay, those of the
        longest, and one warm-up; so `min_steps` and `warmup_share` are kept at the shortest, where they bind. Raises
        `Refusal` where even batches of one window leave fewer than `min_steps` steps.
        """
        shortest = tokens if shortest is None else shortest
        if faults := self._faults(reference, run, shortest):
            raise Refusal(faults)
        context, o = run.model.context, reference.optim
        ratio = tokens / reference.tokens
        wanted = reference.batch_tokens * ratio**self.batch_exponent
        batch = _divisible(wanted / context, int(shortest / (self.min_steps * context)))
        steps, fewest = (max(1, round(d / (batch * context))) for d in (tokens, shortest))
        larger = batch * context / reference.batch_tokens
        lr = o.peak_lr * ratio**self.lr_exponent * larger**self.lr_batch_exponent
        most = self.warmup_tokens * count_params(run.model).matmul / (batch * context)
        decay = o.weight_decay
        if self.timescale:
            decay *= (o.peak_lr * reference.steps) / (lr * steps)
        beta2 = o.beta2
        if self.half_life and larger != 1:
            beta2 = min(max(beta2**larger, BETA2[0]), BETA2[1])
        optim = replace(
            run.optim,
            peak_lr=lr,
            beta2=beta2,
            weight_decay=decay,
            warmup_steps=max(1, int(min(o.warmup_steps, self.warmup_share * fewest, most))) if o.warmup_steps else 0,
        )
        return replace(run, batch=batch, steps=steps, optim=optim)

    def _faults(self, reference: RunSpec, run: RunSpec, tokens: float) -> list[str]:
        lines = []
        if self.min_steps < 1:
            lines.append(f"rule.min_steps = {self.min_steps}: must be at least 1")
        if not 0 <= self.warmup_share <= 1:
            lines.append(f"rule.warmup_share = {self.warmup_share:g}: is a share of the steps, so it must be in [0, 1]")
        if not self.warmup_tokens > 0:
            lines.append(f"rule.warmup_tokens = {self.warmup_tokens:g}: must be above 0; math.inf for no such bound")
        if reference.optim.name == "sgd" and self.lr_batch_exponent == 0.5:
            lines.append(
                "rule.lr_batch_exponent = 0.5: is Adam's; under sgd the rate grows as the batch "
                "(arXiv:1706.02677), so say 1, or what was measured"
            )
        if reference.steps < self.min_steps:
            lines.append(
                f"rule: its reference run has {reference.steps} steps, fewer than min_steps = {self.min_steps}; "
                "anchor it at a longer run or a smaller batch"
            )
        if not lines and tokens < self.min_steps * run.model.context:
            lines.append(
                f"tokens = {tokens:g}: batches of one window of {run.model.context} leave "
                f"{int(tokens / run.model.context)} steps, fewer than rule.min_steps = {self.min_steps}; "
                "plan more tokens or a shorter context"
            )
        return lines


def _divisible(wanted: float, most: int) -> int:
    """The 2^k or 3 2^k up to `most` that is nearest to `wanted` in ratio."""
    sizes = [factor << k for factor in (1, 3) for k in range(most.bit_length()) if factor << k <= most]
    return min(sizes, key=lambda size: (max(size / wanted, wanted / size), size))
