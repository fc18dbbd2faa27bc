"""Training: input, schedule, loss, loop, checkpoint and what is reported on the way."""

from .config import TrainInput, read_input
from .loop import CHECKPOINT, OUT_JSON, TrainingError, train
from .systems import read_systems, training_systems, validation_systems

__all__ = [
    "CHECKPOINT",
    "OUT_JSON",
    "TrainInput",
    "TrainingError",
    "read_input",
    "read_systems",
    "train",
    "training_systems",
    "validation_systems",
]
