"""A time limit that the data alone would use up: it is told while they are read, not afterwards."""

from __future__ import annotations

import logging

from .clock import Clock, format_duration, parse_duration
from .diverged import TrainingError

log = logging.getLogger(__name__)

LEAST_SECONDS, LEAST_SHARE = 5.0, 0.3
"""Of a piece of work, from which its end is extrapolated: the first files may be the large ones."""
EVERY = 1.0
"""Seconds between two looks at the clock."""
SURE = 1.3
"""Times the limit that the extrapolation has to be: files are not even."""


class Deadline:
    """Whether a time limit leaves time for a training: a `progress.Watch` of all that precedes."""

    def __init__(self, clock: Clock, limit: float | None) -> None:
        """`limit` in seconds of the `clock`; None: any time."""
        self.clock, self.limit = clock, limit
        self._what, self._next = "", 0.0
        """The piece of work, and its second at which the clock is looked at again."""

    @classmethod
    def of_text(cls, clock: Clock, text: str | float | None) -> Deadline:
        """Of a limit as people write it; none where it is none, which somebody else will say."""
        try:
            return cls(clock, None if text is None else parse_duration(text))
        except ValueError:
            return cls(clock, None)

    def __call__(self, what: str, done: float, seconds: float) -> None:
        """Raises TrainingError where there would be no time for a step."""
        if self.limit is None:
            return
        if what != self._what:
            self._what, self._next = what, EVERY
        if seconds < self._next:
            return
        self._next = seconds + EVERY
        passed = self.clock.seconds()
        expected = passed + seconds * (1 - done) / done
        known = seconds > LEAST_SECONDS and done > LEAST_SHARE
        if passed < self.limit and not (known and expected > SURE * self.limit):
            return
        over = "are over" if passed >= self.limit else "will be over"
        limit = f"time_limit: {format_duration(self.limit)} {over} before the first step"
        if seconds < 0.5 * passed:  # where the start took the time, less data would not help
            raise TrainingError(
                f"{limit}: {format_duration(passed - seconds)} passed before this was begun: "
                f"{what}, {done:.0%} done in {format_duration(seconds)}; give a longer one"
            )
        raise TrainingError(
            f"{limit}: loading alone takes about {format_duration(expected)} or longer ({what}: "
            f"{done:.0%} done after {format_duration(passed)}); give a longer one, or fewer frames "
            "(DATA@::10 takes every tenth)"
        )


def tell_what_is_left(clock: Clock) -> None:
    """Before the first step after a restart: what it has left of a limit."""
    earlier = clock.earlier
    if clock.limit is None or not earlier:
        return
    loading = clock.seconds() - earlier
    left = max(0.0, clock.left())
    tell = log.warning if left < loading else log.info
    tell(
        "time limit of %s, all of a training together: %s passed before this restart, %s were "
        "needed to load the data again, %s are left for steps%s",
        *(format_duration(x) for x in (clock.limit, earlier, loading, left)),
        "; give a longer one" if left < loading else "",
    )
