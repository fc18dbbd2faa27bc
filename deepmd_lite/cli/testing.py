"""`dpl test` and `dpl devi`: models against data, and against one another."""

from __future__ import annotations

import argparse
import json
from math import inf, isnan
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    EPILOG,
    common,
    device,
    first_frames,
    keep,
    more_data,
    named_data,
    picture,
    positive,
    set_threads,
    warn_of_lacking,
)
from .deepmd_kit import ignored, ignored_branch, ignored_logging, tell

if TYPE_CHECKING:
    from ..data import System

# --- test -----------------------------------------------------------------------------------


def add_test(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "test",
        help="errors of a model on labelled data",
        usage="dpl test MODEL DATA… [options], or dpl test -m MODEL -s DATA… [options]",
        epilog=EPILOG,
    )
    p.add_argument(
        "paths",
        nargs="*",
        metavar="MODEL DATA",
        help="a model, then deepmd/npy folders, extended XYZ, anything ASE reads",
    )
    p.add_argument("-m", "--model", help="the model; then every PATH is data")
    more_data(p)
    p.add_argument(
        "-n",
        "--numb-test",
        type=int,
        default=0,
        metavar="N",
        help="the first N frames of each system (default 0: all)",
    )
    p.add_argument("--shuffle-test", action="store_true", help="frames in random order, before -n")
    p.add_argument("-r", "--rand-seed", type=int, metavar="SEED", help="of that order (default: 0)")
    of_input = p.add_mutually_exclusive_group()
    for option, which in (("--train-data", "training"), ("--valid-data", "validation")):
        of_input.add_argument(
            option, type=Path, metavar="INPUT", help=f"the {which} data of a training's input"
        )
    p.add_argument(
        "-d",
        "--detail",
        "--detail-file",
        type=Path,
        metavar="PREFIX",
        help="write labels and predictions to PREFIX.e.out, .e_peratom.out, .f.out, .v.out, "
        ".v_peratom.out",
    )
    p.add_argument("--plot", type=picture, metavar="PNG", help="write a parity plot")
    p.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page: errors, where they are, plots"
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the errors as JSON")
    p.add_argument(
        "--precision",
        choices=("float64", "float32"),
        help="of the arithmetic (default: that of the training)",
    )
    device(p)
    common(p)
    _accept_options_of_dp_test(p)
    p.set_defaults(run=_test)


def _accept_options_of_dp_test(p: argparse.ArgumentParser) -> None:
    ignored_logging(p)
    ignored_branch(p, "--head", "--model-branch")
    ignored(p, "-S", "--set-prefix", value=True, why="every set.* folder is read")
    ignored(p, "-a", "--atomic", why="there are no labels of single atoms' energies")


def _test(args: argparse.Namespace) -> int:
    from ..data import OfModel, load
    from ..evaluate import evaluate, format_report, plot_parity, write_details, write_page
    from ..files import write_atomically
    from ..model import load_model
    from ..system import InputError

    set_threads(args.threads)
    if args.model is None and args.paths:
        args.model, *args.paths = args.paths
    if args.model is None:
        raise InputError("no model: give it first, or as -m MODEL")
    if args.rand_seed is not None and not (args.shuffle_test or args.quiet):
        tell(["--rand-seed has no effect without --shuffle-test"])
    source = args.train_data or args.valid_data
    trained = args.train_data is not None
    of_input = _systems_of_input(source, trained, args.quiet) if source else []
    data = named_data(args, needed=not of_input)
    details = args.detail and Path(f"{args.detail}.e.out")  # the first of them
    outputs = [args.json, args.plot, args.html, details]
    keep([args.model, source, args.datafile, *data, *(s.name for s in of_input)], outputs)
    model = load_model(args.model, args.precision).to_device(args.device)
    systems = [*of_input, *(load(data, OfModel(model.type_map), quiet=args.quiet) if data else [])]
    warn_of_lacking(systems)
    seed = (args.rand_seed or 0) if args.shuffle_test else None
    systems = first_frames(systems, args.numb_test, seed)
    report = evaluate(model, systems, quiet=args.quiet)
    print(format_report(report))
    if args.json:
        write_atomically(args.json, json.dumps(report.errors(), indent=2).encode())
    if args.detail:
        write_details(report, args.detail)
    if args.plot:
        plot_parity(report, args.plot)
    if args.html:
        told = [*data, str(source)] if source else data
        write_page(report, args.html, f"{args.model} on {', '.join(told)}"[:200])
    return 0


def _systems_of_input(source: Path, trained: bool, quiet: bool) -> list[System]:
    """What the input of a training trains on, or validates on."""
    from ..training import read_input, training_systems, validation_systems

    settings = read_input(source)[0]
    if trained:
        return training_systems(settings, quiet)
    return validation_systems(settings, source, quiet)


# --- devi -----------------------------------------------------------------------------------


def add_devi(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "devi",
        aliases=["model-devi"],
        help="deviation of models, or of the committee in a model's file",
        epilog="Columns: docs/from-deepmd-kit.md. " + EPILOG,
    )
    p.add_argument(
        "-m",
        "--models",
        nargs="+",
        required=True,
        metavar="MODEL",
        help="two models or more, or one after dpl uncertainty",
    )
    p.add_argument(
        "-s", "--system", nargs="+", required=True, metavar="DATA", help="structures: as for test"
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("model_devi.out"),
        metavar="FILE",
        help="table to write (default: model_devi.out)",
    )
    p.add_argument(
        "-f",
        "--frequency",
        type=positive,
        default=1,
        metavar="N",
        help="MD steps between two frames: the number of frame k in the file is k · N",
    )
    p.add_argument("--real_error", "--real-error", action="store_true", help="from the labels")
    p.add_argument("--atomic", action="store_true", help="the deviation of each atom as well")
    p.add_argument("--relative", type=float, metavar="LEVEL", help="forces over |mean| + LEVEL")
    p.add_argument(
        "--relative_v",
        "--relative-v",
        type=float,
        metavar="LEVEL",
        help="virials over |mean| + LEVEL",
    )
    device(p)
    common(p)
    ignored_logging(p)
    ignored(p, "-S", "--set-prefix", value=True, why="every set.* folder is read")
    p.set_defaults(run=_devi)


def _devi(args: argparse.Namespace) -> int:
    from ..committee import Committee, loaded
    from ..data import OfModel, load
    from ..deviation import Relative, deviations, write_deviations

    set_threads(args.threads)
    keep([*args.models, *args.system], [args.output])
    models = [loaded(path, None, args.device) for path in args.models]
    several = len(models) > 1
    committee = Committee(models, args.models) if several else Committee.of_members(models[0])
    told = {"labelled": args.real_error, "quiet": args.quiet}
    systems = load(args.system, OfModel(committee.type_map), **told)
    relative = Relative(args.relative, args.relative_v)
    found = deviations(committee, systems, relative, real_error=args.real_error, quiet=args.quiet)
    write_deviations(found, args.output, args.frequency, atomic=args.atomic)
    frames = [(d.max_f, k, name) for name, part in found.items() for k, d in enumerate(part)]
    largest, k, name = max(frames, key=lambda frame: inf if isnan(frame[0]) else frame[0])
    unit = " eV/Å" if args.relative is None else " (relative)"
    print(
        f"{len(frames)} frame{'s' * (len(frames) != 1)}, {len(committee.models)} models: "
        f"{args.output}\n"
        f"largest force deviation {largest:.4g}{unit}, frame {k} of {name}"
    )
    return 0
