"""Published exponents of the best size, N*(C) ~ C^a, to lay beside one's own: those that this project has checked."""

from dataclasses import dataclass

from scaling.fitting.published import chinchilla, porian


@dataclass(frozen=True, kw_only=True)
class Exponent:
    paper: str  # with its source
    words: str  # how it was found
    value: float
    interval: tuple[float, float] | None = None  # 95 %, where it was published


REFERENCES = (
    Exponent(paper=chinchilla.PROCEDURES["hoffmann2022-3"].paper, words="approach 3", value=chinchilla.EXPONENT),
    Exponent(
        paper=chinchilla.PROCEDURES["besiroglu2024"].paper, words="approach 3 mended: beta / (alpha + beta)",
        value=chinchilla.MENDED["beta"][0] / (chinchilla.MENDED["alpha"][0] + chinchilla.MENDED["beta"][0]),
    ),
    *(
        Exponent(paper=porian.PROCEDURES["porian2024"].paper, words=words, value=value, interval=interval)
        for words, value, interval in porian.PUBLISHED.values()
    ),
)  # fmt: skip
