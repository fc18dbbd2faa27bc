"""The model: configuration, networks, table, potential and its file."""

from .config import ModelConfig
from .file import load_model, read_header, save_model
from .potential import Potential
from .repulsion import Repulsion
from .statistics import Statistics, statistics_from
from .table_error import refine_table

__all__ = [
    "ModelConfig",
    "Potential",
    "Repulsion",
    "Statistics",
    "load_model",
    "read_header",
    "refine_table",
    "save_model",
    "statistics_from",
]
