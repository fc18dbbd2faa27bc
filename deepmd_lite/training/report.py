"""What a training tells: `lcurve.out`, `train.jsonl`, the progress bar and the learning curve."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from ..files import write_atomically
from ..page import panels, png
from ..progress import OFTEN, on_terminal
from ..system import InputError
from .loss import Errors

log = logging.getLogger(__name__)
_NAN_LINE = "# If there is no available reference data, rmse_*_{val,trn} will print nan"
_ERRORS = ("rmse", "rmse_e", "rmse_f", "rmse_v")


class LearningCurve:
    """`lcurve.out` in DeePMD-kit's format and the same rows, in full precision, as JSON lines.

    Columns: step, for each of rmse (√loss), rmse_e (eV/atom), rmse_f (eV/Å) and, where virials
    are trained, rmse_v (eV/atom) the validation's (only with a validation set) and the current
    training batch's value, and the learning rate.
    """

    def __init__(
        self,
        lcurve: Path,
        jsonl: Path,
        *,
        with_validation: bool,
        with_virial: bool,
        after_step: int | None = None,
    ) -> None:
        """Start the files, or continue those of a run after `after_step`: later rows are cut.

        Raises InputError where a file cannot be written.
        """
        self.names = _ERRORS if with_virial else _ERRORS[:3]
        self.with_validation = with_validation
        self._paths = lcurve, jsonl
        self._open(after_step)

    def _open(self, after_step: int | None) -> None:
        lcurve, jsonl = self._paths
        header = f"{self._header()}\n{_NAN_LINE}\n"
        kept, records = header, ""
        if after_step is not None:
            kept = _rows_until(lcurve, after_step) or header
            if self._header() not in kept:  # the columns are others from here on
                kept += header
            records = _records_until(jsonl, after_step)
        for path, content in ((lcurve, kept), (jsonl, records)):
            write_atomically(path, content.encode())
        # line buffered: a row is on disk as soon as it is written
        self._lcurve: IO[str] = open(lcurve, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
        self._jsonl: IO[str] = open(jsonl, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def cut(self, step: int) -> None:
        """Drop the rows after `step`, to which the training has gone back."""
        self.close()
        self._open(step)

    def _header(self) -> str:
        kinds = ("val", "trn") if self.with_validation else ("trn",)
        columns = (
            "  " + "".join(f" {f'{name}_{kind}':>11}" for kind in kinds) for name in self.names
        )
        return f"# {'step':5}" + "".join(columns) + f"   {'lr':8}"

    def add(
        self,
        step: int,
        training: Errors,
        validation: Errors | None,
        learning_rate: float,
        seconds: float,
    ) -> None:
        """A row; `seconds` of wall time since the last one, validation included."""
        kinds = [training.as_dict()]
        if self.with_validation:
            assert validation is not None
            kinds.insert(0, validation.as_dict())
        columns = ("  " + "".join(f" {k[name]:11.2e}" for k in kinds) for name in self.names)
        self._lcurve.write(f"{step:7d}" + "".join(columns) + f"   {learning_rate:8.1e}\n")
        record: dict[str, Any] = {"step": step, "lr": learning_rate, "seconds": round(seconds, 6)}
        for kind, errors in (("training", training), ("validation", validation)):
            if errors is not None:
                values = errors.as_dict().items()
                record[kind] = {k: None if math.isnan(v) else v for k, v in values}
        self._jsonl.write(json.dumps(record) + "\n")

    def close(self) -> None:
        """Close both files."""
        self._lcurve.close()
        self._jsonl.close()


def _rows_until(path: Path, step: int) -> str:
    """Comments and rows of an `lcurve.out` up to `step`; '' where there is no file."""
    kept = []
    for line in _complete_lines(path):
        fields = line.split()
        comment = line.startswith("#")
        if comment or (fields and fields[0].isdigit() and int(fields[0]) <= step):
            kept.append(line)
    return "".join(kept)


def _records_until(path: Path, step: int) -> str:
    kept = []
    for line in _complete_lines(path):
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            if json.loads(line)["step"] <= step:
                kept.append(line)
    return "".join(kept)


def _complete_lines(path: Path) -> Iterator[str]:
    """Lines that end: a killed process may have left half of one."""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as f:
        yield from (line for line in f if line.endswith("\n"))


def read_lcurve(path: str | Path) -> dict[str, np.ndarray]:
    """Columns of an `lcurve.out`, DeePMD-kit's or ours, by name; the last header counts.

    Raises InputError where the file is missing or holds no table.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such learning curve")
    names: list[str] = []
    rows: list[dict[str, float]] = []
    for line in _complete_lines(path):
        fields = line.replace("#", " ").split()
        if line.startswith("#") and fields[:1] == ["step"]:
            names = fields
        elif not line.startswith("#") and names and len(fields) == len(names):
            with contextlib.suppress(ValueError):
                rows.append(dict(zip(names, map(float, fields), strict=True)))
    if not rows:
        raise InputError(f"{path}: holds no rows of a learning curve")
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


