"""The table of a results folder: one row per evaluated run, and `runs.csv`.

Nothing that depends on the clock is in it, so that an interrupted and an uninterrupted sweep give the same bytes.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from scaling.cost import count_params, flops_per_token, optimizer_flops
from scaling.record.files import commit_text
from scaling.record.ledger import Ledger
from scaling.record.run_record import RunRecord
from scaling.record.tuning import Mistuning, Tuning
from scaling.spec import Refusal

COLUMNS = (
    "run_id", "group", "role", "status", "n_params", "n_params_kaplan", "n_params_total", "tokens", "unique_tokens",
    "epochs", "flops", "loss", "loss_se", "bits_per_byte", "entropy", "seed", "peak_lr", "batch_tokens", "steps",
    "trunk", "branch_step", "optimizer", "schedule", "attention", "n_layers", "d_model", "d_ff", "d_head", "context",
    "vocab_size", "source", "reason", "averaged_loss", "averaged_loss_se", "noise_tokens", "spikes",
    "optimizer_flops", "lr_over_best", "tuning_excess", "tuned_loss",
    "corrupted", "duplicated", "duplicate_tokens", "eval_source",
)  # fmt: skip


TEXTS = {"run_id", "group", "role", "status", "trunk", "optimizer", "schedule", "attention", "source", "reason",
         "eval_source"}  # fmt: skip
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # but tab and line end; a terminal obeys them
FORMULA = "=+-@\uff1d\uff0b\uff0d\uff20"  # a spreadsheet runs a cell that begins so, in full width too


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    """One dict per evaluated run with a record, in the order of the plan; keys are `COLUMNS`."""
    tuning = Tuning.of(ledger.folder)
    return [
        row(planned["id"], ledger[planned["id"]], planned["group"], planned["role"], tuning)
        for planned in ledger.study()["plan"]
        if planned["role"] != "trunk" and planned["id"] in ledger
    ]


def row(run_id: str, record: RunRecord, group: str, role: str, tuning: Tuning) -> dict[str, Any]:
    """What the table says of an evaluated run, by the id that it was planned with. Raises `Refusal` for values of no
    run."""
    try:
        return {"run_id": run_id} | _row(record, group, role) | _tuned(record, tuning(record.run, group))
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise Refusal(f"the record of run {run_id} holds what cannot be ({error}); move it away") from error


def _tuned(record: RunRecord, off: Mistuning | None) -> dict[str, float | None]:
    """What `scaling tune` says of the run: nats that the best learning rate would have gained, and the loss then."""
    excess = off.excess(record.loss) if off and record.loss is not None else None
    return {
        "lr_over_best": off.lr_over_best if off else None,
        "tuning_excess": excess,
        "tuned_loss": record.loss - excess if record.loss is not None and excess is not None else None,
    }


def _row(record: RunRecord, group: str, role: str) -> dict[str, Any]:
    run, params = record.run, count_params(record.run.model)
    return {
        "group": group,
        "role": role,
        "status": record.status,
        "n_params": params.matmul,
        "n_params_kaplan": params.kaplan,
        "n_params_total": params.total,
        "tokens": record.tokens,
        "unique_tokens": record.unique_tokens,
        "epochs": record.epochs,
        "flops": record.tokens * flops_per_token(run.model, "exact"),
        "loss": record.loss,
        "loss_se": record.loss_se,
        "bits_per_byte": record.bits_per_byte,
        "entropy": record.entropy,
        "seed": run.seed,
        "peak_lr": run.optim.peak_lr,
        "batch_tokens": run.batch_tokens,
        "steps": run.steps,
        "trunk": run.branch.trunk if run.branch else "",
        "branch_step": run.branch.step if run.branch else "",
        "optimizer": run.optim.name,
        "schedule": run.optim.schedule,
        "attention": run.model.attention,
        "n_layers": run.model.n_layers,
        "d_model": run.model.d_model,
        "d_ff": run.model.d_ff,
        "d_head": run.model.d_head,
        "context": run.model.context,
        "vocab_size": run.model.vocab_size,
        "source": run.data.source,
        "reason": record.reason,
        "averaged_loss": record.averaged_loss,
        "averaged_loss_se": record.averaged_loss_se,
        "noise_tokens": record.noise_tokens,
        "spikes": record.spikes,
        "optimizer_flops": run.steps * optimizer_flops(run),
        "corrupted": float(run.data.corrupted),
        "duplicated": float(run.data.duplicated),
        "duplicate_tokens": run.data.duplicate_tokens,
        "eval_source": run.eval.source or run.data.source,
    }


def write(ledger: Ledger) -> None:
    """Make `runs.csv` of what is recorded now."""
    commit_text(ledger.folder / "runs.csv", "".join([HEADER, *map(line, rows(ledger))]))


def line(row: Mapping[str, Any]) -> str:
    """Of `runs.csv`."""
    return _csv([_cell(row[column]) for column in COLUMNS])


def _csv(cells: Iterable[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


HEADER = _csv(COLUMNS)


def _cell(value: Any) -> Any:
    """What the writer of CSV is given: of numbers it writes the shortest text that reads back as the same."""
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, str):
        if value.isalnum():
            return value
        # Half of a surrogate pair is no text, and a bare \r ends a line for some readers.
        value = value.encode(errors="replace").decode().replace("\r\n", "\n").replace("\r", "\n")
        value = CONTROLS.sub(lambda found: ascii(found[0])[1:-1], value)
        # The reader of `scaling.fitting` takes the mark off again.
        runs = value[:1] in ("\t", "\n") or value.lstrip(" \t\r\n'")[:1] in tuple(FORMULA)
        return f"'{value}" if runs else value
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(value)
