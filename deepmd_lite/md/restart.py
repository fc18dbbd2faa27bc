"""Restart files: the complete state of a run, so that going on gives the same bits.

One safetensors file for each moment, `restart-STEP.safetensors`, written atomically; no pickle.
Arrays in order of id: types, masses, positions, images, velocities, built, mobile, and what
observables carry; JSON header: step, time, cell, pbc, elements, decomposition, the integrator's
memory, and how long the output files were. `built` and `built_cell` are the positions and the cell
of the last neighbour list: making that list again, and not a new one, keeps the order
of every sum, so N steps, a restart and N steps are 2N steps bit for bit on as many ranks. On
another number of ranks the file reads as well, and trajectories agree to round-off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..files import write_atomically
from ..system import InputError
from .comm import Communicator, agreement
from .domain import Domain
from .initial import Start
from .state import State

FORMAT_VERSION = 2
KEPT = 2
"""Restart files kept in a folder: the newest ones."""
_ARRAYS = ("types", "masses", "positions", "images", "velocities", "built", "mobile")


def write(
    folder: Path,
    state: State,
    start: Start,
    type_map: Sequence[str],
    domain: Domain,
    notes: dict[str, Any],
) -> Path:
    """Write all atoms (`state`, in order of id) and drop old files; returns the new path.

    `start` gives step, time (fs), cell and file sizes of this moment; `notes` is kept for readers.
    """
    header = {
        "format_version": FORMAT_VERSION,
        "step": start.step,
        "time": start.time,
        "cell": start.cell.tolist(),
        "absent": start.absent,
        "built_cell": None if start.built_cell is None else start.built_cell.tolist(),
        "carried": state.widths,
        "integrator": start.integrator,
        "memory": start.memory,
        "pbc": start.pbc,
        "type_map": list(type_map),
        "cuts": [c.tolist() for c in domain.cuts],
        "file_sizes": start.file_sizes,
        "notes": notes,
    }
    arrays = {k: getattr(state, k).contiguous().numpy() for k in _ARRAYS}
    arrays |= {k: values.contiguous().numpy() for k, values in state.carried.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"restart-{start.step:012d}.safetensors"
    write_atomically(path, save(arrays, metadata={"deepmd_lite_md": json.dumps(header)}))
    for old in sorted(folder.glob("restart-*.safetensors"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def newest(directory: Path) -> Path:
    """The latest restart file of the output folder `directory`; raises InputError if none."""
    found = sorted((directory / "restart").glob("restart-*.safetensors"))
    if not found:
        raise InputError(f"{directory / 'restart'}: no restart file to continue from")
    return found[-1]


def read(path: Path, type_map: Sequence[str], comm: Communicator) -> Start:
    """The state in a file; all atoms are on rank 0, which alone reads it.

    Raises SharedError (InputError with a single rank) if the file is damaged, of another version
    or for elements that `type_map` lacks.
    """
    header: dict[str, Any] = {}
    state = State.empty()
    with agreement(comm):
        if comm.rank == 0:
            header, state = _read(path, type_map)
    header = comm.share(header)
    if comm.rank:
        state = State.empty(header["carried"])
    pbc, built = tuple(header["pbc"]), np.array(header["built_cell"])
    cuts = tuple(np.array(c) for c in header["cuts"])
    return Start(
        cell=np.array(header["cell"]),
        absent=tuple(header["absent"]),
        pbc=pbc,
        n_atoms=header["n_atoms"],
        state=state,
        step=header["step"],
        time=header["time"],
        built_cell=built,
        integrator=header["integrator"],
        memory=header["memory"],
        domain=Domain(built, pbc, cuts),  # type: ignore[arg-type]
        file_sizes=header["file_sizes"],
    )


def _read(path: Path, type_map: Sequence[str]) -> tuple[dict[str, Any], State]:
    try:
        content = path.read_bytes()
        arrays = load(content)
        length = int.from_bytes(content[:8], "little")
        header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["deepmd_lite_md"])
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from None
    except (SafetensorError, KeyError, ValueError) as e:
        raise InputError(f"{path}: is damaged or not a restart file: {e}") from None
    if header["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: restart format {header['format_version']}, this version reads "
            f"{FORMAT_VERSION}; continue with the version that wrote it"
        )
    if header["type_map"] != list(type_map):
        raise InputError(
            f"{path}: written with a model for {header['type_map']}, continued with one for "
            f"{list(type_map)}; use the model of the first run"
        )
    header["n_atoms"] = len(arrays["types"])
    names = (*_ARRAYS, *header["carried"])  # in the order that the other ranks know
    state = State.from_arrays(
        {"ids": np.arange(header["n_atoms"]), **{name: arrays[name] for name in names}}
    )
    return header, state
