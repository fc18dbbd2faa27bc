"""The section `model/type_embedding`, and DPA-1's way of saying the same.

With a type embedding the elements share one embedding and one fitting network, which are told the
elements by a vector of each. DeePMD-kit has it as a section beside a descriptor, and as a part of
the descriptor `se_atten` (DPA-1), which without attention layers is `se_e2_a` with a type embedding
(Zhang et al., npj Comput. Mater. 10, 94 (2024)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator

from ..schema import Vocabulary, unknown_key
from .activations import VALUES
from .descriptor_config import DescriptorConfig, checked_widths

SMOOTHED = "se_atten_v2"
"""DPA-1 with a smoothed `strip`, whose keys do not say so."""
DPA1 = ("dpa1", "se_atten", SMOOTHED)
MOST_TYPES = 24
"""Beyond, the tables of all pairs would take gigabytes."""


class TypeEmbeddingConfig(Vocabulary):
    """A vector for each element, and where the networks take it."""

    ignored = {"precision": "it is that of the descriptor"}
    refused = {"use_econf_tebd": "vectors are learned; remove the key"}

    neuron: list[int] = [8]
    """Widths of the network from the unit vector of an element to its vector."""
    activation_function: str = "tanh"
    resnet_dt: bool = False
    use_tebd_bias: bool = False
    trainable: Literal[True] = True
    seed: int | list[int] | None = None
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    """How the embedding G(s) takes the vectors: as more inputs ('concat'), or by a second network
    whose numbers g multiply it, G ⊙ (1 + g) ('strip')."""
    smooth_type_embedding: bool = False
    """With 'strip': g fades with the distance as the switch does."""
    concat_output_tebd: bool = True
    """Whether the fitting network takes the vector of its atom beside the descriptor."""

    _check_neuron = field_validator("neuron")(checked_widths)

    @field_validator("activation_function")
    @classmethod
    def _check_activation(cls, value: str) -> str:
        if value.lower() not in VALUES:
            raise ValueError(f"expected one of {', '.join(sorted(VALUES))}")
        return value.lower()

    @property
    def fades(self) -> bool:
        """Whether what an embedding says of elements depends on the distance."""
        return self.tebd_input_mode == "strip" and self.smooth_type_embedding


_OF_ATTENTION = (
    *("attn", "attn_dotr", "attn_mask", "scaling_factor", "normalize", "temperature"),
    *("trainable_ln", "ln_eps"),
)
"""Keys of DPA-1 that mean nothing without attention layers."""
_OF_TYPES = {
    "tebd_input_mode": "concat",
    "concat_output_tebd": True,
    "use_tebd_bias": False,
    "use_econf_tebd": False,
    "smooth_type_embedding": False,
}
"""Its keys that say how elements are embedded, and their defaults there."""
_KEYS = {
    *(*DescriptorConfig.model_fields, *_OF_ATTENTION, *_OF_TYPES, "attn_layer", "tebd_dim")
} - {"l_max", "cubic_neuron"}
_ALIASES = {"smooth_type_embdding": "smooth_type_embedding"}


def without_dpa1(model: Mapping[str, Any]) -> Mapping[str, Any]:
    """A section `model` in which DPA-1 is `se_e2_a` with a type embedding.

    Raises ValueError for attention layers.
    """
    given = model.get("descriptor")
    if not isinstance(given, Mapping) or given.get("type") not in DPA1:
        return model
    own = {_ALIASES.get(str(key), str(key)): value for key, value in given.items()}
    smoothed = own.pop("type", None) == SMOOTHED
    n_layers = own.pop("attn_layer", 2)
    if n_layers != 0:
        raise ValueError(
            f"descriptor/attn_layer {n_layers!r}: attention is not supported; with attn_layer 0 "
            "the descriptor is trained, tabulated and evaluated as se_e2_a is"
        )
    for key in _OF_ATTENTION:
        own.pop(key, None)
    types: dict[str, Any] = {key: own.pop(key, value) for key, value in _OF_TYPES.items()}
    if smoothed:
        types |= {"tebd_input_mode": "strip", "smooth_type_embedding": True}
    if own.pop("stripped_type_embedding", False):
        types["tebd_input_mode"] = "strip"
    width = own.pop("tebd_dim", 8)
    for key in own:
        if key not in {*DescriptorConfig.model_fields, *DescriptorConfig.aliases}:
            raise ValueError(unknown_key(f"descriptor/{key}", _KEYS))
    section = model.get("type_embedding") or {"neuron": [width], "activation_function": "linear"}
    descriptor = {"set_davg_zero": True, "axis_neuron": own.pop("n_axis_neuron", 4), **own}
    return {
        **model,
        "descriptor": {**descriptor, "type": "se_e2_a"},
        "type_embedding": {**types, **section} if isinstance(section, Mapping) else section,
    }
