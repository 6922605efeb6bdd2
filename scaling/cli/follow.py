"""How far a sweep is that others make, from its folder alone."""

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from scaling.plan import Plan
from scaling.record import Ledger

POLL_SECONDS = 3.0
LOOK_SHARE = 0.05  # of the time, at most, that looking takes


class Following:
    """A line that changes on a terminal, elsewhere a line when it does."""

    def __init__(self, plan: Plan, ledger: Ledger, console: Console):
        self._plan, self._ledger, self._console = plan, ledger, console
        self._left, self._last = plan, ""
        self.pause, self._due = POLL_SECONDS, 0.0  # seconds between looks, which ask for every run left
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Following":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def pending(self) -> Plan:
        """The runs without a record, as they are now; one that had a record is not looked at again."""
        began = time.monotonic()
        self._left = self._left.pending(self._ledger)
        self.pause = max(POLL_SECONDS, (time.monotonic() - began) / LOOK_SHARE)
        self._due = began + self.pause
        return self._left

    def show(self, engine: str = "") -> None:
        if time.monotonic() >= self._due:
            self.pending()
        done = len(self._plan) - len(self._left)
        line = f"{done}/{len(self._plan)} runs" + (f"; {engine}" if engine else "")
        if self._console.is_terminal:
            self._live.update(Text.from_markup(line), refresh=True)
        elif line != self._last:
            self._console.print(line, highlight=False, soft_wrap=True)
        self._last = line
