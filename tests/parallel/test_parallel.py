"""The cases of `cases.py` on 1 to 8 ranks."""

import fcntl
import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import pytest
from cases import cases_of
from launching import launch, script

RANKS = (1, 2, 3, 4, 8)


def folder_of(n_ranks):
    """The same one for all workers of a run of pytest-xdist."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return Path(mkdtemp(prefix=f"parallel-{n_ranks}-"))
    folder = Path(gettempdir()) / f"parallel-{n_ranks}-{run}"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def results(n_ranks):
    """What the series left, one launch for all cases; and the end of what it printed."""
    folder = folder_of(n_ranks)
    printed = folder / "printed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the worker that comes first launches it
        if not printed.exists():
            done = launch(script(n_ranks, "cases.py", folder))
            printed.write_text(done.stderr[-2000:])
    return folder, printed.read_text()


@pytest.mark.parametrize(("case", "n_ranks"), [(c, n) for n in RANKS for c in cases_of(n)])
def test_case(case, n_ranks):
    pytest.importorskip("mpi4py")
    folder, printed = results(n_ranks)
    failed = folder / f"{case}.failed"
    assert not failed.exists(), failed.read_text()
    passed = folder / f"{case}.passed"
    assert passed.exists(), f"not reached: {[f.name for f in folder.glob('*.failed')]} {printed}"
    assert passed.read_text() == str(n_ranks)
