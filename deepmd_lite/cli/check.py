"""`dpl check` and `dpl doctor`."""

from __future__ import annotations

import argparse
import json
import logging
from itertools import chain
from pathlib import Path

from .common import EPILOG, SOURCE, common, device, keep, picture, positive_length, set_threads

log = logging.getLogger(__name__)

MODEL = ".dpl"


def add_check(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser(
        "check",
        help="what is wrong with a data set, or with a model on this machine",
        usage="dpl check DATA… [options]; dpl check MODEL.dpl… [--data DATA…] [options]",
        epilog="Exit status 1 if there is an error. " + EPILOG,
    )
    p.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="data, as one set (others by --train, --validation, --test); or .dpl files",
    )
    p.add_argument("--json", type=Path, metavar="FILE", help="write the findings as JSON")
    p.add_argument("--strict", action="store_true", help="exit status 1 for warnings too")
    of_data = p.add_argument_group("data")
    for role in ("train", "validation", "test"):
        of_data.add_argument(f"--{role}", nargs="+", default=[], metavar="DATA", help=f"{role} set")
    of_data.add_argument("--from", dest="source", metavar="FORMAT", help=SOURCE)
    of_data.add_argument("--type-map", nargs="+", metavar="EL", help="elements of the model")
    of_data.add_argument(
        "--rcut", type=positive_length, default=6.0, metavar="Å", help="its cutoff (default: 6)"
    )
    of_data.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots")
    of_model = p.add_argument_group("models")
    of_model.add_argument("--data", nargs="+", default=[], metavar="DATA", help="frames for it")
    of_model.add_argument("--quick", action="store_true", help="without ranks, less dynamics")
    of_model.add_argument("--plot", type=picture, metavar="PNG", help="draw the dimers")
    device(of_model)
    common(p)
    p.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from ..model.file import refuse_foreign
    from ..system import InputError

    set_threads(args.threads)
    data = args.train, args.validation, args.test, args.data
    keep(chain(args.paths, *data), [args.json, args.plot, args.html])
    models = [path for path in args.paths if path.lower().endswith(MODEL)]
    for path in map(Path, args.paths):
        refuse_foreign(path)
    if not (args.paths or args.train or args.validation or args.test):
        raise InputError("nothing to check: name data, or models (.dpl files)")
    if not models:
        if args.data or args.quick or args.plot or args.device != "cpu":
            raise InputError("--data, --quick, --plot, --device: only with a model (a .dpl file)")
        return _check_data(args)
    if args.html or args.type_map or args.source:
        raise InputError("--html, --type-map, --from: only with data")
    if len(models) < len(args.paths) or args.train or args.validation or args.test:
        raise InputError("models and data are checked apart; frames for a model: --data DATA…")
    if len(models) > 1 and args.plot:
        raise InputError("--plot: only with one model")
    return _check_models(args, models)


def _check_models(args: argparse.Namespace, models: list[str]) -> int:
    from ..certify import certify
    from ..certify.curves import plot
    from ..data import load
    from ..files import write_atomically

    systems = load(args.data, labelled=False, quiet=args.quiet) if args.data else []
    found = []
    for path in models:
        certificate = certify(
            path,
            systems,
            device=args.device,
            quick=args.quick,
            progress=lambda name: log.info("... %s", name),
        )
        found.append(certificate)
        print("\n".join(certificate.loud() if args.quiet else certificate.lines()))
    if args.json:
        rows = [certificate.json() for certificate in found]
        write_atomically(args.json, json.dumps(rows, indent=2, allow_nan=False).encode())
    if args.plot:
        plot(list(found[0].curves), args.plot)
    warned = args.strict and any(c.named("warning") for c in found)
    return int(warned or not all(c.passed for c in found))


def _check_data(args: argparse.Namespace) -> int:
    from ..check import check_data
    from ..files import write_atomically

    sets = {"data": args.paths}
    sets |= {role: getattr(args, role) for role in ("train", "validation", "test")}
    report = check_data(
        {role: paths for role, paths in sets.items() if paths},
        cutoff=args.rcut,
        type_map=args.type_map,
        quiet=args.quiet,
        source=args.source,
    )
    shown = report.loud() if args.quiet else report.text(args.rcut)
    if shown:
        print(shown)
    if args.json:
        write_atomically(args.json, report.json(args.rcut))
    if args.html:
        write_atomically(args.html, report.html(args.rcut))
    return int(report.failed(args.strict))


def add_doctor(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("doctor", help="is everything here that the package needs to run?")
    p.add_argument("--json", action="store_true", help="as JSON")
    p.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from ..doctor import examine

    verdicts = examine()
    if args.json:
        print(json.dumps([v.row() for v in verdicts], indent=2))
    else:
        print("\n".join(v.line() for v in verdicts))
    return int(any(v.broken for v in verdicts))
