"""What a model costs: parameters and training FLOPs by component. The only file that counts.

Conventions differ between papers and move the fitted exponents (arXiv:2406.19146), so each count has a name and none
is the default. A multiply-add is two FLOPs, and a training step costs three forward passes: each matrix product is
met again in the gradients of its two factors (arXiv:2001.08361, section 2.1). Elementwise work is counted apart, by
the operations of the formula, and is in no convention. A forward pass that is
repeated to save memory (`Placement.remat`) is not counted: it is no use of compute, but a cost of memory.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Literal

from scaling.spec import ModelSpec, Refusal, RunSpec

ParamConvention = Literal["matmul", "kaplan", "total"]
FlopConvention = Literal["exact", "matmul", "kaplan", "chinchilla"]

# For each stored parameter and step, elementwise; muon: of those it orthogonalises.
OPTIMIZER_FLOPS = {"adamw": 16, "sgd": 8, "schedule_free": 24, "muon": 13}
NEWTON_SCHULZ_STEPS = 5  # of Muon


@dataclass(frozen=True, kw_only=True)
class ParamCount:
    """Parameters by component, in scalars. `head` is counted whether or not it shares the embedding's table."""

    embedding: int  # input table
    positions: int  # table of learned positions
    attention: int  # query, key, value and output projections, or what takes their place
    mlp: int
    norms: int  # gains
    head: int  # output projection
    shared: int  # scalars that embedding and head have in common: the whole table when tied, else 0

    @property
    def kaplan(self) -> int:
        """N without embeddings, head and sub-leading terms (arXiv:2001.08361, table 1)."""
        return self.attention + self.mlp

    @property
    def matmul(self) -> int:
        """N that multiplies each token: non-embedding and head (arXiv:2406.19146, section 3.1)."""
        return self.kaplan + self.head

    @property
    def total(self) -> int:
        """N as stored, every scalar once (arXiv:2203.15556)."""
        return self.embedding + self.positions + self.norms + self.matmul - self.shared


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """Training FLOPs of one token by component; the optimizer is apart (`optimizer_flops`).

    `embedding`, `positions` and `norms` are elementwise, three forward passes too, and not part of `exact`.
    """

    embedding: int  # a gather: none
    positions: int  # rotary: two products and a sum for each element of query and key; learned: one sum; none: none
    attention: int  # the four projections
    scores_causal: int  # scores and weighted values, on or below the diagonal only: what is useful
    scores_dense: int  # the same over the full square, as a kernel without causal skipping executes it
    mlp: int
    norms: int  # square, sum, scale and gain of each element
    head: int

    @property
    def exact(self) -> int:
        """Useful matrix-product FLOPs: the compute axis of every law here."""
        return self.attention + self.scores_causal + self.mlp + self.head


@functools.lru_cache(maxsize=1024)
def count_params(model: ModelSpec) -> ParamCount:
    """Parameters of the model that `scaling.train.model` builds, exactly."""
    D = model.d_model
    meeting = {  # of one layer
        "causal": lambda: 2 * D**2 + 2 * D * model.kv_heads * model.d_head,
        "mean": lambda: 2 * D**2,
        "window": lambda: model.window * D**2,
        "recurrent": lambda: 7 * D**2,  # three gates, each from input and state, and the output
        "none": lambda: 0,
    }[model.attention]()
    table = model.vocab_size * D
    mlp_matrices = 3 if model.mlp == "swiglu" else 2
    return ParamCount(
        embedding=table,
        positions=model.context * D if model.positions == "learned" else 0,
        attention=model.n_layers * meeting,
        mlp=model.n_layers * mlp_matrices * D * model.d_ff,
        norms=(model.n_layers * (1 if model.attention == "none" else 2) + 1) * D,
        head=table,
        shared=table if model.tied else 0,
    )


@functools.lru_cache(maxsize=1024)
def count_flops(model: ModelSpec) -> FlopCount:
    """Training FLOPs per token at full context, forward and backward.

    A query of a causal model meets (context + 1) / 2 keys on average, and each meeting costs one product for the
    score and one for the weighted value, of d_model multiply-adds each over all heads. Without a softmax tokens meet by
    matrices alone, counted with `attention`; the running sum of a mean, the gates of a recurrence and the rounding of
    weights are elementwise and not counted.
    """
    params = count_params(model)
    layers = model.n_layers if model.attention == "causal" else 0
    meeting = 3 * 2 * 2 * layers * model.d_model
    rotary = 3 * layers * (model.d_model + model.kv_heads * model.d_head)
    return FlopCount(
        embedding=0,
        positions=3 * {"rotary": rotary, "learned": model.d_model, "none": 0}[model.positions],
        attention=6 * params.attention,
        scores_causal=meeting * (model.context + 1) // 2,
        scores_dense=meeting * model.context,
        mlp=6 * params.mlp,
        norms=3 * 4 * params.norms,  # a norm has one gain for each element of a token
        head=6 * params.head,
    )


