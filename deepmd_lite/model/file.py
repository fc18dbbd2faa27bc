"""The model file `.dpl`: one safetensors container, a JSON header and arrays; no pickle.

Header (safetensors metadata, key `deepmd_lite`): CRC-32 of header and arrays (the first key, its
value zeros while it is computed), format version, resolved configuration, sel,
smallest distance (of all, and of each pair of elements if it is known: `known_pairs`), table grid
and its measured error, provenance of the training. Arrays: network
parameters under the names of `Potential.state_dict()`, statistics, elements and radii of the
repulsion (`repulsion.atomic_numbers`, `repulsion.r_in`, `repulsion.r_out`) or grid, cubics and bias
of the short-range table (`short_range.grid`, `short_range.coefficients`, `short_range.bias`, see
`short_range`) if there is one, and
`table.nodes` (n_tables, n_nodes, 3, M) float64 = value, first and second derivative with respect
to normalised s at each node, so that a reader needs no network library to evaluate the embedding
(of `se_e2_r` those of the quotient that `radial` explains).
Where the networks of the embedding are lost (a compressed model of DeePMD-kit), `embedding.nodes`
stands in their place: the same numbers for each of them, float64. Names of the K-th of several
descriptors begin with `descriptors.K.`, and the header lists sel and grid of each.
`reference.K.…`: structures with energies and forces, evaluated again by every reader (see
`reference_frames`). `members.weights`, `members.biases`: last layers beside the model's own (see
`members`), with the header's `members` on how they came about. `shared.…`: networks that all
elements shared in the training, with the header's `shared` on how they did (see `typed`); the
networks of each element say the same, so that only a training looks at them.
`frame_parameters.average`, `frame_parameters.deviation` (k,) and `fitting.A.weight_fparam`
(k, width): see `frame_parameters`; the reference frames then are at the average.
"""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from ..files import write_atomically
from ..schema import parse
from ..system import InputError, ModelFileError
from . import members, reference_frames, typed
from .activations import Jet
from .arrays import check_arrays
from .config import ModelConfig
from .known_pairs import KnownPairs
from .potential import Potential, prefixes_of
from .statistics import Statistics
from .table import Grid
from .table_error import FINEST
from .tabulated import TabulatedEmbedding

FORMAT_VERSION = 11
"""2 added the repulsion, which models of version 1 do not have; 3 embeddings without networks; 4
`env_protection` and `se_e2_r`; 5 several descriptors, tables of the distance and of pairs; 6
members; 7 `se_e2_q`; 8 its `cubic_neuron`; 9 its `l_max`; 10 shared networks; 11 frame
parameters. A model is written as of the first version, from 5 on, that knows it."""
FOREIGN = (".pb", ".pth", ".pt", ".dp", ".yaml", ".yml")
"""Suffixes of DeePMD-kit's models."""
_SEAL, _UNSET = '{"crc32": "', "00000000"
"""How the header begins, and what stands for the checksum while it is computed."""


def save_model(
    potential: Potential, path: str | Path, provenance: dict[str, Any] | None = None
) -> None:
    """Write `potential` to `path` atomically.

    `provenance`: JSON-able facts on the training (data, steps, errors), shown by `dpl info`.
    Raises InputError for a suffix that says another program's model.
    """
    if Path(path).suffix.lower() in FOREIGN:
        raise InputError(
            f"{path}: by its suffix a model of DeePMD-kit; expected one that ends in .dpl, which "
            "dpl convert turns into others"
        )
    known = potential.known_pairs
    header = {
        "format_version": _version_of(potential),
        "config": potential.config.model_dump(),
        "sel": _given([d.sel for d in potential.descriptors]),
        "min_distance": potential.min_distance,
        "smallest_distances": None if known is None else known.to_header(),
        "grid": _given([asdict(d.grid) for d in potential.descriptors]),
        "table_error": potential.table_error,
        "provenance": provenance or {},
    }
    header["reference_frames"], frames = reference_frames.to_file(
        reference_frames.remembered(potential)
    )
    arrays = {k: v.detach().contiguous() for k, v in potential.state_dict().items()} | frames
    if potential.members is not None:
        header["members"] = potential.members.facts
        arrays |= members.to_file(potential.members)
    if potential.shared is not None:
        header["shared"], shared = typed.to_file(potential.shared)
        arrays |= shared
    for prefix, descriptor in zip(potential.prefixes, potential.descriptors, strict=True):
        with torch.no_grad():
            arrays[f"{prefix}table.nodes"] = _nodes(descriptor.jet())
        if isinstance(descriptor.embedding, TabulatedEmbedding):
            jet = descriptor.embedding.jet(descriptor.grid.nodes())
            arrays[f"{prefix}embedding.nodes"] = _nodes(jet)
    write_atomically(path, _sealed(arrays, header))


