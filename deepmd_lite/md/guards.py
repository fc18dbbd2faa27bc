"""Guards: what ends a run that has become unphysical, and what it says then.

Every rank looks at its own atoms; what it finds travels with the two messages that each step needs
anyway (one before the forces, one after), so that all ranks stop at the same step. Only then do
they ask each other which atom it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from ase import Atoms

from ..model.known_pairs import KnownPairs, Pair, end_of_table
from ..pairs import pairs_of
from ..system import InputError, LocalEnv, Model, counted_once
from .clock import Clock
from .comm import SharedError
from .config import Guards
from .engine import Engine, bounded, longest, numbers
from .output import Writer
from .state import temperature

DISTANCE_EVERY = 100
"""Steps between looks at all pairs, for the nearest and for those of elements that the model does
not know so near: both also where it reports some beyond its table, the latter with each new list
and where a run ends."""
NEARER_STILL = 0.01
"""Å by which a pair must come nearer than was said to be said again."""
IMPROBABLE = 25.0
"""−ln of the probability that a system in equilibrium trips by chance at a step."""


@dataclass(frozen=True)
class Trip:
    """A guard that tripped, the same on all ranks."""

    what: str
    """Which atoms, value and limit."""
    forces_are_current: bool = True
    """Forces belong to the positions of this moment."""
    advice: str | None = None
    """What it means and what to try; None: as of all that is unphysical."""


class Monitor:
    """Looks at every step of a run on behalf of its guards. All ranks make the same calls."""

    def __init__(
        self,
        guards: Guards,
        clock: Clock,
        freedom: int,
        target: float,
        warn: Callable[[str], None],
    ) -> None:
        """`clock`: is told here what an adaptive timestep may be; `freedom`: degrees of freedom
        of the temperature; `target` K, to which a thermostat may bring the system as fast as it
        likes; `warn`: all ranks say the same."""
        self.guards, self.clock = guards, clock
        self.freedom, self.target = freedom, target
        self._chance = fluctuation(freedom) if freedom > 0 else np.inf
        self._kelvins: deque[float] = deque(maxlen=guards.temperature_steps)
        self.warn, self._looked_at = warn, -1
        self._said: dict[Pair, float] = {}  # Å, the same on all ranks
        self._nearest: dict[Pair, float] = {}  # of this rank, since the run began
        self._said_beyond = False

    def moved(self, engine: Engine, leap: float) -> Trip | None:
        """After atoms have moved by at most `leap` (Å, over all ranks) in this step."""
        limit = self.guards.displacement
        if leap <= (np.finfo(float).max if limit is None else limit):  # never what is not finite
            return None
        leaps = self.clock.timestep * engine.state.velocities.norm(dim=1)
        atom, length = worst(engine, leaps)
        bound = "" if limit is None else f", more than {limit:g} Å (guards: displacement)"
        return Trip(f"{atom} moves {length:.3g} Å in one step{bound}", forces_are_current=False)

    def evaluated(self, engine: Engine, step: int) -> Trip | None:
        """After the forces of a step: one message."""
        guards, comm, nearest = self.guards, engine.comm, np.inf
        adaptive = self.clock.adaptive is not None
        force, energy, own_kinetic, *haste = numbers(
            *(longest(engine.forces), engine.energies.sum(), engine.state.kinetic_energy()),
            *((self.clock.haste(engine),) if adaptive else ()),
        )
        force = bounded(force)
        bad = not (isfinite(force) and isfinite(energy))
        if guards.distance and (engine.beyond_now or step % DISTANCE_EVERY == 0):
            nearest = closest_pair(engine.env)[0]
        if look := engine.list_is_new or step % DISTANCE_EVERY == 0:
            self._looked_at = step
        own = [
            nearest < (guards.distance or 0.0),
            bad,
            force > (guards.force or np.inf),
            engine.beyond_now,
            own_kinetic,
            engine.too_close is not None,
            len(strangers := self._strangers_of(engine) if look or engine.beyond_now else {}),
        ]
        sums = comm.reduce(np.array(own, dtype=np.float64), "sum")
        close, bad, strong, beyond, kinetic, too_close, strange = sums
        if too_close:
            what = next(filter(None, comm.collect(engine.too_close)))
            return Trip(what, forces_are_current=False)
        foreign = self._strange(engine, strangers, step) if strange else None
        if close:
            return Trip(f"{_nearest(engine)}, less than {guards.distance:g} Å (guards: distance)")
        if bad:
            wrong = ~(torch.isfinite(engine.forces).all(dim=1) & torch.isfinite(engine.energies))
            atom, _ = worst(engine, wrong.double())
            return Trip(f"{atom} has a force or energy that is not finite")
        if strong:
            atom, force = worst(engine, engine.forces.norm(dim=1))
            limit = f"more than {guards.force:g} eV/Å (guards: force)"
            if engine.forces is not engine.model_forces:
                limit += ", that of PLUMED's bias included"
            return Trip(f"{atom} has a force of {force:.4g} eV/Å, {limit}")
        if beyond and (trip := self._beyond(engine, counted_once(int(beyond)), step)):
            return trip
        if adaptive:
            self.clock.choose(comm.largest(haste[0]))
        return foreign or self._heated(engine, kinetic)

    def _beyond(self, engine: Engine, n_pairs: int, step: int) -> Trip | None:
        are = "pair is" if n_pairs == 1 else "pairs are"
        words = f"{n_pairs} {are} closer than {end_of_table(engine.model)}"
        if self.guards.beyond_table == "stop":
            return Trip(f"{words} (guards: beyond_table); {_nearest(engine)}")
        if self.guards.beyond_table == "warn" and not self._said_beyond:
            self._said_beyond = True
            extrapolated = "energies there are extrapolated (said once; the total follows)"
            self.warn(f"step {step}: {words}; {extrapolated}")
        return None

    def look(self, engine: Engine, step: int) -> Trip | None:
        """At the pairs of the last step of a run, also one that ends by a guard."""
        if self._looked_at == step:
            return None
        strangers = self._strangers_of(engine)
        if not engine.comm.total(len(strangers)):
            return None
        return self._strange(engine, strangers, step)

    def _strangers_of(self, engine: Engine) -> dict[Pair, float]:
        """Pairs of elements of this rank that its model does not know so near, of which nothing was
        said yet, and how near."""
        known = _known_pairs(engine.model)
        if known is None or self.guards.beyond_table == "off" or engine.too_close is not None:
            return {}
        # to look for those that never were neighbours takes all pairs of the list
        enough = [pair for pair in self._said if not known.are_known(pair)]
        found = known.strangers(engine.env, engine.model.rcut, but=enough)
        self._nearest = _nearer(self._nearest, found)
        return {pair: r for pair, r in found.items() if pair not in self._said}

    def _strange(self, engine: Engine, own: dict[Pair, float], step: int) -> Trip | None:
        """Those of all ranks, once of each pair of elements."""
        known, found = _known_pairs(engine.model), _nearer(*engine.comm.collect(own))
        assert known is not None
        self._said |= found
        words = known.in_words(found, engine.model.type_map)
        if self.guards.beyond_table == "stop":
            return Trip(f"{words} (guards: beyond_table)")
        self.warn(f"step {step}: {words}; energies there are extrapolated")
        return None

    def close(self, engine: Engine, steps: int, beyond: int) -> None:
        """Warn, after a run of so many `steps`, of `beyond` pairs in all that were beyond the
        table, and of those that came nearer than was said."""
        met, known = _nearer(*engine.comm.collect(self._nearest)), _known_pairs(engine.model)
        self._nearest = {}
        if known is not None:  # others are not looked at again once they were said
            met = {pair: r for pair, r in met.items() if known.are_known(pair)}
        if self.guards.beyond_table == "off":
            return
        if not beyond:
            met = {k: r for k, r in met.items() if r < self._said.get(k, np.inf) - NEARER_STILL}
        self._said = _nearer(self._said, met)
        words = known.in_words(met, engine.model.type_map) if known and met else ""
        seen = f"the nearest that were seen: {words}"
        if beyond:
            self.warn(
                f"{beyond} times in {steps} steps a pair was closer than "
                f"{end_of_table(engine.model)}{words and '; '}{words and seen}; do not trust "
                "what depends on it"
            )
        elif words:
            self.warn(f"{seen}; energies there are extrapolated")

    def _heated(self, engine: Engine, kinetic: float) -> Trip | None:
        """Whether the temperature has risen by more than the guard and chance allow."""
        jump = self.guards.temperature_jump
        if jump is None or self.freedom <= 0:
            return None
        kelvin, past = temperature(kinetic, self.freedom), self._kelvins
        usual = max(sum(past) / len(past) if past else kelvin, self.target)
        n_past = max(1, len(past))
        past.append(kelvin)
        limit = usual * (1.0 + self._chance) + jump
        if not kelvin > limit:
            return None
        state = engine.state
        energies = 0.5 * state.masses * (state.velocities**2).sum(dim=1)
        atom, _ = worst(engine, energies)
        return Trip(
            f"the temperature is {kelvin:.0f} K, more than {limit:.0f} K, which is {jump:g} K and "
            f"the usual fluctuation above the mean of the last {n_past} steps, {usual:.0f} K "
            f"(guards: temperature_jump); the fastest is {atom}"
        )


def stop(
    trip: Trip,
    engine: Engine,
    frame: Atoms | None,
    writer: Writer | None,
    step: int,
    clock: Clock,
    restart: Path | None,
) -> NoReturn:
    """Save the frame (rank 0 has it) and raise SharedError on all ranks: what is wrong, and what
    to try. `restart`: the last one, which stays as it is."""
    saved = ""
    if writer is not None and frame is not None:
        if not trip.forces_are_current:
            frame.calc = None
        try:
            path = writer.frame(frame, "failed.extxyz")
            saved = f"; the frame is saved in {path}" if path else ""
        except InputError as e:
            saved = f"; {e}"
    saved = engine.comm.share(saved)
    kept = f"; the last restart is {restart}" if restart else ""
    advice = trip.advice or (
        f"the structure is unphysical, the timestep ({clock.timestep:g} fs) too long or the model "
        f"far from its training data; relax the structure, {clock.remedy}, or add such structures "
        "to the training"
    )
    raise SharedError(f"step {step}: {trip.what}: {advice}{saved}{kept}")


def _known_pairs(model: Model) -> KnownPairs | None:
    """Of the first of several models."""
    return getattr(getattr(model, "models", [model])[0], "known_pairs", None)


def _nearer(*distances: dict[Pair, float]) -> dict[Pair, float]:
    """The least of each pair."""
    found: dict[Pair, float] = {}
    for pair, r in (item for each in distances for item in each.items()):
        found[pair] = min(r, found.get(pair, np.inf))
    return found


def closest_pair(env: LocalEnv) -> tuple[float, int, int]:
    """Distance (Å) and rows of the nearest two atoms of a list, the first a local one.

    Infinite, and rows of −1, where there are no pairs.
    """
    nearest, offsets = (np.inf, -1, -1), env.offsets.cpu()
    for pairs in pairs_of(env, env.positions.device):
        if not len(pairs.squares):
            continue
        squared, k = pairs.squares.min(dim=0)
        if (distance := float(squared) ** 0.5) < nearest[0]:
            place = int(offsets[pairs.first]) + int(k)
            centre = int(torch.searchsorted(offsets, place, right=True)) - 1
            nearest = (distance, centre, int(pairs.neighbors[k]))
    return nearest


def fluctuation(freedom: int) -> float:
    """By how much, relative to its mean, the temperature of so many degrees of freedom may rise
    by chance.

    The kinetic energy in equilibrium has a χ² distribution, with the relative standard deviation
    σ = √(2/freedom); it exceeds its mean by more than √(2x) σ + x σ² with a probability below
    exp(−x): Laurent & Massart, Ann. Stat. 28, 1302 (2000), lemma 1.
    """
    sigma = np.sqrt(2.0 / freedom)
    return float(np.sqrt(2.0 * IMPROBABLE) * sigma + IMPROBABLE * sigma**2)


def worst(engine: Engine, badness: torch.Tensor) -> tuple[str, float]:
    """The atom with the largest `badness` (n,) over all ranks, and how large that is."""
    state, own = engine.state, (-np.inf, 0, "")
    if len(state):
        values = torch.where(torch.isfinite(badness), badness, torch.inf)
        most = float(values.max())
        rows = torch.nonzero(values == most).flatten()
        row = int(rows[state.ids[rows].argmin()])
        own = (most, -int(state.ids[row]), _name(engine, row))
    most, _, name = max(engine.comm.collect(own))
    return name, most


def _nearest(engine: Engine) -> str:
    """The two nearest atoms over all ranks, in words."""
    distance, i, j = closest_pair(engine.env)
    own = (distance, "")
    if i >= 0:
        pair = sorted((i, j), key=lambda row: int(engine.ids[row]))
        names = " and ".join(_name(engine, row) for row in pair)
        own = (distance, f"{names} are {distance:.3g} Å apart")
    return min(engine.comm.collect(own))[1]


def _name(engine: Engine, row: int) -> str:
    """An atom or ghost in words: number in the structure, from 0, and element."""
    return f"atom {int(engine.ids[row])} ({engine.model.type_map[int(engine.env.types[row])]})"
