"""Restarts: the complete state of a run, so that going on gives the same bits.

A restart is a folder, `restart/step-STEP`. Every rank writes its own atoms to a shard of it,
`shard-RANK.safetensors` (no pickle): the arrays of `state.LAYOUT`, and under `carried/NAME` what
observables carry. When all shards are on the disk, rank 0 writes `manifest.json`: step, time, cell,
pbc, elements, decomposition, what integrator and observables remember, how long the output files
were, and size and checksum of every shard. A folder without a manifest does not count. Older
restarts are removed only when a new one is complete, and two are kept, so that at every moment
there is one to go on from, and another should it be damaged. STEP has twelve digits; a folder of
any other name, as that of a copy that somebody made, is neither removed nor gone on from by itself.

`built` and `built_cell` are the positions and the cell of the last neighbour list: making that
list again, and not a new one, keeps the order of every sum, so N steps, a restart and N steps are
2N steps bit for bit on as many ranks. On another number of ranks each reads its part of the
shards, and trajectories agree to round-off. No rank ever holds all atoms.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from ..files import sync_file, sync_folder, write_atomically, writing
from ..system import InputError
from .comm import Communicator, agreement
from .domain import Domain
from .initial import Start
from .integrate.strain import remembered
from .state import CPU, LAYOUT, State

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
CHUNK = 2**22
"""Bytes of a shard that are read at a time to check it."""
_CARRIED = "carried/"


# --- writing --------------------------------------------------------------------------------


class Archive:
    """The restarts of one run: the newest and the one before it. All ranks make the same calls."""

    def __init__(self, folder: Path, comm: Communicator, last: Path | None = None) -> None:
        """`folder` of the restarts; `last`: the restart from which the run goes on."""
        self.folder, self.comm, self.last = folder, comm, last

    def write(self, now: Start, type_map: Sequence[str], notes: Mapping[str, Any]) -> Path:
        """Write the restart of this moment, then remove all but this and the last one.

        `now`: what a continued run will start from, with the atoms of this rank and the
        decomposition; file sizes and memory are those of rank 0. `notes` is kept for readers.
        Raises SharedError (InputError with a single rank) that names the file, with the last
        restart as it was, if any rank cannot write.
        """
        path, comm = self.folder / f"step-{now.step:012d}", self.comm
        try:
            with agreement(comm):
                if comm.rank == 0:
                    _discard(path)  # left behind by a run that was killed, or damaged
                    with writing(path):
                        path.mkdir(parents=True)
            shard: dict[str, Any] = {}
            with agreement(comm):
                with writing(path):  # another machine may not have seen the new folder yet
                    path.mkdir(parents=True, exist_ok=True)
                shard = _write_shard(path / f"shard-{comm.rank:04d}.safetensors", now.state)
            shards = comm.collect(shard)
            with agreement(comm):
                if comm.rank == 0:
                    for name in now.file_sizes:  # or a crash of the machine could shorten them
                        sync_file(self.folder.parent / name)
                    write_atomically(path / MANIFEST, _manifest(now, type_map, notes, shards))
                    sync_folder(self.folder)
        except Exception:
            if comm.rank == 0:
                _discard(path)
            raise
        if comm.rank == 0:
            self._remove_all_but(path)
        self.last = path
        return path

    def _remove_all_but(self, path: Path) -> None:
        kept = {p.resolve() for p in (path, self.last) if p is not None}
        for found in in_folder(self.folder):
            if found.resolve() not in kept:
                _discard(found)


def in_folder(folder: Path) -> Iterator[Path]:
    """The restarts, complete or not, that runs have written into `folder`, in no order."""
    return (p for p in folder.glob("step-*") if re.fullmatch(r"step-\d{12}", p.name))


def _discard(path: Path) -> None:
    """Remove a restart; without its manifest, which goes first, it does not count any more."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _write_shard(path: Path, state: State) -> dict[str, Any]:
    """Write the atoms of this rank; returns the shard's entry in the manifest."""
    state = state.to(CPU)
    arrays = {k: getattr(state, k).contiguous().numpy() for k in LAYOUT}
    arrays |= {_CARRIED + k: values.contiguous().numpy() for k, values in state.carried.items()}
    content = save(arrays)
    write_atomically(path, content)
    digest = hashlib.sha256(content).hexdigest()
    return {"file": path.name, "n_atoms": len(state), "bytes": len(content), "sha256": digest}


