"""What is wrong with a run's data, found before anything is trained."""

from scaling.data.corpus import Corpus
from scaling.data.source import open_source
from scaling.spec import Refusal, RunSpec


def faults(run: RunSpec) -> list[str]:
    """One line for each thing that is wrong with the data of a run: field = value: rule.

    It opens the source, and reads a token file once in a process to find its largest id. Sizes that
    `scaling.spec.faults` refuses are not judged again here.
    """
    if not isinstance(run.data.source, str) or not _counts(run.model.vocab_size):
        return []
    try:
        source = open_source(run.data, run.model)
    except Refusal as refusal:
        return list(refusal.faults)
    if not _counts(run.model.context):
        return []
    lines = source.misfits(run.model)
    if isinstance(source, Corpus) and _counts(run.batch, run.steps, run.data.max_epochs, run.eval.tokens):
        lines += _size_faults(run, source)
    return lines


def _counts(*values: int) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _size_faults(run: RunSpec, source: Corpus) -> list[str]:
    context = run.model.context
    train, held_out = source.train_windows(context), source.held_out_windows(context)
    lines = [
        f"model.context = {context}: {source.name} has {tokens} {part} tokens, fewer than one window of {context + 1}"
        for part, windows, tokens in (
            ("training", train, source.train_tokens),
            ("held-out", held_out, source.held_out_tokens),
        )
        if not windows
    ]
    if train and run.steps * run.batch > train * run.data.max_epochs:
        most_steps = train * run.data.max_epochs // run.batch
        epochs = -(-run.steps * run.batch // train)
        ways = [f"steps to at most {most_steps}"] if most_steps else []
        ways.append(f"data.max_epochs to at least {epochs}")
        lines.append(
            f"steps = {run.steps}: reads {run.tokens} training tokens, and {source.name} has {train * context} "
            f"in windows of {context} and data.max_epochs = {run.data.max_epochs}; "
            f"set {' or '.join(ways)}"
        )
    if held_out and run.eval.tokens // context > held_out:
        lines.append(
            f"eval.tokens = {run.eval.tokens}: {source.name} holds out {source.held_out_tokens} tokens, "
            f"in windows of {context}; set it to at most {held_out * context}"
        )
    return lines
