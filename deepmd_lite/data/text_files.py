"""Text files, packed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

OPENERS: dict[str, Callable[..., IO[str]]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
DAMAGED = (EOFError, lzma.LZMAError, zlib.error, OSError)
"""What they raise for a file that is not whole."""


def open_text(path: Path) -> IO[str]:
    """A seekable text stream. Compressed text is unpacked first: seeking in it is quadratic."""
    if path.suffix not in OPENERS:
        return path.open(encoding="utf-8")
    with OPENERS[path.suffix](path, "rt", encoding="utf-8") as packed:
        return io.StringIO(packed.read())


def lines_of(path: Path) -> IO[str]:
    """A stream to be read once from the beginning, whatever bytes are in it."""
    return OPENERS.get(path.suffix, open)(path, "rt", encoding="utf-8", errors="replace")
