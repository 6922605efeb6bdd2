"""Which sources there are, and what each of them has:

    name               as the spec says it
    vocab_size         ids it can emit are below this; for token files found by reading them all, once
    dtype              of its windows: the smallest unsigned type that holds the model's vocabulary
    train_tokens       None: endless
    held_out_tokens    never among those trained on
    bytes_per_token    None: unknown, so that bits per byte cannot be told
    entropy            exact, nats per token; None where nobody knows it
    provenance         what identifies the content: sha256, sizes, versions; the first access reads up to 1 GiB
    sample(data, context) -> which windows a run reads
    train_rows(row_R, context, data) -> [R, context + 1]
    held_out_rows(row_R, context) -> [R, context + 1]
    log_prob(token_RxT) -> [R, context], exact, where the entropy is known
    misfits(model) -> what keeps a model from reading it, one line each

A new source is a file beside this one, a line in `open_source` and one in `FORMS`.
"""

import difflib

from scaling.data.corpus import Corpus
from scaling.data.stdlib import STDLIB, open_stdlib
from scaling.data.text import open_text
from scaling.data.tokens import open_tokens
from scaling.data.zipf_facts import ZipfFacts, open_zipf_facts
from scaling.spec import DataSpec, ModelSpec, Refusal, RunSpec

Source = Corpus | ZipfFacts

FORMS = (*STDLIB, "text:PATH", "tokens:PATH", "zipf-facts")


def open_source(spec: DataSpec, model: ModelSpec) -> Source:
    """The source that `spec.source` names. Opening the same content again in one process costs next to nothing.

    Raises `Refusal` where there is no such source, or where it cannot be read.
    """
    try:
        return _opened(spec.source, model)
    except OSError as error:
        raise Refusal(f"data.source = {spec.source!r:.200}: cannot be read: {error.strerror or error}") from error


def open_evaluated(run: RunSpec) -> Source:
    """The source whose held-out text the run is measured on. Raises `Refusal` as `open_source` does."""
    if not run.eval.source:
        return open_source(run.data, run.model)
    try:
        return open_source(DataSpec(source=run.eval.source), run.model)
    except Refusal as refusal:
        raise Refusal(line.replace("data.source", "eval.source", 1) for line in refusal.faults) from None


def _opened(name: str, model: ModelSpec) -> Source:
    kind, _, argument = name.partition(":")
    if name in STDLIB:
        return open_stdlib(name)
    if kind == "text" and argument:
        return open_text(name, argument)
    if kind == "tokens" and argument:
        return open_tokens(name, argument, model.vocab_size)
    if kind == "zipf-facts":
        return open_zipf_facts(name, argument)
    near = difflib.get_close_matches(name, FORMS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(FORMS)}"
    raise Refusal(f"data.source = {name!r}: no such source; {hint}")
