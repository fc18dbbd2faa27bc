"""`dpl convert-data`."""

from __future__ import annotations

import argparse
import logging

from .common import EPILOG, SOURCE, common

log = logging.getLogger(__name__)


def add_convert_data(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "convert-data",
        help="data sets between extended XYZ, deepmd/npy, HDF5 and DFT codes' output",
        usage="dpl convert-data IN… OUT [options]",
        epilog="Virials are eV, positive under compression; stresses as ASE has them. " + EPILOG,
    )
    p.add_argument(
        "paths",
        nargs="*",
        metavar="IN OUT",
        help="data as for test, then what to write: NAME.extxyz, NAME.hdf5, or a folder",
    )
    p.add_argument(
        "--to",
        metavar="FORMAT",
        help="extxyz, deepmd/npy, deepmd/npy/mixed or deepmd/hdf5 (default: by OUT's suffix)",
    )
    p.add_argument("--from", dest="source", metavar="FORMAT", help=SOURCE)
    p.add_argument("--type-map", nargs="+", metavar="EL", help="order of elements in type_map.raw")
    common(p)
    p.set_defaults(run=_convert_data)


def _convert_data(args: argparse.Namespace) -> int:
    from ..data import describe, load
    from ..data.writing import target_of, write_systems
    from ..system import InputError

    if len(args.paths) < 2:
        raise InputError("expected data to read and then a file or folder to write")
    *sources, out = args.paths
    path, kind = target_of(out, args.to)
    given = {"type_map": args.type_map, "labelled": False, "source": args.source}
    systems = load(sources, **given, quiet=args.quiet)
    for system in systems:
        for note in system.notes:
            log.info("note: %s: %s", system.name, note)
    for note in write_systems(systems, path, kind, args.type_map):
        log.warning("note: %s", note)
    print(f"{describe(systems).splitlines()[-1]}\nwritten: {out}")
    return 0
