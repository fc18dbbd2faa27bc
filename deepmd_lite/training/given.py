"""What a training is given: an input or data, and a model to begin with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data import System, load
from ..progress import Watch
from ..schema import is_input
from ..system import InputError
from .config import TrainInput
from .presets import input_of


def starting_model(
    restart: bool,
    init_model: str | Path | None,
    finetune: str | Path | None,
    use_pretrain_script: bool,
) -> str | Path | None:
    """The model that a training begins with, if it begins with one. Raises InputError for weights
    from two places."""
    if sum((restart, init_model is not None, finetune is not None)) > 1:
        raise InputError("restart, init_model and finetune each bring weights; give one of them")
    start = init_model if finetune is None else finetune
    if use_pretrain_script and start is None and not restart:
        raise InputError("use_pretrain_script: there is no model; give init_model or finetune")
    return start


def content_of(
    config: Mapping[str, Any] | str | Path | Sequence[str | Path],
    validation: str | Path | Sequence[str | Path] | None,
    quiet: bool,
    watch: Watch | None,
) -> tuple[Mapping[str, Any] | str | Path, list[System] | None]:
    """An input, and the data themselves, read, where these, and those to validate on, are all that
    is given. Raises InputError for `validation` besides an input."""
    if isinstance(config, Mapping) or is_input(config):
        if validation is not None:
            raise InputError(
                "validation: an input says itself what is validated on (training/validation_data "
                "or held_out); give it with data alone"
            )
        return config, None
    read = load(config, quiet=quiet, watch=watch)
    return input_of(config, read, validation), read


def complete_input(settings: TrainInput) -> bytes:
    """The input with all its values, and with data where they are from any folder."""
    content = settings.model_dump(mode="json")
    training = content["training"]
    if settings.training.step_limit is None or settings.training.num_epoch is not None:
        del training["numb_steps"]  # it would be a second limit, or is not known yet
    for name in ("training_data", "validation_data"):
        if training[name] is not None:
            training[name]["systems"] = [os.path.abspath(p) for p in training[name]["systems"]]
    if settings.model.use_srtab is not None:
        content["model"]["use_srtab"] = os.path.abspath(settings.model.use_srtab)
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
