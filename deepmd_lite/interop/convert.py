"""From a model of DeePMD-kit to one of ours, and back.

Which way follows from the suffixes. A converted model gets a table as any
other; since there are no data to measure its error on, that is done on a gas of atoms as dense as
`sel` says and with all distances down to the smallest in the training data.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..elements import no_elements
from ..model import Potential, load_model, read_header, refine_table, save_model
from ..model.fading import FadingEmbedding
from ..model.structures import gas
from ..model.tabulated import ScaledEmbedding, TabulatedEmbedding
from ..model.type_embedding_config import DPA1
from ..neighbors import periodic_env
from ..system import InputError, ModelFileError
from .deepmd_kit import potential_from_tree
from .dp_file import read_dp, read_yaml, write_dp, write_yaml
from .export import tree_of
from .graph_file import read_graph
from .short_range import learned
from .short_range import notes as notes_on_table
from .torch_file import COMPRESSED, read_torch

OWN = ".dpl"
HDF5 = b"\x89HDF\r\n\x1a\n"
Reader = Callable[[Path], dict[str, Any]]
Writer = Callable[[Path, dict[str, Any]], None]
READERS: dict[str, Reader] = {
    ".dp": read_dp,
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".pb": read_graph,
    ".pth": read_torch,
    ".pt": read_torch,
}
WRITERS: dict[str, Writer] = {
    ".dp": write_dp,
    ".yaml": write_yaml,
    ".yml": write_yaml,
}
TOLERANCE = {"float64": 1e-9, "float32": 1e-6}
"""eV/Å: largest error of a force that the table of a converted model may cause."""


def convert(
    source: str | Path,
    target: str | Path,
    tolerance: float | None = None,
    fparam: Sequence[float] | None = None,
    *,
    type_map: Sequence[str] | None = None,
    without_repulsion: bool = False,
) -> tuple[Potential, list[str]]:
    """Convert the model file `source` to `target`, one of which is ours (`.dpl`).

    `tolerance`, eV/Å, of the forces that the table gives, by default `TOLERANCE`. `fparam`: the
    values at which the frame parameters of a model are fixed, by default its `default_fparam`; that
    is also what is done where both are ours. `type_map`: other names of its types, in order.
    `without_repulsion`: on the way to DeePMD-kit, which cannot express it, leave it out.
    Returns the potential and what a user should know of the new file, one line each. Raises
    ModelFileError for a file that cannot be read or holds a model that cannot be expressed,
    InputError for suffixes that are not known, frame parameters and names that do not fit.
    """
    source, target = Path(source), Path(target)
    reader, writer = _reader(source), WRITERS.get(target.suffix.lower())
    if source.suffix.lower() == OWN and writer is not None:
        model = _renamed(_at(source, fparam), type_map, source)
        return _exported(model, source, target, writer, without_repulsion)
    if target.suffix.lower() == OWN and reader is not None:
        return _imported(source, target, reader, tolerance, fparam, type_map)
    if source.suffix.lower() == target.suffix.lower() == OWN:
        return _changed(source, target, fparam, type_map)
    if source.suffix.lower() == OWN and target.suffix.lower() in READERS:
        between = target.with_suffix(".dp")
        raise InputError(
            f"{target}: DeePMD-kit makes this kind of file itself: dpl convert {source} {between}, "
            f"then dp convert-backend {between} {target}"
        )
    raise InputError(
        f"{source} → {target}: expected a model of deepmd_lite (.dpl) and one of DeePMD-kit "
        f"(to read {', '.join(READERS)}; to write {', '.join(WRITERS)})"
    )


def _reader(source: Path) -> Reader | None:
    """By content where that is clear, else by suffix; None for a file that is not DeePMD-kit's."""
    if not source.is_file():
        raise ModelFileError(f"{source}: no such model file")
    with open(source, "rb") as file:
        first = file.read(len(HDF5))
    return read_dp if first == HDF5 else READERS.get(source.suffix.lower())


