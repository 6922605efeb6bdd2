"""How a tensor's initial spread and learning rate follow from its role and the width of the model.

"width" is the maximal-update parametrization in the form with an output multiplier (arXiv:2203.03466, table 8), so
that one learning rate serves every d_model; "standard" leaves rates alone and is the control. Head size and depth are
fixed within a study, so attention keeps the usual 1/sqrt(d_head).
"""

from typing import Literal

from scaling.spec import OptimSpec

Role = Literal["embedding", "hidden", "residual_out", "head", "gain"]

# Learning-rate multiplier of each role at width ratio m, by optimizer: the exponent of m.
_WIDTH_EXPONENT: dict[str, dict[Role, int]] = {
    "adamw": {"embedding": 0, "hidden": -1, "residual_out": -1, "head": 0, "gain": 0},
    "sgd": {"embedding": 1, "hidden": 0, "residual_out": 0, "head": 1, "gain": 1},
}


def init_std(role: Role, fan_in: int, n_layers: int) -> float:
    """Standard deviation of the initial weights; gains start at one instead."""
    return {
        "embedding": 0.02,
        "hidden": fan_in**-0.5,
        # The residual stream sums 2 n_layers of these: each starts smaller by that root (GPT-2).
        "residual_out": (2 * n_layers * fan_in) ** -0.5,
        # Zero logits: training starts at the uniform distribution at every width (arXiv:2203.03466, appendix D.2).
        "head": 0.0,
        "gain": 0.0,
    }[role]


def lr_multiplier(role: Role, d_model: int, optim: OptimSpec) -> float:
    """What the learning rate of a tensor is multiplied by."""
    if optim.parametrization == "standard":
        return 1.0
    return (d_model / optim.base_width) ** _WIDTH_EXPONENT[optim.name][role]


def output_multiplier(d_model: int, optim: OptimSpec) -> float:
    """What the logits are multiplied by."""
    return 1.0 if optim.parametrization == "standard" else optim.base_width / d_model
