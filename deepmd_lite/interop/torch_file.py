"""Models of DeePMD-kit's PyTorch side: TorchScript (`.pth`) and checkpoints of a training (`.pt`).

Both are read as plain data (see `pickled`). A compressed `.pth` still holds the networks that its
tables were made of: those are taken, which are exact and can be trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..model.type_embedding_config import DPA1
from ..system import ModelFileError
from .assembly import DescriptorParts, Layer, Parts, assembled, floats, one_sided_input
from .nodes import HYBRID, RADIAL, Tree
from .pickled import Archive, ArchiveError, Module
from .sections import PartsError, brief, check_supported, count_of_fparam, section_of
from .table_parts import TableParts

COMPRESSED = "compressed"
"""Key of the tree of a file that was compressed and holds its networks all the same."""
_CHECKPOINT = "model.Default."
_ALONE = "atomic_model."
_BESIDE_TABLE = "atomic_model.models.0."


def read_torch(path: str | Path) -> Tree:
    """The tree of DeePMD-kit's `.dp` for the `.pth` or `.pt` file `path`, told by its content.

    Raises ModelFileError for a file that is missing, damaged, not of DeePMD-kit, needs more than
    plain data, or holds a model that is not supported.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with Archive(path) as archive:
            root = archive.unpickled()
    except OSError as e:
        raise ModelFileError(f"{path}: cannot be read: {e.strerror or e}") from None
    except ArchiveError as e:
        raise ModelFileError(
            f"{path}: not a model file of PyTorch ({size} bytes): {brief(e)}; "
            "copy it again from where it was written"
        ) from None
    try:
        state, section = _opened(root)
        table = _short_range(state, section)
        if table is not None:
            state = _State(state.values, state.prefix, _BESIDE_TABLE)
        found = {"backend": "PyTorch", **assembled(_parts(state, section, table))}
        return {**found, COMPRESSED: True} if _is_compressed(state, section) else found
    except PartsError as e:
        raise ModelFileError(f"{path}: {brief(e)}") from None


def _is_compressed(state: _State, section: Tree) -> bool:
    """Whether DeePMD-kit evaluates tables in the place of an embedding."""
    several = section["descriptor"].get("list", ())
    places = [_DESCRIPTOR, *(f"{_DESCRIPTOR}.descrpt_list.{k}" for k in range(len(several)))]
    return any(state.find(f"{place}.compress") is True for place in places)


