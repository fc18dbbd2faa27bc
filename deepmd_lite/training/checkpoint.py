"""The checkpoint of a training: everything that the next step depends on. No pickle.

One safetensors container: a JSON header (metadata key `deepmd_lite_checkpoint`) with step, input,
grid of the table, state of the sampler and the best validation so far, and arrays `model.NAME`,
`optimizer.QUANTITY.NAME` (of parts that are common, too) and, where the weights are averaged,
`ema.NAME`. The learning rate follows from the step, or from the seconds where the training has a
time limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise

from ..files import write_atomically
from ..system import InputError
from .adam import LeanOptimizer
from .presets import START_LR_FROM_MODEL

FORMAT_VERSION = 10
"""2 added the fields that have a default, which is what a checkpoint of version 1 is read with;
3 added the model's repulsion, which trainings before it do not have; in 4 sel and grid are those of
each descriptor; in 5 SOAP counts its updates, where it counted gradients, one more; 6 added paces,
which are 1 in trainings before it; 7 added `table_excess` and `from_model`; 8 added
`setbacks`; 9 `smallest_distances`; 10 `together`."""
_KEY = "deepmd_lite_checkpoint"
Named = Iterable[tuple[str, torch.nn.Parameter]]


@dataclass
class Checkpoint:
    """State of a training after `step` updates."""

    step: int
    config: dict[str, Any]
    """The input, as `TrainInput.model_dump(mode="json")`."""
    data_hash: str
    """`data_hash` of the training frames."""
    sel: list[list[int]]
    """`sel` of each descriptor, as `grid`."""
    min_distance: float
    grid: list[dict[str, Any]]
    """Fields of the `model.table.Grid` in use in the training."""
    sampler: dict[str, Any]
    """`BatchSampler.state_dict()`."""
    best: dict[str, Any] | None
    """`step` and `loss` of the best validation, None before the first."""
    arrays: dict[str, torch.Tensor]
    """Parameters, buffers, the optimiser's moments and averages under the names given above."""
    seconds: float = 0.0
    """Wall time that the training has taken, over all its segments."""
    preparation: float = 0.0
    """Seconds of it that passed before the first steps of the segments."""
    unimproved: int = 0
    """Displays in a row without a new lowest validation loss."""
    ema_updates: int = 0
    """Updates that the moving average has taken in."""
    paces: list[float] = field(default_factory=list)
    """Paces of the fitting networks (`pace`)."""
    table_excess: float = 0.0
    """What finer tables did not mend (`resolution`)."""
    from_model: bool = False
    """The training began with the weights of a model."""
    setbacks: int = 0
    """How often the training has gone back because its numbers were not finite (`diverged`)."""
    smallest_distances: list[list[float | None]] | None = None
    """`KnownPairs.to_header()`; None where a release before it wrote the checkpoint."""

    together: bool = False
    """Elements of a family learn together (`together`)."""

    def write(self, path: str | Path) -> None:
        """Write atomically. Raises InputError where the file cannot be written."""
        header = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        header["format_version"] = FORMAT_VERSION
        arrays = {key: value.detach().contiguous() for key, value in self.arrays.items()}
        write_atomically(path, serialise(arrays, metadata={_KEY: json.dumps(header)}))

    @classmethod
    def read(cls, path: str | Path) -> Checkpoint:
        """Raises InputError for a file that is missing, damaged, or not a checkpoint."""
        path = Path(path)
        if not path.is_file():
            raise InputError(
                f"{path}: no checkpoint to restart from; start without restart, or name the "
                "output folder of the interrupted training"
            )
        try:
            with safe_open(path, framework="pt") as f:
                header = json.loads((f.metadata() or {})[_KEY])
                arrays = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118
            version = header.pop("format_version")
            if version not in range(1, FORMAT_VERSION + 1):
                raise InputError(
                    f"{path}: checkpoint format {version}; this release reads 1 to {FORMAT_VERSION}"
                )
            if version < 3:
                header["config"]["model"]["repulsion"] = None
            if version < 4:
                header |= {"sel": [header["sel"]], "grid": [header["grid"]]}
            if version < 5:
                steps = (k for k in arrays if k.startswith("optimizer.step."))
                gradients = {k: arrays[k] for k in steps if arrays[k].dtype == torch.int64}
                arrays |= {k: n.float() - 1 for k, n in gradients.items()}
            if version < 7:  # presets have that rate for such trainings alone
                rate = header["config"]["learning_rate"]["start_lr"]
                header["from_model"] = rate == START_LR_FROM_MODEL
            return cls(**header, arrays=arrays)
        except (
            *(SafetensorError, OSError, LookupError, TypeError, ValueError, AttributeError),
            RecursionError,
        ) as e:
            raise InputError(f"{path}: not a readable training checkpoint: {e!r}") from None


def pack_arrays(
    potential: torch.nn.Module, optimizer: LeanOptimizer, common: Named = ()
) -> dict[str, torch.Tensor]:
    """Arrays of a checkpoint from a model and its optimiser's state of each parameter, and of the
    `common` parts that it has besides."""
    arrays = {f"model.{name}": value for name, value in potential.state_dict().items()}
    for name, parameter in (*potential.named_parameters(), *common):
        for key, value in optimizer.state.get(parameter, {}).items():
            arrays[f"optimizer.{key}.{name}"] = value.cpu().contiguous()
    return arrays


def unpack_arrays(
    checkpoint: Checkpoint,
    potential: torch.nn.Module,
    optimizer: LeanOptimizer,
    where: str,
    common: Named = (),
) -> None:
    """Put a checkpoint's arrays back. Raises InputError where they do not fit the model."""
    model: dict[str, torch.Tensor] = {}
    states: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in checkpoint.arrays.items():
        kind, _, name = key.partition(".")
        if kind == "model":
            model[name] = value
        elif kind == "optimizer":
            quantity, _, parameter_name = name.partition(".")
            states.setdefault(parameter_name, {})[quantity] = value
    wanted = {name: tuple(v.shape) for name, v in potential.state_dict().items()}
    found = {name: tuple(v.shape) for name, v in model.items()}
    wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{where}: array '{name}' has shape {found.get(name)}, expected {wanted.get(name)}"
        )
    potential.load_state_dict(model)
    for name, parameter in (*potential.named_parameters(), *common):
        if checkpoint.step == 0:
            break
        if name not in states:
            raise InputError(f"{where}: the optimiser's state of '{name}' is missing")
        optimizer.restore(parameter, states[name])


def changed_keys(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys 'section/key' whose values differ between two inputs."""
    changed = []
    old, new = _numbered(old), _numbered(new)
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changed += changed_keys(a, b, f"{prefix}{key}/")
        elif a != b:
            changed.append(prefix + key)
    return changed


def _numbered(section: dict[str, Any]) -> dict[str, Any]:
    """With lists of sections, as the descriptors of a hybrid, as sections by their place."""
    return {
        key: {str(k): x for k, x in enumerate(value)}
        if isinstance(value, list) and value and all(isinstance(x, dict) for x in value)
        else value
        for key, value in section.items()
    }
