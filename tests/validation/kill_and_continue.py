"""Fifty times kill -9: does a parallel run go on as if nothing had happened?

    python tests/validation/kill_and_continue.py --rounds 50 --ranks 3

Molecular dynamics of silicon with a restart every 7 steps, a row of thermo.csv at every step and a
frame every 5 is killed at random moments, all ranks at once or one of them alone, and continued
with --continue, until it is done. Exit status 1 unless thermo.csv, trajectory.extxyz and every
shard of the last restart are those of an uninterrupted run, byte for byte.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from killing import Tally, killed_and_whole
from tqdm import tqdm


def summary(tally: Tally) -> str:
    """One line."""
    return (
        f"{tally.kills} times killed ({tally.of_one_rank} times one rank alone), "
        f"{tally.before_the_first_restart} before the first restart, {tally.inside_a_restart} "
        f"inside a restart, {tally.inside_a_line} inside a line of thermo.csv; "
        f"{np.mean(tally.steps_lost or [0]):.1f} steps made again on average"
    )


def differing(killed: dict[str, bytes], whole: dict[str, bytes]) -> list[str]:
    """Files that are not the same byte for byte."""
    names = sorted(killed.keys() | whole.keys())
    return [name for name in names if killed.get(name) != whole.get(name)]


def main() -> int:
    """0 if all files are the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = killed_and_whole(Path(folder), given.ranks, given.rounds, given.seed)
        for found in tqdm(rounds, total=given.rounds, unit="kill", leave=False):
            if isinstance(found, tuple):
                tally, killed, whole = found
    print(summary(tally))
    wrong = differing(killed, whole)
    for name in sorted(whole):
        print(f"{name}: {len(whole[name])} bytes, {'DIFFERENT' if name in wrong else 'the same'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
