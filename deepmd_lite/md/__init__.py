"""Molecular dynamics, on one rank or many."""

from .comm import SharedError, communicator
from .config import MdConfig
from .report import RunResult
from .run import plan_input, run_input
from .simulation import Simulation

__all__ = [
    "MdConfig",
    "RunResult",
    "SharedError",
    "Simulation",
    "communicator",
    "plan_input",
    "run_input",
]