def flops_per_token(model: ModelSpec, convention: FlopConvention) -> int:
    """Training FLOPs of one token as `convention` counts them; all but exact are 6 N."""
    params = count_params(model)
    return {
        "exact": count_flops(model).exact,
        "matmul": 6 * params.matmul,
        "kaplan": 6 * params.kaplan,
        "chinchilla": 6 * params.total,
    }[convention]


def train_flops(run: RunSpec, convention: FlopConvention = "exact") -> int:
    """C: training FLOPs of a run from its first step, a branch's share of its trunk included."""
    return run.tokens * flops_per_token(run.model, convention)


def marginal_flops(run: RunSpec) -> int:
    """FLOPs that this run itself executes: a branch starts where it leaves its trunk."""
    shared_steps = run.branch.step if run.branch else 0
    return (run.steps - shared_steps) * run.batch_tokens * flops_per_token(run.model, "exact")


def optimizer_flops(run: RunSpec) -> int:
    """FLOPs of one optimizer step, whatever the batch; in no convention.

    Elementwise, about, for each stored parameter: 16 under AdamW, 8 under SGD, 24 under schedule_free. Clipping takes 3
    (square, sum, scale) and the move of the weight 3 to 4 (rate, decay, sum). SGD's momentum or AdamW's two moments,
    their bias corrections, root and quotient are the rest. XLA:CPU counts 23 and 12, more than the formulas need.
    Muon has 13 where it orthogonalises, AdamW's 16 elsewhere, and `orthogonalisation_flops`.
    """
    total = count_params(run.model).total
    if run.optim.name != "muon":
        return OPTIMIZER_FLOPS[run.optim.name] * total
    hidden = sum(rows * columns for rows, columns in _hidden_matrices(run.model)) * run.model.n_layers
    elementwise = OPTIMIZER_FLOPS["muon"] * hidden + OPTIMIZER_FLOPS["adamw"] * (total - hidden)
    return elementwise + orthogonalisation_flops(run.model)


def orthogonalisation_flops(model: ModelSpec) -> int:
    """Matrix-product FLOPs of Muon's Newton-Schulz iterations in one optimizer step, exactly.

    An iteration on m x n, m <= n, forms X X^T, its square, and their sum times X: 4 m^2 n + 2 m^3 (arXiv:2502.16982).
    """

    def iteration(rows: int, columns: int) -> int:
        m, n = sorted((rows, columns))
        return 4 * m**2 * n + 2 * m**3

    return NEWTON_SCHULZ_STEPS * model.n_layers * sum(iteration(*shape) for shape in _hidden_matrices(model))


def _hidden_matrices(model: ModelSpec) -> list[tuple[int, int]]:
    """Shapes of one block's matrices."""
    D, F = model.d_model, model.d_ff
    meeting = {
        "causal": [(D, D + 2 * model.kv_heads * model.d_head), (D, D)],
        "mean": [(D, D), (D, D)],
        "window": [(model.window * D, D)],
        "recurrent": [(D, 3 * D), (D, 3 * D), (D, D)],
        "none": [],
    }[model.attention]
    return meeting + [(D, F)] * (2 if model.mlp == "swiglu" else 1) + [(F, D)]


def at_width(model: ModelSpec, d_model: int) -> ModelSpec:
    """The same shape at another width: d_ff keeps its ratio, and heads their size where the width holds one."""
    d_ff = round(model.d_ff * d_model / model.d_model)
    return dataclasses.replace(model, d_model=d_model, d_ff=d_ff, d_head=min(model.d_head, d_model))


def nearest_shape(model: ModelSpec, n_params: float, convention: ParamConvention) -> ModelSpec:
    """The width, in whole heads, whose parameters come nearest to `n_params` in ratio.

    Raises `Refusal` when even that misses by more than 5 %: depth, head size or vocabulary must give instead.
    """
    if not n_params >= 1:
        raise Refusal(f"n_params = {n_params:g}: must be at least 1")

    def count(heads: int) -> int:
        return getattr(count_params(at_width(model, heads * model.d_head)), convention)

    heads = 1
    while count(heads) < n_params:
        heads += 1
    best = min({max(1, heads - 1), heads}, key=lambda h: max(count(h) / n_params, n_params / count(h)))
    miss = count(best) / n_params - 1
    if abs(miss) > 0.05:
        raise Refusal(
            f"n_params = {n_params:g}: the nearest width in heads of {model.d_head} is {best * model.d_head} with "
            f"{count(best)} ({miss:+.0%}); change n_layers or d_head, or ask for {count(best)}"
        )
    return at_width(model, best * model.d_head)
