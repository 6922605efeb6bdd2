"""Which runs to make: a study and its plan are values that can be printed, priced, checked and then run."""

from scaling.plan.combine import COOLDOWN as COOLDOWN
from scaling.plan.combine import isoflop as isoflop
from scaling.plan.combine import repeated as repeated
from scaling.plan.combine import straight as straight
from scaling.plan.combine import trunks as trunks
from scaling.plan.plan import Plan as Plan
from scaling.plan.plan import Planned as Planned
from scaling.plan.plan import Role as Role
from scaling.plan.rule import Rule as Rule
from scaling.plan.study import Analysis as Analysis
from scaling.plan.study import Study as Study
