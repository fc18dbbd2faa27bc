"""`dpl learn`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import EPILOG, common, set_threads


def add_learn(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "learn",
        help="active learning: train, explore, label what is not known, and again",
        description="Train a model, run molecular dynamics with it, have a command label "
        "structures whose forces it doubts, and again, until its simulations meet nothing new. "
        "Started again it goes on where it was.",
        epilog="docs/active-learning.md. " + EPILOG,
    )
    p.add_argument("input", type=Path, metavar="INPUT", help="YAML: docs/active-learning.md")
    common(p)
    p.set_defaults(run=_learn)


def _learn(args: argparse.Namespace) -> int:
    from ..learning import learn

    set_threads(args.threads)
    learn(args.input, quiet=args.quiet)
    return 0
