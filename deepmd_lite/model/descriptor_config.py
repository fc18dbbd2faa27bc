"""The `descriptor` section of an input's `model`: DeePMD-kit's key names, meanings and defaults."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from ..kernels import MOST_CUBIC, Shape
from ..kernels.reference import MOST_DEGREE, columns_of
from ..schema import Vocabulary
from .activations import ACTIVATIONS

PRECISIONS = {
    "default": "float64",
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "single": "float32",
}
AXIS_NEURON = 4
QUADRUPOLES = 2
HYBRID = "hybrid"
SHORT_NAMES = {"se_a": "se_e2_a", "se_r": "se_e2_r"}
"""Other names of descriptors."""


def checked_precision(value: str) -> str:
    """'float64' or 'float32' of DeePMD-kit's names for them."""
    if value not in PRECISIONS:
        raise ValueError(f"expected one of {', '.join(PRECISIONS)}")
    return PRECISIONS[value]


def checked_widths(value: list[int]) -> list[int]:
    """The widths of the layers of a network, checked."""
    if not value or any(w < 1 or w > 100_000 for w in value):
        raise ValueError("expected a list of layer widths, each at least 1")
    return value


def unordered(pairs: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Pairs of types in one order, each once: (a, b) and (b, a) are the same pair."""
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _embedding_activation(value: str) -> str:
    if value not in ACTIVATIONS:
        raise ValueError(f"expected one of {', '.join(sorted(ACTIVATIONS))}")
    return value


class DescriptorConfig(Vocabulary):
    """DeepPot-SE with the two-body embedding of all environment information (`se_e2_a`).

    `se_e2_r` knows distances only: the sum of the embeddings is the descriptor. `se_e2_q`, which
    DeePMD-kit has not, adds moments of second degree (quadrupoles) or higher, and makes invariants
    of each degree for itself.
    """

    aliases = {"n_axis_neuron": "axis_neuron"}

    type: Literal["se_e2_a", "se_e2_r", "se_e2_q"] = "se_e2_a"
    rcut: float = Field(6.0, gt=0, le=50)
    """Cutoff, Å."""
    rcut_smth: float = Field(0.5, ge=0)
    """Where the switch begins to fall, Å."""
    sel: list[int] | int | str = "auto"
    """Σ sel divides the moments: a normalisation, never a capacity. 'auto' measures it."""
    neuron: list[int] = [10, 20, 40]
    axis_neuron: int = Field(AXIS_NEURON, ge=1)
    l_max: int = Field(QUADRUPOLES, ge=QUADRUPOLES, le=MOST_DEGREE)
    """Highest degree of the moments (`se_e2_q`)."""
    cubic_neuron: int = Field(0, ge=0, le=MOST_CUBIC)
    """Features that make invariants of third order: four-body terms (`se_e2_q`)."""
    activation_function: str = "tanh"
    resnet_dt: bool = False
    type_one_side: bool = False
    precision: str = "default"
    trainable: Literal[True] = True
    seed: int | list[int] | None = None
    exclude_types: list[tuple[int, int]] = []
    """Pairs of types (by their place in type_map) that do not see each other."""
    env_protection: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Added to the distances that an environment row divides by, Å."""
    set_davg_zero: bool = False

    _check_precision = field_validator("precision")(checked_precision)
    _check_activation = field_validator("activation_function")(_embedding_activation)
    _check_neuron = field_validator("neuron")(checked_widths)
    _order_pairs = field_validator("exclude_types")(unordered)

    @field_validator("type", mode="before")
    @classmethod
    def _full_name(cls, value: Any) -> Any:
        return SHORT_NAMES.get(value, value) if isinstance(value, str) else value

    @field_validator("sel")
    @classmethod
    def _check_sel(cls, value: list[int] | int | str) -> list[int] | int | str:
        if isinstance(value, str):
            head, _, factor = value.partition(":")
            if head != "auto":
                raise ValueError("expected a list of integers, 'auto' or 'auto:FACTOR'")
            if factor:
                float(factor)
        elif min(value if isinstance(value, list) else [value], default=0) < 0:
            raise ValueError("expected numbers of neighbours, at least 0")
        return value

    @model_validator(mode="after")
    def _check_together(self) -> DescriptorConfig:
        if self.rcut_smth >= self.rcut:
            raise ValueError(f"rcut_smth {self.rcut_smth} Å must be less than rcut {self.rcut} Å")
        if self.radial:
            if self.axis_neuron != AXIS_NEURON:
                raise ValueError(
                    f"axis_neuron {self.axis_neuron}: se_e2_r has no axes; remove the key"
                )
        elif self.axis_neuron > self.neuron[-1]:
            raise ValueError(
                f"axis_neuron {self.axis_neuron} exceeds the last embedding width {self.neuron[-1]}"
            )
        for key, value in {"cubic_neuron": self.cubic_neuron, "l_max": self.l_max}.items():
            if key in self.model_fields_set and value and not self.second_degree:
                raise ValueError(
                    f"{key} {value}: {self.type} has no moments of second degree; remove the key, "
                    "or use se_e2_q"
                )
        if self.cubic_neuron > self.neuron[-1]:
            raise ValueError(
                f"cubic_neuron {self.cubic_neuron} exceeds the last embedding width "
                f"{self.neuron[-1]}"
            )
        return self

    @model_serializer(mode="wrap")
    def _known_to_earlier_releases(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        if not self.cubic_neuron:
            found.pop("cubic_neuron", None)
        if self.l_max == QUADRUPOLES:
            found.pop("l_max", None)
        return found

    @property
    def radial(self) -> bool:
        """Whether the descriptor is a sum over distances: `se_e2_r`."""
        return self.type == "se_e2_r"

    @property
    def second_degree(self) -> bool:
        """Whether moments reach the second degree: `se_e2_q`."""
        return self.type == "se_e2_q"

    @property
    def degree(self) -> int:
        """The highest of the moments."""
        return self.l_max if self.second_degree else 1

    @property
    def columns(self) -> int:
        """Columns of the environment rows and of the moments."""
        return columns_of(self.degree)

    @property
    def n_axis(self) -> int:
        """Features a of D_ma; 0 where there are none."""
        return 0 if self.radial else self.axis_neuron

    @property
    def width(self) -> int:
        """Numbers of the descriptor."""
        return Shape(self.neuron[-1], self.n_axis, self.columns, self.cubic_neuron).n_inputs


class HybridConfig(Vocabulary):
    """Several descriptors, whose numbers the fitting takes one after another."""

    type: Literal["hybrid"]
    list: Annotated[Sequence[DescriptorConfig], Field(min_length=1)]


def _kind(value: Any) -> str:
    found = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "<hybrid>" if found == HYBRID else "<one>"


AnyDescriptor = Annotated[
    Annotated[DescriptorConfig, Tag("<one>")] | Annotated[HybridConfig, Tag("<hybrid>")],
    Discriminator(_kind),
]
