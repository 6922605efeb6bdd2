"""Formulas for the loss L: a law is its parameters and one formula, and a fitted law is an instance.

Losses are in nats per token, N in parameters, D in tokens, C in FLOPs; every law takes arrays and broadcasts. A law
that is linear in some parameters once the others are known says so in `basis`: for the shape parameters it gives the
columns X with L = X c, c >= 0, and `from_basis` gives the parameters for that c. Estimators start there, from the
instance that `form` makes: its parameters are placeholders, its constants (if the law has any) those of the runs.
The shape parameters and the points looked at are in `grid`: the exponents of a law that is linear in ln y stand there
too, and a law without any shape has an empty grid. A law may offer `value_and_gradient`, both from one evaluation,
with its gradient's columns each together in memory; estimators are about a quarter faster with it.

A new law is a class of this form and a line in `GROUPS`.
"""

from typing import Any

from scaling.fitting.laws.broken import Broken
from scaling.fitting.laws.curve import MultiPower, Tissue
from scaling.fitting.laws.downstream import Downstream
from scaling.fitting.laws.form import Array, Optimum
from scaling.fitting.laws.hyper import (
    BatchSize,
    BatchSizeCompute,
    CriticalBatch,
    LearningRate,
    LearningRateCompute,
    StepsExamples,
)
from scaling.fitting.laws.kaplan import KaplanC, KaplanD, KaplanN
from scaling.fitting.laws.power import PowerLaw, PowerNoFloor
from scaling.fitting.laws.repeat import DataConstrained
from scaling.fitting.laws.surface import Chinchilla, Interaction, Kaplan
from scaling.fitting.laws.tied import ChinchillaTied, Overtraining

__all__ = ["GROUPS", "LAWS", "SURFACES", "Array", "Chinchilla", "Interaction", "Kaplan", "Law", "Optimum", "PowerLaw"]

Law = Chinchilla | Kaplan | Interaction | PowerLaw  # those that Python users name; any of `LAWS` is one
GROUPS: dict[str, dict[str, type[Any]]] = {
    "loss against size and data": {
        "chinchilla": Chinchilla,
        "chinchilla_tied": ChinchillaTied,
        "kaplan": Kaplan,
        "interaction": Interaction,
        "overtraining": Overtraining,
        "data_constrained": DataConstrained,
    },
    "loss against one variable": {
        "power": PowerLaw,
        "power_no_floor": PowerNoFloor,
        "kaplan_n": KaplanN,
        "kaplan_d": KaplanD,
        "kaplan_c": KaplanC,
        "broken": Broken,
    },
    "learning rate and batch": {
        "learning_rate": LearningRate,
        "batch_size": BatchSize,
        "learning_rate_compute": LearningRateCompute,
        "batch_size_compute": BatchSizeCompute,
        "critical_batch": CriticalBatch,
        "steps_examples": StepsExamples,
    },
    "tasks": {"downstream": Downstream},
    "whole training curves": {"tissue": Tissue, "multi_power": MultiPower},
}
LAWS: dict[str, type[Any]] = {name: law for group in GROUPS.values() for name, law in group.items()}
SURFACES = tuple(name for name, law in LAWS.items() if law.variables == ("n", "d") and law.response == "loss")
