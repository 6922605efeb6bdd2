"""How a tensor's initial spread and learning rate follow from its role and the shape of the model.

"width" is the maximal-update parametrization in the form with an output multiplier (arXiv:2203.03466, table 8), so
that one learning rate serves every d_model. "complete" serves every n_layers too: each branch of the residual stream
is multiplied by base_layers / n_layers (CompleteP, arXiv:2505.01618, alpha = 1). "standard" leaves rates alone and is
the control. Heads keep their size as the width grows, so attention keeps the usual 1/sqrt(d_head); weight decay is
not scaled (`optim.moved`), and Adam's epsilon, which CompleteP scales too, is left at a value far below the gradients.
"""

from typing import Literal

from scaling.spec import ModelSpec, OptimSpec

Role = Literal["embedding", "hidden", "residual_out", "head", "gain"]

# Learning-rate multiplier of each role at width ratio m, by optimizer: the exponent of m. Muon's updates have a
# spectral norm of m^1/2 times a constant (`optim._muon`), where one that is constant transfers (arXiv:2310.17813).
_ADAM: dict[Role, float] = {"embedding": 0, "hidden": -1, "residual_out": -1, "head": 0, "gain": 0}
_WIDTH_EXPONENT: dict[str, dict[Role, float]] = {
    "adamw": _ADAM,
    "schedule_free": _ADAM,
    "sgd": {"embedding": 1, "hidden": 0, "residual_out": 0, "head": 1, "gain": 1},
    "muon": {"embedding": 0, "hidden": -0.5, "residual_out": -0.5, "head": 0, "gain": 0},
}


def init_std(role: Role, fan_in: int, n_layers: int, optim: OptimSpec) -> float:
    """Standard deviation of the initial weights; gains start at one instead."""
    # The residual stream sums 2 n_layers of these: each starts smaller by that root (GPT-2). Where its branch is
    # multiplied down with depth already, only what is summed at the base counts.
    summed = 2 * (optim.base_layers if optim.parametrization == "complete" else n_layers)
    return {
        "embedding": 0.02,
        "hidden": fan_in**-0.5,
        "residual_out": (summed * fan_in) ** -0.5,
        # Zero logits: training starts at the uniform distribution at every width (arXiv:2203.03466, appendix D.2).
        "head": 0.0,
        "gain": 0.0,
    }[role]


def lr_multiplier(role: Role, model: ModelSpec, optim: OptimSpec) -> float:
    """What the learning rate of a tensor is multiplied by."""
    if optim.parametrization == "standard":
        return 1.0
    multiplier = (model.d_model / optim.base_width) ** _WIDTH_EXPONENT[optim.name][role]
    if optim.parametrization == "complete" and optim.name == "sgd" and role in ("hidden", "residual_out"):
        # The branch's multiplier is in the gradient too, and a plain gradient step feels it; normalised steps do not.
        multiplier *= model.n_layers / optim.base_layers
    return multiplier


def residual_multiplier(n_layers: int, optim: OptimSpec) -> float:
    """What each branch is multiplied by before it is added to the residual stream."""
    return optim.base_layers / n_layers if optim.parametrization == "complete" else 1.0


def output_multiplier(d_model: int, optim: OptimSpec) -> float:
    """What the logits are multiplied by."""
    return 1.0 if optim.parametrization == "standard" else optim.base_width / d_model
