"""The cases of `cases.py` on 1 to 8 ranks."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
from cases import CASES
from launching import launch, script

RANKS = (1, 2, 3, 4, 8)


@cache
def results(n_ranks):
    """What the series left, one launch for all cases; and the end of what it printed."""
    folder = Path(mkdtemp(prefix=f"parallel-{n_ranks}-"))
    done = launch(script(n_ranks, "cases.py", folder))
    return folder, done.stderr[-2000:]


@pytest.mark.parametrize("n_ranks", RANKS)
@pytest.mark.parametrize("case", CASES)
def test_case(case, n_ranks):
    pytest.importorskip("mpi4py")
    folder, printed = results(n_ranks)
    failed = folder / f"{case}.failed"
    assert not failed.exists(), failed.read_text()
    passed = folder / f"{case}.passed"
    assert passed.exists(), f"not reached: {[f.name for f in folder.glob('*.failed')]} {printed}"
    assert passed.read_text() == str(n_ranks)
