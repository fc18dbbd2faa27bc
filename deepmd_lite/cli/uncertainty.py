"""`dpl uncertainty`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .common import EPILOG, common, keep, more_data, named_data, picture, positive, set_threads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..data import System
    from ..uncertainty import Fitted

    Data = Sequence[str] | Sequence[System]


def add_uncertainty(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "uncertainty",
        help="have a trained model say how far to trust it",
        usage="dpl uncertainty MODEL DATA… [-v DATA…] -o OUT [options], "
        "or dpl uncertainty MODEL --input INPUT -o OUT [options]",
        description="Fit a committee of last layers to the data that a model was trained on, scale "
        "its spread by the errors on other data, and write it into the model's file. What the "
        "model says of energies, forces and virials stays the same.",
        epilog="docs/uncertainty.md. " + EPILOG,
    )
    p.add_argument("model", type=Path, metavar="MODEL", help="a .dpl file, trained or converted")
    p.add_argument("paths", nargs="*", metavar="DATA", help="what it was trained on, with forces")
    more_data(p)
    p.add_argument(
        "-v",
        "--validation",
        nargs="+",
        metavar="DATA",
        help="what it was not trained on, by whose errors the spread is scaled",
    )
    p.add_argument(
        "--input", type=Path, metavar="INPUT", help="both kinds of data from a training's input"
    )
    p.add_argument(
        "-n", "--members", type=positive, default=8, metavar="N", help="of the committee (8)"
    )
    p.add_argument("--seed", type=int, default=1, metavar="SEED", help="of what is drawn (1)")
    p.add_argument("--plot", type=picture, metavar="PNG", help="errors against deviations")
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the new model, a .dpl file"
    )
    common(p)
    p.set_defaults(run=_uncertainty)


def _uncertainty(args: argparse.Namespace) -> int:
    from ..uncertainty import add_uncertainty

    set_threads(args.threads)
    data, validation = _data(args)
    names = (d if isinstance(d, str) else d.name for d in (*data, *validation))
    keep([args.model, args.input, args.datafile, *names], [args.output, args.plot])
    fitted = add_uncertainty(
        args.model,
        data,
        validation=validation or None,
        output=args.output,
        n_members=args.members,
        seed=args.seed,
        plot=args.plot,
        quiet=args.quiet,
    )
    print("\n".join(_lines(fitted)))
    print(f"model: {args.output}")
    return 0


def _data(args: argparse.Namespace) -> tuple[Data, Data]:
    """What the model was trained on, and what it was not."""
    from ..system import InputError
    from ..training import read_input, read_systems

    if args.input is None:
        return named_data(args), args.validation or []
    if args.paths or args.system or args.datafile or args.validation:
        raise InputError("--input: names the data; give it or data, not both")
    systems, held = read_systems(read_input(args.input)[0], args.quiet)
    return systems, held or []


def _lines(fitted: Fitted) -> list[str]:
    members = fitted.potential.members
    assert members is not None
    facts, found = members.facts, fitted.calibration
    lines = [
        f"{len(members)} members, fitted to {facts['frames']} frames, scaled by errors on "
        f"{facts['calibrated_on']}",
        "atoms by deviation of their force, eV/Å (root mean squares):",
        "  deviation      error",
        *(f"  {deviation:9.4f}  {error:9.4f}" for deviation, error in found.bins()),
    ]
    for key, what in (("atoms", "of atoms"), ("frames", "of the largest in each frame")):
        if f"rank_correlation_{key}" in facts:
            value = facts[f"rank_correlation_{key}"]
            lines.append(f"rank correlation of deviation and error, {what}: {value:.2f}")
    lines.append(
        f"largest deviation of a frame: trusted below {facts['trust_lower']:.3g} eV/Å, worth a "
        f"calculation up to {facts['trust_upper']:.3g}"
    )
    return lines
