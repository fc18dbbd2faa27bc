"""Time and memory of a step on one GPU, with the least that its arithmetic and memory need.

    python benchmarks/gpu.py [--atoms N …] [--precision P …] [--md N …] [--out FILE.json]

Model: DeePMD-kit's water example with random weights (water.py). System: the 192-atom water box k³
times, every atom moved at random, open boundaries, list within cutoff and a skin of 1 Å; all of it
is on the GPU before the clock starts. Medians of --repeats calls after two that are not counted (of
more than ten million atoms: one call after one).

    evaluate   energies, forces and virial; µs per atom
    moments, backward, other kernels   the parts of it in this project's kernels, by CUDA events
    networks   the rest: fitting networks through torch
    list       a new neighbour list
    floor      what the flops take at the rate of a large matrix product, or the bytes at that of a
               large copy, both measured here, whichever is more; reached = floor / evaluate

--md: whole steps of `Simulation` with device 'cuda'.
training: the gradient of a loss on the forces of one 192-atom frame, to the weights on the host;
then the step of each optimiser, without it: mean of 20, in two of which SOAP's bases turn.
products of the fitting networks: whether others than those of float32 would pay (products.py).
`largest` among --atoms: as many as the memory that is free is forecast to hold, list included; some
minutes for each precision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import products
import roofline
import torch
from common import BenchmarkError, Table, median, parser, progress, report, run_main
from water import (
    STOCK,
    TYPE_MAP,
    environment_of,
    neighbors_and_runs,
    stock_potential,
    water_box,
)

from deepmd_lite import kernels
from deepmd_lite.kernels.cuda.potential import CHUNK
from deepmd_lite.model import Potential
from deepmd_lite.system import InputError, LocalEnv, type_indices
from deepmd_lite.training.adam import Adam
from deepmd_lite.training.soap import Soap

SKIN, UNIT = 1.0, 192
LARGEST, MANY = "largest", 10_000_000
LIST_BYTES = 100  # of a row, while a list is made (neighbors.cu: Scratch)
WIDEST_CHUNK = 4e9  # bytes left for chunks and for torch
GEMM = {"float64": 8192, "float32": 8192}
COPY = 2**30  # numbers


@dataclass(frozen=True)
class TimedDevice(kernels.cuda.Device):
    """A device that notes when each of its kernels begins and ends."""

    events: list[tuple[str, Any, Any]] = field(default_factory=list)

    def call(self, name: str, *arguments: Any) -> None:
        """As it is, between two events."""
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        super().call(name, *arguments)
        last.record()
        self.events.append((name, first, last))

    def seconds(self) -> dict[str, float]:
        """Of each kind of call so far."""
        found: dict[str, float] = defaultdict(float)
        for name, first, last in self.events:
            found[name] += 1e-3 * first.elapsed_time(last)
        return found


def clock(device: kernels.cuda.Device) -> float:
    """Seconds, after all that was queued is done."""
    torch.cuda.synchronize(device.torch_device)
    return time.perf_counter()


def timed(
    device: kernels.cuda.Device, repeats: int, body: Callable[[], Any], uncounted: int = 2
) -> float:
    """Median seconds of `body` after some calls that are not counted."""
    seconds = []
    for k in range(repeats + uncounted):
        began = clock(device)
        body()
        if k >= uncounted:
            seconds.append(clock(device) - began)
    return median(seconds)


def ceilings(device: kernels.cuda.Device, precision: str) -> tuple[float, float]:
    """Flops a second of a large matrix product, and bytes a second of a large copy."""
    n, options = (
        GEMM[precision],
        {"dtype": getattr(torch, precision), "device": device.torch_device},
    )
    a, b = torch.rand(n, n, **options), torch.rand(n, n, **options)
    rate = 2.0 * n**3 / timed(device, 5, lambda: a @ b)
    source = torch.rand(COPY, dtype=torch.float32, device=device.torch_device)
    target = torch.empty_like(source)
    return rate, 2.0 * 4 * COPY / timed(device, 5, lambda: target.copy_(source))


def needed_bytes(shape: roofline.Shape, listed: float, size: int) -> float:
    """Bytes of an atom through the memory of the GPU: the list twice, rows of atoms; moments and
    their gradient, descriptor, layers and their gradients, each written and read as chunks pass."""
    moments, descriptor = 4 * shape.features, shape.features * shape.axis
    numbers = 6 * moments + 4 * descriptor + 8 * sum(shape.fitting)
    return 2 * 4 * listed + 6 * 24 + numbers * size


def atoms_that_fit(device: kernels.cuda.Device, listed: float) -> int:
    """192 k³ of them, with a list and what making it takes."""
    each = kernels.cuda.forecast(1.0, 0.0, listed) + LIST_BYTES
    k = int(((device.free_bytes() - WIDEST_CHUNK) / each / UNIT) ** (1 / 3))
    if k < 1:
        raise BenchmarkError("too little memory on the GPU for a benchmark")
    return UNIT * k**3


def cloud(device: kernels.cuda.Device, n_atoms: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and types of the unit box k³ times, made on the device."""
    k = round((n_atoms / UNIT) ** (1 / 3))
    if k < 1 or n_atoms != UNIT * k**3:
        raise BenchmarkError(f"{n_atoms} atoms: expected 192 · k³, for example 192, 1536 or 12288")
    unit, torch_device = water_box(UNIT), device.torch_device
    positions = torch.from_numpy(unit.positions).to(torch_device)
    types = torch.tensor(type_indices(unit.get_chemical_symbols(), TYPE_MAP, "box"))
    edge = torch.from_numpy(unit.cell.lengths()).to(torch_device)
    steps = torch.arange(k, dtype=torch.float64, device=torch_device)
    cells = torch.cartesian_prod(steps, steps, steps) * edge
    rows = (cells[:, None, :] + positions[None, :, :]).reshape(-1, 3)
    rows += 0.02 * torch.randn(rows.shape, dtype=torch.float64, device=torch_device)
    return rows, types.int().to(torch_device).repeat(k**3)


