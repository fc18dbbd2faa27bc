"""The descriptors of a model in a tree: one, or those of a hybrid."""

from __future__ import annotations

from .nodes import HYBRID, RADIAL
from .tree import Node


def descriptors_of(model: Node) -> list[Node]:
    """The descriptor, or each one of a hybrid, whose numbers stand one after another."""
    descriptor = model.node("descriptor")
    if descriptor.values.get("type") != HYBRID:
        return [descriptor]
    descriptor.version(1)
    descriptor.nothing_else("type", "list")
    given = descriptor.values.get("list")
    count = len(given) if isinstance(given, list) else 0
    parts = [node for node in descriptor.nodes("list", max(count, 1)) if node is not None]
    if len(parts) != count:
        raise descriptor.refusal("list", "a descriptor is null")
    for node in parts:
        node.only("type", "se_e2_a", "se_a", *RADIAL)
        if node.given("type_embedding"):
            raise node.refusal("type_embedding", "is not supported in a hybrid")
    return parts
