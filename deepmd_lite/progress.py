"""How far long work is: a bar on a terminal, elsewhere (a batch job) a line now and then.

Work that is over within `SECONDS` says nothing there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from time import monotonic
from typing import Protocol, TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)
T = TypeVar("T")

SECONDS = 30.0
"""Between two lines, and before the first."""
OFTEN, PERIOD = "often", 10.0
"""Attribute of a record in the log that is one of many alike; seconds between two that `telling`
shows."""


def on_terminal() -> bool:
    """Whether a bar on standard error is seen; a batch job may even have none (`2>&-`)."""
    return sys.stderr is not None and sys.stderr.isatty()


class _NowAndThen(logging.Filter):
    """Of the lines that come `OFTEN`, one in `PERIOD` seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._told = -PERIOD

    def filter(self, record: logging.LogRecord) -> bool:
        if not getattr(record, OFTEN, False):
            return True
        if record.created - self._told < PERIOD:
            return False
        self._told = record.created
        return True


@contextmanager
def telling(quiet: bool) -> Iterator[None]:
    """Inside, the lines of the log are shown on standard error where nobody has set up logging,
    now and then those that come often.

    With `quiet` nothing changes: of itself Python shows warnings.
    """
    package, root = logging.getLogger("deepmd_lite"), logging.getLogger()
    if quiet or package.hasHandlers():
        yield
        return
    level, shown = package.level, logging.StreamHandler()
    shown.addFilter(_NowAndThen())
    package.setLevel(level or logging.INFO)
    root.addHandler(shown)  # there tqdm looks for the one that must not write across a bar
    try:
        yield
    finally:
        root.removeHandler(shown)
        package.setLevel(level)


class Watch(Protocol):
    """Who is asked again and again whether work may go on; whatever it raises ends the work."""

    def __call__(self, what: str, done: float, seconds: float) -> None:
        """`done`: share of the work, which took `seconds`."""


class Progress:
    """Work of a known or unknown number of items; a context, which takes the bar away again."""

    def __init__(
        self,
        what: str,
        total: int | None,
        *,
        unit: str = "frame",
        quiet: bool = False,
        watch: Watch | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """`what` is done to each `unit`, 'neighbour lists' say; `clock`: seconds, for tests."""
        self.what, self.total, self.unit = what, total, unit
        self._plain, self._quiet, self._watch = not on_terminal(), quiet, watch
        self._clock = clock
        self._done = 0
        self._share: float | None = None
        self._started = self._told = clock()
        self._bar = tqdm(
            total=total, desc=what, unit=unit, leave=False, disable=quiet or self._plain
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()

    def advance(self, n: int = 1, share: float | None = None) -> None:
        """`n` more are done; with `share` (of all the work) where their number is not known."""
        self._done += n
        if share is not None:
            self._share = min(share, 1.0)
            if share > 0:
                self._bar.total = self.total = max(self._done, round(self._done / share))
        self._bar.update(n)
        now = self._clock()
        done = self._fraction()
        if self._watch is not None and done:
            self._watch(self.what, done, now - self._started)
        if self._plain and not self._quiet and now - self._told >= SECONDS:
            self._told = now
            log.info("%s", self._line(now - self._started))

    def _fraction(self) -> float:
        """Share that is done; 0 where nobody knows."""
        if self._share is not None:
            return self._share
        return min(1.0, self._done / self.total) if self.total else 0.0

    def _line(self, seconds: float) -> str:
        done = self._fraction()
        units = f"{self.unit}s"
        if not done:
            return f"{self.what}: {self._done} {units} in {tqdm.format_interval(seconds)}"
        about = "about " if self._share is not None else ""
        left = tqdm.format_interval(seconds * (1 - done) / done)
        return f"{self.what}: {self._done} of {about}{self.total} {units}, {left} left"


def progress(
    items: Iterable[T],
    what: str,
    total: int | None = None,
    *,
    unit: str = "frame",
    quiet: bool = False,
    watch: Watch | None = None,
) -> Iterator[T]:
    """`items`, one after another, and how far they are; `total`: their number, if len is none."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with Progress(what, total, unit=unit, quiet=quiet, watch=watch) as told:
        for item in items:
            yield item
            told.advance()
