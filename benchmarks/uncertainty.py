"""A committee in the file of one model beside several models trained from different seeds.

    python benchmarks/uncertainty.py --out uncertainty.json

All are trained on silicon crystals alone (diamond, strained, sheared, equation of state) and asked
about the crystals of the test set, and about liquid, amorphous and strongly
distorted silicon, which they have never seen. Each deviation is scaled by the errors on the
crystals of the validation set, as `dpl uncertainty` does it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.io import read, write
from common import HERE
from scipy.stats import spearmanr

from deepmd_lite import train
from deepmd_lite.committee import Committee
from deepmd_lite.data import PreparedFrame, load, prepare
from deepmd_lite.model import load_model
from deepmd_lite.uncertainty import Calibration, add_uncertainty, compared

SILICON = HERE.parent / "data" / "silicon"
INPUT = HERE.parent / "examples" / "01_train_silicon" / "input.json"
CRYSTALS = ("diamond", "strained", "sheared", "eos")


def divided(folder: Path) -> None:
    """Frames of crystals, and all others, as `crystals_SET.extxyz` and `others.extxyz`."""
    others = []
    for name in ("train", "validation", "test"):
        frames = read(SILICON / f"{name}.extxyz", ":")
        known = [a for a in frames if a.info["config_type"] in CRYSTALS]
        others += [a for a in frames if a.info["config_type"] not in CRYSTALS]
        write(folder / f"crystals_{name}.extxyz", known)
    write(folder / "others.extxyz", others)


def trained(folder: Path, seed: int, steps: int) -> tuple[Path, float]:
    """A model of crystals, and how many seconds it took."""
    config = json.loads(INPUT.read_text())
    for section, name in (("training_data", "train"), ("validation_data", "validation")):
        config["training"][section]["systems"] = [str(folder / f"crystals_{name}.extxyz")]
    config["training"] |= {"seed": seed, "numb_steps": steps}
    began = time.perf_counter()
    path = train(config, output=folder / str(seed), quiet=True)
    return path, time.perf_counter() - began


def frames_of(folder: Path, names: Sequence[str], rcut: float) -> list[PreparedFrame]:
    """Frames of the files `names`."""
    systems = load([folder / f"{name}.extxyz" for name in names])
    return prepare([frame for system in systems for frame in system.frames], ["Si"], rcut)


def above(high: np.ndarray, low: np.ndarray) -> float:
    """How probably one of `high` is above one of `low`: the area under the ROC curve."""
    return float((high[:, None] > low[None, :]).mean())


def scores(committee: Committee, folder: Path) -> dict[str, float]:
    """What is told of a committee."""
    rcut = committee.rcut
    factor = compared(committee, frames_of(folder, ["crystals_validation"], rcut)).factor
    crystals = compared(committee, frames_of(folder, ["crystals_test"], rcut)).scaled(factor)
    others = compared(committee, frames_of(folder, ["others"], rcut)).scaled(factor)
    both = Calibration(
        np.concatenate([crystals.deviations, others.deviations]),
        np.concatenate([crystals.errors, others.errors]),
        np.concatenate([crystals.frames, others.frames + crystals.frames.max() + 1]),
    )

    def ratio(c: Calibration) -> float:
        return float(np.sqrt(np.mean(c.deviations**2) / np.mean(c.errors**2)))

    return {
        "rank correlation with the error, atoms of all": spearmanr(
            both.deviations, both.errors
        ).statistic,
        "the same, crystals alone": spearmanr(crystals.deviations, crystals.errors).statistic,
        "the same, others alone": spearmanr(others.deviations, others.errors).statistic,
        "others above crystals, frames (ROC)": above(others.largest()[0], crystals.largest()[0]),
        "others above crystals, atoms (ROC)": above(others.deviations, crystals.deviations),
        "deviation over error, crystals": ratio(crystals),
        "deviation over error, others": ratio(others),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """As Markdown."""
    lines = ["| | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for key in next(iter(found.values())):
        lines.append(f"| {key} | " + " | ".join(f"{row[key]:.3g}" for row in found.values()) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, fit, compare; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=4, help="trained from different seeds (4)")
    parser.add_argument("--steps", type=int, default=4000, help="of each training (4000)")
    parser.add_argument("--out", type=Path, help="write JSON there, and a table beside it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        divided(folder)
        paths, seconds = zip(
            *(trained(folder, seed, args.steps) for seed in range(1, args.models + 1)), strict=True
        )
        models = [load_model(path, "float64") for path in paths]
        title = f"{args.models} models"
        found = {title: {**scores(Committee(models), folder), "seconds in all": sum(seconds)}}
        for seed, path in enumerate(paths, 1):
            began = time.perf_counter()
            sets = [folder / f"crystals_{name}.extxyz" for name in ("train", "validation")]
            fitted = add_uncertainty(
                path, sets[0], validation=sets[1], output=folder / "one.dpl", quiet=True
            )
            took = seconds[seed - 1] + time.perf_counter() - began
            own = scores(Committee.of_members(fitted.potential), folder)
            found[f"model {seed}"] = {**own, "seconds in all": took}
    print(table(found))
    if args.out is not None:
        args.out.write_text(json.dumps(found, indent=2) + "\n")
        args.out.with_suffix(".md").write_text(f"# {__doc__.strip()}\n\n{table(found)}\n")


if __name__ == "__main__":
    main()
