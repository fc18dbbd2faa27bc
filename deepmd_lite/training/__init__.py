"""Training: input, schedule, loss, loop, checkpoint and what is reported on the way."""

from .config import TrainInput, read_input
from .loop import CHECKPOINT, TrainingError, train

__all__ = ["CHECKPOINT", "TrainInput", "TrainingError", "read_input", "train"]
