"""The `model` section of an input file: DeePMD-kit's key names, meanings and defaults.

Keys that have no meaning here are accepted and reported by `notes`; keys that would change the
physics and are not supported are errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from ..kernels.reference import COLUMNS, COLUMNS_OF_SECOND_DEGREE
from ..schema import Section, Vocabulary
from .activations import ACTIVATIONS, VALUES

PRECISIONS = {
    "default": "float64",
    "float64": "float64",
    "double": "float64",
    "float32": "float32",
    "single": "float32",
}


AXIS_NEURON = 4
HYBRID = "hybrid"
SHORT_NAMES = {"se_a": "se_e2_a", "se_r": "se_e2_r"}
"""Other names of descriptors."""


def _precision(value: str) -> str:
    if value not in PRECISIONS:
        raise ValueError(f"expected one of {', '.join(PRECISIONS)}")
    return PRECISIONS[value]


def _embedding_activation(value: str) -> str:
    if value not in ACTIVATIONS:
        raise ValueError(f"expected one of {', '.join(sorted(ACTIVATIONS))}")
    return value


def _fitting_activation(value: str) -> str:
    if value not in VALUES:
        raise ValueError(f"expected one of {', '.join(sorted(VALUES))}")
    return value


def _widths(value: list[int]) -> list[int]:
    if not value or any(w < 1 or w > 100_000 for w in value):
        raise ValueError("expected a list of layer widths, each at least 1")
    return value


class DescriptorConfig(Vocabulary):
    """DeepPot-SE with the two-body embedding of all environment information (`se_e2_a`).

    `se_e2_r` knows distances only: the sum of the embeddings is the descriptor. `se_e2_q`, which
    DeePMD-kit has not, adds moments of second degree (quadrupoles), and makes invariants of each
    degree for itself.
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
    cubic_neuron: int = Field(0, ge=0, le=MOST_CUBIC)
    """Of `se_e2_q`: features that make invariants of third order (four-body terms)."""
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

    _check_precision = field_validator("precision")(_precision)
    _check_activation = field_validator("activation_function")(_embedding_activation)
    _check_neuron = field_validator("neuron")(_widths)

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
        if self.cubic_neuron and not self.second_degree:
            raise ValueError(
                f"cubic_neuron {self.cubic_neuron}: {self.type} has no moments of second degree; "
                "remove the key, or use se_e2_q"
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
    def columns(self) -> int:
        """Columns of the environment rows and of the moments."""
        return COLUMNS_OF_SECOND_DEGREE if self.second_degree else COLUMNS

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

    @property
    def rcut(self) -> float:
        """The largest cutoff, Å."""
        return max(d.rcut for d in self.list)


def _kind(value: Any) -> str:
    found = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "<hybrid>" if found == HYBRID else "<one>"


AnyDescriptor = Annotated[
    Annotated[DescriptorConfig, Tag("<one>")] | Annotated[HybridConfig, Tag("<hybrid>")],
    Discriminator(_kind),
]


class FittingConfig(Vocabulary):
    """The network from descriptor to atomic energy, one for each element."""

    aliases = {"n_neuron": "neuron"}
    refused = {
        "default_fparam": "there are no frame parameters",
        "dim_case_embd": "one model is trained on one data set",
        "layer_name": "no layers are shared",
        "use_aparam_as_mask": "there are no atomic parameters",
    }

    type: Literal["ener"] = "ener"
    neuron: list[int] = [120, 120, 120]
    activation_function: str = "tanh"
    resnet_dt: bool = True
    precision: str = "default"
    trainable: Literal[True] = True
    seed: int | list[int] | None = None
    rcond: float | None = None
    atom_ener: list[float | None] = []
    """Energy bias of each element, eV, given instead of fitted; null: fitted.

    The network's energy is added to it, for an isolated atom too, whose energy is therefore near
    this only as far as the data hold such atoms.
    """
    numb_fparam: Literal[0] = 0
    numb_aparam: Literal[0] = 0

    _check_precision = field_validator("precision")(_precision)
    _check_activation = field_validator("activation_function")(_fitting_activation)
    _check_neuron = field_validator("neuron")(_widths)

    @field_validator("trainable", mode="before")
    @classmethod
    def _all_layers(cls, value: Any) -> Any:
        return all(value) if isinstance(value, list) else value


class TableConfig(Section):
    """Where the embedding is tabulated. Not a DeePMD-kit section; the defaults measure."""

    min_distance: float | None = Field(None, gt=0)
    """Smallest pair distance that the table covers, Å; default 0.75 × the smallest in the data."""
    spacing: float = Field(0.2, gt=0, le=1)
    """Largest node spacing in normalised s to start from; refined by measured error at saving."""


class ModelConfig(Vocabulary):
    """The `model` section."""

    ignored = {
        **dict.fromkeys(("bridging_r_inner", "bridging_r_outer"), "there is no bridging_method"),
        **dict.fromkeys(("info", "model_branch_alias"), "it says nothing about the model"),
        "compress": "a model is always tabulated",
    }
    refused = {
        "bridging_method": "short distances are what model/repulsion is for: 'zbl' or null",
        "spin": "energies are functions of positions only",
        "type_embedding": "elements have networks of their own; remove the section",
        "pair_exclude_types": "every pair within rcut counts",
        "atom_exclude_types": "every atom has an energy",
        "preset_out_bias": "give fitting_net/atom_ener",
        "modifier": "there are no long-range charges",
        "model_dict": "one model is trained on one data set: give the sections of one model",
        "shared_dict": "one model is trained on one data set: give the sections of one model",
        "finetune_head": "one model is trained on one data set",
    }
    harmless = {"bridging_method": "None"}

    type_map: list[str] = Field(min_length=1)
    type: Literal["standard"] = "standard"
    descriptor: AnyDescriptor = DescriptorConfig()
    fitting_net: FittingConfig = FittingConfig()
    table: TableConfig = TableConfig()
    repulsion: Literal["zbl"] | None = "zbl"
    """Atoms closer than any in the training data repel as screened nuclei do; null or false turns
    it off. Not a DeePMD-kit key. The radius of each pair of elements comes from the data: see
    `Repulsion.beyond_data`."""
    use_srtab: str | None = None
    """File of pair energies that replace the networks' at short range; then there is no repulsion.
    See `model.pair_table` and `model.short_range`."""
    smin_alpha: float = Field(0.1, gt=0, allow_inf_nan=False)
    """Å: decay of the soft minimum of the distances around an atom, which decides."""
    sw_rmin: float | None = Field(None, ge=0)
    """Å: soft minimum inside which the table alone counts."""
    sw_rmax: float | None = Field(None, gt=0)
    """Å: soft minimum from which on the networks alone count."""
    srtab_add_bias: bool = True
    """Whether the energy bias of the elements is added to the table's energies."""
    data_stat_nbatch: int = 10
    data_stat_protect: float = 0.01
    data_bias_nsample: int = 10

    @field_validator("repulsion", mode="before")
    @classmethod
    def _check_repulsion(cls, value: Any) -> Any:
        return None if value is False else value

    @field_validator("type_map")
    @classmethod
    def _check_type_map(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError("an element is listed twice")
        return value

    @model_validator(mode="before")
    @classmethod
    def _one_repulsion(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if not data.get("use_srtab"):
            return {key: value for key, value in data.items() if key != "use_srtab"}
        if data.get("repulsion"):
            raise ValueError(
                "use_srtab and repulsion both say what close atoms do; choose one: remove "
                "use_srtab, or set repulsion to null"
            )
        return {**data, "repulsion": None}

    @model_validator(mode="after")
    def _check_short_range(self) -> ModelConfig:
        if self.use_srtab is not None:
            rmin, rmax = self.sw_rmin, self.sw_rmax
            if rmin is None or rmax is None:
                raise ValueError("use_srtab needs sw_rmin and sw_rmax, Å, which are missing")
            if not rmin < rmax <= self.rcut:
                raise ValueError(
                    f"expected sw_rmin < sw_rmax <= descriptor/rcut, found {rmin:g}, {rmax:g} and "
                    f"{self.rcut:g} Å"
                )
        return self

    @model_validator(mode="after")
    def _check_together(self) -> ModelConfig:
        n = len(self.type_map)
        for k, d in enumerate(self.descriptors):
            several = isinstance(self.descriptor, HybridConfig)
            self._check_descriptor(d, f"descriptor/list/{k}" if several else "descriptor")
        if self.fitting_net.atom_ener and len(self.fitting_net.atom_ener) != n:
            raise ValueError(
                f"fitting_net/atom_ener has {len(self.fitting_net.atom_ener)} entries "
                f"for {n} elements in type_map"
            )
        return self

    def _check_descriptor(self, d: DescriptorConfig, where: str) -> None:
        n, sel = len(self.type_map), d.sel
        if isinstance(sel, int):
            raise ValueError(f"{where}/sel: expected one number for each element, or 'auto'")
        if isinstance(sel, list) and len(sel) != n:
            raise ValueError(f"{where}/sel has {len(sel)} entries for {n} elements in type_map")
        if any(not 0 <= a < n for pair in d.exclude_types for a in pair):
            raise ValueError(
                f"{where}/exclude_types {d.exclude_types} names types beyond "
                f"0 … {n - 1}, the places in type_map"
            )
        if d.precision != self.fitting_net.precision:
            raise ValueError(
                f"{where}/precision {d.precision} differs from "
                f"fitting_net/precision {self.fitting_net.precision}; give one precision"
            )

    @property
    def descriptors(self) -> list[DescriptorConfig]:
        """The one, or those of a hybrid."""
        d = self.descriptor
        return list(d.list) if isinstance(d, HybridConfig) else [d]

    @property
    def rcut(self) -> float:
        """The largest cutoff of the descriptors, Å."""
        return max(d.rcut for d in self.descriptors)

    @property
    def precision(self) -> str:
        """'float64' or 'float32': arithmetic of training."""
        return self.fitting_net.precision

    def notes(self) -> list[str]:
        """What a person who comes from DeePMD-kit should know about keys that were given."""
        given = self.model_fields_set
        found = []
        if any("sel" in d.model_fields_set for d in self.descriptors):
            found.append(
                "model/descriptor/sel is used as a normalisation only: no neighbour is cut off"
            )
        if self.use_srtab is None:
            found += [
                f"model/{key} is ignored: there is no use_srtab"
                for key in ("smin_alpha", "sw_rmin", "sw_rmax", "srtab_add_bias")
                if key in given
            ]
        for key in ("data_stat_nbatch", "data_bias_nsample"):
            if key in given:
                found.append(f"model/{key} is ignored: statistics use all training frames")
        return found
