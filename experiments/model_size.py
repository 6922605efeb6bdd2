"""What does model size buy when the data stay the same?

scaling run model_size      22 runs, 3e14 FLOPs, 90 minutes on 2 shared cores
Result: by width, L(N) = E + A / N^0.46 [0.37, 0.58] over 2.5 decades at 7M bytes, and 0.33 or 0.53 where the head is
left out of N or the embedding counted in; ten times the largest fitted size, 4.76M parameters, was forecast at 1.240
nats a byte [1.182, 1.302] and measured 1.248, 0.6 % off. From two layers on parameters in depth, at width 40, are worth
those in width or a little more (sixteen layers, 317k parameters: 1.309, where the law of width says 1.321); what their
own exponent is five sizes cannot tell.

scaling run model_size --size gpu --workers 8      23 runs, 5.2e16 FLOPs, 10 minutes on an H100, 16 cores
Result: by width, E + A / N^0.47 [0.41, 0.54] over 2.6 decades at 64M bytes. Runs of 2.9 and of 9.9 times the largest
fitted size, 20.8M and 71.3M parameters, were forecast 1.0 % too high, inside, and 2.0 % too high, outside the interval:
one law alone could be told from the ladder, and its floor, 1.313 nats, is above the loss of the second run, 1.300.

One epoch for every size; the rate is tuned at width 16 and two layers and carried to other widths and depths by the
parametrization (experiments/transfer.py). gpu: any text of 70 MB, at corpus.txt or where --set data.source=text:PATH
says. pod: 2e10 tokens of a vocabulary of 32,768 under corpus/, and a tuned base; it is planned and was not run.
"""

from collections.abc import Sequence
from dataclasses import replace

from scaling.cost import at_width
from scaling.plan import Analysis, Study, repeated, straight
from scaling.spec import DataSpec, EvalSpec, ModelSpec, OptimSpec, RunSpec


def study(
    name: str,
    base: RunSpec,
    tokens: float,
    *,
    widths: Sequence[int],
    seeds: Sequence[int],  # widths trained twice more
    ahead: Sequence[int],  # the widths that are forecast
    depths: Sequence[int],
    deep: int,  # their width, in no other ladder
) -> Study:
    def wide(each: Sequence[int]) -> list[ModelSpec]:
        return [at_width(base.model, width) for width in each]

    layers = [replace(at_width(base.model, deep), n_layers=n) for n in depths]
    return Study(
        name=name,
        question="What does model size buy when the data stay the same?",
        plan=straight(base, wide(widths), [tokens], group="width")
        + repeated(straight(base, wide(seeds), [tokens], group="width"), seeds=[1, 2])
        + straight(base, layers, [tokens], group="depth", role="compare"),
        held_out=straight(base, wide(ahead), [tokens], group="width", role="held_out"),
        analysis=Analysis(laws=(), ladders={"width": "n", "depth": "n"}),
    )


TINY = RunSpec(
    model=ModelSpec(n_layers=2, d_model=16, d_ff=64, d_head=4, vocab_size=256, context=32),
    optim=OptimSpec(peak_lr=5e-3, warmup_steps=100, beta2=0.99, parametrization="complete"),
    data=DataSpec(source="bytes:stdlib"),
    eval=EvalSpec(tokens=262_144),
    batch=8,
    steps=1,
)
# Rate, batch and warm-up of the runs of as many bytes in `scaling run compute --size gpu`.
SMALL = RunSpec(
    model=ModelSpec(
        n_layers=4, d_model=64, d_ff=256, d_head=16, vocab_size=256, context=64, compute_dtype="bfloat16"
    ),
    optim=OptimSpec(
        peak_lr=4.3e-3, warmup_steps=300, beta2=0.96, parametrization="complete", base_width=64, base_layers=4
    ),
    data=DataSpec(source="text:corpus.txt"),
    eval=EvalSpec(tokens=1_048_576),
    batch=128,
    steps=1,
)  # fmt: skip
LARGE = RunSpec(
    model=ModelSpec(
        n_layers=12, d_model=512, d_ff=2048, d_head=64, vocab_size=32_768, context=2048, compute_dtype="bfloat16"
    ),
    optim=OptimSpec(peak_lr=4e-3, warmup_steps=1000, parametrization="complete", base_width=512, base_layers=12),
    data=DataSpec(source="tokens:corpus"),
    eval=EvalSpec(tokens=8_388_608),
    batch=512,
    steps=1,
)

STUDIES = {
    "laptop": study(
        "model_size", TINY, 7e6, widths=(4, 8, 12, 16, 24, 32, 48, 64, 96, 136), seeds=(8, 32, 96), ahead=(440,),
        depths=(1, 2, 4, 8, 16), deep=40,
    ),
    "gpu": study(
        "model_size-gpu", SMALL, 6.4e7, widths=(16, 32, 48, 64, 96, 128, 192, 256, 384), seeds=(32, 96, 256),
        ahead=(656, 1216), depths=(1, 2, 4, 8, 16, 32), deep=160,
    ),
    "pod": study(
        "model_size-pod", LARGE, 2e10, widths=(128, 192, 256, 384, 512, 768, 1024, 1536, 2048), seeds=(192, 512, 1024),
        ahead=(6464,), depths=(3, 6, 12, 24, 48), deep=1280,
    ),
}  # fmt: skip