def _sealed(arrays: dict[str, torch.Tensor], header: dict[str, Any]) -> bytes:
    """The container, whose header begins with the CRC-32 of itself and of all numbers."""

    def container(text: str) -> bytes:
        return serialise(arrays, metadata={"deepmd_lite": text})

    unset = json.dumps({"crc32": _UNSET, **header})
    return container(unset.replace(_UNSET, _crc32(unset, container(unset)), 1))


def _crc32(text: str, contents: bytes) -> str:
    """CRC-32 of a header, its checksum unset, and of what follows it in the container."""
    begin = 8 + int.from_bytes(contents[:8], "little")
    return f"{zlib.crc32(memoryview(contents)[begin:], zlib.crc32(text.encode())):08x}"


def _check_sum(path: Path, text: str) -> None:
    """Raises ModelFileError for other contents than were written. Older files have no checksum."""
    if not text.startswith(_SEAL):
        return
    said = text[len(_SEAL) : len(_SEAL) + len(_UNSET)]
    found = _crc32(text.replace(said, _UNSET, 1), path.read_bytes())
    if found != said:
        raise ModelFileError(
            f"{path}: is damaged: the checksum of its contents is {found}, it was {said}; copy the "
            "file again from where it was written"
        )


def _version_of(potential: Potential) -> int:
    if potential.frame_parameters is not None:
        return 11
    if potential.shared is not None:
        return 10
    if any(d.config.degree > 2 for d in potential.descriptors):
        return 9
    if any(d.config.cubic_neuron for d in potential.descriptors):
        return 8
    if any(d.config.second_degree for d in potential.descriptors):
        return 7
    return 6 if potential.members else 5


def _given(each: list[Any]) -> Any:
    """What the header holds of the descriptors: a list where there are several."""
    return each if len(each) > 1 else each[0]


