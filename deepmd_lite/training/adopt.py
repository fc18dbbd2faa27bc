"""Which elements a training has, and what it takes over from a model that it starts from."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from ..model import Potential, load_model
from ..model.config import ModelConfig
from ..model.descriptor_config import unordered
from ..model.typed import trained_config
from ..system import InputError
from .checkpoint import changed_keys
from .config import TrainInput

log = logging.getLogger(__name__)

NO_NEW_ELEMENTS = "a model cannot be given new elements: train on them from the start"


def drop_elements(
    settings: TrainInput, found: Collection[str], why: str = "no atom of them in the training data"
) -> None:
    """Leave out of `settings` the elements of its type map that are not among those `found`.

    A network without data would stay random, and the model that has it would give its energies; a
    model that does not know the element refuses it. Nothing is left out where a short-range table,
    whose columns are pairs of the type map, says what all of them do, nor where none is left.
    """
    model = settings.model
    kept = [k for k, name in enumerate(model.type_map) if name in found]
    absent = [name for name in model.type_map if name not in found]
    if not absent or not kept or model.use_srtab is not None:
        return
    place = {old: new for new, old in enumerate(kept)}
    for d in model.descriptors:
        pairs = [(a, b) for a, b in d.exclude_types if a in place and b in place]
        d.exclude_types = [(place[a], place[b]) for a, b in pairs]
        d.sel = [d.sel[k] for k in kept] if isinstance(d.sel, list) else d.sel
    given = model.fitting_net.atom_ener
    model.fitting_net.atom_ener = [given[k] for k in kept] if given else given
    model.type_map = [model.type_map[k] for k in kept]
    log.warning(
        "note: %s of model/type_map left out, %s: the model will have %s alone, and refuse other "
        "elements",
        ", ".join(absent),
        why,
        ", ".join(model.type_map),
    )


def adopt_elements(settings: TrainInput, found: ModelConfig, sel: list[list[int]]) -> bool:
    """Take over elements, their order and `sel` of a model that knows all those of the input.

    `sel` is that of each descriptor.
    The training then goes on with the model's `type_map`: elements go by name in data, and what
    the data do not have is left as it was. Returns whether anything changed.
    """
    wanted = settings.model.type_map
    if wanted == found.type_map or not set(wanted) <= set(found.type_map):
        return False
    place = [found.type_map.index(name) for name in wanted]
    for k, d in enumerate(settings.model.descriptors):
        d.exclude_types = unordered((place[a], place[b]) for a, b in d.exclude_types)
        d.sel = list(sel[k]) if k < len(sel) else d.sel
    settings.model.type_map = list(found.type_map)
    settings.model.fitting_net.atom_ener = list(found.fitting_net.atom_ener)
    return True


CLOSE_ATOMS = ("repulsion", "use_srtab", "smin_alpha", "sw_rmin", "sw_rmax", "srtab_add_bias")
"""Keys of the section `model` that say what close atoms do."""


def adopt_architecture(settings: TrainInput, found: ModelConfig) -> None:
    """Take over all of a model's section `model` but its elements and what close atoms do.

    A short-range table is taken over where the input itself says nothing of close atoms.
    """
    own = settings.model
    silent = own.use_srtab is None and "repulsion" not in own.model_fields_set
    settings._keeps_table = silent and found.use_srtab is not None
    close = found if settings._keeps_table else own
    kept = {key: getattr(close, key) for key in CLOSE_ATOMS}
    settings.model = found.model_copy(deep=True, update={"type_map": own.type_map, **kept})


def adopt_model(settings: TrainInput, path: str | Path, architecture: bool = False) -> None:
    """Check the input against the model file that a training starts from, before data are read.

    `architecture`: the model's is taken over. Raises InputError where the model knows none of
    the elements, or has another architecture.
    """
    model = load_model(path)
    new = [name for name in settings.model.type_map if name not in model.type_map]
    if new:  # the data may be without them
        drop_elements(settings, model.type_map, f"which {path} does not know")
    if not set(settings.model.type_map) <= set(model.type_map):
        raise InputError(
            f"{path}: knows {' '.join(model.type_map)}, but not {' '.join(new)} of model/type_map; "
            f"{NO_NEW_ELEMENTS}"
        )
    if architecture:
        adopt_architecture(settings, trained_config(model))
    if adopt_elements(settings, model.config, [d.sel for d in model.descriptors]):
        log.info(
            "note: the model keeps the elements of %s, %s; the data may have those of the input's "
            "type_map, %s",
            path,
            " ".join(model.type_map),
            " ".join(settings.elements),
        )
    check_architecture(model, settings.model, f"{path}")


def check_architecture(model: Potential, wanted: ModelConfig, where: str) -> None:
    """Raises InputError where weights of `model` do not fit the input `wanted`.

    Where it has networks that all elements shared, an input without `type_embedding` goes on with
    networks of each element.
    """
    shared = wanted.type_embedding is not None
    found = trained_config(model) if shared else model.config
    free = (
        *("seed", "precision", "/sel", "atom_ener", "rcond", "set_davg_zero"),
        "default_fparam",
        *CLOSE_ATOMS,
    )
    differing = [
        key
        for key in changed_keys(found.model_dump(mode="json"), wanted.model_dump(mode="json"))
        if not key.startswith(("data_", "table/")) and not f"/{key}".endswith(free)
    ]
    silent = wanted.use_srtab is None and "repulsion" not in wanted.model_fields_set
    if silent and found.use_srtab is not None:
        differing.append("use_srtab")
    if differing:
        raise InputError(
            f"{where}: this model differs from the input in model/{', model/'.join(differing)}; "
            "--use-pretrain-script takes them from there"
        )
    if not shared:
        try:
            for d in model.descriptors:
                d.embedding_networks()
        except InputError as e:
            raise InputError(f"{where}: {e}") from None
