"""The embedding of a compressed model: DeePMD-kit's tables as ours.

Its table is a quintic for each interval, of width stride0 from lower to upper and of stride1 from
there to max (`tabulate_fusion_se_a`; see `nodes`). Outside it repeats the first or last value; here
it continues smoothly, and the potential ends where the table does.
"""

from __future__ import annotations

import numpy as np
import torch

from ..model.descriptor_config import DescriptorConfig
from ..model.statistics import Scales
from ..model.tabulated import TabulatedEmbedding
from . import nodes
from .tree import Node


def tabulated_embedding(
    descriptor: Node, d: DescriptorConfig, scales: Scales
) -> tuple[TabulatedEmbedding, float] | None:
    """The tables of a `TabulatedEmbedding`, in the order of ours; None where networks are given.

    And how near two atoms may come, Å, so that s̃ stays inside every table, for every centre:
    s < 1/(r + env_protection), which may reach what the tables end at.
    Raises ModelFileError for tables that are not valid.
    """
    embeddings = descriptor.node("embeddings")
    if embeddings.values.get("@class") != "TabulatedEmbedding":
        return None
    return tabulated(embeddings, 1 if d.type_one_side else 2, d, scales)


def tabulated(
    embeddings: Node, ndim: int, d: DescriptorConfig, scales: Scales
) -> tuple[TabulatedEmbedding, float]:
    """As `tabulated_embedding`, of tables of neighbours (`ndim` 1), pairs (2) or one of all (0)."""
    n_types = len(scales.sel)
    embeddings.version(1)
    embeddings.only("ndim", ndim)
    embeddings.only("ntypes", n_types)
    given = embeddings.nodes("tables", n_types**ndim)
    if ndim == 2:  # G_ab stands at a + n_types · b there, at a · n_types + b here
        given = [given[a + n_types * b] for a in range(n_types) for b in range(n_types)]
    tables = [None if node is None else _checked(node, d.neuron[-1]) for node in given]
    ends = [table["max"] for table in tables if table is not None]
    if not ends or any(
        t is None and not _excluded(k, ndim, d, n_types) for k, t in enumerate(tables)
    ):
        raise embeddings.refusal("tables", "a table is null; expected its coefficients")
    reach = min(ends) * scales.dstd[:, 0] + scales.davg[:, 0]
    if not (reach > 1.0 / (d.rcut + d.env_protection)).all():
        raise embeddings.refusal("tables", f"end at {min(ends)}, before any distance within rcut")
    found = [_pieces(table, d.neuron[-1]) for table in tables]
    embedding = TabulatedEmbedding([knots for knots, _ in found], [pieces for _, pieces in found])
    return embedding, max(0.0, float((1.0 / reach).max()) - d.env_protection)


def _excluded(k: int, ndim: int, d: DescriptorConfig, n: int) -> bool:
    """Whether no pair of the n types looks at table k."""
    pairs = {frozenset(p) for p in d.exclude_types}
    if ndim == 2:
        return frozenset(divmod(k, n)) in pairs
    return all(frozenset((a, k)) in pairs for a in range(n))


def _checked(node: Node, width: int) -> nodes.Tree:
    """A table again, whatever wrote it."""
    coefficients = node.node("@variables").array("coefficients", (-1, width, 6))
    info = [node.number(key) for key in ("lower", "upper", "max", "stride0", "stride1")]
    try:
        return nodes.table(np.array(info), coefficients.reshape(-1, 6 * width), width)
    except ValueError as e:
        raise node.refusal("", str(e)) from None


def _pieces(table: nodes.Tree | None, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Knots (K,) and coefficients (K, 6, M), the last row that of the end; zero for None."""
    if table is None:
        return torch.zeros(1, dtype=torch.float64), torch.zeros(1, 6, width, dtype=torch.float64)
    lower, upper, stride0, stride1 = (table[k] for k in ("lower", "upper", "stride0", "stride1"))
    coefficients = table["@variables"]["coefficients"].astype(np.float64).transpose(0, 2, 1)
    first = round((upper - lower) / stride0)
    k = np.arange(len(coefficients) + 1)
    knots = np.where(k < first, lower + stride0 * k, upper + stride1 * (k - first))
    last = np.zeros_like(coefficients[:1])
    last[0, :3] = _taylor(coefficients[-1], knots[-1] - knots[-2])
    pieces = np.concatenate([coefficients, last])
    return torch.from_numpy(knots), torch.from_numpy(pieces)


def _taylor(coefficients: np.ndarray, x: float) -> list[np.ndarray]:
    """Value, first and half the second derivative of a quintic (6, M) at x."""
    k = np.arange(6)
    powers = x**k
    first = k[1:] * powers[:-1]
    second = k[2:] * (k[2:] - 1) / 2 * powers[:-2]
    return [powers @ coefficients, first @ coefficients[1:], second @ coefficients[2:]]
