"""Writing files so that an interruption at any moment leaves the old content or all of the new."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, ClassVar

from .system import InputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new one.

    It is on the disk, name and all, when this returns. Raises InputError naming `path`.
    """
    path = Path(path)
    temporary = temporary_name(path)
    with writing(path):
        try:
            with open(temporary, "wb") as f:
                f.write(content)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
    sync_folder(path.parent)


def temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that is this thread's alone: the system numbers all threads."""
    return path.with_name(f".{path.name}.{threading.get_native_id()}")


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Inside, an OSError (no space left, no permission) becomes an InputError that names `path`."""
    try:
        yield
    except OSError as e:
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from None


@contextmanager
def results_folder(path: str | Path) -> Iterator[None]:
    """Makes the folder; what fails inside before anything is in it takes it away again.

    Raises InputError where it cannot be made.
    """
    path = Path(path)
    made = not path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{path}: cannot be made a folder: {e.strerror or e}") from None
    try:
        yield
    except BaseException:
        if made:
            with suppress(OSError):  # it is not empty
                path.rmdir()
        raise


def check_writable(path: str | Path, *, file: bool = False) -> None:
    """Raise InputError where nothing can be written into the folder `path`, or, with `file`, no
    such file: before the work whose results are to be there. Nothing is left there."""
    folder = Path(path).parent if file else Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with writing(path), TemporaryFile(dir=folder):
        pass


class InUse:
    """A folder of results that one process, and within it one `with InUse(…)`, writes into at a
    time.

    A lock (POSIX's, which ends with the process) on a hidden file that says who has it, and is
    taken away with the lock. On a file system without locks it counts that there is such a file,
    unless it is of a process of this machine that is gone.
    """

    NAME = ".in-use"
    _holders: ClassVar[dict[tuple[int, Path], InUse]] = {}
    """Who has which folder in a process: its locks do not tell its own writers apart. A fork has
    none of them."""
    _guard = threading.RLock()

    def __init__(self, folder: str | Path, hint: str = "") -> None:
        """`hint` is added to the error where another process has the folder."""
        self.path, self._hint = Path(folder) / self.NAME, hint
        self._file: IO[str] | None = None
        self._writes = False

    def __enter__(self) -> InUse:
        with self._guard:
            self.acquire()
            self._writes = True
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Keep other processes out; raises InputError, saying who, where one is in, or where this
        one writes already. Until it writes itself (`with`), another `InUse` of this process may
        take the folder over."""
        with self._guard:
            self._key = os.getpid(), self.path.parent.resolve()
            holder = self._holders.get(self._key)
            if holder is not None and holder._writes:
                raise InputError(
                    f"{self.path.parent}: this process is writing results there already, in "
                    "another thread; wait until that ends, or give another output folder"
                )
            if holder is not None and holder is not self:
                holder.release()
            self._take()
            self._holders[self._key] = self

    def _take(self) -> None:
        if self._file is not None and not self._is_there(self._file):
            self._file.close()
            self._file = None
        while self._file is None:
            file, made = self._opened()
            self._lock(file, made)
            if self._is_there(file):
                self._file = file
            else:  # who had it has taken it away meanwhile
                file.close()
        self._file.seek(0)
        self._file.truncate()
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others write; nothing where they may already."""
        with self._guard:
            self._writes = False
            if self._file is None:
                return
            if self._is_there(self._file):  # else it is the file of who came after
                with suppress(OSError):
                    self.path.unlink()
            self._file.close()
            self._file = None
            if self._holders.get(self._key) is self:
                del self._holders[self._key]

    def _opened(self) -> tuple[IO[str], bool]:
        """The file, and whether this process has made it."""
        with writing(self.path):
            while True:
                with suppress(FileExistsError):
                    return open(self.path, "x+", encoding="utf-8"), True
                with suppress(FileNotFoundError):  # it was taken away meanwhile
                    return open(self.path, "r+", encoding="utf-8"), False

    def _lock(self, file: IO[str], made: bool) -> None:
        """Raise InputError where another process has the file. Without locks, one of a process that
        is gone is removed, to be made anew."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError as e:
            has_locks = e.errno in (errno.EACCES, errno.EAGAIN)
        who = file.read().strip()
        if not has_locks and made:
            return
        if not has_locks and _is_over(who):
            if self._is_there(file):  # and not what another one has made instead
                self.path.unlink(missing_ok=True)
            return
        file.close()
        remedy = "wait until it ends, or give another output folder"
        if not has_locks:
            remedy += f"; if it has been killed, remove {self.path} (no locks on this file system)"
        raise InputError(
            f"{self.path.parent}: {who or 'another process'} is writing its results there; "
            f"{remedy}{self._hint}"
        )

    def _is_there(self, file: IO[str]) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        return False


def _is_over(who: str) -> bool:
    """Whether `who`, 'process PID on HOST', is a process of this machine that is gone, or this
    one."""
    found = re.fullmatch(r"process (\d{1,9}) on (.+)", who)
    if found is None or found[2] != socket.gethostname():
        return False
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is another user's
        return False
    return int(found[1]) == os.getpid()


def sync_file(path: str | Path) -> None:
    """Wait until what was written to `path` is on the disk; raises InputError naming it."""
    with writing(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_folder(path: str | Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system can say so."""
    with suppress(InputError):
        sync_file(path)
