"""The command `dpl`. Each verb imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .units import EV_PER_A3_IN_GPA

EPILOG = "Units: eV, Å, fs, K, GPa. Stress has ASE's sign: tension positive."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, or 1 after one line that says what was wrong."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for each other spin for a few µs only, then sleep (GNU's OpenMP; read
        # when torch is imported). With its default they burn the time that a thread without a
        # processor of its own needs: ten times slower on a busy machine, no faster on a free one.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    started = time.monotonic()
    args = _parser().parse_args(argv)
    args.started = started  # a time limit includes the imports below
    logging.basicConfig(
        level=logging.WARNING if getattr(args, "quiet", False) else logging.INFO,
        format="%(message)s",
        stream=sys.stdout,
    )
    from .system import DeepmdLiteError

    try:
        return int(args.run(args) or 0)
    except DeepmdLiteError as e:
        print(f"dpl {args.verb}: error: {e}", file=sys.stderr)
        return 1
    except MemoryError as e:
        print(f"dpl {args.verb}: error: out of memory: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"dpl {args.verb}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output went away (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpl",
        description="Train Deep Potentials, test them and run molecular dynamics with them.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"deepmd_lite {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_train(verbs)
    _add_test(verbs)
    _add_md(verbs)
    _add_plot(verbs)
    _add_info(verbs)
    _add_check(verbs)
    _add_doctor(verbs)
    return parser


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-q", "--quiet", action="store_true", help="errors and results only")
    parser.add_argument("--threads", type=_positive, help="threads of this process (default: all)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, found {value}")
    return value


def _set_threads(threads: int | None) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)  # chosen: ranks do not divide them again


# --- train ----------------------------------------------------------------------------------


def _add_train(verbs: argparse._SubParsersAction) -> None:
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
    _common(p)
    p.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    from .training import train

    _set_threads(args.threads)
    train(
        args.input,
        output=args.output,
        restart=args.restart,
        time_limit=args.time_limit,
        started=args.started,
        quiet=args.quiet,
    )
    return 0


# --- test -----------------------------------------------------------------------------------


def _add_test(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("test", help="errors of a model on labelled data", epilog=EPILOG)
    p.add_argument("model", type=Path)
    p.add_argument("data", nargs="+", help="deepmd/npy folders, extended XYZ, anything ASE reads")
    p.add_argument("--plot", type=Path, metavar="PNG", help="write a parity plot")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the errors as JSON")
    p.add_argument("--precision", choices=("float64", "float32"))
    _common(p)
    p.set_defaults(run=_test)


def _test(args: argparse.Namespace) -> int:
    from .data import load
    from .evaluate import evaluate, format_report, plot_parity
    from .files import write_atomically
    from .model import load_model

    _set_threads(args.threads)
    model = load_model(args.model, args.precision)
    systems = load(args.data, type_map=model.type_map)
    report = evaluate(model, systems, quiet=args.quiet)
    print(format_report(report))
    if args.json:
        write_atomically(args.json, json.dumps(report.errors(), indent=2).encode())
    if args.plot:
        plot_parity(report, args.plot)
    return 0


# --- md -------------------------------------------------------------------------------------


def _add_md(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "md",
        help="molecular dynamics, alone or under mpiexec",
        epilog="In parallel: mpiexec -n 4 dpl md input.yaml. " + EPILOG,
    )
    p.add_argument("input", type=Path, help="YAML; see the README for its keys")
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
    p.add_argument("--ranks", type=_positive, metavar="N", help="with --dry-run: plan for N ranks")
    p.add_argument(
        "--force",
        action="store_true",
        help="let the cell change with a model that was not trained on virials",
    )
    _common(p)
    p.set_defaults(run=_md)


def _md(args: argparse.Namespace) -> int:
    from .md import communicator, plan_input, run_input
    from .system import InputError

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


# --- check ----------------------------------------------------------------------------------


def _add_check(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "check",
        help="what is wrong with a data set, in one sentence a finding",
        epilog="Exit status 1 if there is an error. " + EPILOG,
    )
    p.add_argument("data", nargs="*", help="files and folders; each is compared with the others")
    for role in ("train", "validation", "test"):
        p.add_argument(f"--{role}", nargs="+", default=[], metavar="DATA", help=f"{role} set")
    p.add_argument("--type-map", nargs="+", metavar="EL", help="elements of the model to come")
    p.add_argument("--rcut", type=float, default=6.0, help="its cutoff, Å (default: 6)")
    p.add_argument("--strict", action="store_true", help="exit status 1 for warnings too")
    p.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    p.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    _common(p)
    p.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from .check import check_data
    from .files import write_atomically

    _set_threads(args.threads)
    alone = len(args.data) <= 8  # sets of their own, as long as a person can tell them apart
    sets = {path: [path] for path in args.data} if alone else {"data": args.data}
    sets |= {role: getattr(args, role) for role in ("train", "validation", "test")}
    report = check_data(
        {role: paths for role, paths in sets.items() if paths},
        cutoff=args.rcut,
        type_map=args.type_map,
    )
    print(report.loud() if args.quiet else report.text(args.rcut))
    if args.json:
        write_atomically(args.json, report.json(args.rcut))
    if args.html:
        write_atomically(args.html, report.html(args.rcut))
    return int(report.failed(args.strict))


# --- doctor ---------------------------------------------------------------------------------


def _add_doctor(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("doctor", help="is everything here that the package needs to run?")
    p.add_argument("--json", action="store_true", help="as JSON")
    p.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from .doctor import examine

    verdicts = examine()
    if args.json:
        print(json.dumps([v.row() for v in verdicts], indent=2))
    else:
        print("\n".join(v.line() for v in verdicts))
    return int(any(v.broken for v in verdicts))


# --- plot -----------------------------------------------------------------------------------


def _add_plot(verbs: argparse._SubParsersAction) -> None:
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
    from .md.plot import plot_run

    print(plot_run(args.folder, args.skip))
    return 0


# --- info -----------------------------------------------------------------------------------


def _add_info(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("info", help="what a model file or a restart holds", epilog=EPILOG)
    p.add_argument("file", type=Path, help="a model, a restart, or the folder of an MD run")
    p.add_argument("--json", action="store_true", help="as JSON; of a model the whole header")
    p.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    return _info_of_restart(args) if args.file.is_dir() else _info_of_model(args)


def _info_of_restart(args: argparse.Namespace) -> int:
    from .md import restart

    rows = restart.describe(args.file)
    print(json.dumps(rows, indent=2) if args.json else _table(rows))
    return 0


def _info_of_model(args: argparse.Namespace) -> int:
    from .model import load_model, read_header

    header = read_header(args.file)
    if args.json:
        print(json.dumps(header, indent=2))
        return 0
    model = load_model(args.file)
    d, f, grid = model.config.descriptor, model.config.fitting_net, model.grid
    table_bytes = model.coefficients().numel() * model.coefficients().element_size()
    rows = {
        "elements": " ".join(model.type_map),
        "descriptor": f"se_e2_a, rcut {d.rcut} Å, rcut_smth {d.rcut_smth} Å, sel {model.sel}",
        "embedding": f"{_widths(d.neuron)}, axis {d.axis_neuron}, {d.activation_function}",
        "fitting": f"{_widths(f.neuron)}, {f.activation_function}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "precision": f"trained in {model.config.precision}",
        "table": f"{grid.n_intervals} intervals, {table_bytes / 1024:.0f} KiB, "
        f"pairs down to {model.table_min_distance():.2f} Å",
    }
    rows["repulsion"] = (
        "none"
        if model.repulsion is None
        else f"ZBL, inside {model.repulsion.summary(model.type_map)}"
    )
    error = model.table_error
    if error:
        rows["table error"] = (
            f"{error['energy_ev_per_atom']:.1e} eV/atom, {error['force_ev_per_a']:.1e} eV/Å, "
            f"virial {error['virial_ev_per_atom']:.1e} eV/atom against the networks"
        )
    for element, energy in zip(model.type_map, model.energy_bias.tolist(), strict=True):
        rows[f"energy bias {element}"] = f"{energy:.6f} eV"
    for key, value in header["provenance"].items():
        rows[key] = value if isinstance(value, str) else json.dumps(value)
    print(_table(rows))
    print(
        f"units: eV, Å; stress = -virial/volume, tension positive; 1 eV/Å³ = {EV_PER_A3_IN_GPA} GPa"
    )
    return 0


def _table(rows: dict[str, str]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows.items())


def _widths(layers: list[int]) -> str:
    return "-".join(map(str, layers))
