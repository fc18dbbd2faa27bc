"""Writing files so that an interruption at any moment leaves the old content or all of the new."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

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
