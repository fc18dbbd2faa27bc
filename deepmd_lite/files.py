"""Writing files so that an interruption at any moment leaves the old content or all of the new."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from .system import InputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new one.

    It is on the disk, name and all, when this returns. Raises InputError naming `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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
    """A folder of results that one process writes into at a time.

    A lock (POSIX's, which ends with the process) on a hidden file that says who has it, and is
    taken away with the lock. On a file system without locks nothing is guarded.
    """

    NAME = ".in-use"

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / self.NAME
        self._file: IO[str] | None = None

    def __enter__(self) -> InUse:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Begin to write; raises InputError, saying who, where another process does.

        Locks are of a process: another `InUse` of the same one may take the folder, and loses it
        when the first is released; to acquire once more makes it anew.
        """
        if self._file is not None and not self._is_there(self._file):
            self._file.close()
            self._file = None
        while self._file is None:
            with writing(self.path):
                file = open(self.path, "a+", encoding="utf-8")  # noqa: SIM115
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as e:
                if e.errno in (errno.EACCES, errno.EAGAIN):
                    file.seek(0)
                    who = file.read().strip() or "another process"
                    file.close()
                    raise InputError(
                        f"{self.path.parent}: {who} is writing its results there; wait until it "
                        "ends, or give another output folder"
                    ) from None
            if self._is_there(file):
                self._file = file
            else:  # who had it has taken it away meanwhile
                file.close()
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        """Let others write; nothing where they may already."""
        if self._file is not None:
            if self._is_there(self._file):  # else it is the file of who came after
                with suppress(OSError):
                    self.path.unlink()
            self._file.close()
            self._file = None

    def _is_there(self, file: IO[str]) -> bool:
        with suppress(OSError):
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self.path))
        return False


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
