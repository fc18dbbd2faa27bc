"""Ctrl-C, SIGTERM and SIGUSR1 end a training between two steps instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupt:
    """Within `with Interrupt() as interrupt`, `interrupt.received` is the signal that came.

    A second Ctrl-C acts at once. Whoever calls with a handler of their own of another signal has it
    called in the end, for one that came. Off the main thread, where Python handles no signals,
    nothing is changed and nothing is ever received.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = {s: signal.signal(s, self._receive) for s in self.SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        received = self.received
        if received not in (None, signal.SIGINT) and callable(self._previous[received]):
            signal.raise_signal(received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
