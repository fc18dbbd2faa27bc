"""`dpl md` and `dpl plot`."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import EPILOG, common, positive


def add_md(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "md",
        help="molecular dynamics, alone or under mpiexec",
        epilog="In parallel: mpiexec -n 4 dpl md input.yaml. " + EPILOG,
    )
    p.add_argument("input", type=Path, metavar="INPUT", help="YAML: docs/molecular-dynamics.md")
    p.add_argument(
        "--continue",
        dest="resume",
        action="store_true",
        help="go on from the newest restart in the output folder",
    )
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="check the input, make some steps, and print what the run will need; write nothing",
    )
    p.add_argument("--ranks", type=positive, metavar="N", help="with --dry-run: plan for N ranks")
    p.add_argument(
        "--force",
        action="store_true",
        help="let the cell change with a model that was not trained on virials; start a run that "
        "wants more memory than is free",
    )
    common(p)
    p.set_defaults(run=_md)


def _md(args: argparse.Namespace) -> int:
    from ..md import communicator, plan_input, run_input
    from ..system import InputError

    if args.dry_run:
        comm = communicator()
        plan = plan_input(
            args.input, comm=comm, n_ranks=args.ranks, force=args.force, threads=args.threads
        )
        if comm.rank == 0:
            print("\n".join(plan.lines()))
        return 0
    if args.ranks:
        raise InputError("--ranks: only with --dry-run; a run has the ranks that mpiexec -n starts")
    run_input(
        args.input,
        resume=args.resume,
        force=args.force,
        quiet=args.quiet,
        threads=args.threads,
    )
    return 0


def add_plot(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("plot", help="pictures and a report of an MD run", epilog=EPILOG)
    p.add_argument("folder", type=Path, metavar="RUN", help="output folder of the run")
    p.add_argument(
        "--skip",
        type=float,
        default=0.2,
        metavar="FRACTION",
        help="of the run that averages leave out at its beginning (default: 0.2)",
    )
    p.set_defaults(run=_plot)


def _plot(args: argparse.Namespace) -> int:
    from ..md.plot import plot_run

    print(plot_run(args.folder, args.skip))
    return 0