def _imported(
    source: Path,
    target: Path,
    reader: Reader,
    tolerance: float | None,
    fparam: Sequence[float] | None,
    type_map: Sequence[str] | None,
) -> tuple[Potential, list[str]]:
    tree = reader(source)
    potential = _renamed(potential_from_tree(tree, str(source), fparam), type_map, source)
    wanted = TOLERANCE[potential.precision] if tolerance is None else tolerance
    if not 0 < wanted < math.inf:
        raise InputError(f"tolerance {wanted} eV/Å: expected a positive number, such as 1e-9")
    frame = gas(potential)
    env = periodic_env(frame.positions, frame.cell, frame.pbc, frame.types, potential.rcut).env
    error = refine_table(potential, env, wanted)
    if not math.isfinite(error["force_ev_per_a"]):
        raise ModelFileError(f"{source}: the forces of the model are not finite")
    potential.reference_frames = (frame,)
    potential.provenance = _provenance(source, tree) | potential.provenance
    save_model(potential, target, potential.provenance)
    notes = [
        f"table of {_intervals(potential)} intervals: forces within "
        f"{error['force_ev_per_a']:.0e} eV/Å, energies within {error['energy_ev_per_atom']:.0e} "
        f"eV/atom of the {_exact(potential)}",
        f"DeePMD-kit keeps at most {_kept(tree, potential)}; here all count",
    ]
    if tree.get(COMPRESSED) and _has_steps(potential):
        notes.append(
            "DeePMD-kit's PyTorch makes wrong tables of embeddings with resnet_dt when it "
            "compresses: energies here are those of the model before that"
        )
    unknown = no_elements(potential.type_map)
    if unknown:
        notes.append(
            f"no elements: {', '.join(unknown)}; ASE and dpl md go by element: --type-map names "
            "the types anew, in this order"
        )
    notes += _fixed(potential)
    if potential.short_range is not None:
        notes += notes_on_table(tree, potential.short_range)
    if error["force_ev_per_a"] > wanted:
        notes.append(f"no finer table is made: {wanted:.0e} eV/Å are not reached")
    return potential, notes


def _has_steps(potential: Potential) -> bool:
    return any(d.config.resnet_dt for d in potential.descriptors)


def _kept(tree: dict[str, Any], potential: Potential) -> str:
    """How many neighbours DeePMD-kit's model sees."""
    if learned(tree["model"])["descriptor"].get("type") in DPA1:
        return f"sel {sum(potential.descriptor.sel)} neighbours of all elements together"
    return f"{_sel(potential)} neighbours of each element"


def _sel(potential: Potential) -> str:
    if len(potential.descriptors) == 1:
        return f"sel {potential.descriptor.sel}"
    return "sel " + " and ".join(f"{d.sel} ({d.config.rcut:g} Å)" for d in potential.descriptors)


def _intervals(potential: Potential) -> str:
    return " and ".join(str(d.grid.n_intervals) for d in potential.descriptors)


def _exact(potential: Potential) -> str:
    """What the potential's own tables approximate."""
    scaled = (ScaledEmbedding, FadingEmbedding)
    if potential.shared is not None:
        return "networks, which all elements share"
    if any(isinstance(d.embedding, scaled) for d in potential.descriptors):
        return "networks, of which the file keeps the table alone: no training"
    lost = any(isinstance(d.embedding, TabulatedEmbedding) for d in potential.descriptors)
    return "tables of the file, whose networks are lost: no training" if lost else "networks"


def _at(source: Path, fparam: Sequence[float] | None) -> Potential:
    """One of ours, at frame parameters if it takes any."""
    potential = load_model(source)
    if fparam is not None and potential.frame_parameters is None:
        raise InputError(f"fparam {list(fparam)}: {source} takes no frame parameters")
    try:
        return potential.at(fparam)
    except InputError as e:
        raise InputError(f"{source}: {e}") from None


