"""The sections of a training input, as a model file holds them: which of them can be expressed."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from ..model.type_embedding_config import DPA1
from .nodes import HYBRID, Tree


class PartsError(ValueError):
    """Parts that do not make a model, or not one that can be expressed."""


def brief(error: Exception) -> str:
    """The message of an error as one short line: a damaged file may have put anything in it."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(error)).split())
    return text if len(text) <= 200 else f"{text[:197]}..."


def section_of(script: str | Tree) -> Tree:
    """A section of an input file, from JSON or a mapping. Raises PartsError."""
    try:
        section = json.loads(script) if isinstance(script, str) else script
    except (ValueError, RecursionError):
        raise PartsError("its training script is not JSON") from None
    if not isinstance(section, dict):
        raise PartsError("its training script is not a mapping")
    return _plain(section, Counter(), 0)


MOST_VALUES, MOST_DEPTH = 100_000, 20
"""Of a training script; the longest have some hundred values."""


def _plain(value: Any, counted: Counter, depth: int) -> Any:
    """A copy of JSON's types alone: a pickle may hold others, or refer to itself."""
    counted["values"] += 1
    if counted["values"] > MOST_VALUES or depth > MOST_DEPTH:
        raise PartsError("its training script is larger than any")
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner, counted, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, counted, depth + 1) for inner in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise PartsError(f"its training script holds a value of {type(value).__name__}")


def check_supported(section: Tree) -> tuple[list[Tree], Tree]:
    """The sections of the descriptors and of the fitting of an energy model.

    A descriptor is `se_e2_a`, `se_e2_r` or DPA-1's, or a hybrid of the first two. Raises
    PartsError, naming key and value, for anything that these files keep elsewhere.
    """
    for key in ("modifier", "spin", "pair_type", "models"):
        if section.get(key):
            raise PartsError(f"model/{key} is not supported")
    known = ("se_e2_a", "se_e2_r", *DPA1, HYBRID, "se_r", "se_a")
    descriptor = _of_type(section.get("descriptor"), "descriptor", known)
    fitting = _of_type(section.get("fitting_net"), "fitting_net", ("ener",))
    descriptors = [descriptor]
    if descriptor.get("type") == HYBRID:
        given = descriptor.get("list")
        if not isinstance(given, list) or not given:
            raise PartsError("model/descriptor/list is missing from its training script")
        if section.get("type_embedding"):
            raise PartsError("model/type_embedding is not supported in a hybrid")
        parts = ("se_e2_a", "se_e2_r", "se_r", "se_a")
        descriptors = [_of_type(d, f"descriptor/list/{k}", parts) for k, d in enumerate(given)]
    if section.get("type", "standard") != "standard":
        raise PartsError(f"model/type {shown(section['type'])} is not supported; only standard")
    if fitting.get("numb_aparam"):
        number = shown(fitting["numb_aparam"])
        raise PartsError(f"model/fitting_net/numb_aparam {number} is not supported")
    return descriptors, fitting


def _of_type(part: Any, key: str, known: tuple[str, ...]) -> Tree:
    """The section `part` of the model, if its type (by default the last one) is known."""
    if not isinstance(part, dict):
        raise PartsError(f"model/{key} is missing from its training script")
    kind = part.get("type", known[-1])
    if kind not in known:
        raise PartsError(f"model/{key}/type {shown(kind)} is not supported; only {_names(known)}")
    return part


def count_of_fparam(section: Tree) -> int:
    """How many frame parameters the fitting section asks for. Raises PartsError."""
    count = section["fitting_net"].get("numb_fparam", 0)
    if not isinstance(count, int) or not 0 <= count < 1 << 16:
        raise PartsError(f"model/fitting_net/numb_fparam {shown(count)} is not a number of them")
    return int(count)


def _names(known: tuple[str, ...]) -> str:
    return " or ".join(name for name in known if name not in ("se_a", "se_r"))


def shown(value: Any) -> str:
    """A value as an error tells it."""
    return repr(value) if isinstance(value, (str, int, float)) else type(value).__name__
