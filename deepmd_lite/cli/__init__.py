"""The command `dpl`. Each verb imports what it needs when it runs, so that help is instant."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from collections.abc import Sequence

from .. import __version__
from .check import add_check, add_doctor
from .common import EPILOG
from .convert import add_convert
from .data import add_convert_data
from .deepmd_kit import VERBS, tell, without_backend
from .dynamics import add_md, add_plot
from .info import add_info
from .lammps import add_lammps
from .learn import add_learn
from .testing import add_devi, add_test
from .training import add_change_bias, add_train
from .uncertainty import add_uncertainty


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status: 0, or 1 after one line that says what was wrong."""
    if "OMP_WAIT_POLICY" not in os.environ:
        # Threads that wait for each other spin for a few µs only, then sleep (GNU's OpenMP; read
        # when torch is imported). With its default they burn the time that a thread without a
        # processor of its own needs: ten times slower on a busy machine, no faster on a free one.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if getattr(sys.stdout, "errors", "") == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # one that knows no Å shows ? and ends nothing
    started = time.monotonic()
    name = "dpl"
    try:
        args = _parsed(argv)
        name = f"dpl {args.verb}"
        args.started = started  # a time limit includes the imports below
        return _run(args, name)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130


def _run(args: argparse.Namespace, name: str) -> int:
    from ..system import DeepmdLiteError  # torch, which tells more if it ends with a logger set up

    logging.raiseExceptions = False  # whoever reads the output may leave (| head): work goes on
    logging.basicConfig(
        level=logging.WARNING if getattr(args, "quiet", False) else logging.INFO,
        format="%(message)s",
        stream=sys.stdout,
    )
    try:
        return int(args.run(args) or 0)
    except DeepmdLiteError as e:
        print(f"{name}: error: {e}", file=sys.stderr)
        return 1
    except MemoryError as e:
        print(f"{name}: error: out of memory: {e}", file=sys.stderr)
        return 1
    except RuntimeError as e:
        if type(e).__name__ != "OutOfMemoryError":  # torch's, of a GPU
            raise
        print(f"{name}: error: out of memory: {str(e).splitlines()[0]}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output went away (| head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments; a verb with free `paths` takes them before, between and after its options,
    where argparse by itself would take those before the first option alone."""
    parser = _parser()
    words, notes = without_backend(sys.argv[1:] if argv is None else argv)
    if words and words[0] in VERBS:
        parser.error(f"{words[0]}: {VERBS[words[0]]}")
    args, rest = parser.parse_known_args(words)
    wrong = [r for r in rest if r.startswith("-")] if hasattr(args, "paths") else rest
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if rest:
        args.paths += rest
    if not getattr(args, "quiet", False):
        tell([*notes, *(getattr(args, "notes", None) or [])])
    return args


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dpl",
        description="Train Deep Potentials, test them and run molecular dynamics with them.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"deepmd_lite {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_train(verbs)
    add_test(verbs)
    add_devi(verbs)
    add_change_bias(verbs)
    add_uncertainty(verbs)
    add_learn(verbs)
    add_convert_data(verbs)
    add_md(verbs)
    add_plot(verbs)
    add_info(verbs)
    add_convert(verbs)
    add_lammps(verbs)
    add_check(verbs)
    add_doctor(verbs)
    return parser
