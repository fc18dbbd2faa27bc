"""What DeePMD-kit trains and this does not: refused by one sentence, before keys are looked at.

Such an input has many keys that are unknown here, because of what it is of. To name these would
hide the one reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..model.descriptor_config import HYBRID, SHORT_NAMES
from ..model.type_embedding_config import DPA1
from ..system import InputError

_DESCRIPTORS = ("se_e2_a", "se_e2_r", "se_e2_q")
_MODELS = {
    "linear_ener": "for a table of pair energies at short range, model/use_srtab",
    "pairtab": "for a table of pair energies at short range, model/use_srtab",
    "frozen": "to go on from a model, dpl convert it and give --init-model",
}
"""Type of model → what there is instead."""
_SEVERAL = {
    "model": ("model_dict", "shared_dict", "fitting_net_dict"),
    "": ("loss_dict", "learning_rate_dict"),
    "training": ("data_dict", "fitting_weight", "model_prob", "num_epoch_dict"),
}
"""Section → keys of a training of several models at once."""


def refuse_other_kinds(source: Mapping[str, Any], where: str) -> None:
    """Raises InputError, naming `where`, for the first thing that is of another kind.

    Several models at once, types of model, descriptor, fitting network, loss and optimiser that are
    not here, parameters of atoms, and parts of a network that are not trained.
    """
    for problem in _problems(source):
        raise InputError(f"{where}: {problem}")


def _problems(source: Mapping[str, Any]) -> Iterator[str]:
    for section, keys in _SEVERAL.items():
        given = _section(source, section)
        for key in keys:
            if given.get(key):
                name = f"{section}/{key}".lstrip("/")
                yield f"{name} is not supported; one model is trained on one data set"
    model = _section(source, "model")
    kind = model.get("type", "standard")
    if kind != "standard":
        instead = _MODELS.get(str(kind))
        yield _not_here("model/type", kind, "'standard'") + (f"; {instead}" if instead else "")
    yield from _of_descriptor(_section(model, "descriptor"))
    fitting = _section(model, "fitting_net")
    if fitting.get("type", "ener") != "ener":
        yield _not_here("model/fitting_net/type", fitting["type"], "'ener': models are of energies")
    if fitting.get("numb_aparam"):
        yield "model/fitting_net/numb_aparam: parameters of atoms are not supported"
    loss = _section(source, "loss")
    if loss.get("type", "ener") != "ener":
        yield _not_here("loss/type", loss["type"], "'ener'")
    for section, key in (("optimizer", "type"), ("training", "opt_type")):
        kind = _section(source, section).get(key) or "SOAP"
        if kind not in ("SOAP", "Adam"):
            yield _not_here(f"{section}/{key}", kind, "'SOAP' and 'Adam'")
    for name, network in _networks(model):
        trained = network.get("trainable", True)
        if trained is False or (isinstance(trained, list) and False in trained):
            yield (
                f"model/{name}/trainable: false is not supported, every layer is trained; leave "
                "the key out"
            )


def _networks(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Sections of networks, with their names."""
    for name in ("descriptor", "fitting_net", "type_embedding"):
        yield name, _section(model, name)
    parts = _section(model, "descriptor").get("list")
    for k, part in enumerate(parts if isinstance(parts, list) else []):
        if isinstance(part, Mapping):
            yield f"descriptor/list/{k}", part


def _of_descriptor(descriptor: Mapping[str, Any]) -> Iterator[str]:
    kind = descriptor.get("type", "se_e2_a")
    if kind == HYBRID:
        for name, part in _networks({"descriptor": descriptor}):
            of_part = part.get("type", "se_e2_a")
            if "/" in name and of_part not in (*_DESCRIPTORS, *SHORT_NAMES):
                yield _not_here(f"model/{name}/type", of_part, "se_e2_a, se_e2_r and se_e2_q")
    elif kind not in (*_DESCRIPTORS, *SHORT_NAMES, *DPA1):
        yield _not_here(
            "model/descriptor/type",
            kind,
            "se_e2_a, se_e2_r, se_e2_q, hybrid of these, and se_atten with attn_layer 0",
        )


def _section(parent: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """`parent` itself for '', an empty one where there is none, or one that is no section."""
    found = parent.get(name) if name else parent
    return found if isinstance(found, Mapping) else {}


def _not_here(key: str, kind: Any, known: str) -> str:
    verb = "are" if "," in known or " and " in known else "is"
    return f"{key} {kind!r} is not supported; there {verb} {known}"
