"""`dpl convert`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import EPILOG


def add_convert(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("convert", help="models of DeePMD-kit in and out", epilog=EPILOG)
    p.add_argument("source", type=Path, metavar="IN", help="a model of either program")
    p.add_argument("target", type=Path, metavar="OUT", help="its suffix says the kind of file")
    p.add_argument(
        "--tolerance",
        type=float,
        metavar="EV_PER_A",
        help="largest error of forces by the table of a .dpl file (default: 1e-9; of a float32 "
        "model 1e-6)",
    )
    p.add_argument(
        "--fparam",
        type=float,
        nargs="+",
        metavar="X",
        help="values at which the frame parameters of a model are fixed (default: its own "
        "default_fparam, if it has one); from .dpl to .dpl nothing else happens",
    )
    p.add_argument(
        "--type-map",
        nargs="+",
        metavar="NAME",
        help="other names of the model's types, in its order: elements for types such as OW HW",
    )
    p.add_argument(
        "--without-repulsion",
        action="store_true",
        help="leave out the repulsion of close pairs, which DeePMD-kit cannot express",
    )
    p.add_argument("-q", "--quiet", action="store_true", help="errors only")
    p.set_defaults(run=_convert)


def _convert(args: argparse.Namespace) -> int:
    from ..interop import convert

    potential, notes = convert(
        args.source,
        args.target,
        args.tolerance,
        args.fparam,
        type_map=args.type_map,
        without_repulsion=args.without_repulsion,
    )
    if not args.quiet:
        print(f"{args.target}: {' '.join(potential.type_map)}, {potential.precision}")
        print("\n".join(notes))
    return 0