def evaluation(
    device: kernels.cuda.Device, potential: Potential, n_atoms: int, repeats: int
) -> dict[str, Any]:
    """Seconds of an evaluation, its parts and of a list; peak memory."""
    torch.cuda.reset_peak_memory_stats(device.torch_device)
    positions, types = cloud(device, n_atoms)
    cutoff = potential.rcut + SKIN
    listed = (positions, types, n_atoms, cutoff)
    turns = (1, 1) if n_atoms > MANY else (repeats, 2)
    seconds_list = timed(device, turns[0], lambda: potential.neighbor_list(*listed), turns[1])
    env = LocalEnv(positions, types, n_atoms, *potential.neighbor_list(*listed))
    whole = timed(device, turns[0], lambda: potential.evaluate(env), turns[1])
    compiled = potential._compiled
    assert isinstance(compiled, kernels.cuda.CudaPotential)
    compiled.device = timer = TimedDevice(device.native, device.torch_device)
    compiled._list = None  # its first evaluation is made launch by launch
    potential.evaluate(env)
    clock(device)
    compiled.device = device
    parts = timer.seconds()
    kernel_seconds = {name: parts.pop(name, 0.0) for name in ("moments", "moments_backward")}
    return {
        "atoms": n_atoms,
        "edges": env.n_edges,
        "list": seconds_list,
        "evaluate": whole,
        **kernel_seconds,
        "other": sum(parts.values()),
        "peak bytes": torch.cuda.max_memory_allocated(device.torch_device),
    }


def dynamics(potential: Potential, n_atoms: int, steps: int) -> float:
    """Seconds of a step of molecular dynamics at constant energy."""
    from deepmd_lite.md import Simulation

    velocities = {"temperature": 300, "seed": 1}
    simulation = Simulation(
        water_box(n_atoms), potential, device="cuda", timestep=0.2, velocities=velocities
    )
    simulation.run(2)
    result = simulation.run(steps)
    return result.seconds / result.steps


def training(device: kernels.cuda.Device, potential: Potential, repeats: int) -> dict[str, float]:
    """Seconds of a gradient and of each optimiser's step."""
    env = environment_of(water_box(UNIT), potential.rcut)
    parameters = list(potential.parameters())

    def gradient() -> None:
        for parameter in parameters:
            parameter.grad = None
        _, forces = potential.energies_and_forces(env)
        forces.square().mean().backward()

    found = {"gradient": timed(device, repeats, gradient)}
    on_gpu, on_host = (
        Soap(parameters, 1e-6, torch_device=device.torch_device),
        Soap(parameters, 1e-6),
    )
    named = {"Adam": Adam(parameters, 1e-6), "SOAP": on_gpu, "SOAP on the host": on_host}
    for name, optimizer in named.items():
        optimizer.step()
        optimizer.step()
        began, steps = clock(device), 2 * on_gpu.interval
        for _ in range(steps):
            optimizer.step()
        found[name] = (clock(device) - began) / steps
    return found


