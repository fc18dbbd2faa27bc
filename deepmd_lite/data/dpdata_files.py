"""The output of DFT codes through dpdata, an optional package that knows dozens of them."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..system import InputError
from .checks import check_frame
from .dft_output import code_of, converged
from .frames import Frame, System

XML = ("vasp/xml", "xml")
SIESTA = ("siesta/output", "siesta/aimd_output")


def read_with_dpdata(path: str | Path, kind: str, type_map: Sequence[str] | None = None) -> System:
    """Every labelled frame of `path` in dpdata's format `kind` ('vasp/outcar', 'cp2k/output', …).

    Frames stay as the code printed them: dpdata would turn them. Its virials are eV and positive
    under compression, as everywhere here, but for SIESTA, where they are left out. ASE reads
    'vasp/xml': dpdata takes the enthalpy for the energy of a run under pressure. Raises InputError
    if dpdata is not installed, does not know the format, or cannot read the file.
    """
    kind = kind.lower()
    if kind in XML and Path(path).is_file():
        from .ase_files import read_ase_file

        system = read_ase_file(path, type_map, kind="vasp-xml")
        system.notes.append("read by ASE: dpdata takes the enthalpy where PSTRESS is set")
        return system
    data, notes = _data(path, kind)
    if kind in SIESTA and data.pop("virials", None) is not None:
        notes.append("the virial is left out: dpdata has it with the other sign")
    frames = list(_frames(data, str(path)))
    for frame in frames:
        check_frame(frame, type_map)
    code = code_of(path)
    if code is not None:
        frames, more = converged(frames, path, code, left_out=True)
        if kind == "siesta/output" and more:
            raise InputError(
                f"{path}: {more[0]}, and dpdata puts labels of several steps together; expected "
                "the output of one step (of a dynamics: --from siesta/aimd_output)"
            )
        notes += more
    if not frames:
        reasons = "".join(f"; {note}" for note in notes)
        raise InputError(f"{path}: dpdata finds no labelled frame in it as {kind}{reasons}")
    return System(str(path), frames, notes)


def _data(path: str | Path, kind: str) -> tuple[dict[str, Any], list[str]]:
    """What dpdata makes of the file, and its warnings."""
    try:
        import dpdata
    except ImportError:
        raise InputError(
            f"--from {kind}: needs dpdata: pip install 'deepmd_lite[dpdata]'"
        ) from None
    from dpdata.format import Format

    class AsPrinted(dpdata.LabeledSystem):
        """Without dpdata's rotation of each frame to a lower triangular cell."""

        def rot_frame_lower_triangular(self, f_idx: Any = 0) -> np.ndarray:
            return np.eye(3)

    known = Format.get_formats()
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else f"it has {', '.join(sorted(known))}"
        raise InputError(f"--from {kind}: dpdata does not know this format; {hint}")
    if not Path(str(path).partition("#")[0]).exists():
        raise InputError(f"{path}: no such file or folder")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            data = AsPrinted(str(path), fmt=kind).data
    except Exception as e:  # its parsers raise whatever they stumbled over
        reason = " ".join(str(e).split()) or "no reason given"
        raise InputError(
            f"{path}: dpdata cannot read it as {kind}: {type(e).__name__}: {reason}"
        ) from None
    said = [" ".join(str(w.message).split()) for w in caught if w.category is UserWarning]
    return data, [f"dpdata: {text}" for text in dict.fromkeys(said)]


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
