"""What the verbs share."""

from __future__ import annotations

import argparse
import glob
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data import System

log = logging.getLogger(__name__)

EPILOG = "Units: eV, Å, fs, K, GPa. Stress has ASE's sign: tension positive."
SOURCE = "read data through dpdata: vasp/outcar, cp2k/output, qe/pw/scf, abacus/scf, …"
"""Help of --from."""


def common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="errors and results only")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="threads of each process (default: all)"
    )


def device(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--device", default="cpu", metavar="DEVICE", help="cpu (default), cuda or cuda:N"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def positive_length(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a length above 0, found {text}")
    return value


def set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # chosen: ranks do not divide them again


def keep(inputs: Iterable[str | Path | None], outputs: Iterable[Path | None]) -> None:
    """Raises InputError, before any work, where an output would take the place of an input or
    cannot be written. `inputs`: models, data (`data.places`) and whatever else is read."""
    from ..files import check_writable
    from ..system import InputError

    kept = {own.resolve() for given in inputs if given is not None for own in _named_by(given)}
    for output in outputs:
        if output is not None and output.resolve() in kept:
            raise InputError(f"{output}: is an input, which would be lost; give another name")
        if output is not None and (output.is_dir() or str(output) == "-"):
            raise InputError(f"{output}: expected the name of a file to write")
        if output is not None and not output.parent.is_dir():
            raise InputError(f"{output}: there is no folder {output.parent}; make it first")
        if output is not None:
            check_writable(output, file=True)


def _named_by(given: str | Path) -> list[Path]:
    """What is there under the name of an input, less what it says of frames, labels and groups."""
    from ..data.places import place_of

    path = place_of(given).path
    if Path(path).exists():
        return [Path(path)]
    return [Path(match) for match in glob.glob(path.partition("#")[0], recursive=True)]


def picture(name: str) -> Path:
    """The type of options that say where a picture is written."""
    if Path(name).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"'{name}': pictures are PNG, expected NAME.png")
    return Path(name)


def table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows.items())


def more_data(parser: argparse.ArgumentParser) -> None:
    """Options that name data besides positional `paths`, for `named_data`."""
    parser.add_argument("-s", "--system", nargs="+", default=[], metavar="DATA", help="more data")
    parser.add_argument(
        "-f", "--datafile", type=Path, metavar="FILE", help="a text file with a DATA in each line"
    )


def named_data(args: argparse.Namespace, needed: bool = True) -> list[str]:
    """Data that positional `paths`, --system and --datafile name.

    Raises InputError where none does and some are `needed`.
    """
    from ..system import InputError

    named = [*args.paths, *args.system]
    if args.datafile is not None:
        try:
            lines = args.datafile.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            reason = getattr(e, "strerror", None) or "not a text file"
            raise InputError(f"{args.datafile}: cannot be read: {reason}") from None
        named += [line.strip() for line in lines if line.strip()]
    if needed and not named:
        raise InputError("no data: name files or folders, or give -s DATA")
    return named


def warn_of_lacking(systems: Sequence[System]) -> None:
    """Tell of systems without energies or forces, which the others have."""
    from ..data import lacking_in_words

    for label in ("energy", "forces"):
        line = lacking_in_words(systems, label)
        if line:
            log.warning("note: %s; their errors are those of the other labels", line)


def first_frames(systems: Sequence[System], n: int, seed: int | None = None) -> list[System]:
    """The first `n` frames of each system, or `n` drawn at random with `seed`; 0: all.

    Raises InputError for a negative number.
    """
    from dataclasses import replace

    import numpy as np

    from ..system import InputError

    if n < 0:
        raise InputError(f"-n {n}: expected a number of frames, or 0 for all")
    random = None if seed is None else np.random.default_rng(seed)
    found = []
    for system in systems:
        frames = system.frames
        if random is not None:
            frames = [frames[k] for k in random.permutation(len(frames))]
        found.append(replace(system, frames=frames[: n or None]))
    return found
