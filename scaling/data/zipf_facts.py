"""`zipf-facts`: an endless source whose entropy is known exactly.

The text is a stream of records (a, b, z). The key (a, b) is drawn independently with a Zipf law over its rank, as in
the Santa Fe process (Debowski, arXiv:2512.13491; the learning theory is Hutter, arXiv:2102.04074): frequent facts are
learned early, rare ones late. z is the fact of that key, or noise. The alphabets of a, b and z are disjoint, so the
place within a record is never in doubt. Keys are scattered over the pairs, so frequent facts can be guessed from a or
from b alone, and the rest need both.

Suffixes: R rows, L = context targets of a row, T = context + 1 tokens, M records that a row touches, K keys.
"""

import difflib
import functools
import math
from dataclasses import dataclass

import numpy as np

from scaling.data.order import draws, key, mix
from scaling.data.sample import Sample
from scaling.spec import DataSpec, ModelSpec, Refusal

_MAX_SYMBOLS = 2048  # the tables of symbols^2 keys stay below 200 MB
_HELD_OUT_FROM = 1 << 61  # training reads the records below, evaluation those from here on
_PLACES = 3  # tokens of a record


@dataclass(frozen=True, kw_only=True, eq=False)
class ZipfFacts:
    """A source of endlessly many tokens (see `scaling.data.source` for what is asked of it)."""

    name: str = "zipf-facts"
    skew: float = 0.6  # p(key of rank r) is proportional to r^-(1 + skew)
    noise: float = 0.1  # probability that z is uniform instead of the fact
    symbols: int = 64  # in each of the three alphabets

    train_tokens: None = None  # endless
    held_out_tokens: int = _PLACES * _HELD_OUT_FROM  # more than any run asks for
    bytes_per_token: None = None

    @property
    def vocab_size(self) -> int:
        return _PLACES * self.symbols

    @property
    def dtype(self) -> np.dtype:
        return np.min_scalar_type(self.vocab_size - 1)

    @functools.cached_property
    def key_prob_K(self) -> np.ndarray:
        """Probability of each key by rank, most frequent first."""
        weight_K = np.arange(1, self.symbols**2 + 1, dtype=np.float64) ** -(1 + self.skew)
        return weight_K / weight_K.sum()

    @functools.cached_property
    def _cumulative_K(self) -> np.ndarray:
        cumulative_K = np.cumsum(self.key_prob_K)
        return cumulative_K / cumulative_K[-1]

    @functools.cached_property
    def facts_Kx3(self) -> np.ndarray:
        """Tokens (a, b, z) of each key by rank when there is no noise; the same whatever the data seed."""
        index_K = np.arange(self.symbols**2, dtype=np.uint64)
        place_K = np.argsort(mix(index_K ^ np.uint64(key("zipf-facts keys"))))  # hashes of a bijection: no ties
        fact_K = mix(index_K ^ np.uint64(key("zipf-facts values"))) % np.uint64(self.symbols)
        a_K, b_K = np.divmod(place_K, self.symbols)
        token_3xK = np.stack([a_K, b_K + self.symbols, fact_K.astype(np.int64) + 2 * self.symbols])
        return np.ascontiguousarray(token_3xK.T, self.dtype)

    @property
    def _fact_prob(self) -> float:
        """p(z is the fact | key): noise may hit the fact by chance."""
        return 1 - self.noise + self.noise / self.symbols

    @functools.cached_property
    def entropy(self) -> float:
        """Nats per token: a third of the entropy of a key plus that of z given its key."""
        other = self.noise / self.symbols
        h_key = -float(np.sum(self.key_prob_K * np.log(self.key_prob_K)))
        h_fact = -self._fact_prob * math.log(self._fact_prob) if self._fact_prob else 0.0
        h_noise = -(self.symbols - 1) * other * math.log(other) if other else 0.0
        return (h_key + h_fact + h_noise) / _PLACES

    @functools.cached_property
    def provenance(self) -> dict[str, str]:
        options = {"skew": self.skew, "noise": self.noise, "symbols": self.symbols}
        return {"source": self.name, "entropy": repr(self.entropy), **{k: repr(v) for k, v in options.items()}}

    def sample(self, data: DataSpec, context: int) -> Sample:
        return Sample.of(data, context, None)

    def train_rows(self, row_R: np.ndarray, context: int, data: DataSpec) -> np.ndarray:
        """[R, context + 1] tokens of these rows of a run on the stream that `data.seed` names."""
        first_R = self.sample(data, context).visited(row_R) * self._records(context)
        return self._rows(key("zipf-facts train", data.seed), first_R, context)

    def held_out_rows(self, row_R: np.ndarray, context: int) -> np.ndarray:
        """[R, context + 1] tokens of these held-out windows, the same for every data seed."""
        first_R = _HELD_OUT_FROM + row_R * self._records(context)
        return self._rows(key("zipf-facts held out"), first_R, context)

    def _records(self, context: int) -> int:
        """Records by which one window follows another; neighbours share a token, as windows of a text do."""
        if context % _PLACES:
            raise Refusal(self._context_fault(context))
        return context // _PLACES

    def _context_fault(self, context: int) -> str:
        low = context - context % _PLACES
        near = ", ".join(str(n) for n in (low, low + _PLACES) if n)
        return f"model.context = {context}: {self.name} has records of 3, so it must be a multiple of 3; near: {near}"

    def _rows(self, stream: int, first_R: np.ndarray, context: int) -> np.ndarray:
        record_RxM = first_R[:, None] + np.arange(context // _PLACES + 1)  # of the last one only a is used
        record_N = record_RxM.ravel().astype(np.uint64)
        rank_N = np.searchsorted(self._cumulative_K, draws(stream, 2 * record_N), side="right")
        token_Nx3 = self.facts_Kx3[rank_N]
        if self.noise:
            # The part of [0, 1) above 1 - noise is cut into one interval for each symbol.
            above_N = (draws(stream, 2 * record_N + 1) - (1 - self.noise)) * (self.symbols / self.noise)
            noisy_N = np.flatnonzero(above_N >= 0)
            symbol_N = np.minimum(above_N[noisy_N].astype(np.int64), self.symbols - 1)
            token_Nx3[noisy_N, 2] = (symbol_N + 2 * self.symbols).astype(self.dtype)
        return token_Nx3.reshape(len(first_R), -1)[:, : context + 1]

    def log_prob(self, token_RxT: np.ndarray) -> np.ndarray:
        """[R, context] log-probability of tokens 1 .. context given all before them, in nats, float64.

        Records are independent, so p(b | a), p(z | a, b) and p(a) is all there is.
        """
        s = self.symbols
        prob_axb, fact_axb = np.zeros((s, s)), np.zeros((s, s), np.int64)
        a_K, b_K, z_K = self.facts_Kx3.T.astype(np.int64)
        prob_axb[a_K, b_K - s], fact_axb[a_K, b_K - s] = self.key_prob_K, z_K
        prob_a = prob_axb.sum(axis=1)

        token_RxT = token_RxT.astype(np.int64)
        a, b, z, next_a = (token_RxT[:, start::3] for start in (0, 1, 2, 3))
        a, b = a[:, : b.shape[1]], b - s
        log_prob_RxL = np.empty((len(token_RxT), token_RxT.shape[1] - 1))
        with np.errstate(divide="ignore"):  # log 0 = -inf is the answer where there is no noise
            log_prob_RxL[:, 0::3] = np.log(prob_axb[a, b] / prob_a[a])
            is_fact = z == fact_axb[a, b]
            log_prob_RxL[:, 1::3] = np.where(is_fact, np.log(self._fact_prob), np.log(self.noise / s))
            log_prob_RxL[:, 2::3] = np.log(prob_a[next_a])
        return log_prob_RxL

    def misfits(self, model: ModelSpec) -> list[str]:
        """What keeps this model from reading this source, one line each."""
        lines = []
        if model.vocab_size != self.vocab_size:
            lines.append(
                f"model.vocab_size = {model.vocab_size}: {self.name} has 3 alphabets of {self.symbols} symbols, "
                f"so it must be {self.vocab_size}"
            )
        if model.context % _PLACES:
            lines.append(self._context_fault(model.context))
        return lines


@functools.lru_cache(maxsize=8)
def open_zipf_facts(name: str, argument: str) -> ZipfFacts:
    """The source that options such as `skew=0.6,noise=0.1,symbols=64` describe; what is not said keeps its default."""
    where = f"data.source = {name!r}"
    kinds = {"skew": float, "noise": float, "symbols": int}
    values, faults = {}, []
    for option in argument.split(",") if argument else []:
        label, _, text = option.partition("=")
        if label not in kinds:
            near = difflib.get_close_matches(label, kinds, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(kinds)}"
            faults.append(f"{where}: zipf-facts has no option {label!r}; {hint}")
            continue
        try:
            values[label] = kinds[label](text)
        except ValueError:
            kind = "a whole number" if kinds[label] is int else "a number"
            faults.append(f"{where}: {label} = {text!r} must be {kind}")
    source = ZipfFacts(name=name, **values)
    if not 0 <= source.noise <= 1:
        faults.append(f"{where}: noise = {source.noise:g} is a probability, so it must be in [0, 1]")
    if not -1 <= source.skew <= 10:
        faults.append(f"{where}: skew = {source.skew:g} must be in [-1, 10]; -1 makes all keys equally frequent")
    if not 2 <= source.symbols <= _MAX_SYMBOLS:
        faults.append(f"{where}: symbols = {source.symbols} must be in [2, {_MAX_SYMBOLS}]")
    if faults:
        raise Refusal(faults)
    return source
