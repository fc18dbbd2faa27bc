"""Adam against torch's, and that neither optimiser loads torch's compiler."""

import subprocess
import sys

import pytest
import torch

from deepmd_lite.training.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_numbers_of_torch(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (2, 4, 4), (7,), (1,)]
    first = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in first] for _ in range(2))
    own = Adam(ours, 0.01, (0.8, 0.95), 1e-6)
    reference = torch.optim.Adam(theirs, 0.01, (0.8, 0.95), 1e-6, fused=True)
    for step in range(6):
        for k, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            gradient = torch.randn(a.shape, generator=generator, dtype=dtype)
            a.grad = b.grad = None if k == step else gradient
        for optimizer in (own, reference):
            optimizer.param_groups[0]["lr"] = 0.01 * 0.9**step
            optimizer.step()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert own.state[a].keys() == reference.state[b].keys()
        for key, value in own.state[a].items():
            assert torch.equal(value, reference.state[b][key])
    own.zero_grad()
    assert all(p.grad is None for p in ours)


def test_the_compiler_is_not_loaded():
    code = """
import sys, torch
from deepmd_lite.training.adam import Adam
from deepmd_lite.training.soap import Soap
for kind in (Adam, Soap):
    weight = torch.nn.Parameter(torch.arange(1.0, 7.0).reshape(3, 2) ** 0.5)
    optimizer = kind([weight], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (weight**2).sum().backward()
        optimizer.step()
    assert (weight**2).sum() < 20
    assert "torch._dynamo" not in sys.modules, kind
"""
    subprocess.run([sys.executable, "-c", code], check=True)
