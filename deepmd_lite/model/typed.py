"""Potentials whose elements share their networks (`typed_networks`): for a training alone.

To each of them belongs a plain one, whose elements, or pairs of elements, have networks of their
own that say the same (`make_plain`). That is what is evaluated and what files hold; beside it they
hold the shared weights, for a training that goes on with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..schema import parse
from ..system import InputError, ModelFileError
from .arrays import check_arrays
from .config import ModelConfig
from .networks import Embedding, Fitting, Layers, generator_of
from .potential import Potential
from .statistics import Statistics
from .table import Grid
from .type_embedding_config import MOST_TYPES, TypeEmbeddingConfig
from .typed_networks import Shared, StrippedEmbedding, TypedEmbedding, TypedFitting, TypeVectors

OF_TYPES = 1_000
"""Random numbers of the vectors come from this stream."""
VECTORS, APART = 2.0, 2.0
"""Root mean square, over the elements, of the numbers of their vectors and of what these add to
arguments of first layers, in a new training.

As DeePMD-kit draws them both are some tenths, for a thousand steps all elements are nearly one, and
weights that multiply small numbers learn slowly. Preset `fast` with a type embedding, 1,000 steps,
one seed: force RMSE of liquid water 62 meV/Å from DeePMD-kit's distribution, 48 from this one;
of ethanol 81 and 61. 1 and 1: 61 and 68; 1 and 3: 84 and 62; 4 and 2: 48 and 61.
"""
_PREFIX = "shared."
_NETWORKS = ("type_embedding.", "embedding.", "fitting.")
"""What the names of networks begin with, shared or not."""


def trained_config(model: Potential) -> ModelConfig:
    """What the input of its training said of the model."""
    return model.config if model.shared is None else model.shared.config(model.config)


def learned_by(model: Potential, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Arrays of `model` under the names of `potential_for_training(config, …).state_dict()`.

    `config` is its own or, of a model with shared networks, that of its training.
    """
    arrays = model.state_dict()
    if config.type_embedding is None or model.shared is None:
        return arrays
    others = {name: x for name, x in arrays.items() if not name.startswith(_NETWORKS)}
    return {**others, **model.shared.arrays}


