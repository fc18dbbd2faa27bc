"""Presets on the same data: errors on frames that no training saw, and what they cost.

    python benchmarks/presets.py --data TRAIN… --test TEST --times 3m 10m 30m --out presets.json

Each training is `dpl train TRAIN… --preset NAME --time-limit TIME`; `--input` adds one of another
input, with the last of the times. Evaluations are timed in turns (A B A B …) in one process.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from descriptors import TEST, errors, evaluation_times, report

from deepmd_lite.training.presets import PRESETS

TRAIN = TEST.with_name("train.extxyz")


def trained(arguments: list[str], limit: str, out: Path) -> float:
    """Steps of a training by a person's command, which leaves its model in `out`."""
    command = [sys.executable, "-m", "deepmd_lite", "train", *arguments, "--time-limit", limit]
    subprocess.run([*command, "--output", str(out), "--quiet"], check=True)
    last = (out / "train.jsonl").read_text().splitlines()[-1]
    return float(json.loads(last)["step"])


def main() -> None:
    """Train, test, time; print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", default=[str(TRAIN)], help="to train on")
    parser.add_argument("--test", type=Path, default=TEST, help="frames for the errors")
    parser.add_argument("--times", nargs="+", default=["2m"], help="of each preset, or of all (2m)")
    parser.add_argument("--input", type=Path, help="another training to compare with")
    parser.add_argument("--atoms", type=int, default=4096, help="of the timed structure (4096)")
    parser.add_argument("--out", type=Path, help="write JSON there, and a table beside it")
    args = parser.parse_args()
    if len(args.times) not in (1, len(PRESETS)):
        parser.error(f"--times: expected one, or one for each of {', '.join(PRESETS)}")
    limits = args.times * (len(PRESETS) // len(args.times))
    jobs = [
        (name, [*args.data, "--preset", name], limit)
        for name, limit in zip(PRESETS, limits, strict=True)
    ]
    if args.input is not None:
        jobs.append((str(args.input.name), [str(args.input)], limits[-1]))
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name, arguments, limit in jobs:
            out = Path(folder) / name
            steps = trained(arguments, limit, out)
            paths.append(out / "model.dpl")
            row = {"steps": steps, **errors(paths[-1], args.test)}
            rows[f"{name}, {limit}"] = row
            print(name, limit, {key: round(x, 2) for key, x in row.items()}, flush=True)
        times = evaluation_times(paths, args.test, args.atoms)
        for row, own in zip(rows.values(), times, strict=True):
            row |= own
    report(rows, __doc__, args.out)


if __name__ == "__main__":
    main()
