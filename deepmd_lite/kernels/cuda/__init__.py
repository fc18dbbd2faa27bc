"""The same operations on an NVIDIA GPU: `device` finds one, `CudaPotential` evaluates on it.

Kernels in CUDA (dpl_cuda.h), the networks by torch's matrix products. Derivatives are summed as
integers, so results repeat bit for bit. Training stays on the CPU.
"""

from .library import Device, built, device, emulated, gpus
from .potential import CudaPotential, forecast, neighbor_list

__all__ = [
    "CudaPotential",
    "Device",
    "built",
    "device",
    "emulated",
    "forecast",
    "gpus",
    "neighbor_list",
]
