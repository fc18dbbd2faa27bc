"""The emulated device of strict_device.py refuses what a GPU refuses, and counts what it does."""

from __future__ import annotations

import copy
import ctypes

import numpy as np
import pytest
import strict_device
import torch
from strict_device import CPU, CUDA, DeviceTensor

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda import native
from deepmd_lite.system import InputError


def there(*shape):
    return torch.ones(*shape, dtype=torch.float64, device=CUDA)


def here(*shape):
    return torch.ones(*shape, dtype=torch.float64)


def fused_adam(count):
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.9, "weight_decay": 0.0, "eps": 1e-8}
    lists = [[there(3)] for _ in range(4)]
    torch._fused_adam_(*lists, [], [count], **options, amsgrad=False, maximize=False)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(3, device="cuda:0"),
        lambda: torch.tensor([1.0, 2.0, 3.0], device=CUDA),
        lambda: here(3).to(CUDA),
        lambda: here(3).to(there(1)),
        lambda: torch.empty_like(there(3)),
        lambda: there(2).new_zeros(3),
        lambda: there(6)[::2] * 2.0 + torch.tensor(1.0),  # no dimensions: as good as a number
        lambda: there(3)[torch.tensor([0, 1, 2])],  # indices may be of the host
        lambda: there(3, 2).T @ there(3),
    ],
)
def test_what_is_made_there_stays_there(traffic, make):
    made = make()
    assert isinstance(made, DeviceTensor)
    assert made.device == CUDA
    assert made.is_cuda
    assert not made.is_cpu
    assert type(made.cpu()) is type(made.to("cpu")) is torch.Tensor


@pytest.mark.parametrize(
    "mix",
    [
        lambda: here(3) + there(3),
        lambda: there(3).mul_(here(3)),
        lambda: there(3, 3) @ here(3),
        lambda: torch.cat([there(3), here(3)]),
        lambda: here(3)[torch.zeros(1, dtype=torch.int64, device=CUDA)],
        lambda: there(3).index_select(0, torch.zeros(1, dtype=torch.int64)),
        lambda: there(3).index_put_([torch.zeros(2, dtype=torch.int64)], here(2)),
        lambda: torch.index_select(there(3), 0, there(1).long(), out=here(1)),
        lambda: fused_adam(count=torch.zeros(())),
    ],
)
def test_host_and_device_do_not_mix(traffic, mix):
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mix()


@pytest.mark.parametrize("look", [lambda x: x.numpy(), np.asarray, lambda x: np.array(x)])
def test_numpy_does_not_see_it(traffic, look):
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
        look(there(3))


def test_parts_share_memory_and_changes_are_noticed(traffic):
    whole = torch.zeros(4, 3, device=CUDA)
    version = whole._version
    whole[1:3].add_(1.0)
    whole[0, 0] = 5.0
    whole[3] = torch.full((3,), 2.0)  # a copy from the host
    assert whole.tolist() == [[5, 0, 0], [1, 1, 1], [1, 1, 1], [2, 2, 2]]
    assert whole._version > version
    assert traffic.to_device > 0


def test_new_memory_holds_nothing_of_use(traffic):
    for made in (torch.empty(3, device=CUDA), there(3).new_empty(2), torch.empty_like(there(2))):
        assert made.isnan().all()
    assert (torch.empty(3, dtype=torch.int64, device=CUDA) == -1).all()


@pytest.mark.parametrize(
    ("act", "waits", "to_host", "to_device"),
    [
        (lambda x: x.add_(1.0).mul_(2.0)[1:].sum(), 0, 0, 0),
        (lambda x: x.cpu(), 1, 1, 0),
        (lambda x: x.tolist(), 1, 1, 0),
        (lambda x: float(x.sum()), 1, 0, 0),
        (lambda x: bool(x.any()), 1, 0, 0),
        (lambda x: int(x[0]), 1, 0, 0),
        (lambda x: x[x > 0.0], 1, 0, 0),
        (lambda x: x.nonzero(), 1, 0, 0),
        (lambda x: torch.equal(x, x), 1, 0, 0),
        (lambda x: x.copy_(here(3)), 1, 0, 1),
        (lambda x: x.copy_(here(3), non_blocking=True), 0, 0, 1),
        (lambda x: here(3).copy_(x), 1, 1, 0),
        (lambda x: here(3).to(CUDA), 1, 0, 1),
        (lambda x: here(3).to(CUDA, non_blocking=True), 0, 0, 1),
        (lambda x: x.to(CUDA), 0, 0, 0),
        (lambda x: x[torch.tensor([0, 1])], 1, 0, 1),
        (lambda x: torch.linalg.qr(torch.diag(x)), 0, 0, 0),
        (lambda x: torch.linalg.eigh(torch.diag(x)), 1, 0, 0),
        (lambda x: fused_adam(count=torch.zeros((), device=CUDA)), 0, 0, 0),
    ],
)
def test_what_is_counted(traffic, act, waits, to_host, to_device):
    x = there(3)
    before = copy.copy(traffic)
    act(x)
    found = traffic.since(before)
    assert (found.waits, found.to_host, found.to_device) == (waits, to_host, to_device)


def test_sums_in_any_order_are_refused(traffic):
    rows = torch.tensor([0, 1, 1], device=CUDA)
    there(3).index_add_(0, rows[:2], there(2))
    there(3).long().index_add_(0, rows, there(3).long())
    with pytest.raises(RuntimeError, match="in any order"):
        there(3).index_add_(0, rows, there(3))


def test_gradients_come_back(traffic):
    weights = here(3).requires_grad_()
    loss = (weights.to(CUDA) * 2.0 * there(3)).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert type(gradient) is torch.Tensor
    assert gradient.tolist() == [2.0, 2.0, 2.0]


def test_kernels_take_addresses_of_the_device_alone(traffic):
    device = kernels.cuda.device("cuda:0")
    report = device.reports()
    with pytest.raises(AssertionError, match="argument 2 holds an address that is not of the dev"):
        device.call("report_clear", 1, torch.zeros(7, dtype=torch.int64))
    freed = torch.zeros(7, dtype=torch.int64, device=CUDA).data_ptr()
    with pytest.raises(AssertionError, match="memory that has been freed"):
        device.call("report_clear", 1, freed)
    atoms = native.Atoms(1, 0, here(1, 3).data_ptr(), None, None, None, 0)
    with pytest.raises(AssertionError, match="repulsion_add: argument 2 holds"):
        device.call("repulsion_add", None, ctypes.byref(atoms), None, None, report)
    with pytest.raises(RuntimeError, match="a kernel gets a tensor with strides"):
        device.call("report_clear", 1, torch.zeros(7, 2, device=CUDA)[:, 0])


def test_kernels_of_the_processor_refuse_it(traffic):
    with pytest.raises(InputError, match="the compiled kernels run on the CPU, found cuda:0"):
        kernels.neighbor_list(there(2, 3), torch.zeros(2, dtype=torch.int32), 2, 3.0)


def test_it_ends(emulation):
    with strict_device.emulated(emulation):
        assert kernels.cuda.device("cuda").torch_device == CUDA
    assert here(2).to(CPU) is not None
    with pytest.raises((InputError, AssertionError, RuntimeError)):
        torch.zeros(1, device=CUDA)
