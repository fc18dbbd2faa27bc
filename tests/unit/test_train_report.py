"""`lcurve.out` in DeePMD-kit's format, its continuation, and the JSON lines beside it."""

import io
import json
import logging
import math
import re

import numpy as np
import pytest

from deepmd_lite.system import InputError
from deepmd_lite.training.loss import Errors
from deepmd_lite.training.report import (
    LearningCurve,
    TrainingProgress,
    plot_learning_curve,
    read_lcurve,
)


def errors(energy, force, virial=math.nan, prefactors=(1.0, 100.0, 0.0)):
    """Errors with given RMSEs of 4-atom frames."""
    squares = (energy**2, force**2, virial**2)
    return Errors((4 * energy**2, force**2, 4 * virial**2), squares, (1, 4, 1), prefactors)


def write_curve(folder, steps, after=None, with_virial=False, with_validation=True):
    curve = LearningCurve(
        folder / "lcurve.out",
        folder / "train.jsonl",
        with_validation=with_validation,
        with_virial=with_virial,
        after_step=after,
    )
    for step in steps:
        validation = errors(0.004 * step, 0.2, 0.01) if with_validation else None
        curve.add(step, errors(0.001, 0.1 * step, 0.02), validation, 1e-3 / step, 0.5)
    curve.close()


def test_the_file_is_deepmd_kits_to_the_letter(tmp_path):
    write_curve(tmp_path, [1, 100])
    assert (tmp_path / "lcurve.out").read_text() == (
        "# step       rmse_val    rmse_trn    rmse_e_val  rmse_e_trn"
        "    rmse_f_val  rmse_f_trn   lr      \n"
        "# If there is no available reference data, rmse_*_{val,trn} will print nan\n"
        "      1      2.00e+00    1.00e+00      4.00e-03    1.00e-03"
        "      2.00e-01    1.00e-01    1.0e-03\n"
        "    100      2.15e+00    1.00e+02      4.00e-01    1.00e-03"
        "      2.00e-01    1.00e+01    1.0e-05\n"
    )


@pytest.mark.parametrize("with_virial", [False, True])
@pytest.mark.parametrize("with_validation", [False, True])
def test_numpy_reads_it(tmp_path, with_virial, with_validation):
    options = {"with_virial": with_virial, "with_validation": with_validation}
    write_curve(tmp_path, [1, 10], **options)
    write_curve(tmp_path, [20], after=10, **options)
    by_name = np.genfromtxt(tmp_path / "lcurve.out", names=True)
    assert by_name["step"].tolist() == [1, 10, 20]
    np.testing.assert_allclose(by_name["rmse_f_trn"], [0.1, 1.0, 2.0])
    np.testing.assert_allclose(by_name["lr"], [1e-3, 1e-4, 5e-5])
    assert ("rmse_v_trn" in by_name.dtype.names) == with_virial
    assert ("rmse_val" in by_name.dtype.names) == with_validation
    columns = np.loadtxt(tmp_path / "lcurve.out")
    assert columns.shape == (3, len(by_name.dtype.names))


def test_with_virials_and_without_validation(tmp_path):
    write_curve(tmp_path, [1], with_virial=True, with_validation=False)
    header, _, row = (tmp_path / "lcurve.out").read_text().splitlines()
    assert header.split() == [
        "#",
        "step",
        "rmse_trn",
        "rmse_e_trn",
        "rmse_f_trn",
        "rmse_v_trn",
        "lr",
    ]
    assert row.split()[4] == "2.00e-02"


def test_missing_labels_print_nan(tmp_path):
    curve = LearningCurve(tmp_path / "l", tmp_path / "j", with_validation=False, with_virial=False)
    no_energy = Errors((math.nan, 0.01, math.nan), (math.nan, 0.01, math.nan), (0, 4, 0), (1, 1, 0))
    curve.add(1, no_energy, None, 1e-3, 0.5)
    curve.close()
    assert (tmp_path / "l").read_text().splitlines()[-1].split()[2] == "nan"
    record = json.loads((tmp_path / "j").read_text())
    assert record["training"]["rmse_e"] is None
    assert record["training"]["rmse"] == pytest.approx(0.1)


