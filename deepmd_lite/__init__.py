"""deepmd_lite: a Deep Potential force field for atomistic simulation.

`train` a potential from ab-initio data, attach it to ASE with `Calculator`, run parallel
molecular dynamics with `Simulation`. Units: eV, Å, fs, u, K; stress as ASE has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .calculator import Calculator
    from .deep_pot import DeepPot
    from .learning import learn
    from .md import Simulation
    from .model import load_model as load
    from .training import train
    from .uncertainty import add_uncertainty

_PUBLIC = {
    "Calculator": ("calculator", "Calculator"),
    "DeepPot": ("deep_pot", "DeepPot"),
    "Simulation": ("md", "Simulation"),
    "add_uncertainty": ("uncertainty", "add_uncertainty"),
    "learn": ("learning", "learn"),
    "load": ("model", "load_model"),
    "train": ("training", "train"),
}

__all__ = [
    "Calculator",
    "DeepPot",
    "Simulation",
    "__version__",
    "add_uncertainty",
    "learn",
    "load",
    "train",
]


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import deepmd_lite` is instant."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'deepmd_lite' has no attribute {name!r}")
    module, attribute = _PUBLIC[name]
    value = getattr(_imported(f".{module}"), attribute)
    globals()[name] = value
    return value


def _imported(module: str) -> Any:
    """Ctrl-C meanwhile acts afterwards: half an import of torch cannot be made good again."""
    import signal
    import threading
    from importlib import import_module

    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        return import_module(module, __name__)
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        return import_module(module, __name__)
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def __dir__() -> list[str]:
    """All public names, for completion."""
    return sorted({*globals(), *__all__})
