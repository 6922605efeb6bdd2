"""What is wrong with a run's data, found before anything is trained."""

from scaling.data.corpus import Corpus
from scaling.data.overlap import PASSAGE, trained_share
from scaling.data.sample import Sample
from scaling.data.source import Source, open_evaluated, open_source
from scaling.data.zipf_facts import ZipfFacts
from scaling.spec import Refusal, RunSpec, data_faults, ill_typed

MOST_OVERLAP = 0.1  # of a held-out text with a training text; parts of one library share less than 0.02 of theirs


def faults(run: RunSpec) -> list[str]:
    """One line for each thing that is wrong with the data of a run: field = value: rule.

    It opens the sources, reads a token file once in a process to find its largest id, and looks once for the held-out
    text of another source in the training text. Sizes that `scaling.spec.faults` refuses are not judged again here.
    """
    if ill_typed(run.data) or ill_typed(run.eval) or not _counts(run.model.vocab_size):
        return []
    lines, opened = [], []
    for opens in (lambda: open_source(run.data, run.model), lambda: open_evaluated(run))[: 1 + bool(run.eval.source)]:
        try:
            opened.append(opens())
        except Refusal as refusal:
            lines += refusal.faults
    if lines:
        return lines
    source, evaluated = opened[0], opened[-1]
    if not _counts(run.model.context):
        return []
    lines = source.misfits(run.model)
    if isinstance(source, ZipfFacts) and run.data.corrupted:
        lines.append(
            f"data.corrupted = {run.data.corrupted:g}: {source.name} has noise of its own, of which the entropy is "
            f"known: say data.source=zipf-facts:noise=0.5 and eval.source={source.name}"
        )
    if run.eval.source:
        lines += _evaluated_faults(source, evaluated)
    if _counts(run.batch, run.steps, run.eval.tokens) and not data_faults(run):
        lines += _train_faults(run, source) + _held_out_faults(run, evaluated)
    return lines


def _counts(*values: int) -> bool:
    return all(type(value) is int and value > 0 for value in values)


def _evaluated_faults(source: Source, evaluated: Source) -> list[str]:
    """Of a run that is measured on the held-out text of another source."""
    where = f"eval.source = {evaluated.name!r}"
    if isinstance(source, ZipfFacts) and isinstance(evaluated, ZipfFacts):
        if source.symbols == evaluated.symbols:
            return []
        return [f"{where}: has alphabets of {evaluated.symbols} symbols; {source.name} has {source.symbols}"]
    if not (isinstance(source, Corpus) and isinstance(evaluated, Corpus) and source.kind == evaluated.kind == "bytes"):
        return [
            f"{where}: that its tokens are those of {source.name} is not known; bytes go with bytes, zipf-facts with "
            "zipf-facts, and token ids with the val file beside their train file in tokens:FOLDER"
        ]
    share = trained_share(source, evaluated)
    if share is None or share <= MOST_OVERLAP:
        return []
    return [
        f"{where}: {share:.0%} of its held-out passages of {PASSAGE} bytes are in the training text of {source.name}, "
        f"more than {MOST_OVERLAP:.0%}; name a text that is not trained on"
    ]


def _train_faults(run: RunSpec, source: Source) -> list[str]:
    data, context = run.data, run.model.context
    sample, has = source.sample(data, context), source.name
    if isinstance(source, Corpus):
        windows = source.train_windows(context)
        if not windows:
            return [_no_window(source.name, context, "training", source.train_tokens)]
        there = f"{source.name} has {windows * context} training tokens in windows of {context}"
        if data.unique_tokens // context > windows:
            return [f"data.unique_tokens = {data.unique_tokens}: {there}; set it to at most {windows * context}"]
        if sample.copied >= windows:
            return [f"data.duplicate_tokens = {data.duplicate_tokens}: {there}, and not all can be copied"]
    rest = _rest(sample, run.steps * run.batch)
    if sample.others is None or rest <= sample.others * data.max_epochs:
        return []
    if data.unique_tokens:
        has = f"data.unique_tokens = {data.unique_tokens}"
    beside = f" beside {sample.copies(run.steps * run.batch) * context} of copies" if sample.copied else ""
    most_steps, epochs = _most_steps(sample, run), -(-rest // sample.others)
    ways = [f"steps to at most {most_steps}"] if most_steps else []
    ways.append(f"data.max_epochs to at least {epochs}")
    return [
        f"steps = {run.steps}: reads {rest * context} training tokens{beside}, and {has} has "
        f"{sample.others * context} in windows of {context} and data.max_epochs = {data.max_epochs}; "
        f"set {' or '.join(ways)}"
    ]


def _rest(sample: Sample, rows: int) -> int:
    """Rows that are no copies."""
    return rows - sample.copies(rows)


def _most_steps(sample: Sample, run: RunSpec) -> int:
    """The most steps that read no other window more often than allowed."""
    assert sample.others is not None
    allowed, low, high = sample.others * run.data.max_epochs, 0, run.steps
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _rest(sample, middle * run.batch) <= allowed else (low, middle)
    return low


def _held_out_faults(run: RunSpec, source: Source) -> list[str]:
    context = run.model.context
    if not isinstance(source, Corpus):
        return []
    if not (windows := source.held_out_windows(context)):
        return [_no_window(source.name, context, "held-out", source.held_out_tokens)]
    if run.eval.tokens // context <= windows:
        return []
    return [
        f"eval.tokens = {run.eval.tokens}: {source.name} holds out {source.held_out_tokens} tokens, "
        f"in windows of {context}; set it to at most {windows * context}"
    ]


def _no_window(name: str, context: int, part: str, tokens: int) -> str:
    return f"model.context = {context}: {name} has {tokens} {part} tokens, fewer than one window of {context + 1}"