def _manifest(
    now: Start, type_map: Sequence[str], notes: Mapping[str, Any], shards: list[dict[str, Any]]
) -> bytes:
    assert now.domain is not None
    assert now.built_cell is not None
    header = {
        "format_version": FORMAT_VERSION,
        "step": now.step,
        "time": now.time,
        "n_atoms": now.n_atoms,
        "cell": now.cell.tolist(),
        "absent": now.absent,
        "pbc": now.pbc,
        "built_cell": now.built_cell.tolist(),
        "cuts": [c.tolist() for c in now.domain.cuts],
        "type_map": list(type_map),
        "carried": now.state.widths,
        "noise": now.noise,
        "integrator": now.integrator,
        "memory": now.memory,
        "file_sizes": now.file_sizes,
        "notes": notes,
        "began_with": now.began_with,
        "shards": shards,
    }
    plain = json.loads(json.dumps(header, default=_plain))
    return json.dumps({**plain, "sha256": _digest(plain)}, indent=1).encode()


def _digest(header: Mapping[str, Any]) -> str:
    """Checksum of a manifest without the checksum."""
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """Numpy's arrays and numbers for JSON, every bit of them."""
    if isinstance(value, np.ndarray):
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"dtype": value.dtype.str, "shape": value.shape, "base64": data}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be kept in a restart")


def _with_arrays(mapping: dict[str, Any]) -> Any:
    """The inverse of `_plain`."""
    if mapping.keys() != {"dtype", "shape", "base64"}:
        return mapping
    data = np.frombuffer(base64.b64decode(mapping["base64"]), dtype=mapping["dtype"])
    return data.reshape(mapping["shape"]).copy()


# --- reading --------------------------------------------------------------------------------


def find(path: Path, comm: Communicator) -> tuple[Path, dict[str, Any], list[str]]:
    """The restart at `path`, or the newest sound one of the run whose folder that is.

    Returns its folder, its manifest, and a line for each newer one that is damaged. Each rank
    checks some of the shards. Raises SharedError (InputError with a single rank) if there is none,
    or if it is of another version.
    """
    candidates: list[Path] = []
    with agreement(comm):
        if comm.rank == 0:
            candidates = _candidates(path)
    damaged: list[str] = []
    for candidate in comm.share(candidates):
        header, problem = comm.share(_read_manifest(candidate) if comm.rank == 0 else None)
        if problem is None:
            with agreement(comm):
                _check_version(candidate, header)
            own = [_problem(candidate, s) for s in header["shards"][comm.rank :: comm.size]]
            everyone = [p for problems in comm.collect(own) for p in problems if p]
            problem = everyone[0] if everyone else None
        if problem is None:
            return candidate, header, damaged
        damaged.append(f"restart {candidate} is damaged: {problem}")
    with agreement(comm):
        raise InputError("; ".join([*damaged, "there is no other one to go on from"]))
    raise AssertionError


def read(path: Path, type_map: Sequence[str], comm: Communicator) -> Start:
    """The state in a restart (see `find`), some of the atoms on each rank.

    Raises SharedError (InputError with a single rank) if it is damaged, of another version or for
    elements that differ from `type_map`.
    """
    found, header, damaged = find(path, comm)
    state = State.empty()
    with agreement(comm):
        if header["type_map"] != list(type_map):
            raise InputError(
                f"{found}: written with a model for {header['type_map']}, continued with one for "
                f"{list(type_map)}; use the model of the first run"
            )
        state = _own_atoms(found, header, comm)
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
        noise=header.get("noise", 0),  # younger than the format
        integrator=remembered(header),
        memory=header["memory"],
        domain=Domain(built, pbc, cuts),  # type: ignore[arg-type]
        file_sizes=header["file_sizes"],
        source=found,
        began_with=header.get("began_with", {}),  # younger than the format
        damaged=tuple(damaged),
    )


