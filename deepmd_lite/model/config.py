"""The `model` section of an input file: DeePMD-kit's key names, meanings and defaults.

Keys that have no meaning here are accepted and reported by `notes`; keys that would change the
physics and are not supported are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from ..schema import Section, Vocabulary
from .activations import VALUES
from .descriptor_config import (
    AnyDescriptor,
    DescriptorConfig,
    HybridConfig,
    checked_precision,
    checked_widths,
)
from .type_embedding_config import TypeEmbeddingConfig, without_dpa1


def _fitting_activation(value: str) -> str:
    if value not in VALUES:
        raise ValueError(f"expected one of {', '.join(sorted(VALUES))}")
    return value


class FittingConfig(Vocabulary):
    """The network from descriptor to atomic energy, one for each element."""

    aliases = {"n_neuron": "neuron"}
    refused = {
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
    """Cut-off of the least squares for the energy bias; null: only what does not vary is cut."""
    atom_ener: list[float | None] = []
    """Energy bias of each element, eV, given instead of fitted; null: fitted.

    The network's energy is added to it, for an isolated atom too, whose energy is therefore near
    this only as far as the data hold such atoms.
    """
    numb_fparam: int = Field(0, ge=0)
    """Numbers of a frame that its energy depends on beside positions (see `frame_parameters`)."""
    default_fparam: list[FiniteFloat] | None = None
    """Those of frames that have none of their own."""
    numb_aparam: Literal[0] = 0

    _check_precision = field_validator("precision")(checked_precision)
    _check_activation = field_validator("activation_function")(_fitting_activation)
    _check_neuron = field_validator("neuron")(checked_widths)

    @field_validator("trainable", mode="before")
    @classmethod
    def _all_layers(cls, value: Any) -> Any:
        return all(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _check_default_fparam(self) -> FittingConfig:
        given = self.default_fparam or []
        if given and len(given) != self.numb_fparam:
            raise ValueError(
                f"default_fparam has {len(given)} numbers, expected {self.numb_fparam}, as "
                "numb_fparam says"
            )
        return self

    @model_serializer(mode="wrap")
    def _known_to_earlier_releases(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        if not self.default_fparam:
            found.pop("default_fparam", None)
        return found


class TableConfig(Section):
    """Where the embedding is tabulated. Not a DeePMD-kit section; the defaults measure."""

    min_distance: float | None = Field(None, gt=0)
    """Smallest pair distance that the table covers, Å; default 0.75 × the smallest in the data."""
    spacing: float = Field(0.2, gt=0, le=1)
    """Largest node spacing in normalised s to start from; refined by measured error at saving."""


def _check_first_layer(where: str, width: int, n_free: int, n_told: int, what: str) -> None:
    """Raises ValueError where a first layer would add its inputs, `n_told` constant ones among
    them, to its output (see `networks`); `what` brings these."""
    n_in = n_free + n_told
    if width in (n_in, 2 * n_in, n_free, 2 * n_free):
        raise ValueError(
            f"{where}/neuron begins with {width}: with {what} such a layer would add its "
            f"{n_in} inputs to its output, which is not supported; give another width"
        )


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
    type_embedding: TypeEmbeddingConfig | None = None
    """Elements share their networks; null: each has its own."""
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

    @model_validator(mode="before")
    @classmethod
    def _without_dpa1(cls, data: Any) -> Any:
        return without_dpa1(data) if isinstance(data, Mapping) else data

    @model_serializer(mode="wrap")
    def _known_to_earlier_releases(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        if self.type_embedding is None:
            found.pop("type_embedding", None)
        return found

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

    @model_validator(mode="after")
    def _check_type_embedding(self) -> ModelConfig:
        if self.type_embedding is None:
            return self
        if isinstance(self.descriptor, HybridConfig) or self.descriptor.radial:
            raise ValueError(
                f"type_embedding: not with descriptor {self.descriptor.type}; expected se_e2_a or "
                "se_e2_q"
            )
        types, d, f = self.type_embedding, self.descriptor, self.fitting_net
        told = types.neuron[-1] * (1 if d.type_one_side else 2)
        if types.tebd_input_mode == "concat":
            _check_first_layer("descriptor", d.neuron[0], 1, told, "a type embedding")
        if types.concat_output_tebd:
            told = types.neuron[-1]
            _check_first_layer("fitting_net", f.neuron[0], d.width, told, "a type embedding")
        return self

    @model_validator(mode="after")
    def _check_frame_parameters(self) -> ModelConfig:
        f, width = self.fitting_net, sum(d.width for d in self.descriptors)
        if f.numb_fparam and self.type_embedding is not None:
            raise ValueError(
                f"fitting_net/numb_fparam {f.numb_fparam}: not with a type embedding; give each "
                "element its own networks, or leave the frame parameters out"
            )
        if f.numb_fparam:
            told = f.numb_fparam
            _check_first_layer("fitting_net", f.neuron[0], width, told, "frame parameters")
        return self

    def _check_descriptor(self, d: DescriptorConfig, where: str) -> None:
        n, sel = len(self.type_map), d.sel
        if isinstance(sel, int) and self.type_embedding is None:
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
        fields = type(self).model_fields
        given = {k for k in self.model_fields_set if getattr(self, k) != fields[k].default}
        found = []
        if any(not str(d.sel).startswith("auto") for d in self.descriptors):
            found.append(
                "model/descriptor/sel is used as a normalisation only: no neighbour is cut off"
            )
        if self.use_srtab is None:
            found += [
                f"model/{key} is ignored: there is no use_srtab"
                for key in ("smin_alpha", "sw_rmin", "sw_rmax", "srtab_add_bias")
                if key in given
            ]
        if "data_stat_protect" in given:
            found.append("model/data_stat_protect is ignored: deviations below 0.01 count as 0.01")
        for key in ("data_stat_nbatch", "data_bias_nsample"):
            if key in given:
                found.append(f"model/{key} is ignored: statistics use all training frames")
        return found