class _State:
    """Parameters by their full names, of a module or a flat state dict."""

    def __init__(self, values: Any, prefix: str = "", networks: str = _ALONE) -> None:
        """`networks`: where the model of the networks is; names are those of one that is alone."""
        self.values, self.prefix, self.networks = values, prefix, networks

    def find(self, name: str) -> Any:
        """What has this name, or None."""
        if name.startswith(_ALONE):
            name = self.networks + name.removeprefix(_ALONE)
        if isinstance(self.values, dict):
            return self.values.get(self.prefix + name)
        found: Any = self.values
        for step in name.split("."):
            found = found.attributes.get(step) if isinstance(found, Module) else None
        return found

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Finite floating-point numbers of `shape`, where -1 stands for any length.

        Raises PartsError.
        """
        value = self.find(name)
        if value is None:
            raise PartsError(f"'{name}' is missing; the file is not complete")
        return floats(value, name, shape)


def _opened(root: Any) -> tuple[_State, Tree]:
    """Parameters and `model` section."""
    if isinstance(root, Module):
        script = root.attributes.get("model_def_script")
        if not isinstance(script, str) or not script:
            raise PartsError("a TorchScript archive, but not a model of DeePMD-kit")
        return _State(root), section_of(script)
    state = root.get("model", root) if isinstance(root, dict) else None
    extra = state.get("_extra_state") if isinstance(state, dict) else None
    section = extra.get("model_params") if isinstance(extra, dict) else None
    if not isinstance(state, dict) or not isinstance(section, dict):
        raise PartsError("a checkpoint of PyTorch, but not of a training of DeePMD-kit")
    if "model_dict" in section:
        raise PartsError("a checkpoint of several tasks is not supported; freeze one with `--head`")
    return _State(state, _CHECKPOINT), section_of(section)


def _short_range(state: _State, section: Tree) -> TableParts | None:
    """What a model with `use_srtab` holds beside its networks."""
    if not section.get("use_srtab"):
        return None
    type_map = section.get("type_map")
    shape = (1, len(type_map) if isinstance(type_map, list) else -1, 1)
    alpha = state.find("atomic_model.smin_alpha")  # a checkpoint has none, and no other is trained
    radii = [
        float(x)
        for x in (alpha or _SMIN_ALPHA, section.get("sw_rmin"), section.get("sw_rmax"))
        if isinstance(x, (int, float))
    ]
    if len(radii) < 3:
        raise PartsError("model/sw_rmin and sw_rmax are not numbers")
    smin_alpha, sw_rmin, sw_rmax = radii
    return TableParts(
        info=state.array("atomic_model.models.1.tab_info", (4,)),
        data=state.array("atomic_model.models.1.tab_data", (-1, -1, -1, 4)).reshape(-1),
        smin_alpha=smin_alpha,
        sw_rmin=sw_rmin,
        sw_rmax=sw_rmax,
        bias=state.array("atomic_model.models.1.out_bias", shape),
        shared_bias=state.array("atomic_model.out_bias", shape),
    )


def _parts(state: _State, section: Tree, table: TableParts | None) -> Parts:
    sections, _ = check_supported(section)
    if section.get("type_embedding"):
        raise PartsError("model/type_embedding is not supported with PyTorch's se_e2_a")
    is_dpa1 = sections[0].get("type") in DPA1
    type_map = section.get("type_map")
    if not isinstance(type_map, list) or not all(isinstance(name, str) for name in type_map):
        raise PartsError("model/type_map is not a list of names")
    n_types = len(type_map)
    vectors = _layers(state, _TYPE_EMBEDDING, n_types) if is_dpa1 else None
    places = [_DESCRIPTOR]
    if section["descriptor"].get("type") == HYBRID:
        places = [f"{_DESCRIPTOR}.descrpt_list.{k}" for k in range(len(sections))]
    descriptors = [
        _descriptor(state, own, place, n_types, vectors)
        for own, place in zip(sections, places, strict=True)
    ]
    fittings = [
        _layers(state, f"{_FITTING}.filter_layers.networks.{a}")
        for a in range(1 if is_dpa1 else n_types)
    ]
    return Parts(
        section=section,
        type_map=type_map,
        descriptors=descriptors,
        type_vectors=vectors,
        concatenated=sections[0].get("concat_output_tebd", True) is True,
        fparam_scales=_fparam_scales(state, count_of_fparam(section)),
        fittings=fittings,
        fitting_residual=[True] * (len(fittings[0]) - 1),
        bias_atom_e=state.array(f"{_FITTING}.bias_atom_e", (n_types, 1)),
        out_bias=state.array("atomic_model.out_bias", (1, n_types, 1)),
        out_std=state.array("atomic_model.out_std", (1, n_types, 1)),
        min_nbor_dist=_min_distance(state),
        short_range=table,
    )


def _descriptor(
    state: _State,
    section: Tree,
    place: str,
    n_types: int,
    vectors: list[Layer] | None,
) -> DescriptorParts:
    radial, is_dpa1 = section.get("type") in RADIAL, vectors is not None
    if not radial:
        place = f"{place}.{_INSIDE[is_dpa1]}"
    sel = _sel(section, n_types, is_dpa1)
    rcut, smooth = (section.get(key) for key in ("rcut", "rcut_smth"))
    if not isinstance(rcut, (int, float)) or not isinstance(smooth, (int, float)):
        raise PartsError("model/descriptor/rcut and rcut_smth are not numbers")
    factors, strip = None, f"{place}.filter_layers_strip.networks.0"
    if state.find(f"{strip}.layers.0.matrix") is not None:
        factors = _layers(state, strip)
    embeddings, one_side = _embeddings(state, f"{place}.filter_layers", n_types, vectors, factors)
    if n_types == 1 and vectors is None:  # the same networks either way
        one_side = radial or section.get("type_one_side") is True
    slots = (n_types, sum(sel), 1 if radial else 4)
    return DescriptorParts(
        section=section,
        rcut=float(rcut),
        rcut_smth=float(smooth),
        sel=sel,
        davg=state.array(f"{place}.mean", slots),
        dstd=state.array(f"{place}.stddev", slots),
        one_side=one_side,
        embeddings=embeddings,
        tables=None,
        type_factors=factors,
    )


_DESCRIPTOR = "atomic_model.descriptor"
_SMIN_ALPHA = 0.1
"""Å: whatever the input says, PyTorch's side trains with this one."""
_INSIDE = {False: "sea", True: "se_atten"}
_FITTING = "atomic_model.fitting_net"
_TYPE_EMBEDDING = "atomic_model.descriptor.type_embedding.embedding.embedding_net"


def _sel(descriptor: Tree, n_types: int, mixed: bool) -> list[int]:
    """Numbers of slots: of each type, or the one number of a descriptor that does not tell them."""
    given = descriptor.get("sel")
    sel = [given] if mixed and isinstance(given, int) else given
    if isinstance(sel, list) and all(type(n) is int and 0 <= n < 1 << 20 for n in sel):
        if mixed and sum(sel) > 0:
            return [sum(sel)]
        if len(sel) == n_types and sum(sel) > 0:
            return sel
    raise PartsError("model/descriptor/sel is not a list of one number for each type")


def _fparam_scales(state: _State, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    if not count:
        return None
    average, inverse = (
        state.array(f"{_FITTING}.fparam_{name}", (count,)) for name in ("avg", "inv_std")
    )
    return average, inverse


def _min_distance(state: _State) -> float | None:
    """Å; files without neighbour statistics hold -1."""
    if state.find("min_nbor_dist") is None:
        return None
    value = float(state.array("min_nbor_dist", ()))
    return value if value > 0 else None


def _embeddings(
    state: _State,
    place: str,
    n_types: int,
    vectors: list[Layer] | None,
    factors: list[Layer] | None,
) -> tuple[list[list[Layer] | None], bool]:
    """The networks, and whether they are those of neighbour types alone."""
    if vectors is not None:
        network = _layers(state, f"{place}.networks.0")
        if factors is not None:
            return [network], one_sided_input(factors, vectors, scalars=0)
        return [network], one_sided_input(network, vectors)
    last = f"{place}.networks.{n_types**2 - 1}.layers.0.matrix"
    two_sided = state.find(last) is not None
    count = n_types**2 if two_sided else n_types
    return [_layers(state, f"{place}.networks.{k}", 1) for k in range(count)], not two_sided


def _layers(state: _State, network: str, width: int = -1) -> list[Layer]:
    """All layers of a network; `width` of its input, or -1."""
    layers: list[Layer] = []
    while True:
        place = f"{network}.layers.{len(layers)}"
        if layers and state.find(f"{place}.matrix") is None:
            return layers
        w = state.array(f"{place}.matrix", (width, -1))
        width = w.shape[1]
        b, idt = (
            None
            if state.find(f"{place}.{key}") is None
            else state.array(f"{place}.{key}", (width,))
            for key in ("bias", "idt")
        )
        layers.append((w, b, idt))
