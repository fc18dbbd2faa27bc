"""Stopping a run from outside, between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What batch systems send before they end a job, and Ctrl-C. Slurm's `--signal=USR1@120` gives two
minutes' notice; its own warning is SIGTERM."""


class StopRequest:
    """While open, SIGTERM, SIGUSR1 and Ctrl-C (SIGINT) are remembered instead of acted upon.

    A second Ctrl-C interrupts at once. A signal on which the ranks have not agreed before the end
    is delivered then. Outside the main thread Python allows no handlers; there nothing is caught.
    """

    def __init__(self) -> None:
        self.number = 0
        """Number of the signal that this process has had; 0: none."""
        self.agreed = 0
        """Number of the signal that all ranks obey; set by them all at the same step."""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in HEEDED:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self.number and not self.agreed:
            signal.raise_signal(self.number)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.number == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    @staticmethod
    def act_upon(name: str | None) -> None:
        """End a program that goes on after a run that a signal has ended, as the signal would."""
        if name == "SIGINT":
            raise KeyboardInterrupt
        if name is not None:
            raise SystemExit(128 + signal.Signals[name])

    @property
    def name(self) -> str | None:
        """Name of the signal that all ranks obey: SIGTERM, SIGUSR1, SIGINT or None."""
        return signal.Signals(self.agreed).name if self.agreed else None
