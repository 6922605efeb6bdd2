"""Make one run: `train(run, results=folder) -> RunRecord`. The only room with JAX in it."""

from scaling.train.loop import Interrupted as Interrupted
from scaling.train.loop import Watch as Watch
from scaling.train.loop import forget_weights as forget_weights
from scaling.train.loop import train as train
from scaling.train.loop import train_population as train_population
from scaling.train.placement import Placement as Placement
from scaling.train.population import fastest as fastest