def plain_config(config: ModelConfig) -> ModelConfig:
    """That of the plain potential; `config` itself where elements share nothing.

    Raises InputError for more elements than there can be tables.
    """
    types, n = config.type_embedding, len(config.type_map)
    if types is None:
        return config
    if n > MOST_TYPES:
        raise InputError(
            f"model/type_embedding: {n} elements need as many tables as pairs of them; at most "
            f"{MOST_TYPES} are supported: train on fewer"
        )
    (d,) = config.descriptors
    sel = d.sel
    if isinstance(sel, int):  # of all elements; only the sum matters
        sel = [sel // n + (a < sel % n) for a in range(n)]
    one_side = d.type_one_side and not types.fades
    own = d.model_copy(update={"sel": sel, "type_one_side": one_side})
    return config.model_copy(update={"descriptor": own, "type_embedding": None})


def potential_for_training(
    config: ModelConfig,
    statistics: Statistics,
    seed: int | None,
    grids: Sequence[Grid] | None = None,
) -> Potential:
    """A `Potential`, with the networks that `config` says; its own `config` is the plain one."""
    types = config.type_embedding
    if types is None:
        return Potential(config, statistics, seed, grids)
    (d,) = config.descriptors
    f, n_types = config.fitting_net, len(config.type_map)
    generator = generator_of(seed, types.seed, OF_TYPES)
    vectors = TypeVectors(n_types, types, d.type_one_side, generator)
    generator = generator_of(seed, d.seed, 1)
    embedding: TypedEmbedding | StrippedEmbedding
    if types.tebd_input_mode == "concat":
        embedding = TypedEmbedding(vectors, d, generator)
    else:
        embedding = StrippedEmbedding(vectors, d, statistics.scales[0], generator)
    potential = Potential(plain_config(config), statistics, seed, grids, [embedding])
    potential.type_embedding = vectors
    generator = generator_of(seed, f.seed, 2)
    potential.fitting = TypedFitting(vectors, d.width, f, generator)
    vectors.to(potential.dtype)
    return potential.to_precision(config.precision)


@torch.no_grad()
def tell_apart(potential: Potential) -> None:
    """First weights for a training, with which the elements are not all nearly one (`APART`)."""
    vectors = potential.type_embedding
    if vectors is None or vectors.n_types == 1:
        return
    last = vectors.get_parameter(f"weight_{len(vectors.widths) - 1}")
    last.mul_(VECTORS / _spread(vectors()))
    for network in potential.modules():
        if isinstance(network, TypedEmbedding | TypedFitting) and network.type_weight is not None:
            network.type_weight.mul_(APART / _spread(network.told() @ network.type_weight))


def _spread(rows: torch.Tensor) -> torch.Tensor:
    """Root mean square of the differences of `rows` from their mean."""
    return (rows - rows.mean(dim=0)).square().mean().sqrt()


@torch.no_grad()
def make_plain(potential: Potential) -> Potential:
    """`potential` itself, whose elements have networks of their own from now on, that say what the
    shared ones said."""
    if not isinstance(potential.fitting, TypedFitting):
        return potential
    potential.shared = _shared(potential)
    d = potential.descriptor
    if isinstance(d.embedding, StrippedEmbedding):
        d.embedding = d.embedding.now()
    else:
        own = d.embedding_networks()
        made_of = (own.widths, own.activation, own.resnet_dt, None)
        d.embedding = Embedding(own.copies, 1, *made_of)
        _fill(d.embedding, own)
    networks = []
    for shared in potential.fitting:
        made_of = (shared.widths, shared.activation, shared.resnet_dt, None)
        network = Fitting(d.config.width, *made_of)
        _fill(network, shared)
        network.weight_out.copy_(shared.weight_out)
        network.bias_out.copy_(shared.bias_out)
        networks.append(network)
    potential.fitting = nn.ModuleList(networks)
    potential.type_embedding = None
    return potential.to_precision(potential.precision)


def _fill(network: Layers, weights: Layers) -> None:
    """Give `network` the hidden layers of another one of the same shape."""
    for layer in range(len(network.widths)):
        parts = zip(("weight", "bias", "step"), weights.parameters_of(layer), strict=True)
        for name, value in parts:
            if value is not None:
                network.get_parameter(f"{name}_{layer}").copy_(value)


def _shared(potential: Potential) -> Shared:
    """The networks of a potential for training, as they are now."""
    assert potential.type_embedding is not None
    config, state = potential.type_embedding.config, potential.state_dict()
    arrays = {name: x.detach().clone() for name, x in state.items() if name.startswith(_NETWORKS)}
    return Shared(config, potential.type_embedding.one_side, arrays)


# --- in the model file --------------------------------------------------------------------------


def to_file(shared: Shared) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What header and arrays hold of them."""
    section = shared.type_embedding.model_dump(mode="json")
    header = {"type_embedding": section, "type_one_side": shared.type_one_side}
    return header, {f"{_PREFIX}{name}": x for name, x in shared.arrays.items()}


def from_file(
    header: Any, arrays: dict[str, torch.Tensor], skeleton: Potential, where: str
) -> Shared | None:
    """Those of a file, if it has any; takes their arrays out of `arrays`.

    `skeleton`: the plain potential, on the device 'meta'. Raises ModelFileError, naming `where`,
    for a header that is not valid and arrays that are missing or of other shapes.
    """
    own = {name: arrays.pop(name) for name in list(arrays) if name.startswith(_PREFIX)}
    if not header and not own:
        return None
    try:
        section = parse(TypeEmbeddingConfig, header["type_embedding"], "type_embedding")
        found = Shared(section, bool(header["type_one_side"]), {})
        config = found.config(skeleton.config)
    except (InputError, LookupError, TypeError, ValueError) as e:
        raise ModelFileError(f"{where}: header/shared is not valid: {e}") from None
    sels, grids = zip(*((d.sel, d.grid) for d in skeleton.descriptors), strict=True)
    with torch.device("meta"):
        statistics = Statistics.unset(config, sels, skeleton.min_distance, skeleton.state_dict())
        wanted = potential_for_training(config, statistics, None, grids).state_dict()
    expected = {f"{_PREFIX}{name}": x for name, x in wanted.items() if name.startswith(_NETWORKS)}
    check_arrays(where, expected, own)
    found.arrays = {name.removeprefix(_PREFIX): x for name, x in own.items()}
    return found