def _nodes(jet: Jet) -> torch.Tensor:
    """(n_tables, n_nodes, 3, M) float64."""
    return torch.stack(jet, dim=2).contiguous()


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a model file, with the shapes and types of its arrays under `arrays`.

    Raises ModelFileError for a file that is missing, truncated, not ours or of a later format.
    """
    header, arrays = _open(path)
    header["arrays"] = {k: [str(v.dtype), list(v.shape)] for k, v in arrays.items()}
    return header


def load_model(path: str | Path, precision: str | None = None) -> Potential:
    """The potential in a model file, ready to evaluate.

    `precision` 'float64' or 'float32' of the arithmetic; default: that of the training. Raises
    ModelFileError as `read_header`, for arrays that are missing, of another shape than the
    configuration says, or not finite, and where the file's reference frames give other results.
    """
    header, arrays = _open(path)
    try:
        config = parse(ModelConfig, header["config"], f"{path}: header/config")
        several = len(config.descriptors) > 1
        grids = [
            Grid(
                float(g["start"]),
                float(g["spacing"]),
                int(g["n_intervals"]),
                bool(g.get("of_distance", False)),
            )
            for g in (header["grid"] if several else [header["grid"]])
        ]
        sels = [[int(n) for n in s] for s in (header["sel"] if several else [header["sel"]])]
        min_distance = float(header["min_distance"])
    except (KeyError, TypeError, ValueError) as e:
        raise ModelFileError(f"{path}: the header is not valid: {e}") from None
    n_types = len(config.type_map)
    _check_numbers(path, config, grids, sels, min_distance)
    embeddings = _tabulated(path, config, grids, arrays)
    with torch.device("meta"):  # nothing is allocated before the shapes are known to agree
        statistics = Statistics.unset(config, sels, min_distance, arrays)
        potential = Potential(config, statistics, None, grids, embeddings)
    for prefix in potential.prefixes:
        arrays.pop(f"{prefix}table.nodes", None)
    remembered = header.get("reference_frames", [])
    frames = reference_frames.from_file(remembered, arrays, n_types, str(path))
    width, facts = config.fitting_net.neuron[-1], header.get("members", {})
    own_members = members.from_file(facts, arrays, n_types, width, str(path))
    shared = typed.from_file(header.get("shared"), arrays, potential, str(path))
    check_arrays(path, potential.state_dict(), arrays)
    potential.load_state_dict(arrays, assign=True)
    if any(d.davg[:, 1:].any() or not (d.dstd > 0).all() for d in potential.descriptors):
        raise ModelFileError(f"{path}: davg must be 0 but in its first column, and dstd positive")
    for part in (potential.repulsion, potential.short_range, potential.frame_parameters):
        try:
            if part is not None:
                part.check()
        except InputError as e:
            raise ModelFileError(f"{path}: {e}") from None
    try:
        potential.known_pairs = KnownPairs.from_header(header.get("smallest_distances"), n_types)
    except InputError as e:
        raise ModelFileError(f"{path}: header/{e}") from None
    potential.table_error = dict(header.get("table_error", {}))
    potential.provenance = dict(header.get("provenance", {}))
    potential.reference_frames, potential.members = frames, own_members
    potential.shared = shared
    potential.to_precision(precision or config.precision).freeze()
    try:
        reference_frames.check(potential, frames, str(path))
    except InputError as e:
        raise ModelFileError(f"{path}: its reference frames cannot be evaluated: {e}") from None
    return potential


def refuse_foreign(path: Path) -> None:
    """Raises ModelFileError for a suffix that says a model of DeePMD-kit."""
    suffix = path.suffix.lower()
    if suffix in FOREIGN:
        kind = "an input, or a" if suffix.startswith(".y") else "a"
        raise ModelFileError(
            f"{path}: by its suffix {kind} model of DeePMD-kit; convert that first: "
            f"dpl convert {path} {path.with_suffix('.dpl')}"
        )


def _open(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    path = Path(path)
    if path.is_dir():
        inside = sorted(path.glob("*.dpl"))
        hint = f"; in it: {', '.join(map(str, inside))}" if inside else ""
        raise ModelFileError(f"{path}: a folder, expected a model file{hint}")
    if not path.is_file():
        raise ModelFileError(f"{path}: no such model file")
    refuse_foreign(path)
    try:
        with safe_open(path, framework="pt") as f:
            metadata = f.metadata() or {}
            # of its own memory: the file is mapped, and a copy over it would change the model
            arrays = {key: f.get_tensor(key).clone() for key in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as e:
        with open(path, "rb") as file:
            if file.read(9)[8:] not in (b"", b"{"):  # after its length, a header in JSON
                raise ModelFileError(
                    f"{path}: not a model of deepmd_lite, whatever its name says; expected a .dpl "
                    "file, as dpl train and dpl convert write them"
                ) from None
        raise ModelFileError(
            f"{path}: not a readable model file ({path.stat().st_size} bytes): {e}; "
            "copy it again from where it was written"
        ) from None
    if "deepmd_lite" not in metadata:
        raise ModelFileError(f"{path}: a safetensors file, but not a deepmd_lite model")
    _check_sum(path, metadata["deepmd_lite"])
    try:
        header = json.loads(metadata["deepmd_lite"])
        header.pop("crc32", None)
        version = header["format_version"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise ModelFileError(f"{path}: the header is not valid: {e}") from None
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise ModelFileError(
            f"{path}: format version {version!r}; this release reads up to {FORMAT_VERSION}: "
            "update deepmd_lite"
        )
    if version < 2 and isinstance(header.get("config"), dict):
        header["config"]["repulsion"] = None
    return header, arrays


def _tabulated(
    path: str | Path, config: ModelConfig, grids: list[Grid], arrays: dict[str, torch.Tensor]
) -> list[TabulatedEmbedding | None]:
    """The embeddings for which the file holds tables in the place of networks.

    Takes their arrays out of `arrays`.
    """
    found: list[TabulatedEmbedding | None] = []
    n_types = len(config.type_map)
    prefixes = prefixes_of(len(grids))
    for prefix, d, grid in zip(prefixes, config.descriptors, grids, strict=True):
        name = f"{prefix}embedding.nodes"
        if name not in arrays:
            found.append(None)
            continue
        shape = (n_types if d.type_one_side else n_types**2, grid.n_intervals + 1, 3, d.neuron[-1])
        expected = torch.empty(shape, dtype=torch.float64, device="meta")
        nodes = arrays.pop(name)
        check_arrays(path, {name: expected}, {name: nodes})
        found.append(TabulatedEmbedding.on_grid(grid, nodes.double()))
    return found


def _check_numbers(
    path: str | Path,
    config: ModelConfig,
    grids: list[Grid],
    sels: list[list[int]],
    min_distance: float,
) -> None:
    n_types, n = len(config.type_map), len(config.descriptors)
    if len(grids) != n or len(sels) != n:
        raise ModelFileError(
            f"{path}: header/grid and sel of {len(grids)} and {len(sels)} descriptors, expected {n}"
        )
    for grid in grids:
        finite = all(math.isfinite(x) for x in (grid.start, grid.spacing, min_distance))
        if not finite or grid.spacing <= 0 or not 1 <= grid.n_intervals <= 2 * FINEST:
            raise ModelFileError(f"{path}: header/grid is not valid: {grid}")
    for sel in sels:
        if len(sel) != n_types or min(sel) < 0 or sum(sel) < 1 or min_distance <= 0:
            raise ModelFileError(
                f"{path}: header/sel {sel} or min_distance {min_distance} is not valid"
            )
