"""All checks of a model in order, and how they are shown."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data import System
from ..model import Potential, load_model
from ..model.structures import Structure, gas
from . import curves, derivatives, dynamics, machine, symmetry
from .samples import from_frames
from .verdict import Verdict

FRAMES = 3
QUICK_STEPS, STEPS = 200, 2000


@dataclass(frozen=True)
class Certificate:
    """What all checks have found."""

    model: str
    samples: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    curves: tuple[curves.Curve, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed; warnings do not count."""
        return not self.named("FAILED")

    def named(self, state: str) -> list[Verdict]:
        """Verdicts in a state."""
        return [v for v in self.verdicts if v.state == state]

    def lines(self) -> list[str]:
        """A table and a last line that says it all."""
        heading = f"{self.model}: checked on {', '.join(self.samples)}"
        return [heading, *self._table(self.verdicts), self._count()]

    def loud(self) -> list[str]:
        """What failed or warns, and the last line."""
        found = [v for v in self.verdicts if v.state in ("FAILED", "warning")]
        return [*self._table(found), f"{self.model}: {self._count()}"]

    def _table(self, verdicts: Sequence[Verdict]) -> list[str]:
        width = max((len(v.name) for v in verdicts), default=0)
        places = {v.device for v in self.verdicts}
        column = max(map(len, places)) + 2 if len(places) > 1 else 0
        rows = []
        for v in verdicts:
            found = "" if v.found is None else f"{v.found:9.1e}"
            limit = "" if v.found is None else f"<= {v.limit:.0e} {v.unit}"
            place = f"{v.device:<{column}}" if column else ""
            rows.append(f"{v.name:<{width}}  {place}{v.state:<8} {found:>9} {limit}")
            if v.words and v.state != "ok":
                rows.append(f"{'':<{width}}  {v.words}")
        return rows

    def _count(self) -> str:
        count = f"{len(self.named('ok'))} of {len(self.verdicts)} checks passed"
        others = [
            f"{len(self.named(s))} {word}"
            for s, word in (("FAILED", "failed"), ("warning", "warned"), ("not made", "not made"))
            if self.named(s)
        ]
        return ", ".join([count, *others])

    def json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "model": self.model,
            "passed": self.passed,
            "samples": list(self.samples),
            "checks": [v.row() for v in self.verdicts],
        }


def certify(
    path: str | Path,
    systems: Sequence[System] = (),
    *,
    device: str = "cpu",
    quick: bool = False,
    progress: Callable[[str], None] = lambda name: None,
) -> Certificate:
    """Check the model file at `path` on this machine, in float64.

    `systems`: data whose frames it is checked on besides atoms at random places, instead of the
    one that the file remembers; `device`: where the model is evaluated, 'cpu', 'cuda' or 'cuda:N'
    (each verdict says where it was: some need the processor); `quick`: without starting other
    ranks, with shorter dynamics; `progress` is told what comes next. Raises ModelFileError for a
    file that is none, InputError for data with elements that it lacks and for a device that cannot
    be used.
    """
    host = load_model(path, "float64")
    model = copy.deepcopy(host).to_device(device)
    frames = [f for system in systems for f in system.frames]
    samples = from_frames(frames, model.type_map, 1 if quick else FRAMES) or list(
        model.reference_frames
    )
    samples.append(gas(model))
    verdicts = []
    drawn = curves.curves(model)
    for name, where, check in _checks(host, model, path, samples, drawn, quick):
        progress(name)
        verdicts += [replace(v, device=where) for v in check()]
    names = tuple(s.name for s in samples)
    return Certificate(str(path), names, tuple(verdicts), tuple(drawn))


def _checks(
    host: Potential,
    model: Potential,
    path: str | Path,
    samples: list[Structure],
    drawn: list[curves.Curve],
    quick: bool,
) -> Iterator[tuple[str, str, Callable[[], list[Verdict]]]]:
    """Name, device and function of each group."""
    there, first = model.device, samples[0]
    symbols = [model.type_map[t] for t in first.types]
    yield (
        *("derivatives", there),
        lambda: [
            derivatives.forces(model, samples),
            derivatives.virial(model, samples),
        ],
    )
    yield (
        *("symmetry", there),
        lambda: [
            *symmetry.invariances(model, samples),
            symmetry.net_force(model, samples),
            symmetry.size_consistency(model, samples),
        ],
    )
    yield "dimers", there, lambda: [*curves.smoothness(model), *curves.repulsion(drawn)]
    if there != host.device:
        yield "processor", there, lambda: [machine.processor(model, host, samples)]
    yield "float32", there, lambda: machine.single_precision(model, samples)
    # exact networks at every pair and instruction sets: there are none elsewhere
    yield (
        *("numbers", host.device),
        lambda: [machine.table(host, samples), machine.instruction_sets(host, samples)],
    )
    if not quick:
        yield "ranks", host.device, lambda: [machine.ranks(path, first, symbols)]
    steps = QUICK_STEPS if quick else STEPS
    yield "dynamics", there, lambda: [dynamics.energy_drift(model, first, symbols, steps)]