def product_rows(device: kernels.cuda.Device, repeats: int) -> list[list[str | float]]:
    """Of the fitting networks, for a chunk of atoms; on a GPU all M · A inputs count."""
    d = STOCK["descriptor"]
    widths = [d["neuron"][-1] * d["axis_neuron"], *STOCK["fitting_net"]["neuron"]]
    return products.rows(widths, CHUNK, device.torch_device, partial(timed, device, repeats))


def arguments() -> argparse.Namespace:
    made = parser(__doc__)
    made.add_argument("--atoms", nargs="+", default=["192", "12288", "98304", "1536000"])
    made.add_argument("--md", nargs="*", type=int, default=[192, 12288, 98304])
    made.add_argument("--steps", type=int, default=20, help="of molecular dynamics")
    return made.parse_args()


def main() -> None:
    given = arguments()
    try:
        device = kernels.cuda.device("cuda")
    except InputError as e:
        raise BenchmarkError(str(e)) from None
    rows, steps, trainings, results = [], [], [], []
    for precision in given.precision:
        potential = stock_potential(precision).freeze()
        shape = roofline.Shape(
            *neighbors_and_runs(water_box(UNIT), potential),
            STOCK["descriptor"]["neuron"][-1],
            STOCK["descriptor"]["axis_neuron"],
            STOCK["fitting_net"]["neuron"],
        )
        potential.to_device("cuda")
        rate, bandwidth = ceilings(device, precision)
        flops, size = roofline.flops(shape)["total"], 8 if precision == "float64" else 4
        dense = shape.neighbors * ((potential.rcut + SKIN) / potential.rcut) ** 3
        for wanted in given.atoms:
            n = atoms_that_fit(device, dense) if wanted == LARGEST else int(wanted)
            progress(f"{precision}, {n} atoms")
            found = evaluation(device, potential, n, given.repeats)
            bytes_ = needed_bytes(shape, found["edges"] / n, size)
            floor = max(flops / rate, bytes_ / bandwidth)
            kernel = found["moments"] + found["moments_backward"] + found["other"]
            micro = [found[k] for k in ("evaluate", "moments", "moments_backward", "other")]
            micro += [max(found["evaluate"] - kernel, 0.0), found["list"]]
            reached = f"{100 * floor * n / found['evaluate']:.1f} %"
            row = [precision, n, *(1e6 * x / n for x in micro), flops, bytes_, 1e6 * floor, reached]
            rows.append([*row, found["peak bytes"] / n])
            results.append({"precision": precision, **found, "flops": flops, "bytes": bytes_})
            results[-1] |= {"flops per second": rate, "bytes per second": bandwidth}
        for n in given.md:
            seconds = dynamics(potential, n, given.steps)
            steps.append([precision, n, 1e6 * seconds, 1e6 * seconds / n])
            results.append({"precision": precision, "atoms": n, "md step": seconds})
        trained = training(device, stock_potential(precision).to_device("cuda"), given.repeats)
        trainings.append([precision, *(1e3 * seconds for seconds in trained.values())])
        results.append({"precision": precision, "training": trained})
    columns = ["precision", "atoms", "evaluate µs/atom", "moments", "backward", "other kernels"]
    columns += ["networks", "list", "flops/atom", "bytes/atom", "floor µs/atom", "reached"]
    where = torch.cuda.get_device_name(device.torch_device)
    tables = [
        Table(f"One evaluation on {where}", [*columns, "peak bytes/atom"], rows),
        Table("One step of molecular dynamics", ["precision", "atoms", "µs", "µs/atom"], steps),
        Table("One step of a training, ms", ["precision", *trained], trainings),
    ]
    if "float32" in given.precision:
        progress("products")
        found = product_rows(device, given.repeats)
        names = [
            f"{n} {what}" for n in ("float32", "TF32", "3×TF32") for what in ("ns/atom", "error")
        ]
        tables.append(Table("Products of the fitting networks", ["layer", *names], found))
        results.append({"products": found})
    report(given, tables, {"gpu": where, "cases": results}, None)


if __name__ == "__main__":
    sys.exit(run_main(main))
