"""The distributions of every thermostat and barostat (pytest -m validation; twenty minutes)."""

import pytest
from ensembles import MODEL, NPT, NVT, PICOSECONDS, plot, validate

from deepmd_lite.model import load_model

pytestmark = pytest.mark.validation


def test_ensembles_are_sampled(tmp_path):
    checks, samples, eos, freedom = validate(load_model(MODEL, "float32"), PICOSECONDS, seed=1)
    plot(tmp_path / "ensembles.png", samples, eos, freedom)
    assert (tmp_path / "ensembles.png").stat().st_size > 0
    assert {c.ensemble.split()[0] for c in checks} == {*NVT, *NPT}
    assert not [c.row() for c in checks if not c.passed]
