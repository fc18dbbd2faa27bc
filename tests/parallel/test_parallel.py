"""The cases of `cases.py` on 1 to 8 ranks."""

import fcntl
import os
from functools import cache
from pathlib import Path
from tempfile import gettempdir, mkdtemp

import pytest
from cases import SIDE_BY_SIDE, cases_of
from launching import launch, script

RANKS = sorted(n for counts in SIDE_BY_SIDE for n in counts)


def folder_of_the_run():
    """The same one for all workers of a run of pytest-xdist."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        return Path(mkdtemp(prefix="parallel-"))
    folder = Path(gettempdir()) / f"parallel-{run}"
    folder.mkdir(exist_ok=True)
    return folder


@cache
def results():
    """What the series left, one launch for all cases; and the end of what it printed."""
    folder = folder_of_the_run()
    printed = folder / "printed"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the worker that comes first launches it
        if not printed.exists():
            done = launch(script(max(RANKS), "cases.py", folder), timeout=1800)
            printed.write_text(done.stderr[-2000:])
    return folder, printed.read_text()


@pytest.mark.parametrize(("case", "n_ranks"), [(c, n) for n in RANKS for c in cases_of(n)])
def test_case(case, n_ranks):
    pytest.importorskip("mpi4py")
    folder, printed = results()
    failed = folder / str(n_ranks) / f"{case}.failed"
    assert not failed.exists(), failed.read_text()
    passed = folder / str(n_ranks) / f"{case}.passed"
    ended = [str(f.relative_to(folder)) for f in folder.glob("*/*.failed")]
    assert passed.exists(), f"not reached: {ended} {printed}"
    assert passed.read_text() == str(n_ranks)
