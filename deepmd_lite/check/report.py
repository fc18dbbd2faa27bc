"""What a check of data found, as text, as JSON and as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..data import System, describe
from ..data.frames import counted
from ..neighbors import periodic_env
from ..page import page, panels, png
from ..system import InputError
from .coverage import ONLY_DIFFERENCES, alike, not_apart
from .elements import smallest_distances
from .energies import explain
from .finding import SEVERITIES, Finding
from .geometry import dense_cutoff
from .survey import Survey

NEIGHBOR_SAMPLE = 40
"""Frames that neighbours within the cutoff are counted in."""


@dataclass
class Report:
    """Findings, worst first, and what they are about."""

    findings: list[Finding]
    sets: Mapping[str, Sequence[System]]
    survey: Survey | None
    """None where nothing could be read."""
    seconds: float

    def count(self, severity: str) -> int:
        """Findings of one severity."""
        return sum(f.severity == severity for f in self.findings)

    def failed(self, strict: bool = False) -> bool:
        """Whether there is an error or, where `strict`, a warning."""
        return self.count("error") > 0 or (strict and self.count("warning") > 0)

    def text(self, cutoff: float) -> str:
        """For a terminal: the data, key figures, a line for each finding, and a count."""
        lines = []
        for role, systems in self.sets.items():
            text = describe(systems) if len(systems) > 1 else systems[0].summary()
            lines.append(text if text.startswith(role) else f"{role}: {text}")
        if self.survey is not None:
            lines += [f"{name}: {value}" for name, value in key_figures(self.survey, cutoff)]
        lines += [f.line() for f in self.findings]
        lines.append(self.verdict())
        return "\n".join(lines)

    def loud(self) -> str:
        """Errors and warnings alone, a line each."""
        return "\n".join(f.line() for f in self.findings if f.severity != "note")

    def verdict(self) -> str:
        """The last line."""
        n = 0 if self.survey is None else len(self.survey)
        counts = ", ".join(counted(self.count(s), s) for s in SEVERITIES)
        return f"{counts} in {counted(n, 'frame')} ({self.seconds:.1f} s)"

    def json(self, cutoff: float) -> bytes:
        """For a machine: findings with all their frames, key figures and counts."""
        content: dict[str, Any] = {
            "counts": {s: self.count(s) for s in SEVERITIES},
            "findings": [f.row() for f in self.findings],
            "sets": {role: [s.summary() for s in systems] for role, systems in self.sets.items()},
            "seconds": self.seconds,
        }
        if self.survey is not None:
            content["smallest_distances"] = [
                {"pair": pair, "distance_A": r, "over_covalent_radii": ratio}
                for pair, r, ratio in smallest_distances(self.survey)
            ]
            content["key_figures"] = dict(key_figures(self.survey, cutoff))
        return json.dumps(content, indent=2, ensure_ascii=False).encode()

    def html(self, cutoff: float) -> bytes:
        """A page in one file."""
        rows = [(f"{f.severity}: {f.code}", f.what, f.do) for f in self.findings]
        pictures = []
        if self.survey is not None:
            rows += [(name, value, "") for name, value in key_figures(self.survey, cutoff)]
            pictures = [("Energies, forces, distances", _picture(self.survey))]
        title = "Check of " + ", ".join(s.name for systems in self.sets.values() for s in systems)
        return page(title[:200], rows, self.verdict(), pictures)


def key_figures(survey: Survey, cutoff: float) -> list[tuple[str, str]]:
    """Smallest distances, numbers of neighbours, sizes of forces, what energies mean, in words."""
    pairs = [f"{pair} {r:.2f} Å ({ratio:.2f})" for pair, r, ratio in smallest_distances(survey)]
    rows = []
    if pairs:
        rows.append(
            (
                "smallest distances (over the sum of covalent radii)",
                ", ".join(pairs[:12]) + (" …" if len(pairs) > 12 else ""),
            )
        )
    neighbors = neighbor_counts(survey, cutoff)
    if neighbors:
        low, mean, high = neighbors
        rows.append(
            (f"neighbours within {cutoff:g} Å", f"{low} to {high}, {mean:.0f} on the average")
        )
    if np.isfinite(survey.rms_force).any():
        rms = float(np.sqrt(np.nanmean(survey.rms_force**2)))
        rows.append(("forces", f"RMS {rms:.3g} eV/Å, largest {np.nanmax(survey.max_force):.3g}"))
    open_ones = alike(survey.elements, survey.counts[np.isfinite(survey.energy)])
    if open_ones:
        rows.append(("energies", f"{not_apart(open_ones)}: {ONLY_DIFFERENCES}"))
    return rows


def neighbor_counts(survey: Survey, cutoff: float) -> tuple[int, float, int] | None:
    """Least, mean and most neighbours of an atom within `cutoff` Å, from some frames."""
    chosen = np.unique(np.linspace(0, len(survey) - 1, NEIGHBOR_SAMPLE).astype(int))
    counts = []
    for k in chosen:
        f = survey.frames[k]
        if dense_cutoff(f) < 0.7 * cutoff:
            continue
        try:
            env = periodic_env(
                f.positions, f.cell, f.pbc, np.zeros(f.n_atoms), cutoff, f.source
            ).env
        except InputError:
            continue
        counts.append(np.diff(env.offsets.numpy()))
    if not counts:
        return None
    every = np.concatenate(counts)
    return int(every.min()), float(every.mean()), int(every.max())


def _picture(survey: Survey) -> bytes:
    """Four panels: energies and forces frame by frame, distances, energy against volume."""
    figure, axes = panels(4, rows=2)
    known = explain(survey, np.arange(len(survey))) if np.isfinite(survey.energy).any() else None
    for role, name in enumerate(survey.roles):
        own = np.flatnonzero(survey.role == role)
        if known is not None:
            mine = survey.role[known.which] == role
            which, left = known.which[mine], known.by_composition[mine]
            axes[0].plot(which, left, ".", ms=3, label=name)
            axes[3].plot((survey.volume / survey.n_atoms)[which], left, ".", ms=3)
        axes[1].plot(own, survey.max_force[own], ".", ms=3)
        axes[2].plot(own, survey.geometry.ratio[own], ".", ms=3)
    axes[0].set(xlabel="frame", ylabel="energy − composition (eV/atom)")
    axes[1].set(xlabel="frame", ylabel="largest force (eV/Å)")
    axes[2].set(xlabel="frame", ylabel="smallest distance / covalent radii")
    axes[3].set(xlabel="volume (Å³/atom)", ylabel="energy − composition (eV/atom)")
    if len(survey.roles) > 1:
        axes[0].legend(frameon=False, fontsize=8)
    return png(figure)
