"""Going back to what a file was at a restart, byte by byte, whatever happened since.

A file that only grows is cut. One that is also changed in the middle (the index of an ASE
trajectory, the metadata of HDF5) needs a rollback journal as databases have it: before a page that
was there at the mark is overwritten, its bytes are appended to a file beside it,
`.NAME.undo-SIZE`, where SIZE is the length of the file at the mark. A process that is killed
at any moment leaves a file and journals from which `take_back` makes every mark that is kept.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

from ...system import InputError

PAGE = 4096
OTHERWISE = (
    "or, where it is a trajectory, go on without it in another format (output: {format: …}); from "
    "Python a run can go on in a new folder: Simulation(…, resume=…, output=…)"
)
"""What can be done where a file is not as a restart needs it."""
KEPT = 3
"""Marks one can return to: two restart files, and one that was being written."""


class Journal:
    """The marks of one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mark = 0
        self._saved: set[int] = set()  # pages of the present mark that are in its journal

    def mark(self) -> int | None:
        """Make the present state one to return to; its length in bytes, None without a file."""
        if not self.path.exists():
            return None
        with open(self.path, "rb") as f:
            os.fsync(f.fileno())
        size = self.path.stat().st_size
        if size != self._mark:
            self._mark, self._saved = size, set()
            self._undo(size).unlink(missing_ok=True)
        for size in self._marks()[: -(KEPT - 1)]:  # the present one has no journal yet, perhaps
            self._undo(size).unlink(missing_ok=True)
        return self._mark

    def keep(self, start: int, stop: int) -> None:
        """Bytes start … stop − 1 are about to be overwritten: save those that the mark had."""
        pages = range(start // PAGE, -(-min(stop, self._mark) // PAGE))
        new = [page for page in pages if page not in self._saved]
        if not new:
            return
        with open(self.path, "rb") as source, open(self._undo(self._mark), "ab") as undo:
            for page in new:
                source.seek(page * PAGE)
                length = min(PAGE, self._mark - page * PAGE)
                content = source.read(length).ljust(PAGE, b"\0")
                undo.write(page.to_bytes(8, "little") + content)
        self._saved.update(new)

    def take_back(self, size: int | None) -> None:
        """Make the file what it was at the mark of `size` bytes; None: there was none.

        Raises InputError if the file, or the journal that this needs, is gone. Interrupted, it can
        be repeated.
        """
        if size is None:
            self.path.unlink(missing_ok=True)
        elif not self.path.exists():
            raise InputError(
                f"{self.path}: is not there any more, and a run adds to the files it has; bring it "
                f"back (a link to it will do), {OTHERWISE}"
            )
        elif self.path.stat().st_size < size:
            raise InputError(
                f"{self.path}: is shorter than the {size} bytes it had at the restart; bring the "
                f"whole file back, {OTHERWISE}"
            )
        else:
            self._restore(size)
        for later in self._marks():
            if size is None or later > size:
                self._undo(later).unlink()
        self._mark = size or 0
        self._saved = {page for page, _ in self._pages(self._mark)}

    def _restore(self, size: int) -> None:
        with open(self.path, "r+b") as f:
            for mark in reversed(self._marks()):
                for page, content in self._pages(mark) if mark >= size else ():
                    f.seek(page * PAGE)
                    f.write(content[: mark - page * PAGE])
            f.truncate(size)
            f.flush()
            os.fsync(f.fileno())

    def _undo(self, size: int) -> Path:
        return self.path.with_name(f".{self.path.name}.undo-{size}")

    def _marks(self) -> list[int]:
        """Sizes for which there is a journal, ascending."""
        found = self.path.parent.glob(f".{self.path.name}.undo-*")
        return sorted(int(p.name.rpartition("-")[2]) for p in found)

    def _pages(self, size: int) -> list[tuple[int, bytes]]:
        """Pages in the journal of a mark; one that was cut short had not been overwritten yet."""
        if not self._undo(size).exists():
            return []
        content, record = self._undo(size).read_bytes(), 8 + PAGE
        whole = [content[i : i + record] for i in range(0, len(content) - record + 1, record)]
        return [(int.from_bytes(r[:8], "little"), r[8:]) for r in whole]


class JournalledFile(io.RawIOBase):
    """An open file, made where there is none, whose overwritten pages go to a `Journal` first.

    HDF5 cannot let go of a file that it cannot write: it would end the process instead. So a write
    that fails is noted in `failure`, the following ones do nothing, and whoever has closed HDF5's
    side raises it.
    """

    def __init__(self, journal: Journal) -> None:
        self.failure: OSError | None = None
        self._journal = journal
        self._file = io.FileIO(journal.path, "r+" if journal.path.exists() else "w+")

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        return self._file.readinto(buffer) or 0

    def write(self, content: bytes) -> int:  # type: ignore[override]
        start, view = self._file.tell(), memoryview(content).cast("B")
        try:
            if self.failure is None:
                self._journal.keep(start, start + len(view))
                done = 0
                while done < len(view):  # an unbuffered file may take less than it is given
                    done += self._file.write(view[done:])
        except OSError as e:
            self.failure = e
        return len(view)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def truncate(self, size: int | None = None) -> int:
        size = self.tell() if size is None else size
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self.failure is None:
                self._journal.keep(size, end)
                self._file.truncate(size)
        except OSError as e:
            self.failure = e
        return size

    def close(self) -> None:
        self._file.close()
        super().close()
