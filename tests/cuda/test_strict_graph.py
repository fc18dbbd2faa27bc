"""The emulated device's graphs refuse what a GPU's refuse, and go by address as those do."""

from __future__ import annotations

import pytest
import strict_graph
import torch
from strict_device import CUDA

from deepmd_lite import kernels


def there(*numbers):
    return torch.tensor(numbers, dtype=torch.float64, device=CUDA)


def recorded(work):
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin()
    try:
        return graph, work()
    finally:
        graph.capture_end()


def test_nothing_runs_while_it_is_recorded(traffic):
    x, y = there(1.0, 2.0), there(0.0, 0.0)
    graph, product = recorded(lambda: y.add_(x) * 3.0)
    assert y.tolist() == [0.0, 0.0]
    assert product.isnan().all()
    graph.replay()
    assert y.tolist() == [1.0, 2.0]
    assert product.tolist() == [3.0, 6.0]


def test_a_replay_reads_and_writes_the_same_memory(traffic):
    x, rows, target = there(1.0, 2.0, 3.0), torch.tensor([2, 0], device=CUDA), there(0.0, 0.0)
    factor = 2.0
    graph, _ = recorded(lambda: torch.index_select(x * factor, 0, rows, out=target[:]))
    for numbers in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]):
        x.copy_(there(*numbers))
        factor = 100.0  # a number stays as it was
        graph.replay()
        assert target.tolist() == [2 * numbers[2], 2 * numbers[0]]


def test_a_replay_begins_without_memory_of_the_last_one(traffic):
    def sums():
        zeros, anything = torch.zeros(2, device=CUDA), torch.empty(2, device=CUDA)
        return zeros.add_(1.0), anything

    graph, (counted, anything) = recorded(sums)
    anything.fill_(5.0)
    for _ in range(2):
        graph.replay()
        assert counted.tolist() == [1.0, 1.0]
        assert anything.isnan().all()


def test_kernels_are_recorded_with_their_numbers(traffic):
    device = kernels.cuda.device("cuda")
    fixed = torch.tensor([[1 << 40, 0, 0]], device=CUDA)
    positions, out = torch.zeros(1, 3, dtype=torch.float64, device=CUDA), there(0, 0, 0)

    def convert():
        report = device.reports()
        device.call("from_fixed", 1, positions, fixed, out, report)
        return report

    graph, report = recorded(convert)
    assert out.tolist() == [0.0, 0.0, 0.0]
    graph.replay()
    assert out.tolist() == [1.0, 0.0, 0.0]
    assert device.read(report, 1, 1) == 0


@pytest.mark.parametrize(
    "work",
    [
        lambda x: float(x.sum()),
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(2, dtype=torch.float64)),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: torch.cuda.current_stream(CUDA).synchronize(),
        lambda x: kernels.cuda.device("cuda").read(kernels.cuda.device("cuda").reports(), 1, 1),
    ],
)
def test_no_waiting_and_no_copies_to_or_from_the_host(traffic, work):
    x = there(1.0, 2.0)
    with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
        recorded(lambda: work(x))
    assert strict_graph.recording is None
    assert x.tolist() == [1.0, 2.0]


def test_memory_that_is_gone_is_missed(traffic):
    arrays = [there(1.0, 2.0)]
    graph, _ = recorded(lambda: arrays[0] + 1.0)
    graph.replay()
    arrays.clear()
    with pytest.raises(AssertionError, match="memory has been freed"):
        graph.replay()
