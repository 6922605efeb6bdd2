"""What a run showed, and the results folder that keeps it. Files are the truth; nothing here needs JAX."""

from scaling.record.failure import Failure as Failure
from scaling.record.ledger import Ledger as Ledger
from scaling.record.run_record import Clock as Clock
from scaling.record.run_record import RunRecord as RunRecord
from scaling.record.tuning import Tuning as Tuning
