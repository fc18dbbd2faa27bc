"""`dpl train` and `dpl change-bias`: what makes models."""

from __future__ import annotations

import argparse
from pathlib import Path

from .common import EPILOG, common, first_frames, keep, more_data, named_data, set_threads
from .deepmd_kit import ignored, ignored_branch, ignored_logging


def add_train(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "train",
        help="train a potential, by an input file or on data alone",
        usage="dpl train INPUT [options], or dpl train DATA… [--validation DATA…] [--preset NAME] "
        "[options]",
        epilog="In parallel: torchrun --nproc-per-node 2 -m deepmd_lite train INPUT. " + EPILOG,
    )
    p.add_argument(
        "paths",
        nargs="*",
        metavar="INPUT",
        help="JSON or YAML with DeePMD-kit's keys; or DATA, a tenth of whose frames is held out",
    )
    p.add_argument(
        "--validation",
        nargs="+",
        metavar="DATA",
        help="what is validated on, besides DATA: then none of those is held out",
    )
    p.add_argument(
        "-p",
        "--preset",
        metavar="NAME",
        help="fast, balanced or accurate: for what the input does not say (DATA alone: balanced)",
    )
    p.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FOLDER",
        help="folder of the results (default: the working directory)",
    )
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        "-r",
        "--restart",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="CHECKPOINT",
        help="go on from the last checkpoint in the output folder, or where that file is; without "
        "INPUT by the out.json beside it",
    )
    start.add_argument(
        "-i", "--init-model", type=Path, metavar="MODEL", help="begin with the weights of a model"
    )
    start.add_argument(
        "-t",
        "--finetune",
        type=Path,
        metavar="MODEL",
        help="likewise, after its energy bias was fitted to the data",
    )
    p.add_argument(
        "-u",
        "--use-pretrain-script",
        action="store_true",
        help="take the architecture from that MODEL (or checkpoint), not from the input",
    )
    p.add_argument(
        "--time-limit",
        metavar="TIME",
        help="90s, 30m, 2h, 1h30m: end by then; the learning rate follows the time",
    )
    p.add_argument(
        "--seed", type=int, metavar="N", help="of first weights and the order of frames (default 1)"
    )
    common(p)
    start.add_argument("-f", "--init-frz-model", nargs="?", const="", help=argparse.SUPPRESS)
    ignored_logging(p, meant="; data to validate on: --validation DATA…")
    ignored_branch(p, "--model-branch")
    ignored(p, "-m", "--mpi-log", value=True, why="the first process tells what there is to tell")
    ignored(p, "--skip-neighbor-stat", why="sel cuts no neighbour off")
    ignored(p, "--force-load", why="a model is read whole, or refused")
    p.set_defaults(run=_train, wrong_usage=p.error)


def _train(args: argparse.Namespace) -> int:
    from ..schema import is_input
    from ..system import InputError
    from ..training import OUT_JSON, train

    set_threads(args.threads)
    if args.init_frz_model is not None:
        raise InputError(
            "--init-frz-model: dpl convert that model to a .dpl file, and give it as --init-model"
        )
    if not args.paths and args.restart is not None and is_input(args.restart):
        args.paths, args.restart = [args.restart], Path()  # --restart INPUT
    output = _output(args)
    if not args.paths and args.restart is not None and (output / OUT_JSON).is_file():
        args.paths = [output / OUT_JSON]
    if not args.paths:
        args.wrong_usage("the following arguments are required: INPUT, or DATA")
    inputs = [path for path in args.paths if is_input(path)]
    if inputs and len(args.paths) > 1:
        args.wrong_usage(f"{inputs[0]}: is an input, which names its data; give nothing else")
    train(
        inputs[0] if inputs else args.paths,
        validation=args.validation,
        output=output,
        preset=args.preset,
        restart=args.restart is not None,
        init_model=args.init_model,
        finetune=args.finetune,
        use_pretrain_script=args.use_pretrain_script,
        time_limit=args.time_limit,
        seed=args.seed,
        started=args.started,
        quiet=args.quiet,
    )
    return 0


def _output(args: argparse.Namespace) -> Path:
    """The folder of the results; a restart goes on where its checkpoint is."""
    from ..schema import is_input
    from ..system import InputError
    from ..training import CHECKPOINT, OUT_JSON

    if is_input(args.output) and not Path(args.output).is_dir():
        raise InputError(
            f"--output {args.output}: is the folder of the results here, in which {OUT_JSON} is "
            "the input with all its values; give the name of a folder"
        )
    if args.restart in (None, Path()):
        output = args.output or Path()
        if args.restart is not None and not args.paths and not (output / CHECKPOINT).is_file():
            raise InputError(f"{output}: no {CHECKPOINT} to go on from; name the training's folder")
        return output
    folder = args.restart.parent if args.restart.name == CHECKPOINT else args.restart
    if not (folder / CHECKPOINT).is_file():
        raise InputError(
            f"{args.restart}: expected a {CHECKPOINT}, or a folder with one; to go on from a model "
            "of DeePMD-kit, dpl convert it and give --init-model"
        )
    if args.output is not None and args.output.resolve() != folder.resolve():
        raise InputError(f"--output {args.output}: a restart goes on where its checkpoint is")
    return folder


# --- change-bias ----------------------------------------------------------------------------


def add_change_bias(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "change-bias",
        help="fit the energy bias of a model to other data, or set it",
        usage="dpl change-bias MODEL DATA… -o OUT [options]",
        epilog=EPILOG,
    )
    p.add_argument("model", type=Path, metavar="MODEL", help="a .dpl file, which stays as it is")
    p.add_argument("paths", nargs="*", metavar="DATA", help="with energies")
    more_data(p)
    p.add_argument(
        "-b",
        "--bias-value",
        nargs="+",
        type=float,
        metavar="EV",
        help="no data: the bias of each element, in the order of the model's type_map",
    )
    p.add_argument(
        "-n",
        "--numb-batch",
        type=int,
        default=0,
        metavar="N",
        help="the first N frames of each system (default 0: all)",
    )
    p.add_argument(
        "-m",
        "--mode",
        choices=("change", "set"),
        default="change",
        help="change (default): fit energies with the network; set: fit them without it",
    )
    p.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the new model, a .dpl file"
    )
    common(p)
    ignored_logging(p)
    ignored_branch(p, "--model-branch")
    p.set_defaults(run=_change_bias)


def _change_bias(args: argparse.Namespace) -> int:
    from ..data import OfModel, load
    from ..model import read_header
    from ..system import InputError
    from ..training.bias import change_bias

    set_threads(args.threads)
    data = named_data(args, needed=args.bias_value is None)
    keep([args.model, args.datafile, *data], [args.output])
    systems = None
    if args.bias_value is None:
        elements = OfModel(read_header(args.model)["config"]["type_map"])
        systems = load(data, type_map=elements, quiet=args.quiet)
        systems = first_frames(systems, args.numb_batch)
    elif data:
        raise InputError("--bias-value: no data are used with it; give one or the other")
    lines = change_bias(
        args.model,
        args.output,
        systems,
        values=args.bias_value,
        mode=args.mode,
        quiet=args.quiet,
    )
    print("\n".join(lines))
    return 0
