"""Published procedures by name: a paper's preprocessing, law and estimator, whole, so that its table can be repeated.

They are kept apart from our own defaults, quirks included: a replication that improves on its paper in passing
replicates nothing. `as_published` applies one to any table that has its columns.
"""

from typing import TYPE_CHECKING

from scaling.fitting.published import chinchilla, gadre, kaplan, muennighoff, porian, steplaw
from scaling.fitting.published.replication import Procedure, Quantity, Replication
from scaling.spec import Refusal

if TYPE_CHECKING:
    import pandas

__all__ = ["PROCEDURES", "Procedure", "Quantity", "Replication", "as_published"]

PROCEDURES: dict[str, Procedure] = {
    **chinchilla.PROCEDURES, **porian.PROCEDURES, **gadre.PROCEDURES, **muennighoff.PROCEDURES,
    **steplaw.PROCEDURES, **kaplan.PROCEDURES,
}  # fmt: skip


def as_published(table: "pandas.DataFrame", name: str, *, seed: int = 0) -> Replication:
    """Apply the procedure `name` of `PROCEDURES` to a table of `read_table`.

    Raises `Refusal` for an unknown name, missing columns, bad rows, or runs too few for the procedure.
    """
    if name not in PROCEDURES:
        raise Refusal(f"--as {name}: there is no such procedure; there are {', '.join(PROCEDURES)}")
    return PROCEDURES[name].run(table, seed)
