"""What one run is: the numbers that fix its loss curve, and nothing else.

A spec is inert: it reads no file, starts nothing and never changes. Where a run executes (devices, worker, kernel)
may change the clock but not the curve, so it has no field here; `scaling.train.placement` owns it.

`faults(spec)` lists everything that is wrong with a spec, and `refuse_faulty` raises them together: a user mends a
study once, not one error at a time.
"""

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

S = TypeVar("S")

LEAST_SHARE = 1e-6  # of copies among the training tokens, and of the others


class Refusal(ValueError):
    """A request that is refused before any compute; `faults` holds one line for each thing that is wrong."""

    def __init__(self, faults: str | Iterable[str]):
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A pre-norm decoder-only transformer (arXiv:1706.03762; RMSNorm arXiv:1910.07467), and the ladder to it.

    `attention` says how tokens meet: causal (softmax), mean (the average of all values so far), window (an MLP layer
    over the last `window` positions side by side), recurrent (a GRU, arXiv:1406.1078), none (each token is predicted
    from the last one alone).
    """

    n_layers: int  # blocks, each of a meeting of tokens and an MLP
    d_model: int  # width of the residual stream
    d_ff: int  # hidden width of the MLP, of each of its two input matrices when gated
    vocab_size: int  # 256 for bytes
    context: int  # tokens that one prediction may look back on
    d_head: int = 16  # fixed while the width grows, so that attention is the same thing at every size
    attention: Literal["causal", "mean", "window", "recurrent", "none"] = "causal"
    n_kv_heads: int = 0  # causal: heads of key and value, shared by groups of queries (arXiv:2305.13245); 0: n_heads
    window: int = 0  # window: positions that meet, the token's own included
    mlp: Literal["gelu", "swiglu", "relu2"] = "gelu"  # swiglu: arXiv:2002.05202; relu2: arXiv:2109.08668
    positions: Literal["rotary", "learned", "none"] = "rotary"  # rotary: arXiv:2104.09864
    tied: bool = False  # the head reads out with the embedding table
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; weights and reductions stay float32
    weight_bits: int = 32  # of the blocks' matrices in the forward pass; below 32 rounded, gradients straight through

    @property
    def n_heads(self) -> int:
        return self.d_model // self.d_head

    @property
    def kv_heads(self) -> int:
        """Heads of key and value."""
        return self.n_kv_heads or self.n_heads


@dataclass(frozen=True, kw_only=True)
class OptimSpec:
    """How the weights move. Rates are per optimizer step; `scaling.train.parametrization` scales them by width."""

    # adamw: arXiv:1711.05101; sgd: with momentum (heavy ball), plain at momentum = 0; muon: hidden matrices by
    # orthogonalised momentum, the rest by AdamW (arXiv:2502.16982); schedule_free: AdamW without one (arXiv:2405.15682)
    name: Literal["adamw", "sgd", "muon", "schedule_free"] = "adamw"
    peak_lr: float  # at base_width; what a tensor gets at another width is the parametrization's
    # After warm-up. cosine and linear fall over the rest of the run, or of `horizon_steps`, to final_lr
    schedule: Literal["constant", "wsd", "cosine", "linear"] = "wsd"
    warmup_steps: int = 0  # of linear rise to peak_lr
    cooldown_steps: int = 0  # wsd: length of the final decay to zero (arXiv:2405.18392)
    cooldown: Literal["linear", "sqrt"] = "linear"  # wsd: its shape; sqrt is 1 - sqrt of the share that is over
    horizon_steps: int = 0  # cosine, linear: the steps that they are planned for; 0: the run's own
    final_lr: float = 0.0  # cosine, linear: where they end, as a fraction of peak_lr
    beta1: float = 0.9  # adamw, muon, schedule_free; of the first moment, per step
    beta2: float = 0.95  # likewise, of the second
    epsilon: float = 1e-8  # added to the root of the second moment
    momentum: float = 0.9  # sgd and muon
    weight_decay: float = 0.0  # per step, times the learning rate; on matrices only, whatever their width
    clip_norm: float = 1.0  # largest norm of the whole gradient
    # width: learning rates transfer across d_model; complete: across depth too (arXiv:2505.01618); standard: a control
    parametrization: Literal["width", "complete", "standard"] = "width"
    base_width: int = 16  # d_model at which all parametrizations are the same
    base_layers: int = 2  # complete: n_layers at which they are
    average: float = 0.0  # share of the steps so far that an average of the weights looks back on; 0: none is kept


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Which tokens, in which order. Sources: bytes:stdlib, text:PATH, tokens:PATH, zipf-facts (see `scaling.data`)."""

    source: str
    seed: int = 0  # of the order of the windows, of which are unique or copied, and of what is corrupted
    max_epochs: int = 1  # how often a run may read the same text, copies aside; more tokens than that are refused
    unique_tokens: int = 0  # different tokens to train on, in whole windows, copies included; 0: all that there are
    corrupted: float = 0.0  # share of the training tokens whose place is taken by any that the source uses
    # Share of the training tokens that are copies, and of how many different tokens, in whole windows
    # (arXiv:2205.10487); neither without the other
    duplicated: float = 0.0
    duplicate_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class EvalSpec:
    """What the loss is measured on: always the first `tokens` of the held-out text, cut into windows of the context."""

    tokens: int
    source: str = ""  # whose held-out text, as in `DataSpec`; empty: that of the source trained on


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a cooldown leaves its trunk."""

    trunk: str  # id of the run with a constant schedule
    step: int  # optimizer steps taken on the trunk before leaving it


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run: from these numbers its curve follows."""

    model: ModelSpec
    optim: OptimSpec
    data: DataSpec
    eval: EvalSpec
    batch: int  # sequences per optimizer step, over all devices
    steps: int  # optimizer steps, those taken on the trunk included
    seed: int = 0  # of the initial weights
    branch: Branch | None = None

    @property
    def batch_tokens(self) -> int:
        return self.batch * self.model.context

    @property
    def tokens(self) -> int:
        """D: tokens that were predicted in training, repeats included."""
        return self.steps * self.batch_tokens

    @functools.cached_property
    def id(self) -> str:
        """Twelve hex digits: equal specs, equal ids, on any machine.

        Fields at their default do not enter, so that a later version may add a field without renaming old runs; a
        default, once published, therefore never changes.
        """
        text = json.dumps(_changed(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def compiled_in(optim: OptimSpec) -> OptimSpec:
    """What of an optimizer is fixed in a compiled step; the other numbers are its arguments."""
    names = ("name", "parametrization", "base_width", "base_layers")
    fixed = {name: getattr(optim, name) for name in names}
    return OptimSpec(**fixed, average=float(optim.average > 0), peak_lr=1.0, cooldown_steps=1)


def alike(run: RunSpec) -> RunSpec:
    """What the runs of one population have in common: the shape, the data, the steps; not seeds or the optimizer's
    numbers."""
    branch = dataclasses.replace(run.branch, trunk="") if run.branch else None
    data = dataclasses.replace(run.data, seed=0)
    return dataclasses.replace(run, optim=compiled_in(run.optim), seed=0, data=data, branch=branch)


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Types by field. Kept, for a sweep's runs are read by the hundred thousand."""
    return typing.get_type_hints(kind)


class _Field(NamedTuple):
    hint: Any
    default: Any  # dataclasses.MISSING where there is none
    spec: Any  # the spec class that it holds, or None
    choices: tuple[Any, ...]  # of a Literal


@functools.cache
def _fields(kind: type) -> dict[str, _Field]:
    hints = _hints(kind)

    def of(field: dataclasses.Field) -> _Field:
        hint = hints[field.name]
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        return _Field(hint, field.default, _spec_type(hint), choices)

    return {field.name: of(field) for field in dataclasses.fields(kind)}


def _changed(spec: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, nested."""
    changed = {}
    for name, field in _fields(type(spec)).items():
        value = getattr(spec, name)
        if value != field.default:
            if dataclasses.is_dataclass(value):
                changed[name] = _changed(value)
            elif field.hint is float and isinstance(value, int):
                changed[name] = float(value)  # 1 and 1.0 are one rate
            else:
                changed[name] = value
    return changed


def to_json(spec: Any) -> dict[str, Any]:
    """Every field of a spec, defaults included, nested, as JSON values."""
    return dataclasses.asdict(spec)


def from_json(kind: type[S], values: Mapping[str, Any]) -> S:
    """A spec from what `to_json` gave, where fields with a default may be missing.

    Raises `Refusal` with a line for each name that is unknown, or missing without a default. Values are not checked:
    `faults` and `ill_typed` do that.
    """
    fields = _fields(kind)
    if values.keys() != fields.keys():
        faults = [
            f"{name}: {kind.__name__} has no such field{_did_you_mean(name, fields)}" for name in values.keys() - fields
        ]
        faults += [
            f"{name}: {kind.__name__} needs this field"
            for name, field in fields.items()
            if name not in values and field.default is dataclasses.MISSING
        ]
        if faults:
            raise Refusal(sorted(faults))
    nested = [(name, field.spec) for name, field in fields.items() if field.spec and values.get(name) is not None]
    return kind(**{**values, **{name: from_json(spec, values[name]) for name, spec in nested}})


def _spec_type(hint: Any) -> Any:
    """The spec class behind `Spec` or `Spec | None`, or None for a plain value."""
    return next((t for t in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(t)), None)


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(sorted(known))}"


def override(run: RunSpec, changes: Mapping[str, str]) -> RunSpec:
    """A run with some fields replaced, as `--set optim.peak_lr=1e-3` asks.

    Values are text and take the field's type. Raises `Refusal` naming every unknown field and ill-typed value.
    """
    faults = []
    for path, text in changes.items():
        try:
            run = _replaced(run, path.split("."), text, path)
        except Refusal as refusal:
            faults += refusal.faults
    if faults:
        raise Refusal(faults)
    return run


def _replaced(spec: S, path: list[str], text: str, whole: str) -> S:
    name, *rest = path
    hints = _hints(type(spec))
    if name == "branch":
        raise Refusal(f"--set {whole}={text}: a branch follows from the plan and cannot be set")
    if name not in hints:
        raise Refusal(f"--set {whole}={text}: {type(spec).__name__} has no field {name!r}{_did_you_mean(name, hints)}")
    inner = getattr(spec, name)
    if dataclasses.is_dataclass(inner) != bool(rest):
        wanted = (
            f"name one of its fields, e.g. {whole}.{dataclasses.fields(inner)[0].name}"
            if not rest
            else "it is a plain value"
        )  # type: ignore[arg-type]
        raise Refusal(f"--set {whole}={text}: {wanted}")
    value = _replaced(inner, rest, text, whole) if rest else _parsed(hints[name], text, whole)
    return dataclasses.replace(spec, **{name: value})  # type: ignore[type-var]


def _parsed(hint: Any, text: str, whole: str) -> Any:
    if typing.get_origin(hint) is Literal:
        if text in typing.get_args(hint):
            return text
        raise Refusal(f"--set {whole}={text}: must be one of {', '.join(typing.get_args(hint))}")
    try:
        return {"true": True, "false": False}[text.lower()] if hint is bool else hint(text)
    except (ValueError, KeyError):
        kind = {int: "a whole number", float: "a number", bool: "true or false"}[hint]
        raise Refusal(f"--set {whole}={text}: must be {kind}") from None


def refuse_faulty(runs: Iterable[RunSpec]) -> None:
    """Raise one `Refusal` with every distinct fault of these runs, or return."""
    found = dict.fromkeys(fault for run in runs for fault in faults(run))
    if found:
        raise Refusal(found)


def faults(run: RunSpec) -> list[str]:
    """One line for each thing that is wrong with a run: field = value: rule."""
    untyped = ill_typed(run)
    return untyped or [*_model_faults(run.model), *_optim_faults(run), *data_faults(run), *_run_faults(run)]


def ill_typed(spec: Any, prefix: str = "") -> list[str]:
    """One line for each field that does not hold a value of its type."""
    lines = []
    for name, (hint, _, kind, choices) in _fields(type(spec)).items():
        value = getattr(spec, name)
        if type(value) is hint and not kind and (hint is not float or math.isfinite(value)):
            continue
        path = f"{prefix}{name}"
        if kind:
            if isinstance(value, kind):
                lines += ill_typed(value, f"{path}.")
            elif value is not None or hint is kind:
                lines.append(f"{path} = {value!r}: must be a {kind.__name__}")
        elif choices:
            if value not in choices:
                lines.append(f"{path} = {value!r}: must be one of {', '.join(choices)}")
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                lines.append(f"{path} = {value!r}: must be a finite number")
        else:
            name_of = {int: "a whole number", bool: "true or false", str: "text"}[hint]
            lines.append(f"{path} = {value!r}: must be {name_of}")
    return lines


def _below(low: int, **fields: int) -> list[str]:
    return [f"{name.replace('__', '.')} = {v}: must be at least {low}" for name, v in fields.items() if v < low]


def _model_faults(m: ModelSpec) -> list[str]:
    lines = _below(1, model__n_layers=m.n_layers, model__d_model=m.d_model, model__d_ff=m.d_ff, model__d_head=m.d_head,
                   model__context=m.context)  # fmt: skip
    lines += _below(2, model__vocab_size=m.vocab_size)
    lines += _below(0, model__n_kv_heads=m.n_kv_heads, model__window=m.window)
    if not (2 <= m.weight_bits <= 8 or m.weight_bits == 32):
        lines.append(f"model.weight_bits = {m.weight_bits}: must be 2 to 8, or 32 for weights as they are")
    if m.attention == "window" and not 1 <= m.window <= m.context:
        lines.append(f"model.window = {m.window}: window attention needs 1 to model.context = {m.context} positions")
    if m.attention != "window" and m.window:
        lines.append(f"model.window = {m.window}: only attention = window has one, not {m.attention}")
    if m.attention != "causal" and m.n_kv_heads:
        lines.append(f"model.n_kv_heads = {m.n_kv_heads}: only causal attention has heads, not {m.attention}")
    if lines or m.attention != "causal":
        return lines
    if m.d_model % m.d_head:
        near = sorted({max(1, m.d_model // m.d_head) * m.d_head, (m.d_model // m.d_head + 1) * m.d_head})
        lines.append(f"model.d_model = {m.d_model}: must be a multiple of model.d_head = {m.d_head}; near: {near}")
    elif m.n_heads % m.kv_heads:
        lines.append(f"model.n_kv_heads = {m.n_kv_heads}: must divide the {m.n_heads} heads of queries")
    if m.positions == "rotary" and m.d_head % 2:
        lines.append(f"model.d_head = {m.d_head}: rotary positions turn pairs, so it must be even")
    return lines


def _optim_faults(run: RunSpec) -> list[str]:
    o = run.optim
    lines = _below(0, optim__warmup_steps=o.warmup_steps, optim__cooldown_steps=o.cooldown_steps)
    lines += _below(0, optim__horizon_steps=o.horizon_steps)
    lines += _below(1, optim__base_width=o.base_width, optim__base_layers=o.base_layers)
    for name in ("peak_lr", "epsilon", "clip_norm"):
        if getattr(o, name) <= 0:
            lines.append(f"optim.{name} = {getattr(o, name):g}: must be above 0")
    if o.peak_lr > 3e38:
        lines.append(f"optim.peak_lr = {o.peak_lr:g}: must be a float32, at most 3e38")
    for name in ("beta1", "beta2", "momentum"):
        if not 0 <= getattr(o, name) < 1:
            lines.append(f"optim.{name} = {getattr(o, name):g}: must be in [0, 1)")
    if o.weight_decay < 0:
        lines.append(f"optim.weight_decay = {o.weight_decay:g}: must be at least 0")
    for name, of in (("final_lr", "peak_lr"), ("average", "the steps so far")):
        if not 0 <= getattr(o, name) <= 1:
            lines.append(f"optim.{name} = {getattr(o, name):g}: is a fraction of {of}, so it must be in [0, 1]")
    if o.schedule != "wsd" and o.cooldown_steps:
        lines.append(f"optim.cooldown_steps = {o.cooldown_steps}: only the wsd schedule cools down, not {o.schedule}")
    if o.schedule == "wsd" and not o.cooldown_steps:
        lines.append("optim.cooldown_steps = 0: the wsd schedule needs at least 1; without a cooldown say constant")
    if o.schedule != "wsd" and o.cooldown != "linear":
        lines.append(f"optim.cooldown = {o.cooldown}: only the wsd schedule cools down, not {o.schedule}")
    if o.schedule not in ("cosine", "linear"):
        for name in ("final_lr", "horizon_steps"):
            if getattr(o, name):
                lines.append(f"optim.{name} = {getattr(o, name):g}: only cosine and linear have one, not {o.schedule}")
    elif o.horizon_steps and o.horizon_steps <= o.warmup_steps:
        lines.append(f"optim.horizon_steps = {o.horizon_steps}: must be above optim.warmup_steps = {o.warmup_steps}")
    if o.name == "schedule_free":
        if o.schedule != "constant":
            lines.append(f"optim.schedule = {o.schedule}: schedule_free takes the place of a decay; say constant")
        if o.beta1 == 0:
            lines.append("optim.beta1 = 0: schedule_free measures on the average that beta1 mixes in; must be above 0")
        if o.average:
            lines.append(f"optim.average = {o.average:g}: schedule_free is measured on its own average already")
    if o.warmup_steps + o.cooldown_steps > run.steps:
        lines.append(
            f"steps = {run.steps}: must hold warm-up and cooldown, {o.warmup_steps} + {o.cooldown_steps} steps"
        )
    return lines


def data_faults(run: RunSpec) -> list[str]:
    """Those of what a run is trained on and measured on, as far as numbers alone tell."""
    d, context = run.data, run.model.context
    lines = _below(1, data__max_epochs=d.max_epochs) + _below(0, data__seed=d.seed)
    for name in ("unique_tokens", "duplicate_tokens"):
        value = getattr(d, name)
        if value < 0 or 0 < value < context:
            lines.append(f"data.{name} = {value}: must be 0, or a window of model.context = {context} at least")
    if not 0 <= d.corrupted <= 1:
        lines.append(f"data.corrupted = {d.corrupted:g}: is a share of the training tokens, so it must be in [0, 1]")
    if d.duplicated and not LEAST_SHARE <= d.duplicated <= 1 - LEAST_SHARE:
        lines.append(
            f"data.duplicated = {d.duplicated:g}: is a share of the training tokens, so it must be 0, or from "
            f"{LEAST_SHARE:g} to 1 - {LEAST_SHARE:g}; to train on few tokens alone say data.unique_tokens"
        )
    if d.duplicated and not d.duplicate_tokens:
        lines.append(f"data.duplicated = {d.duplicated:g}: needs data.duplicate_tokens, how many tokens are copied")
    if d.duplicate_tokens and not d.duplicated:
        lines.append(f"data.duplicate_tokens = {d.duplicate_tokens}: needs data.duplicated, the share of the copies")
    if d.unique_tokens and d.duplicated and d.duplicate_tokens // context >= d.unique_tokens // context > 0:
        lines.append(
            f"data.duplicate_tokens = {d.duplicate_tokens}: are among data.unique_tokens = {d.unique_tokens} and leave "
            f"no other window of {context}"
        )
    if run.eval.source == d.source != "":
        lines.append(f"eval.source = {d.source!r}: is the source trained on; leave it empty")
    return lines


def _run_faults(run: RunSpec) -> list[str]:
    lines = _below(1, batch=run.batch, steps=run.steps)
    lines += _below(0, seed=run.seed)
    if run.seed >= 1 << 32:
        lines.append(
            f"seed = {run.seed}: must be below 2**32: weights are drawn from 32 bits, and the rest would be lost"
        )
    if run.steps >= 1 << 31:
        lines.append(f"steps = {run.steps}: must be below 2**31, as steps are counted in 32 bits")
    if run.eval.tokens < 2 * run.model.context:
        lines.append(
            f"eval.tokens = {run.eval.tokens}: must hold two windows of model.context = {run.model.context}, or the "
            "loss has no standard error"
        )
    if run.branch and not run.optim.warmup_steps <= run.branch.step <= run.steps - run.optim.cooldown_steps:
        lines.append(
            f"branch.step = {run.branch.step}: must lie between the end of warm-up ({run.optim.warmup_steps}) "
            f"and the start of the cooldown ({run.steps - run.optim.cooldown_steps})"
        )
    if run.branch and run.branch.step == 0:
        lines.append("branch.step = 0: nothing is shared with the trunk; plan the run straight")
    if run.branch and run.optim.schedule in ("cosine", "linear"):
        lines.append(
            f"optim.schedule = {run.optim.schedule}: cannot branch from a trunk, whose learning rate is constant"
        )
    return lines
