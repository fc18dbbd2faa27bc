"""What every trajectory format can do; lives on rank 0 only."""

from __future__ import annotations

from pathlib import Path

from ...system import InputError
from .frame import Moment, Slab
from .journal import OTHERWISE, Journal


class Trajectory:
    """A file that grows by frames: `begin`, `add` for each slab in order of id, `end`.

    After `end` the frame is in the file. What is written between a `mark` and a `take_back` to it
    leaves no trace: the file is then, byte by byte, what it was.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)

    def begin(self, moment: Moment) -> None:
        """A new frame."""
        raise NotImplementedError

    def add(self, slab: Slab) -> None:
        """Its next atoms."""
        raise NotImplementedError

    def end(self) -> None:
        """All atoms are there."""
        raise NotImplementedError

    def mark(self) -> int | None:
        """Bytes of the file at this moment, to which `take_back` can return; None: no file."""
        return self.journal.mark()

    def take_back(self, size: int | None) -> None:
        """Drop what was written since the mark of `size` bytes (None: there was no file).

        Raises InputError if that cannot be done.
        """
        self.journal.take_back(size)
        if size is not None and not self.is_whole():
            raise InputError(
                f"{self.path}: cannot be taken back to the restart, for '.{self.path.name}.undo-"
                f"{size}' beside it is gone; bring that back, {OTHERWISE}"
            )

    def is_whole(self) -> bool:
        """Whether the file that was taken back can be read; text always can."""
        return True
