"""The model files that DeePMD-kit wrote (`golden/files/make.py`)."""

import lzma
from pathlib import Path

from deepmd_lite.interop.graph_file import read_graph
from deepmd_lite.interop.torch_file import read_torch

GOLDEN = Path(__file__).parent / "golden" / "files"


def unpacked(name: str, folder: Path) -> Path:
    """A golden file as it was."""
    path = folder / name
    path.write_bytes(lzma.decompress((GOLDEN / f"{name}.xz").read_bytes()))
    return path


def read(path: Path):
    return read_graph(path) if path.suffix == ".pb" else read_torch(path)
