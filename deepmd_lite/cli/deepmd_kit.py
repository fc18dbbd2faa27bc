"""What job scripts that were written for DeePMD-kit's `dp` still say."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

VERBS = {
    "freeze": "not needed: a training writes model.dpl, which everything takes",
    "compress": "not needed: the embedding is a table from the first step on",
    "show": "use dpl info MODEL",
    "neighbor-stat": "not needed: sel cuts no neighbour off",
    "convert-from": "use dpl convert MODEL OUT.dpl",
    "convert-backend": "use dpl convert IN OUT, where one of both is a .dpl file",
    "eval-desc": "in Python: deepmd_lite.DeepPot('model.dpl').eval_descriptor(…)",
    "embed": "in Python: deepmd_lite.DeepPot('model.dpl').eval_descriptor(…)",
    "transfer": "use dpl train INPUT --init-model MODEL.dpl, or dpl convert for a newer format",
    "doc-train-input": "see docs/training.md; a training writes its input with all values to "
    "out.json",
    "gui": "write the input by hand, a few lines are enough, or dpl train DATA without one",
    "train-nvnmd": "not supported: models run on CPUs and GPUs; use dpl train INPUT",
    "pretrained": "there are none to fetch; dpl convert takes a model file without attention",
}
"""Verb that is not here → what there is instead."""
_BACKENDS = (
    *("tf", "tensorflow", "tf2", "tensorflow2", "pt", "pytorch", "pt-expt", "pytorch-exportable"),
    *("pd", "paddle", "jax", "dp", "dpmodel", "np", "numpy"),
)
LOG_LEVELS = ("DEBUG", "3", "INFO", "2", "WARNING", "1", "ERROR", "0")
_FLAGS = {f"{before}{name}" for name in _BACKENDS for before in ("--", "--backend=")}


def without_backend(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without flags that choose a backend, and a note on each of these."""
    kept: list[str] = []
    notes = []
    left = iter(enumerate(words))
    for place, word in left:
        following = words[place + 1] if place + 1 < len(words) else ""
        if word == "--":  # what follows are names of files
            kept += words[place:]
            break
        if word in _FLAGS:
            said = word
        elif word in ("-b", "--backend") and following in _BACKENDS:
            said = f"{word} {following}"
            next(left)
        else:
            kept.append(word)
            continue
        notes.append(f"{said} has no effect: there is one backend")
    return kept, notes


class _Ignored(argparse.Action):
    """An option that is accepted and leaves a note."""

    def __init__(self, *args: Any, why: str, refused: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.why, self.refused = why, refused

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        if values and str(values) in self.refused:
            parser.error(f"{option_string} {values}: {self.refused[values]}")
        before = getattr(namespace, self.dest, None) or []
        setattr(namespace, self.dest, [*before, f"{option_string} has no effect: {self.why}"])


def ignored(
    parser: argparse.ArgumentParser,
    *flags: str,
    why: str,
    value: bool = False,
    kind: Callable[[str], str] = str,
    refused: Mapping[str, str] | None = None,
) -> None:
    """Accept `flags`, with one `value` or none, and say `why` they change nothing here.

    `kind`: checks the value, as argparse's `type`; `refused`: value with which they would → what to
    do instead.
    """
    parser.add_argument(
        *flags,
        action=_Ignored,
        why=why,
        refused=refused or {},
        nargs=None if value else 0,
        type=kind,
        dest="notes",
        help=argparse.SUPPRESS,
    )


def ignored_logging(parser: argparse.ArgumentParser, meant: str = "") -> None:
    """Accept the options of every verb of `dp` that say what is told, and where.

    `meant`: what to do for something else than a log level.
    """
    kind = partial(_log_level, meant=meant)
    ignored(parser, "-v", "--log-level", value=True, kind=kind, why="-q is what says less")
    ignored(parser, "-l", "--log-path", value=True, why="what is told goes to standard output")


def _log_level(text: str, meant: str) -> str:
    if text not in LOG_LEVELS:
        raise argparse.ArgumentTypeError(
            f"'{text}' is no log level of DeePMD-kit ({', '.join(LOG_LEVELS)})" + meant
        )
    return text


def ignored_branch(parser: argparse.ArgumentParser, *flags: str) -> None:
    """Accept options that choose one of the models that share a file there."""
    anew = {"RANDOM": "a fitting network that begins anew is not supported; leave the option out"}
    ignored(parser, *flags, value=True, why="a .dpl file holds one model", refused=anew)


def tell(notes: Sequence[str]) -> None:
    """Notes on standard error, of one process where several were started."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            print(f"note: {note}", file=sys.stderr)