def test_a_restart_cuts_the_rows_after_its_checkpoint_and_appends(tmp_path):
    write_curve(tmp_path, [1, 10, 20, 30])
    uninterrupted = (tmp_path / "lcurve.out").read_bytes()
    with open(tmp_path / "lcurve.out", "a") as f:
        f.write("     40  1.0")  # a killed process leaves half a row
    write_curve(tmp_path, [20, 30], after=15)
    assert (tmp_path / "lcurve.out").read_bytes() == uninterrupted
    records = (tmp_path / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in records] == [1, 10, 20, 30]


def test_a_restart_with_other_columns_gets_a_new_header(tmp_path):
    write_curve(tmp_path, [1, 10])
    write_curve(tmp_path, [20], after=10, with_virial=True)
    curve = read_lcurve(tmp_path / "lcurve.out")
    assert curve["step"].tolist() == [1, 10, 20]
    np.testing.assert_array_equal(np.isnan(curve["rmse_v_trn"]), [True, True, False])


def test_a_fresh_start_begins_the_files_anew(tmp_path):
    write_curve(tmp_path, [1, 10])
    write_curve(tmp_path, [1])
    assert read_lcurve(tmp_path / "lcurve.out")["step"].tolist() == [1]


def test_reading_and_plotting(tmp_path):
    write_curve(tmp_path, [1, 10, 20], with_virial=True)
    curve = read_lcurve(tmp_path / "lcurve.out")
    np.testing.assert_allclose(curve["rmse_e_val"], [4e-3, 4e-2, 8e-2])
    np.testing.assert_allclose(curve["lr"], [1e-3, 1e-4, 5e-5])
    plot_learning_curve(tmp_path / "lcurve.out", tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_or_empty_curve_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such learning curve"):
        read_lcurve(tmp_path / "none.out")
    (tmp_path / "empty.out").write_text("#  step rmse_trn lr\n")
    with pytest.raises(InputError, match="no rows"):
        read_lcurve(tmp_path / "empty.out")


@pytest.mark.parametrize(
    ("limits", "seconds_left", "told"),
    [
        ((200, None), math.inf, "step 50/200: .*; 100.0 ms/step, 00:15 left"),
        ((None, 60.0), 20.0, r"step 50 \(67% of the training\): .*; 100.0 ms/step, 00:20 left"),
        ((200, 60.0), 20.0, r"step 50/200 \(67% of the training\): .*, 00:15 left"),
        ((None, 60.0), -1.0, ".*, 00:00 left"),
    ],
)
def test_the_time_left_is_that_of_the_limit_reached_first(
    caplog, monkeypatch, limits, seconds_left, told
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO)
    progress = TrainingProgress(*limits, 0, 0.0, quiet=True)
    progress.advance(50, 2 / 3)
    progress.show(50, errors(0.001, 0.1), None, 0.1, seconds_left)
    progress.close()
    (line,) = caplog.messages
    assert re.fullmatch(told, line)


def test_the_bar_counts_seconds_where_time_is_the_limit(monkeypatch):
    monkeypatch.setattr("sys.stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    progress = TrainingProgress(None, 200.0, 10, 0.25, quiet=False)
    progress.show(11, errors(0.001, 0.1), None, 0.1, 99.0)
    for k, share in enumerate((0.3, 0.5, 1.2)):
        progress.advance(11 + k, share)
    progress._bar.refresh()
    progress.close()
    text = terminal.getvalue()
    assert "training:  25%" in text
    assert "50/200 s" in text
    assert "training: 100%" in text
    assert "200/200 s, step 11, training E 1.00 meV/atom" in text
