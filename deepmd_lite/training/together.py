"""What the elements of a family learn together.

Elements that begin alike (`beginning`) do not stay so for long: SOAP and Adam move each weight by
about the learning rate, whatever the size of its gradient, and so the few atoms of one element soon
lead its networks elsewhere. Most of what they have to learn is the same, though. So the weights of
an element a are learnt as a sum W_a = C + D_a: what the family has in common, C, follows the sum of
its gradients, at the learning rate; what tells the element apart, D_a, follows its own gradient, at
`OWN` of that rate. Only in the last layer, in which the energy is linear, D_a is as fast as C.

Neither C nor D_a is kept: the optimiser makes steps of both, and the weights move by their sum. The
model, its file and its speed are what they were.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..elements import family
from ..model import Potential
from .adam import LeanOptimizer

OWN = 0.1
"""Steps of what tells an element apart, over those of what its family has in common."""
LAST = "_out"
"""How the names of the last layer's parameters end."""
PREFIX = "together."
"""Of the names of common parts in a checkpoint."""

Families = list[list[int]]
"""Elements by their numbers, each in one family."""


def families_of(type_map: Sequence[str], alike: bool = True) -> Families:
    """The families of elements; each element by itself where none are to be alike."""
    found: dict[str, list[int]] = {}
    for a, symbol in enumerate(type_map):
        found.setdefault(family(symbol) if alike else symbol, []).append(a)
    return list(found.values())


@dataclass(frozen=True)
class Share:
    """What weights of several elements, or pairs of elements, have in common."""

    parameters: list[torch.nn.Parameter]
    """Where these weights are: one parameter of each member, or one that holds them all."""
    rows: torch.Tensor | None
    """(n_members,) their places in the one parameter; None where each has its own."""
    common: torch.nn.Parameter
    """0 between steps."""
    own: float
    """Share of the rate at which each learns by itself."""

    def add_gradients(self) -> None:
        """Give the common part the sum of the members' gradients, None where there is none."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.rows is not None:
            gradients = [g[self.rows].sum(dim=0, keepdim=True) for g in gradients]
        self.common.grad = torch.stack(gradients).sum(dim=0) if gradients else None

    def move(self, before: Sequence[torch.Tensor]) -> None:
        """Shorten the members' own steps from `before`, and add the common one."""
        for parameter, old in zip(self.parameters, before, strict=True):
            if self.rows is None:
                parameter.copy_(torch.lerp(old, parameter, self.own) + self.common)
            else:
                own = torch.lerp(old[self.rows], parameter[self.rows], self.own)
                parameter[self.rows] = own + self.common
        self.common.zero_()


class Together:
    """The common parts of a potential's weights; nothing where no family has two members."""

    def __init__(self, potential: Potential, families: Families) -> None:
        """`families` of elements that began alike, by their numbers, each in one of them."""
        self.shares: dict[str, Share] = {}
        """By their names in a checkpoint."""
        if potential.type_embedding is not None:  # all elements have the same networks
            return
        for members in families:
            self._share_fitting(potential, members)
        n_types = len(potential.type_map)
        for k, d in enumerate(potential.descriptors):
            for name, weights in d.embedding.named_parameters():
                pairs = len(weights) != n_types
                for rows in _of_pairs(families, n_types) if pairs else families:
                    self._add(f"descriptors.{k}.{name}.{rows[0]}", [weights], rows)

    def _share_fitting(self, potential: Potential, members: Sequence[int]) -> None:
        names = [name for name, _ in potential.fitting[members[0]].named_parameters()]
        for name in names:
            weights = [potential.fitting[a].get_parameter(name) for a in members]
            self._add(f"fitting.{members[0]}.{name}", weights, None)

    def _add(
        self, name: str, parameters: list[torch.nn.Parameter], rows: Sequence[int] | None
    ) -> None:
        if len(parameters if rows is None else rows) < 2:
            return
        one = parameters[0] if rows is None else parameters[0][:1]
        self.shares[PREFIX + name] = Share(
            parameters,
            None if rows is None else torch.tensor(rows),
            torch.nn.Parameter(torch.zeros_like(one)),
            1.0 if name.endswith(LAST) else OWN,
        )

    @property
    def any(self) -> bool:
        """Whether there is anything in common."""
        return bool(self.shares)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The common parts, which the optimiser moves as it does all others."""
        return ((name, share.common) for name, share in self.shares.items())

    @torch.no_grad()
    def step(self, optimizer: LeanOptimizer) -> None:
        """One update by an optimiser that has these common parts among its parameters."""
        shares = list(self.shares.values())
        parameters = {p for share in shares for p in share.parameters}
        before = {p: p.clone() for p in parameters}
        for share in shares:
            share.add_gradients()
        optimizer.step()
        for share in shares:
            share.move([before[p] for p in share.parameters])


def _of_pairs(families: Families, n_types: int) -> list[list[int]]:
    """Places a · n_types + b of the pairs of elements of each pair of families."""
    return [[a * n_types + b for a in one for b in other] for one in families for other in families]
