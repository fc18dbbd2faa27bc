"""What forces and virials say of the differences of energy between near frames, side by side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .pairs import Pairs
from .survey import correlation, robust_fit

LABELS = ("force", "virial")
FORCE, VIRIAL = 0, 1
"""Columns of the works."""
LEAST_PAIRS = 12
SURE = 3.0
"""Standard errors by which a factor is outside of what is allowed before anything is said."""
CORRELATION = 0.85
"""Below it a work does not explain the energies."""
RESTORED = 0.4
"""Part of what was unexplained that the right change of a label leaves at most."""
ALLOWED = (0.6, 1.6)
"""Factors that the third order, left out here, can explain."""
CONTRADICTED, MOSTLY_CONTRADICTED = 3.0, 2.0
"""Uncertainties by which a quarter of the close pairs, or half of all, are off at least; below,
noise may be the reason. In clean sets a quarter is off by less than 1.7, with labels in a wrong
place by more than ten."""
CLOSE = 0.2
"""Å, root mean square displacement of pairs along which the third order is small. Molecules that
turn go farther, and a quarter of their pairs may be off by 3 uncertainties."""


@dataclass
class Works:
    """Works along P pairs and the differences of energy that they should add up to."""

    pairs: Pairs
    works: np.ndarray
    """(P, 2) of the forces and of the virials, over the uncertainty."""
    differences: np.ndarray
    """(P,) of the energies, over the uncertainty."""
    own: np.ndarray
    """(P, 2) bool: pairs along which atoms move, and the cell."""
    fitted: np.ndarray
    """(2,) the factors of both works that explain the differences best."""

    @classmethod
    def of(cls, pairs: Pairs) -> Works:
        """Those of the pairs that have both, or the same cell."""
        strained = np.abs(pairs.strain).max(axis=(1, 2)) > 1e-6
        virial_work = np.where(strained, -np.einsum("pij,pij->p", pairs.virial, pairs.strain), 0.0)
        usable = np.isfinite(virial_work)
        pairs, strained, virial_work = pairs.chosen(usable), strained[usable], virial_work[usable]
        moving = np.abs(pairs.force_work) > 3e-4 * np.sqrt(pairs.n_atoms)
        works = np.stack([pairs.force_work, virial_work], axis=1) / pairs.uncertainty[:, None]
        own = np.stack([moving, strained], axis=1)
        return cls.fit(pairs, works, pairs.difference / pairs.uncertainty, own)

    @classmethod
    def fit(
        cls, pairs: Pairs, works: np.ndarray, differences: np.ndarray, own: np.ndarray
    ) -> Works:
        """With the factors that fit."""
        return cls(pairs, works, differences, own, robust_fit(works, differences)[0])

    def __len__(self) -> int:
        return len(self.pairs)

    def chosen(self, which: np.ndarray) -> Works:
        """Those pairs alone, fitted anew."""
        return Works.fit(
            self.pairs.chosen(which), self.works[which], self.differences[which], self.own[which]
        )

    def with_work(self, label: int, work: np.ndarray) -> Works:
        """With another work (P,) of a label, over the uncertainty."""
        works = self.works.copy()
        works[:, label] = work
        return Works.fit(self.pairs, works, self.differences, self.own)

    def enough(self, label: int) -> bool:
        """Whether the label does work along enough pairs to be tested."""
        return bool(self.own[:, label].sum() >= LEAST_PAIRS)

    def left(self, label: int) -> np.ndarray:
        """(P,) what the other label leaves of the differences."""
        other = 1 - label
        return self.differences - self.fitted[other] * self.works[:, other]

    def correlated(self, label: int) -> float:
        """Correlation of the work of one label with what the other leaves."""
        own = self.own[:, label]
        return correlation(self.works[own, label], self.left(label)[own]) if own.any() else 0.0

    def tested(self, label: int) -> bool:
        """Whether the label explains the energies, up to a factor."""
        return self.enough(label) and abs(self.correlated(label)) >= CORRELATION

    def right(self, label: int) -> bool:
        """Whether the label explains the energies as it stands."""
        return self.tested(label) and allowed(float(self.fitted[label]))

    @property
    def explained(self) -> float:
        """Correlation of both works, by their factors, with the differences."""
        return correlation(self.works @ self.fitted, self.differences)

    def misfit(self, label: int, factors: np.ndarray) -> float:
        """Uncertainties that a quarter of the label's pairs are off by, with these factors (2,)."""
        own = self.own[:, label]
        off = np.abs(self.differences - self.works @ factors)[own]
        return float(np.quantile(off, 0.75)) if own.any() else 0.0

    @property
    def unexplained(self) -> float:
        """The part of the differences' squares that the fitted works leave."""
        return 1.0 - self.explained**2

    def per_atom(self) -> Works:
        """With energies that are multiplied by the number of atoms."""
        return Works.fit(self.pairs, self.works, self.differences * self.pairs.n_atoms, self.own)

    def contradicted(self, label: int) -> bool:
        """Whether the differences are farther from the works than noise explains."""
        factors = [self.fitted[k] if self.right(k) else 1.0 for k in (FORCE, VIRIAL)]
        off = np.abs(self.differences - self.works @ np.array(factors))
        own = self.own[:, label]
        close = own & (self.pairs.moved < CLOSE**2 * self.pairs.n_atoms)
        some = close.sum() >= LEAST_PAIRS and np.quantile(off[close], 0.75) >= CONTRADICTED
        return bool(some or np.median(off[own]) >= MOSTLY_CONTRADICTED)


def allowed(factor: float) -> bool:
    """Whether labels of one unit may have this factor."""
    return ALLOWED[0] < factor < ALLOWED[1]
