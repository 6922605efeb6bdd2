"""Which token comes at which step: `batch(source, run, step)`, a pure function, so there is nothing to save or rewind.

    open_source  ->  batches   [count, batch, context + 1], the same in any chunks and on any number of hosts
                     held_out  the windows that every run of a study is measured on

Sources:

    bytes:stdlib   Python sources of this interpreter's standard library, as bytes
    bytes:stdlib-prose, bytes:stdlib-code   of these docstrings and comments, and the rest
    text:PATH      a file or a folder of files, as bytes
    tokens:PATH    ids in a .bin or .npy, or a folder with train and val; tokens:uint32:PATH for wide ids
    zipf-facts     synthetic, endless, of known entropy; zipf-facts:skew=0.6,noise=0.1,symbols=64

NumPy only. Suffixes: S steps, B rows of a batch on this host, R rows, L = context, T = context + 1.
"""

import functools
from dataclasses import dataclass

import numpy as np

from scaling.data.check import faults
from scaling.data.corpus import Corpus
from scaling.data.overlap import trained_share
from scaling.data.source import Source, open_evaluated, open_source
from scaling.spec import Refusal, RunSpec

__all__ = [
    "HeldOut", "Source", "batch", "batches", "epochs", "faults", "held_out", "open_evaluated", "open_source",
    "provenance", "unique_tokens",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """What a model is measured on; read when it is asked for."""

    source: Source
    rows: int  # windows
    context: int

    def __len__(self) -> int:
        return self.rows

    def windows(self, row_R: np.ndarray) -> np.ndarray:
        """[R, context + 1] inputs and targets of the windows with these numbers; no other is read."""
        return self.source.held_out_rows(row_R, self.context)

    @functools.cached_property
    def token_RxT(self) -> np.ndarray:
        """[rows, context + 1] of all windows."""
        return self.windows(np.arange(self.rows))

    @functools.cached_property
    def log_prob_RxL(self) -> np.ndarray | None:
        """[rows, context] of each target under the true source, nats; None: not known."""
        return None if isinstance(self.source, Corpus) else self.source.log_prob(self.token_RxT)


def batches(source: Source, run: RunSpec, start: int, count: int, *, rows: slice = slice(None)) -> np.ndarray:
    """[count, batch, context + 1] tokens of optimizer steps start .. start + count, in `source.dtype`.

    `rows` chooses a host's own rows of each batch; no other row is read.
    """
    step_S, row_B = np.arange(start, start + count), np.arange(run.batch)[rows]
    row_SxB = step_S[:, None] * run.batch + row_B
    token_RxT = source.train_rows(row_SxB.ravel(), run.model.context, run.data)
    return token_RxT.reshape(count, len(row_B), run.model.context + 1)


def batch(source: Source, run: RunSpec, step: int, *, rows: slice = slice(None)) -> np.ndarray:
    """[batch, context + 1] tokens of one optimizer step, counted from 0."""
    return batches(source, run, step, 1, rows=rows)[0]


def held_out(source: Source, tokens: int, context: int) -> HeldOut:
    """The first tokens // context held-out windows, always in the same order; `Refusal` where there are fewer."""
    rows = tokens // context
    if rows < 1 or rows * context + 1 > source.held_out_tokens:
        raise Refusal(
            f"eval.tokens = {tokens}: {source.name} holds out {source.held_out_tokens} tokens, in windows of {context}"
        )
    return HeldOut(source=source, rows=rows, context=context)


def unique_tokens(source: Source, run: RunSpec) -> int:
    """Different tokens that the run predicts in training."""
    return source.sample(run.data, run.model.context).different(run.steps * run.batch) * run.model.context


def epochs(source: Source, run: RunSpec) -> float:
    """How often the run predicts each of its unique tokens on average, D / U of arXiv:2305.16264: 1 without repeats."""
    return run.tokens / max(1, unique_tokens(source, run))


def provenance(run: RunSpec) -> dict[str, str]:
    """What identifies the text trained on and, under names that begin with eval_, another one measured on."""
    source = open_source(run.data, run.model)
    if not run.eval.source:
        return source.provenance
    evaluated = open_evaluated(run)
    found = {f"eval_{name}": value for name, value in evaluated.provenance.items() if name != "train_tokens"}
    if isinstance(source, Corpus) and isinstance(evaluated, Corpus):
        share = trained_share(source, evaluated)
        found["eval_trained_on"] = "not looked for" if share is None else f"{share:.4f}"
    return source.provenance | found
