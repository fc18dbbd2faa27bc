"""The devices that every test of the CUDA kernels runs on: an emulated one, and a GPU."""

import ctypes
import os
from pathlib import Path

import pytest
import strict_device
import torch
from emulation import emulated_library, shuffle

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import native
from deepmd_lite.system import InputError


@pytest.fixture(scope="session")
def emulated_path(tmp_path_factory) -> Path:
    """The kernels compiled for the host, once for all processes of the tests."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent
    folder = folder / "emulation"
    folder.mkdir(exist_ok=True)
    return emulated_library(folder)


@pytest.fixture(scope="session")
def emulation(emulated_path) -> ctypes.CDLL:
    """The same, opened."""
    return native.opened(emulated_path)


@pytest.fixture
def traffic(emulation):
    """What passes between the host and an emulated device, which every 'cuda' in the test means."""
    with strict_device.emulated(emulation) as counted:
        yield counted


@pytest.fixture(params=["emulated", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request):
    """A device; every 'cuda' in the test means it."""
    if request.param == "emulated":
        with strict_device.emulated(request.getfixturevalue("emulation")):
            device = kernels.cuda.device("cuda")
            shuffle(device, 1)
            yield device
        return
    try:
        device = kernels.cuda.device("cuda")
    except InputError as e:
        if os.environ.get("DPL_REQUIRE_GPU") == "1":
            pytest.fail(str(e))
        pytest.skip(str(e))
    torch.cuda.synchronize(device.torch_device)  # an error here is not one of the test
    yield device
