"""The output of DFT codes through dpdata, an optional package that knows dozens of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..system import InputError
from .checks import check_frame
from .frames import Frame, System


def read_with_dpdata(path: str | Path, kind: str, type_map: Sequence[str] | None = None) -> System:
    """Every labelled frame of `path` in dpdata's format `kind` ('vasp/outcar', 'cp2k/output', …).

    dpdata's virials are eV and positive under compression, as everywhere here. Raises InputError if
    dpdata is not installed, does not know the format, or cannot read the file.
    """
    try:
        import dpdata
    except ImportError:
        raise InputError(
            f"--from {kind}: needs dpdata: pip install 'deepmd_lite[dpdata]'"
        ) from None
    from dpdata.format import Format

    known = Format.get_formats()
    if kind.lower() not in known:
        close = difflib.get_close_matches(kind.lower(), known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(sorted(known))}"
        raise InputError(f"--from {kind}: dpdata does not know this format; {hint}")
    if not Path(str(path).partition("#")[0]).exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        system = dpdata.LabeledSystem(str(path), fmt=kind.lower())
    except Exception as e:  # its parsers raise whatever they stumbled over
        reason = " ".join(str(e).split()) or "no reason given"
        raise InputError(
            f"{path}: dpdata cannot read it as {kind}: {type(e).__name__}: {reason}"
        ) from None
    frames = list(_frames(system.data, str(path)))
    if not frames:
        raise InputError(f"{path}: dpdata finds no labelled frame in it as {kind}")
    for frame in frames:
        check_frame(frame, type_map)
    return System(str(path), frames)


def _frames(data: dict[str, Any], path: str) -> list[Frame]:
    symbols = tuple(data["atom_names"][t] for t in data["atom_types"])
    pbc = np.full(3, not data.get("nopbc", False))
    frames = []
    for i, positions in enumerate(data["coords"]):
        frames.append(
            Frame(
                symbols=symbols,
                positions=np.array(positions, dtype=np.float64),
                cell=np.array(data["cells"][i], dtype=np.float64) * pbc.all(),
                pbc=pbc,
                energy=float(data["energies"][i]),
                forces=np.array(data["forces"][i], dtype=np.float64),
                virial=np.array(data["virials"][i]) if "virials" in data else None,
                source=f"{path}, frame {i}",
            )
        )
    return frames
