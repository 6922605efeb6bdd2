"""The logged rows of one run: averages over each interval of optimizer steps."""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scaling.record.files import commit_text, on_store
from scaling.spec import RunSpec
from scaling.train.optim import learning_rates
from scaling.train.step import StepMetrics

MOST_MARKED = 2**22  # bytes of marks until the file is written anew
ROWS = 100  # of a run's curve, about
PROBE_STEPS = 32  # between measurements of the gradient noise; each costs half a step
SETTLED_SHARE = 0.05  # of a run's steps, in which its loss falls from that of chance
SPIKE_SIGMAS = 7.0  # above the rows around it, robustly (the threshold of arXiv:2501.00656)


class Curve:
    """Appends to metrics.jsonl; rows beyond the step a run goes on from are dropped, so no step is logged twice.

    A row is an interval of optimizer steps, wherever the run is stopped and gone on with: `mark` puts what an interval
    holds so far beside the checkpoint that the run would go on from, as a line with `open` that is no row. There is one
    for the last two marks, and for those at the steps `kept`, as there is a checkpoint. `fence` is called before the
    file is replaced. In a bucket nothing can be appended to: there the file is written whole at every mark and at the
    end.
    """

    def __init__(
        self,
        path: Path,
        run: RunSpec,
        before: list[dict[str, Any]],
        resumed_at: int,
        kept: Collection[int] = (),
        fence: Callable[[], None] = lambda: None,
    ):
        self.diverged_at: int | None = None  # first step whose loss, gradient or change was not finite
        self.rows = [row for row in before if "open" not in row and row["step"] <= resumed_at]
        self._run, self._interval, self._path = run, max(1, run.steps // ROWS), path
        self._kept, self._fence = kept, fence
        self._open = {line["step"]: line for line in before if "open" in line and line["step"] <= resumed_at}
        begun = self._open.get(resumed_at, {"open": ()})["open"]
        self._steps: list[tuple[float, ...]] = [tuple(_numbers(step)) for step in begun]
        self._marks = sorted(self._open)[-2:]
        self._marked = 0  # bytes of marks in the file
        self._begin()

    def _begin(self) -> None:
        """The file with what counts now, to be appended to."""
        self._rewrite()
        self._marked = 0
        self._file = None if on_store(self._path) else open(self._path, "a", encoding="utf-8")

    def __enter__(self) -> "Curve":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()
        if self.diverged_at is not None or (self.rows and self.rows[-1]["step"] == self._run.steps):
            self._open = {step: line for step, line in self._open.items() if step in self._kept}
        self._rewrite()

    def _rewrite(self) -> None:
        self._fence()
        if not on_store(self._path):
            self._path.parent.stat()  # raises where the folder is gone: it is not made again without its weights
        lines = [*self.rows, *self._open.values()]
        commit_text(self._path, "".join(json.dumps(line) + "\n" for line in lines))

    @property
    def loss(self) -> float:
        """Of the last row, nats per token; not a number before there is one."""
        return self.rows[-1]["loss"] if self.rows else math.nan

    def add(self, start: int, end: int, metrics: StepMetrics) -> None:
        """Log optimizer steps start .. end, whose metrics are the first of the [K] values; waits for the device."""
        values_SxM = np.stack([np.asarray(values, np.float64)[: end - start] for values in metrics], axis=1)
        for step, values in zip(range(start + 1, end + 1), values_SxM.tolist(), strict=True):
            if not math.isfinite(values[0]):
                self.diverged_at = step
                if self._steps:
                    self._row(step - 1)
                break
            self._steps.append(tuple(values))
            if step % self._interval == 0 or step == self._run.steps:
                self._row(step)
        if self._file:
            self._file.flush()

    def mark(self, step: int) -> None:
        """Put down, and on the disk, what the interval under way holds, for a run that goes on from `step`."""
        if self._steps:
            self._open[step] = {"step": step, "open": [_cells(values) for values in self._steps]}
            self._marked += self._append(self._open[step])
        self._marks = [*self._marks, step][-2:]
        self._open = {at: line for at, line in self._open.items() if at in self._marks or at in self._kept}
        if self._file and self._marked > MOST_MARKED:  # marks of long intervals are long, and soon of no use
            self._file.close()
            self._begin()
        elif self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        else:
            self._rewrite()

    def _row(self, step: int) -> None:
        of = StepMetrics(*np.array(self._steps).T)
        probed = np.isfinite(of.noise_K)
        row = {
            "step": step,
            "tokens": step * self._run.batch_tokens,
            "loss": float(of.loss_K.mean()),
            "loss_max": float(of.loss_K.max()),
            "grad_norm": float(of.grad_norm_K.mean()),
            "update_norm": float(of.update_norm_K.mean()),
            "lr": float(learning_rates(self._run, step - 1, 1)[0]),
        }
        if probed.any():  # means: a noise scale is a quotient of means, over as many rows as one likes
            row["probes"] = int(probed.sum())
            row["grad_signal"] = float(of.signal_K[probed].mean())
            row["grad_noise"] = float(of.noise_K[probed].mean())
        self.rows.append(row)
        self._append(row)
        self._steps.clear()

    def _append(self, line: dict[str, Any]) -> int:
        """The characters written."""
        return self._file.write(json.dumps(line) + "\n") if self._file else 0


def _cells(values: tuple[float, ...]) -> list[float | None]:
    """JSON has no number that is none."""
    return [value if math.isfinite(value) else None for value in values]


def _numbers(cells: list[float | None]) -> list[float]:
    return [math.nan if cell is None else cell for cell in cells]


def probed(start: int, count: int) -> np.ndarray:
    """Whether the gradient noise is measured at optimizer steps start .. start + count, bool [count]."""
    return np.arange(start + 1, start + count + 1) % PROBE_STEPS == 0


def noise_scale(rows: Sequence[Mapping[str, Any]], run: RunSpec) -> float | None:
    """The gradient noise scale B_noise over the later half of a run, in tokens; None where it was not resolved.

    About the batch at which time and data are traded evenly (arXiv:1812.06162, section 2.2). A quotient of means, since
    a mean of quotients is biased. Windows are what is drawn at random, so a scale in windows is one of whole contexts.
    `rows` are those of the whole run, a branch's trunk included.
    """
    found = [row for row in rows if "probes" in row and row["step"] > max(run.optim.warmup_steps, run.steps / 2)]
    signal = sum(row["probes"] * row["grad_signal"] for row in found)
    noise = sum(row["probes"] * row["grad_noise"] for row in found)
    return noise / signal * run.model.context if signal > 0 else None


def spikes(rows: Sequence[Mapping[str, Any]], run: RunSpec) -> int:
    """Rows of a curve with a step far above the row's own mean: by SPIKE_SIGMAS robust deviations of that excess.

    Not among the first steps, whose loss falls by more than it scatters; nor in runs so short that a row is a step.
    """
    settled = [row for row in rows if row["step"] > max(run.optim.warmup_steps, SETTLED_SHARE * run.steps)]
    excess = np.array([row["loss_max"] - row["loss"] for row in settled if "loss_max" in row])
    if len(excess) < 10:
        return 0
    sigma = 1.4826 * np.median(np.abs(excess - np.median(excess)))
    return int((excess > np.median(excess) + SPIKE_SIGMAS * max(sigma, 1e-6)).sum())