def describe(path: Path) -> dict[str, str]:
    """What `dpl info` shows of a restart, or of the newest sound one in a run's folder."""
    found, header, damaged = find(path, Communicator())
    grid = " x ".join(str(len(cuts) - 1) for cuts in header["cuts"])
    size = sum(shard["bytes"] for shard in header["shards"])
    rows = {
        "restart": str(found),
        "step": str(header["step"]),
        "time": f"{header['time']:g} fs",
        "atoms": f"{header['n_atoms']} of {' '.join(header['type_map'])}",
        "ranks": f"{len(header['shards'])} ({grid}), {size / 2**20:.1f} MiB, all checksums right",
    }
    for key, value in header["notes"].items():
        if isinstance(value, dict):  # what an ensemble has no use for
            value = {k: v for k, v in value.items() if v is not None}
        rows[key] = value if isinstance(value, str) else json.dumps(value)
    return rows | {f"newer {i + 1}": line for i, line in enumerate(damaged)}


def began_with(path: Path) -> dict[str, Any]:
    """What the input said when the run began, by the newest manifest that can be read.

    All restarts of a run say the same. Empty where that version kept nothing.
    """
    for candidate in _candidates(path):
        header, problem = _read_manifest(candidate)
        if problem is None:
            return dict(header.get("began_with", {}))
    return {}


def _candidates(path: Path) -> list[Path]:
    """Complete restarts, the newest first."""
    if path.name.startswith("step-") or (path / MANIFEST).exists():
        return [path]
    folder = path if path.name == "restart" else path / "restart"
    found = sorted((p for p in in_folder(folder) if (p / MANIFEST).exists()), reverse=True)
    if not found:
        raise InputError(
            f"{folder}: no restart to continue from; if the run ended before it wrote its first, "
            "remove its folder and begin anew, without --continue"
        )
    return found


def _read_manifest(path: Path) -> tuple[dict[str, Any], str | None]:
    """The manifest of a restart, and what is wrong with it."""
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
        header = json.loads(text)
        if header.pop("sha256") != _digest(header):
            return {}, f"{MANIFEST} has another checksum than when it was written"
        return json.loads(text, object_hook=_with_arrays), None
    except OSError as e:
        return {}, f"{MANIFEST} cannot be read: {e.strerror or e}"
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return {}, f"{MANIFEST} is not what a restart holds"


def _check_version(path: Path, header: Mapping[str, Any]) -> None:
    if header["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{path}: restart format {header['format_version']}, this version reads "
            f"{FORMAT_VERSION}; continue with the version that wrote it"
        )


def _problem(path: Path, shard: Mapping[str, Any]) -> str | None:
    """What is wrong with a shard, or None."""
    digest, size = hashlib.sha256(), 0
    try:
        with open(path / shard["file"], "rb") as f:
            while chunk := f.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
    except OSError as e:
        return f"{shard['file']} cannot be read: {e.strerror or e}"
    if size != shard["bytes"]:
        return f"{shard['file']} has {size} bytes instead of {shard['bytes']}"
    if digest.hexdigest() != shard["sha256"]:
        return f"{shard['file']} has another checksum than when it was written"
    return None


def _own_atoms(path: Path, header: Mapping[str, Any], comm: Communicator) -> State:
    """This rank's shard, or its part of them all where there are more or fewer ranks now."""
    ends = np.cumsum([0, *(shard["n_atoms"] for shard in header["shards"])])
    if len(header["shards"]) == comm.size:
        first, last = ends[comm.rank], ends[comm.rank + 1]
    else:
        first, last = (header["n_atoms"] * r // comm.size for r in (comm.rank, comm.rank + 1))
    names = {name: name for name in LAYOUT}
    names |= {_CARRIED + name: name for name in header["carried"]}  # in this order on every rank
    parts: list[dict[str, np.ndarray]] = []
    for shard, begin in zip(header["shards"], ends, strict=False):
        start, stop = max(first - begin, 0), min(last - begin, shard["n_atoms"])
        if start < stop:
            with safe_open(path / shard["file"], framework="numpy") as f:
                parts.append({own: f.get_slice(name)[start:stop] for name, own in names.items()})
    if not parts:
        return State.empty(header["carried"])
    return State.from_arrays({k: np.concatenate([p[k] for p in parts]) for k in parts[0]})
