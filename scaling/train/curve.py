"""The logged rows of one run: averages over each interval of optimizer steps."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from scaling.record.files import commit_text
from scaling.spec import RunSpec
from scaling.train.optim import learning_rates
from scaling.train.step import StepMetrics

ROWS = 100  # of a run's curve, about


class Curve:
    """Appends to metrics.jsonl; rows beyond the step a run goes on from are dropped, so no step is logged twice."""

    def __init__(self, path: Path, run: RunSpec, before: list[dict[str, Any]], resumed_at: int):
        self.diverged_at: int | None = None  # first step whose loss was not finite
        self.loss = math.nan  # of the last row, nats per token
        self._run, self._interval = run, max(1, run.steps // ROWS)
        self._sums, self._count = np.zeros(2), 0
        kept = [row for row in before if row["step"] <= resumed_at]
        commit_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")
        if kept:
            self.loss = kept[-1]["loss"]

    def __enter__(self) -> "Curve":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, start: int, end: int, metrics: StepMetrics) -> None:
        """Log optimizer steps start .. end, whose metrics are the first of the [K] values; waits for the device."""
        loss_K, norm_K = (np.asarray(values, np.float64)[: end - start] for values in metrics)
        for step, loss, norm in zip(range(start + 1, end + 1), loss_K, norm_K, strict=True):
            if not math.isfinite(loss):
                self.diverged_at = step
                break
            self._sums += (loss, norm)
            self._count += 1
            if step % self._interval == 0 or step == end:
                self._row(step)
        self._file.flush()

    def _row(self, step: int) -> None:
        self.loss, norm = (self._sums / self._count).tolist()
        row = {
            "step": step,
            "tokens": step * self._run.batch_tokens,
            "loss": self.loss,
            "grad_norm": norm if math.isfinite(norm) else None,
            "lr": float(learning_rates(self._run, step - 1, 1)[0]),
        }
        self._file.write(json.dumps(row) + "\n")
        self._sums[:], self._count = 0, 0
