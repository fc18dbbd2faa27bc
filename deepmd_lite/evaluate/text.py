"""The errors as text: tables for a terminal, and the files of `dp test`."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from ..data.frames import ANOTHER_ZERO
from ..files import write_atomically
from ..system import InputError
from .errors import WRONG_FORCES, FrameResult, Report, Scores

_DP_TEST = (
    ("Energy MAE         : {} eV", "energy_mae", "energy_frames"),
    ("Energy RMSE        : {} eV", "energy_rmse", "energy_frames"),
    ("Energy MAE/Natoms  : {} eV", "energy_mae_per_atom", "energy_frames"),
    ("Energy RMSE/Natoms : {} eV", "energy_rmse_per_atom", "energy_frames"),
    ("Force  MAE         : {} eV/Å", "force_mae", "force_atoms"),
    ("Force  RMSE        : {} eV/Å", "force_rmse", "force_atoms"),
    ("Virial MAE         : {} eV", "virial_mae", "virial_frames"),
    ("Virial RMSE        : {} eV", "virial_rmse", "virial_frames"),
    ("Virial MAE/Natoms  : {} eV", "virial_mae_per_atom", "virial_frames"),
    ("Virial RMSE/Natoms : {} eV", "virial_rmse_per_atom", "virial_frames"),
    ("Stress MAE         : {} eV/Å³", "stress_mae", "stress_frames"),
    ("Stress RMSE        : {} eV/Å³", "stress_rmse", "stress_frames"),
)
"""Line, the error in it, and the number of labels without which there is no such line."""
_RULE = "# ----------------------------------------------- "


def format_report(report: Report) -> str:
    """Lines that scripts read, as `dp test` of DeePMD-kit 3.2 has them, then those for people.

    The former: a block for each system, and one with the averages over all. The latter, in meV: a
    table by system where there are several, by configuration type, and the errors over all, in
    words that a search for the former does not find.
    """
    total = report.total()
    groups = report.by_system()
    lines = []
    for name, scores in groups.items():
        lines += [
            "# ---------------output of dp test--------------- ",
            f"# testing system : {name}",
            f"# number of test data : {scores.frames} ",
            *_lines_of_dp_test(scores),
            _RULE,
        ]
    lines += [
        "# ----------weighted average of errors----------- ",
        f"# number of systems : {len(groups)}",
        *_lines_of_dp_test(total),
        _RULE,
        "",
    ]
    if len(groups) > 1:
        lines += _table("system", groups)
    by_type = report.by_config_type()
    if by_type:
        lines += _table("config_type", by_type)
    return "\n".join([*lines, *_summary(report, total), *_warnings(report, total)])


def _lines_of_dp_test(scores: Scores) -> list[str]:
    return [
        line.format(f"{getattr(scores, error):e}")
        for line, error, labels in _DP_TEST
        if getattr(scores, labels)
    ]


def _summary(report: Report, total: Scores) -> list[str]:
    """How many labels there were, and the errors over all of them in meV."""
    lines = [
        f"{total.frames} frames, {total.atoms} atoms; labels: energy {total.energy_frames} frames, "
        f"force {total.force_atoms} atoms, virial {total.virial_frames} frames"
    ]
    for name, kind in (("root mean square", "rmse"), ("mean absolute", "mae")):
        quantities = (
            ("energy", f"energy_{kind}_per_atom", "meV/atom", total.energy_frames),
            ("force", f"force_{kind}", "meV/Å", total.force_atoms),
            ("virial", f"virial_{kind}_per_atom", "meV/atom", total.virial_frames),
        )
        shown = [
            f"{quantity} {1e3 * getattr(total, error):.3f} {unit}"
            for quantity, error, unit, labels in quantities
            if labels
        ]
        lines.append(f"{f'{name} errors':<24}: {', '.join(shown)}")
    by_element = report.force_by_element()
    if len(by_element) > 1:
        shown = [f"{name} {1e3 * rmse:.2f}" for name, (_, rmse) in by_element.items()]
        lines.append(f"{'of forces, by element':<24}: {', '.join(shown)} meV/Å (root mean square)")
    return lines


def _warnings(report: Report, total: Scores) -> list[str]:
    lines = []
    shift, spread = report.energy_shift()
    off = f"all energies are {shift:+.4f} eV/atom off, {1e3 * spread:.2f} meV/atom besides"
    shifted = abs(shift) > ANOTHER_ZERO and abs(shift) > 20.0 * spread
    error, size = total.force_rmse, report.force_size()
    if error > WRONG_FORCES * size:  # a shift would hide that of one composition
        lines.append(
            f"warning: forces are off by {1e3 * error:.0f} meV/Å, and they are {1e3 * size:.0f} "
            f"meV/Å themselves{f'; {off}' if shifted else ''}: other elements, units or structures "
            "than the model knows; dpl check looks at the data, their type_map first"
        )
    elif shifted:
        lines.append(
            f"warning: {off}: another zero of energy; dpl change-bias fits the model's to these "
            "data"
        )
    if report.beyond_table:
        lines.append(
            f"warning: {report.beyond_table} pairs are closer than anything the model was made "
            "for; its predictions there are extrapolations"
        )
    return lines


def _table(title: str, groups: dict[str, Scores]) -> list[str]:
    width = max(len(title), *(len(name) for name in groups))
    head = f"{title:<{width}}  frames    E RMSE     E MAE    F RMSE     F MAE    V RMSE     V MAE"
    lines = [head, f"{'':<{width}}        {'meV/atom':>20}{'meV/Å':>20}{'meV/atom':>20}"]
    for name, s in groups.items():
        values = (
            *(s.energy_rmse_per_atom, s.energy_mae_per_atom, s.force_rmse, s.force_mae),
            *(s.virial_rmse_per_atom, s.virial_mae_per_atom),
        )
        cells = "".join(f"{'-':>10}" if math.isnan(v) else f" {1e3 * v:9.2f}" for v in values)
        lines.append(f"{name:<{width}}  {s.frames:6d}{cells}")
    return [*lines, ""]


_XYZ = tuple("xyz")
_DETAILS: tuple[tuple[str, str, tuple[str, ...], bool], ...] = (
    ("e", "energy", ("e",), False),
    ("e_peratom", "energy", ("e",), True),
    ("f", "forces", tuple(f"f{a}" for a in _XYZ), False),
    ("v", "virial", tuple(f"v{a}{b}" for a in _XYZ for b in _XYZ), False),
    ("v_peratom", "virial", tuple(f"v{a}{b}" for a in _XYZ for b in _XYZ), True),
)
"""Suffix, quantity, columns and whether it is divided by the number of atoms."""


def write_details(report: Report, prefix: str | Path) -> list[Path]:
    """Labels beside predictions as text, in the files and columns of `dp test -d PREFIX`.

    PREFIX.e.out, .e_peratom.out (a row for each frame, eV), .f.out (for each atom, eV/Å), .v.out,
    .v_peratom.out (for each frame, eV): the label's columns, then the prediction's; nan where a
    frame has no label. Each system has a header line of its own. A suffix of PREFIX is replaced, as
    there. Returns the paths; raises InputError where one cannot be written.
    """
    if not Path(prefix).name:
        raise InputError(f"{prefix}: expected the beginning of file names, found a folder")
    paths = []
    for suffix, quantity, columns, per_atom in _DETAILS:
        text = io.StringIO()
        for system, results in report.systems().items():
            rows = np.concatenate([_detail(r, quantity, len(columns), per_atom) for r in results])
            names = [f"{kind}_{c}" for kind in ("data", "pred") for c in columns]
            np.savetxt(text, rows, header=f"{system}: {' '.join(names)}")
        paths.append(Path(prefix).with_suffix(f".{suffix}.out"))
        write_atomically(paths[-1], text.getvalue().encode())
    return paths


def _detail(result: FrameResult, quantity: str, width: int, per_atom: bool) -> np.ndarray:
    """(rows, 2·width): label and prediction of one frame."""
    found = np.reshape(getattr(result, quantity), (-1, width))
    label = getattr(result.frame, quantity)
    known = np.full_like(found, np.nan) if label is None else np.reshape(label, (-1, width))
    return np.hstack([known, found]) / (result.frame.n_atoms if per_atom else 1)
