"""The input file of a training: DeePMD-kit's `input.json` vocabulary, checked.

Sections `model`, `learning_rate`, `loss`, `optimizer` and `training` with DeePMD-kit's key names
(versions 2 and 3) and meanings. Keys that mean nothing here are accepted and reported as notes;
keys that would change the result and are not supported are errors. Everything but
`model/type_map` and `training/training_data/systems` has a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator, model_validator

from ..data.places import located_data
from ..model.config import FittingConfig, ModelConfig
from ..model.pair_table import read_pair_table
from ..schema import DeviceName, Vocabulary, located, parse, read_mapping
from .clock import parse_duration
from .data_config import DataConfig, ValidationConfig
from .kinds import refuse_other_kinds
from .legacy import modern
from .loss_config import LossConfig
from .own_elements import with_elements
from .presets import PresetName, with_preset
from .rate_config import LearningRateConfig


class OptimizerConfig(Vocabulary):
    """SOAP (see `training.soap`), or Adam (Kingma and Ba, 2015).

    SOAP is the default, also for inputs that were written for DeePMD-kit's Adam: at the same
    learning rates and number of steps it ends at much lower errors.
    """

    refused = {"weight_decay": "give 0"}

    type: Literal["SOAP", "Adam"] = "SOAP"
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float | None = Field(None, ge=0, lt=1)
    """Decay of the mean squares; default 0.95 for SOAP, 0.999 for Adam."""

    @property
    def betas(self) -> tuple[float, float]:
        """Decays of the mean gradient and of the mean squares."""
        default = 0.95 if self.type == "SOAP" else 0.999
        return self.adam_beta1, default if self.adam_beta2 is None else self.adam_beta2


class TrainingConfig(Vocabulary):
    """Data, length and output of the training."""

    aliases = {
        **dict.fromkeys(("stop_batch", "num_step", "num_steps", "numb_step"), "numb_steps"),
        **dict.fromkeys(("num_epochs", "numb_epoch", "numb_epochs"), "num_epoch"),
    }
    ignored = {
        "save_ckpt": "the checkpoint is checkpoint.safetensors in the output folder",
        "load_ckpt": "to start from a model, dpl train --init-model",
        "max_ckpt_keep": "the last checkpoint is kept",
        "stat_file": "statistics are in the checkpoint and the model file",
        "disp_training": "errors are always displayed",
        "disp_avg": "errors of the current batch are displayed",
        "time_training": "times are always in train.jsonl",
        "profiling": "use an external profiler",
        "profiling_file": "use an external profiler",
        "enable_profiler": "use an external profiler",
        "tensorboard": "read train.jsonl",
        "tensorboard_log_dir": "read train.jsonl",
        "tensorboard_freq": "read train.jsonl",
        "zero_stage": "every process holds the whole model",
        "numb_test": "a fixed sample of validation_data is evaluated",
        "stat_file_mode": "statistics are in the checkpoint and the model file",
        "save_dir": "give the output folder (dpl train --output)",
        "ckpt_keep_ratio": "the last checkpoint is kept",
        "ema_ckpt_keep": "the last checkpoint is kept",
        "neighbor_graph_method": "lists are made once",
        "enable_compile": "the kernels are compiled",
        "enable_tf32": "precision float32 is full float32",
    }
    refused = {
        "mixed_precision": "choose model/fitting_net/precision float32 or float64",
        "change_bias_after_training": "the energy bias is fitted before the training",
        "warmup_steps": "it is a key of learning_rate",
        "data_dict": "one model is trained on one data set",
        "fitting_weight": "one model is trained on one data set",
        "model_prob": "one model is trained on one data set",
        "num_epoch_dict": "one model is trained on one data set",
        "acc_freq": "give a batch_size as many times larger",
    }
    harmless = {"acc_freq": 1}

    training_data: DataConfig
    validation_data: ValidationConfig | None = None
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the training frames, drawn at random with `seed`, that is not trained but
    validated on, where there is no validation_data."""
    numb_steps: int = Field(100_000, ge=1)
    num_epoch: float | None = Field(None, gt=0)
    """Passes through the training data: times the batches of the first. It counts where numb_steps
    is given as well."""
    seed: int = Field(1, ge=0)
    """Seed of the initial weights and of the order of frames."""
    disp_file: str = "lcurve.out"
    disp_freq: int = Field(100, ge=1)
    save_freq: int = Field(1000, ge=1)
    gradient_max_norm: float = Field(0.0, ge=0)
    """Clip the gradient's norm at this value; 0: never."""
    opt_type: Literal["SOAP", "Adam"] | None = None
    """DeePMD-kit's place for optimizer/type."""
    time_limit: float | None = None
    """Seconds of wall time ('90s', '30m', '2h', '1h30m' or a number) that the training may take,
    reading data and writing the model included. The learning rate then falls with the share of
    the time that has passed and reaches stop_lr when it is up; numb_steps, if given, is a second
    limit of the same kind."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay, in an update, of the exponential moving average of the weights, which is then what
    is validated and what the model files hold. 0: the weights themselves. With DeePMD-kit's key
    enable_ema, it counts only where that is true."""
    early_stop_patience: int = Field(0, ge=0)
    """End after so many displays in a row without a new lowest validation loss; 0: never."""
    device: DeviceName = "cpu"
    """Where energies and forces of a step, and their gradients, are computed. Weights stay on the
    CPU, and so does the optimiser, but for large matrices of SOAP (`soap.SMALLEST_SIDE`)."""
    spread_first_layer: bool = True
    """Begin with embeddings that tell distances apart (`model.first_weights`); false: with
    DeePMD-kit's distribution of weights."""
    alike_elements: bool = True
    """Begin with the same weights for all elements of a family (`training.beginning`), and let them
    learn together (`training.together`); false: with weights of each element."""
    scale_descriptor: bool = True
    """Begin with fitting networks that see descriptors of a usual size, and train their first layer
    at the pace of that size (`training.pace`); false: as DeePMD-kit begins and trains."""
    check: bool = True
    """Look for errors in the data before the first step; false trains on them all the same."""

    @model_validator(mode="before")
    @classmethod
    def _read_enable_ema(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "enable_ema" not in data:
            return data
        kept = {k: v for k, v in data.items() if k != "enable_ema"}
        return {**kept, "ema_decay": kept.get("ema_decay", 0.999) if data["enable_ema"] else 0.0}

    @field_validator("time_limit", mode="before")
    @classmethod
    def _read_duration(cls, value: Any) -> Any:
        return None if value is None else parse_duration(value)

    @model_validator(mode="after")
    def _check_together(self) -> TrainingConfig:
        if self.held_out > 0 and self.validation_data is not None:
            raise ValueError("validation_data and held_out each say what is validated; give one")
        if self.held_out > 0 and self.training_data.draws:
            raise ValueError(
                "held_out: systems lose frames, so that auto_prob and sys_probs would count "
                "others; give validation_data instead"
            )
        if self.early_stop_patience and self.validation_data is None and not self.held_out:
            raise ValueError(
                "early_stop_patience judges by the validation loss: give validation_data or "
                "held_out, or early_stop_patience 0"
            )
        return self

    @property
    def step_limit(self) -> int | None:
        """numb_steps; None where only a time limit ends the training."""
        if self.time_limit is not None and "numb_steps" not in self.model_fields_set:
            return None
        return self.numb_steps

    @field_validator("seed", mode="before")
    @classmethod
    def _default_seed(cls, value: Any) -> Any:
        return 1 if value is None else value


class TrainInput(Vocabulary):
    """The whole input file."""

    ignored = {"validating": "the best model is chosen by validation_data"}
    refused = {
        "nvnmd": "remove the section",
        "learning_rate_dict": "one model is trained on one data set",
        "loss_dict": "one model is trained on one data set",
    }

    preset: PresetName | None = None
    """Name of tried sets of values for keys that are not given: `training.presets`."""
    model: ModelConfig
    learning_rate: LearningRateConfig = LearningRateConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig
    _elements: list[str] = PrivateAttr()
    _keeps_table: bool = PrivateAttr(False)
    """Whether a training that starts from a model keeps the short-range table of that."""

    def model_post_init(self, _: Any) -> None:
        """Remember the type map that the input itself gives."""
        self._elements = list(self.model.type_map)

    @property
    def elements(self) -> list[str]:
        """What integers stand for in data without a type map of their own."""
        return self._elements

    @model_validator(mode="after")
    def _one_optimizer(self) -> TrainInput:
        given = self.training.opt_type
        if given is not None:
            if "type" in self.optimizer.model_fields_set and self.optimizer.type != given:
                raise ValueError(
                    f"training/opt_type {given} and optimizer/type {self.optimizer.type} differ"
                )
            self.optimizer.type = given
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> TrainInput:
        counts = self.learning_rate.counts_steps
        if self.training.time_limit is not None and counts is not None:
            raise ValueError(
                f"learning_rate/{counts} counts steps, but with a time limit the learning rate "
                "follows the time; leave it out"
            )
        steps, warmup = self.training.numb_steps, self.learning_rate.warmup_steps
        if self.training.num_epoch is None and steps <= warmup:
            raise ValueError(
                f"learning_rate/warmup_steps {warmup}: no step of training/numb_steps {steps} is "
                "left after them"
            )
        return self


def read_input(
    source: Mapping[str, Any] | str | Path,
    time_limit: str | float | None = None,
    preset: str | None = None,
    from_model: bool = False,
    seed: int | None = None,
) -> tuple[TrainInput, list[str]]:
    """The checked input and notes on keys that are ignored.

    `source` is a JSON or YAML file or the same content as a mapping. Paths of data and of
    model/use_srtab in it are relative to the working directory (as in DeePMD-kit) or, where nothing
    is there, to the input file's folder. `time_limit` replaces training/time_limit, `seed`
    training/seed, `preset` preset. `from_model`: it is for a training that begins with a model.
    Raises InputError for an unknown key (naming the nearest known one), an unsupported one, a model
    of another kind, a value out of range, a path that leads nowhere, or a short-range table that
    does not fit.
    """
    folder = None
    where = "input"
    if not isinstance(source, Mapping):
        folder, where = Path(source).resolve().parent, str(source)
        source = read_mapping(source)
    source, old = modern(source, where)
    refuse_other_kinds(source, where)
    source, found = with_elements(source, folder, where)
    instead = {"time_limit": time_limit, "seed": seed}
    instead = {key: value for key, value in instead.items() if value is not None}
    if instead and isinstance(source.get("training"), Mapping):
        source = {**source, "training": {**source["training"], **instead}}
    if preset is not None:
        source = {**source, "preset": preset}
    source = with_preset(source, where, from_model)
    config = parse(TrainInput, source, where)
    data_sets = [("training_data", config.training.training_data)]
    if config.training.validation_data is not None:
        data_sets.append(("validation_data", config.training.validation_data))
    for name, data in data_sets:
        key = f"{where}: training/{name}/systems"
        data.systems = [located_data(path, folder, key) for path in data.systems]
    model = config.model
    if model.use_srtab is not None:
        model.use_srtab = located(model.use_srtab, folder, f"{where}: model/use_srtab")
        read_pair_table(model.use_srtab, model.type_map, model.rcut)  # while it is early
    return config, old + found + _notes(config, source)


def _notes(config: TrainInput, source: Mapping[str, Any]) -> list[str]:
    """Notes on keys that were given and have no meaning here."""
    training, model = source.get("training") or {}, source.get("model") or {}
    sections: list[tuple[type[Vocabulary], Any, str]] = [
        (TrainInput, source, ""),
        (ModelConfig, model, "model"),
        (FittingConfig, model.get("fitting_net"), "model/fitting_net"),
        (LearningRateConfig, source.get("learning_rate"), "learning_rate"),
        (LossConfig, source.get("loss"), "loss"),
        (TrainingConfig, training, "training"),
        (DataConfig, training.get("training_data"), "training/training_data"),
        (ValidationConfig, training.get("validation_data"), "training/validation_data"),
    ]
    found = config.model.notes()
    if config.training.num_epoch is not None and "numb_steps" in config.training.model_fields_set:
        found.append("training/numb_steps is ignored: num_epoch says how many there are")
    for section, data, where in sections:
        found += section.ignored_notes(data, where)
    return found