def plot_learning_curve(lcurve: str | Path, picture: str | Path) -> None:
    """Errors against steps as a PNG: energy, force and, where trained, virial side by side."""
    from matplotlib.ticker import LogFormatter

    curve = read_lcurve(lcurve)
    quantities = [
        (name, label)
        for name, label in (
            ("rmse_e", "energy RMSE (meV/atom)"),
            ("rmse_f", "force RMSE (meV/Å)"),
            ("rmse_v", "virial RMSE (meV/atom)"),
        )
        if f"{name}_trn" in curve
    ]
    figure, axes = panels(len(quantities))
    steps = curve["step"]
    for axis, (name, label) in zip(axes, quantities, strict=True):
        axis.plot(steps, 1e3 * curve[f"{name}_trn"], lw=0.8, alpha=0.6, label="training batch")
        if f"{name}_val" in curve:
            axis.plot(steps, 1e3 * curve[f"{name}_val"], lw=1.5, label="validation")
        axis.set(xlabel="step", ylabel=label, yscale="log")
        axis.yaxis.set_major_formatter(LogFormatter())
        axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        axis.grid(color="0.9", lw=0.6, which="minor")
        axis.legend(frameon=False)
    write_atomically(picture, png(figure, dpi=150))


class TrainingProgress:
    """A progress bar where stderr is a terminal, a log line at each display elsewhere.

    The bar counts steps, or the seconds of a time limit.
    """

    def __init__(
        self, n_steps: int | None, time_limit: float | None, begun: int, share: float, quiet: bool
    ) -> None:
        """`begun` steps and `share` of the training were done before."""
        self._n_steps = n_steps
        self._limit = time_limit
        self._plain = not on_terminal()
        self._share = min(share, 1.0)
        seconds = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s{postfix}"
        self._bar = tqdm(
            total=time_limit if time_limit is not None else n_steps,
            initial=begun if time_limit is None else self._share * time_limit,
            disable=quiet or self._plain,
            unit="step",
            desc="training",
            dynamic_ncols=True,
            bar_format=None if time_limit is None else seconds,
        )

    def advance(self, step: int, share: float) -> None:
        """Step `step` is done and with it this share of the training."""
        self._share = min(share, 1.0)
        if self._bar.disable:
            return
        position = step if self._limit is None else self._share * self._limit
        self._bar.update(position - self._bar.n)

    def show(
        self,
        step: int,
        training: Errors,
        validation: Errors | None,
        seconds_per_step: float,
        seconds_left: float,
    ) -> None:
        """The current errors and the time left: for the other steps, or of a time limit."""
        errors, kind = (training, "training") if validation is None else (validation, "validation")
        values = f"{kind} E {1e3 * errors.energy:.2f} meV/atom, F {1e3 * errors.force:.1f} meV/Å"
        if not math.isnan(errors.virial):
            values += f", V {1e3 * errors.virial:.1f} meV/atom"
        if not self._plain:
            label = values if self._limit is None else f"step {step}, {values}"
            self._bar.set_postfix_str(label, refresh=False)
            return
        of = "" if self._n_steps is None else f"/{self._n_steps}"
        if self._limit is not None:
            of += f" ({self._share:.0%} of the training)"
        if self._n_steps is not None:
            seconds_left = min(seconds_left, (self._n_steps - step) * seconds_per_step)
        left = tqdm.format_interval(max(0.0, seconds_left))
        speed = f"{1e3 * seconds_per_step:.1f} ms/step"
        told = step, of, values, speed, left
        log.info("step %d%s: %s; %s, %s left", *told, extra={OFTEN: self._share < 1.0})

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()
