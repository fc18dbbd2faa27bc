"""Writing files so that an interruption at any moment leaves the old content or all of the new."""

from __future__ import annotations

import os
from pathlib import Path

from .system import InputError


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old content or all of the new one."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {e.strerror or e}") from None