def _renamed(potential: Potential, names: Sequence[str] | None, source: Path) -> Potential:
    """The same with other names of its types."""
    if names is None:
        return potential
    old = list(potential.type_map)
    if len(names) != len(old) or len(set(names)) < len(names) or not all(names):
        raise InputError(
            f"type_map {' '.join(names)}: expected {len(old)} different names, for the types "
            f"{' '.join(old)} of {source}, in this order"
        )
    potential.config = potential.config.model_copy(update={"type_map": list(names)})
    potential.type_map = list(names)
    potential.provenance = {**potential.provenance, "types were": old}
    return potential


def _changed(
    source: Path, target: Path, fparam: Sequence[float] | None, names: Sequence[str] | None
) -> tuple[Potential, list[str]]:
    """One of ours, whose frame parameters are to be fixed, or types to be named anew."""
    takes = read_header(source)["config"]["fitting_net"].get("numb_fparam", 0) > 0
    if not takes and fparam is not None:
        raise InputError(f"{source}: takes no frame parameters; leave --fparam out")
    if not takes and names is None:
        raise InputError(
            f"{source} → {target}: both are models of deepmd_lite, and there are neither frame "
            "parameters to fix (--fparam) nor other names of types (--type-map); copy the file "
            "instead"
        )
    fixes = takes and (names is None or fparam is not None)
    potential = _renamed(_at(source, fparam) if fixes else load_model(source), names, source)
    save_model(potential, target, potential.provenance)
    notes = [f"types {' '.join(potential.provenance['types were'])} named anew"] if names else []
    return potential, notes + (_fixed(potential) if fixes else [])


def _fixed(potential: Potential) -> list[str]:
    """The note on frame parameters that are fixed, if there are any."""
    if "fparam" not in potential.provenance:
        return []
    return [f"frame parameters fixed at fparam {potential.provenance['fparam']}"]


def _exported(
    potential: Potential, source: Path, target: Path, writer: Writer, without_repulsion: bool
) -> tuple[Potential, list[str]]:
    left_out = None
    if without_repulsion and potential.repulsion is not None:
        left_out = potential.repulsion.summary(potential.type_map)
        potential.repulsion = None
    try:
        tree = tree_of(potential)
    except InputError as e:
        raise InputError(f"{source}: {e}") from None
    writer(target, tree)
    notes = [
        f"dp convert-backend {target} {target.with_suffix('.pb')} (or .pth) makes it run there",
        f"DeePMD-kit keeps at most {_kept(tree, potential)} within {potential.rcut} Å, the "
        "nearest ones",
    ]
    if potential.shared is not None and potential.shared.type_embedding.fades:
        notes.append("with smooth_type_embedding its PyTorch (.pth) alone agrees")
    notes += _fixed(potential)
    if left_out is not None:
        notes.append(f"without the repulsion (ZBL), which begins at: {left_out}")
    if potential.members is not None:
        notes.append("without the committee of last layers, which it has no place for")
    each = potential.descriptors
    if any(d.config.exclude_types and d.davg.any() for d in each):
        notes.append("with exclude_types and davg not 0 its TensorFlow (.pb) alone agrees")
    if any(d.config.radial and not d.config.type_one_side for d in each):
        notes.append("with type_one_side false its TensorFlow (.pb) alone evaluates se_e2_r")
    if len({d.config.env_protection for d in each}) > 1:
        notes.append("no backend of it evaluates descriptors of different env_protection")
    elif any(d.config.env_protection for d in each):
        notes.append("with env_protection its PyTorch (.pth) alone evaluates it")
    return potential, notes


def _provenance(source: Path, tree: dict[str, Any]) -> dict[str, Any]:
    """What `dpl info` tells of the origin."""
    script = tree.get("model_def_script")
    found = {
        "converted from": source.name,
        "SHA-256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "DeePMD-kit": tree.get("version", "version unknown"),
        "backend": tree.get("backend", "unknown"),
        "model_def_script": script,
    }
    training = tree.get("training_script")
    loss = training.get("loss") if isinstance(training, dict) else None
    if isinstance(loss, dict):
        prefactors = [loss.get(f"{which}_pref_v", 0) for which in ("start", "limit")]
        found["virials trained"] = any(isinstance(p, (int, float)) and p > 0 for p in prefactors)
    return {key: value for key, value in found.items() if value is not None}
