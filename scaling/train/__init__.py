"""Make one run: `train(run, results=folder) -> RunRecord`. The only room with JAX in it."""

from scaling.train.failures import DiskFull as DiskFull
from scaling.train.failures import Interrupted as Interrupted
from scaling.train.failures import OutOfMemory as OutOfMemory
from scaling.train.failures import TrunkLost as TrunkLost
from scaling.train.follow import follow as follow
from scaling.train.loop import Watch as Watch
from scaling.train.loop import forget_weights as forget_weights
from scaling.train.loop import train as train
from scaling.train.loop import train_population as train_population
from scaling.train.placement import Placement as Placement
from scaling.train.population import fastest as fastest
from scaling.train.team import dismiss as dismiss
from scaling.train.team import join as join
from scaling.train.team import lead as lead
