"""What a check says: how bad it is, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SEVERITIES = ("error", "warning", "note")
"""An error is wrong data; a warning wants a look; a note is only told."""


@dataclass(frozen=True)
class Finding:
    """One thing that was noticed in a data set."""

    severity: str
    """One of SEVERITIES."""
    code: str
    """Short name of the kind of finding, the same in every release."""
    what: str
    """Where, what was found and what was expected, in one sentence."""
    do: str = ""
    """What to do about it."""
    frames: tuple[str, ...] = ()
    """File and number of every frame that is concerned, where single frames are."""

    def line(self) -> str:
        """The finding in one line."""
        return f"{self.severity} [{self.code}] {self.what}" + (f"; {self.do}" if self.do else "")

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def named(frames: Sequence[str]) -> str:
    """The first of the frames and how many more there are."""
    more = len(frames) - 1
    return frames[0] + (f" and {more} more" if more else "")
