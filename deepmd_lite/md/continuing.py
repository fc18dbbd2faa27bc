"""What a continued run may change of its input: each restart keeps what the run began with.

Atoms, masses and what is held come from the restart, so another value of those keys could have no
effect and is refused. Any other key counts from then on, and a difference is said.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..data.places import place_of
from ..system import InputError
from .config import MdConfig

_WITHOUT_EFFECT = (
    *("structure", "elements", "replicate", "masses", "frozen", "velocities"),
    *("moving/atoms", "pull/atoms"),
)
_FREE = {"steps", "output", "grid", "balance", "device"}
"""Neither the trajectory nor what it means depends on them."""


def record(config: MdConfig) -> dict[str, Any]:
    """What is kept of an input whose model files are located: its keys as JSON, files by digest.

    A structure that is not there any more has no digest.
    """
    kept = config.model_dump(mode="json", exclude=_FREE)
    for name, value in (("moving", "velocity"), ("pull", "force")):
        groups = getattr(config, name)
        kept[name] = {
            "atoms": [group.conditions for group in groups],
            value: [list(getattr(group, value)) for group in groups],
        }
    kept["model"] = [_digest(Path(model)) for model in config.model]
    if isinstance(config.plumed, str):
        kept["plumed"] = _digest(Path(config.plumed))
    place = place_of(config.structure)
    path = Path(place.path)
    content = _digest(path) + place.rest if path.is_file() else None
    kept["structure"] = {"name": path.name + place.rest, "content": content}
    return kept


def notes(began_with: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for each key of the record `now` that differs from the one that the run began with.

    Raises InputError for a key that could have no effect. Keys that only one of them has are of
    another version.
    """
    if not began_with:
        return [
            "the restart has no record of the input that the run began with: changed keys are not "
            "noticed; structure, replicate, masses and frozen are those of the restart"
        ]
    began_with, now = dict(began_with), dict(now)
    if now["velocities"] is None:  # leaving them out asks for nothing
        began_with.pop("velocities", None)
    key = (
        "content" if began_with["structure"]["content"] and now["structure"]["content"] else "name"
    )
    for kept in (began_with, now):
        kept["structure"] = kept["structure"][key]
    lines = []
    for path, before, after in _changes(began_with, now):
        if path in _WITHOUT_EFFECT or path.split("/")[0] in _WITHOUT_EFFECT:
            raise InputError(
                f"{path}: differs from the input that the run began with and has no effect on a "
                "run that goes on: restore it, or begin a new run in another output directory"
            )
        values = f": {_shown(before)} then, {_shown(after)} now"
        if path in ("model", "plumed"):  # digests
            values = ""
        lines.append(f"{path} differs from the input that the run began with{values}")
    return lines


def _changes(
    before: Mapping[str, Any], after: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Path, old and new value of what two mappings both have and differ in."""
    for key in (key for key in before if key in after):
        a, b = before[key], after[key]
        another = key == "ensemble" and a["type"] != b["type"]  # their keys are not those of one
        if isinstance(a, Mapping) and isinstance(b, Mapping) and key != "masses" and not another:
            yield from _changes(a, b, f"{prefix}{key}/")
        elif a != b:
            yield prefix + key, a, b


def _shown(value: Any) -> Any:
    """As an input may give it: one number for a target that stays, no key that is not there."""
    if isinstance(value, Mapping):
        given = (f"{k}: {_shown(v)}" for k, v in value.items() if v is not None)
        return "{" + ", ".join(given) + "}"
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return f"{value[0]:g}"
    return "nothing" if value is None else value


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
