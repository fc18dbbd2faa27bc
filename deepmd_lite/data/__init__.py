"""Reference data: reading, checking, and dividing it into batches."""

from .batches import Batch, PreparedFrame, collate, environments, label_counts, prepare
from .checks import OfModel
from .formats import load, load_each
from .frames import Frame, System, describe, lacking_in_words
from .sampler import BatchSampler, BatchSize

__all__ = [
    "Batch",
    "BatchSampler",
    "BatchSize",
    "Frame",
    "OfModel",
    "PreparedFrame",
    "System",
    "collate",
    "describe",
    "environments",
    "label_counts",
    "lacking_in_words",
    "load",
    "load_each",
    "prepare",
]
