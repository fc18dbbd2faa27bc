"""The same operations on an NVIDIA GPU: `device` finds one, `CudaPotential` evaluates on it.

Kernels in CUDA (dpl_cuda.h), the networks by torch's matrix products. Derivatives with respect to
positions are summed as integers, so results repeat bit for bit.
"""

from .native import Device, built, device, emulated, gpus, in_turn
from .networks import full_precision
from .operations import Operations
from .potential import CudaPotential, forecast, neighbor_list
from .random import normals
from .recorder import SMALL, Recorder, Repeated

__all__ = [
    "SMALL",
    "CudaPotential",
    "Device",
    "Operations",
    "Recorder",
    "Repeated",
    "built",
    "device",
    "emulated",
    "forecast",
    "full_precision",
    "gpus",
    "in_turn",
    "neighbor_list",
    "normals",
]
