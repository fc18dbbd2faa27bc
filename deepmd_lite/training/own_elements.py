"""The elements of an input that leaves `model/type_map` to the data, as DeePMD-kit allows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.formats import type_maps
from ..data.places import located_data
from ..system import InputError


def with_elements(
    source: Mapping[str, Any], folder: Path | None, where: str
) -> tuple[Mapping[str, Any], list[str]]:
    """The input with a `type_map`, and a note where that is of the data.

    Integers mean the same in all systems of the training data where the `type_map.raw` of one
    begins with that of every other: that one is taken. Raises InputError, naming `where` and
    `folder` as `read_input` does, where they say nothing or do not agree.
    """
    model, training = source.get("model"), source.get("training")
    if not isinstance(model, Mapping) or model.get("type_map") or not isinstance(training, Mapping):
        return source, []
    data = training.get("training_data")
    paths = data.get("systems") if isinstance(data, Mapping) else None
    paths = [paths] if isinstance(paths, str) else paths
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return source, []  # what is wrong the schema will say
    key = f"{where}: training/training_data/systems"
    missing = f"{where}: key 'model/type_map' is missing"
    longest: list[str] = []
    longest_of = ""
    for name, own in type_maps([located_data(path, folder, key) for path in paths]).items():
        if not own:
            raise InputError(
                f'{missing}, and {name} has no type_map.raw; list the elements there, as ["O", "H"]'
            )
        shorter, longer = sorted((longest, own), key=len)
        if longer[: len(shorter)] != shorter:
            raise InputError(
                f"{missing}, and types do not mean the same in {longest_of} "
                f"({' '.join(longest)}) and {name} ({' '.join(own)})"
            )
        if longer is not longest:
            longest, longest_of = own, name
    note = f"model/type_map is that of the data: {' '.join(longest)}"
    return {**source, "model": {**model, "type_map": longest}}, [note]
