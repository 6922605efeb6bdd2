"""Formulas for the loss L: a law is its parameters and one formula, and a fitted law is an instance.

Losses are in nats per token, N in parameters, D in tokens, C in FLOPs; every law takes arrays and broadcasts. A law
that is linear in some parameters once the others are known says so in `basis`: for the shape parameters it gives the
columns X with L = X c, c >= 0, and `from_basis` gives the parameters for that c. Estimators start there, from the
instance that `form` makes: its parameters are placeholders, its constants (if the law has any) those of the runs.

A new law is a class of this form and a line in `LAWS`.
"""

from scaling.fit.laws.form import Array, Optimum
from scaling.fit.laws.power import PowerLaw
from scaling.fit.laws.surface import Chinchilla, Interaction, Kaplan

__all__ = ["LAWS", "SURFACES", "Array", "Chinchilla", "Interaction", "Kaplan", "Law", "Optimum", "PowerLaw"]

Law = Chinchilla | Kaplan | Interaction | PowerLaw
LAWS: dict[str, type[Law]] = {
    "chinchilla": Chinchilla,
    "kaplan": Kaplan,
    "interaction": Interaction,
    "power": PowerLaw,
}
SURFACES = tuple(name for name, law in LAWS.items() if law.variables == ("n", "d"))
