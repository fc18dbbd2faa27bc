"""A serialised model as nested mappings that know their place.

DeePMD-kit writes a model as dicts, lists, numbers and arrays, with the version of each part under
`@version`. Whatever is missing, of another kind or not finite is refused by its full name.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..system import ModelFileError

FLOATS = ("float16", "float32", "float64", "bfloat16")


class Node:
    """One mapping of the tree; every method raises ModelFileError that names file and key."""

    def __init__(self, values: Any, place: str, parents: tuple[str, ...] = ()) -> None:
        """`place` is the file's name, `parents` the keys that lead here."""
        self.place = place
        self.parents = parents
        if not isinstance(values, Mapping):
            raise ModelFileError(f"{self.where()}: expected a mapping, found {_shown(values)}")
        self.values = values

    def where(self, key: str = "") -> str:
        """'file: a/b/key'."""
        path = "/".join([*self.parents, *([key] if key else [])])
        return f"{self.place}: {path}" if path else self.place

    def refusal(self, key: str, sentence: str) -> ModelFileError:
        """The error that says `sentence` of a key."""
        return ModelFileError(f"{self.where(key)}: {sentence}")

    def given(self, key: str) -> bool:
        """Whether the key is there and holds more than null."""
        return self.values.get(key) is not None

    def _get(self, key: str) -> Any:
        if key not in self.values:
            raise self.refusal(key, "the key is missing; the file is not complete")
        return self.values[key]

    def node(self, key: str) -> Node:
        """The mapping at `key`."""
        return Node(self._get(key), self.place, (*self.parents, key))

    def nodes(self, key: str, count: int) -> list[Node | None]:
        """The `count` mappings or nulls of the list at `key`."""
        found = self._get(key)
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != count:
            raise self.refusal(key, f"expected a list of {count}, found {_shown(found)}")
        places = [(*self.parents, key, str(i)) for i in range(count)]
        return [
            None if values is None else Node(values, self.place, place)
            for values, place in zip(found, places, strict=True)
        ]

    def number(self, key: str) -> float:
        """A finite number."""
        found = self._get(key)
        if isinstance(found, np.ndarray) and found.size == 1:
            found = found.item()
        if isinstance(found, bool) or not isinstance(found, (int, float, np.number)):
            raise self.refusal(key, f"expected a number, found {_shown(found)}")
        if not -sys.float_info.max < found < sys.float_info.max:  # an integer may be larger
            raise self.refusal(key, f"expected a finite number, found {_shown(found)}")
        return float(found)

    def integers(self, key: str) -> list[int]:
        """A list of integers, or one."""
        found = self._get(key)
        found = found.tolist() if isinstance(found, np.ndarray) else found
        found = found if isinstance(found, list) else [found]
        if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in found):
            raise self.refusal(key, f"expected integers, found {_shown(found)}")
        return [int(i) for i in found]

    def names(self, key: str) -> list[str]:
        """A list of strings."""
        found = self._get(key)
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.refusal(key, f"expected a list of names, found {_shown(found)}")
        return list(found)

    def text(self, key: str) -> str:
        """A string."""
        found = self._get(key)
        if not isinstance(found, str):
            raise self.refusal(key, f"expected a word, found {_shown(found)}")
        return found

    def flag(self, key: str) -> bool:
        """True or False."""
        found = self._get(key)
        if not isinstance(found, (bool, np.bool_)):
            raise self.refusal(key, f"expected true or false, found {_shown(found)}")
        return bool(found)

    def pairs(self, key: str) -> list[tuple[int, int]]:
        """A list of pairs of integers."""
        found = self._get(key)
        as_array = np.asarray(found) if isinstance(found, (list, np.ndarray)) else None
        if as_array is not None and as_array.size == 0:
            return []
        if as_array is None or as_array.dtype.kind not in "iu" or as_array.shape[1:] != (2,):
            raise self.refusal(key, f"expected pairs of types, found {_shown(found)}")
        return [(int(a), int(b)) for a, b in as_array]

    def array(self, key: str, shape: tuple[int, ...]) -> np.ndarray:
        """A finite array of floating-point numbers of `shape`, where -1 stands for any length."""
        found = self._get(key)
        if not isinstance(found, np.ndarray) or found.dtype.name not in FLOATS:
            raise self.refusal(key, f"expected an array of numbers, found {_shown(found)}")
        fits = found.ndim == len(shape) and all(
            wanted in (-1, n) for n, wanted in zip(found.shape, shape, strict=True)
        )
        if not fits:
            raise self.refusal(key, f"expected an array of shape {shape}, found {found.shape}")
        if not np.isfinite(found.astype(np.float64)).all():
            raise self.refusal(key, "holds values that are not finite")
        return found

    def version(self, *accepted: int) -> None:
        """That `@version` (1 where it is missing) is one of `accepted`."""
        found = self.values.get("@version", 1)
        if found not in accepted:
            raise self.refusal(
                "@version",
                f"version {found!r} is not known here (expected {', '.join(map(str, accepted))}); "
                "convert with a newer deepmd_lite, or write the model with DeePMD-kit 3.2",
            )

    def only(self, key: str, *accepted: Any, default: Any = None) -> Any:
        """The value at `key` (`default` where missing), which must be one of `accepted`."""
        found = self.values.get(key, default)
        if not any(type(found) is type(value) and found == value for value in accepted):
            raise self.refusal(key, f"{_shown(found)} is not supported; only {_listed(accepted)}")
        return found

    def nothing_else(self, *known: str) -> None:
        """That keys beyond `known` are off: null, false, zero or empty."""
        for key, value in self.values.items():
            if key in known or key.startswith("@"):
                continue
            on = value.size > 0 if isinstance(value, np.ndarray) else bool(value)
            if on:
                raise self.refusal(key, f"{_shown(value)} is not supported")


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype.name} {value.shape}"
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(values: Sequence[Any]) -> str:
    different = [v for i, v in enumerate(values) if v is not None and v not in values[:i]]
    return " or ".join(map(_shown, different))
