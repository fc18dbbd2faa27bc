"""Wall time of a training: durations as people write them, and how much of the limit is gone."""

from __future__ import annotations

import re
from time import monotonic

_NUMBER = r"(\d+(?:\.\d+)?)"
_DURATION = re.compile(rf"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?")
_PLAIN = re.compile(_NUMBER)


def parse_duration(value: str | int | float) -> float:
    """Seconds of '90s', '30m', '2h', '1h30m', or of a plain number (of seconds).

    Raises ValueError for anything else, and for a duration that is not positive.
    """
    text = str(value).strip().lower()
    if isinstance(value, bool) or not text:
        raise ValueError("expected a duration such as 90s, 30m, 2h or 1h30m")
    plain, parts = _PLAIN.fullmatch(text), _DURATION.fullmatch(text)
    if plain is not None:
        seconds = float(text)
    elif parts is not None:
        units = zip(parts.groups(), (3600.0, 60.0, 1.0), strict=True)
        seconds = sum(float(number) * unit for number, unit in units if number is not None)
    else:
        raise ValueError("expected a duration such as 90s, 30m, 2h, 1h30m or a number of seconds")
    if seconds <= 0:
        raise ValueError("expected a duration longer than 0 s")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest of '45s', '30m', '1h30m', '1h30m5s' for `seconds`, rounded to whole ones."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    parts = [f"{n}{unit}" for n, unit in ((hours, "h"), (minutes, "m"), (rest, "s")) if n]
    return "".join(parts) or "0s"


class Clock:
    """Seconds that a training has taken, those before a restart included, and its limit."""

    def __init__(self, started: float | None = None) -> None:
        """`started`: the `time.monotonic()` from which it counts; default now."""
        self.limit: float | None = None
        """Seconds that the whole training may take; None: any number."""
        self.earlier = 0.0
        """Seconds of the segments before this one."""
        self.preparation = 0.0
        """Seconds, of all segments, before their first steps."""
        self.reserve = 0.0
        """Seconds at the end of the limit that are kept free for writing the results."""
        self._started = monotonic() if started is None else started

    def seconds(self) -> float:
        """Taken so far."""
        return self.earlier + monotonic() - self._started

    def steps_begin(self) -> None:
        """What has passed of this segment was preparation."""
        self.preparation += monotonic() - self._started

    def left(self) -> float:
        """Seconds that steps may still take; infinite without a limit."""
        if self.limit is None:
            return float("inf")
        return self.limit - self.reserve - self.seconds()

    def share(self) -> float:
        """Share of the time for steps that has passed, at least 1 when it is up; 0 without a limit.

        That time is the limit less preparation and reserve: the first step is at 0. Where nothing
        remains of it the share is 1.
        """
        if self.limit is None:
            return 0.0
        available = self.limit - self.preparation - self.reserve
        return (self.seconds() - self.preparation) / available if available > 0 else 1.0
