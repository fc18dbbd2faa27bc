"""The first weights of a new training.

Networks of each element that are drawn at random make silver as foreign to copper as oxygen is:
what is learned of one says nothing of the other. Those that begin with the same weights see one
element, and learn from the atoms of all, until their gradients tell them apart. Where elements are
chemically alike, most of what there is to learn is the same. So the elements of a family begin
alike: a column of the non-metals, or all metals (`elements.family`).
"""

from __future__ import annotations

import torch

from ..model import Potential
from ..model.typed import tell_apart
from ..system import LocalEnv
from .config import TrainingConfig
from .pace import quicken
from .together import Families, families_of


def begin(potential: Potential, training: TrainingConfig, sample: LocalEnv) -> None:
    """Prepare randomly drawn weights, in place, as the input wants; `sample` of its data."""
    families = families_of(potential.type_map, training.alike_elements)
    if training.spread_first_layer:
        tell_apart(potential.spread_over_distances(training.seed))
    if potential.type_embedding is None:
        begin_alike(potential, families)
    if training.scale_descriptor:
        quicken(potential, sample, families)


@torch.no_grad()
def begin_alike(potential: Potential, families: Families) -> None:
    """Give the networks of each element the weights of the first of its family, in place.

    An embedding of two elements has those of the first of both families. For potentials whose
    elements have networks of their own.
    """
    first = {a: members[0] for members in families for a in members}
    n = len(first)
    own = torch.tensor([first[a] for a in range(n)])
    pairs = (own[:, None] * n + own).flatten()
    for a in range(n):
        potential.fitting[a].load_state_dict(potential.fitting[first[a]].state_dict())
    for d in potential.descriptors:
        for weights in d.embedding.parameters():
            weights.copy_(weights[own if len(weights) == n else pairs])
