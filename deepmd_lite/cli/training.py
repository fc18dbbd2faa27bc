"""`dpl train`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import EPILOG, common, set_threads


def add_train(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "train",
        help="train a potential from an input file",
        epilog="In parallel: torchrun --nproc-per-node 2 -m deepmd_lite train INPUT. " + EPILOG,
    )
    p.add_argument("input", type=Path, help="JSON or YAML with DeePMD-kit's keys")
    p.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the results")
    p.add_argument("-r", "--restart", action="store_true", help="go on from the last checkpoint")
    p.add_argument(
        "--time-limit",
        metavar="TIME",
        help="90s, 30m, 2h, 1h30m: end by then; the learning rate follows the time",
    )
    common(p)
    p.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from ..training import train

    set_threads(args.threads)
    train(
        args.input,
        output=args.output,
        restart=args.restart,
        time_limit=args.time_limit,
        started=args.started,
        quiet=args.quiet,
    )
    return 0
