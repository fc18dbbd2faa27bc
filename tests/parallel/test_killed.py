"""What is killed goes on as if nothing had happened, and on another number of ranks too.

Three rounds here; fifty in `validation/kill_and_continue.py`.
"""

import shutil
import sys

import numpy as np
import pytest
from killing import killed_and_whole
from launching import launch, script

pytest.importorskip("mpi4py")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the ranks in /proc")
def test_kill_and_continue_is_the_uninterrupted_run(tmp_path):
    *_, (tally, killed, whole) = killed_and_whole(tmp_path, n_ranks=2, rounds=3, seed=5)
    assert tally.kills == 3
    assert tally.of_one_rank == 1
    assert sorted(killed) == sorted(whole)
    assert len(whole) == 4
    for name, content in whole.items():
        assert killed[name] == content, name


@pytest.mark.parametrize("kind", ["forces", "positions"])
def test_a_run_on_four_ranks_goes_on_on_three(kind, continued):
    """Atoms are where they were, bit for bit; forces and motion agree to round-off."""
    whole = continued[4][kind]
    assert kind == "forces" or (np.abs(np.diff(whole, axis=0)).max(axis=(1, 2)) > 0.05).all()
    found = continued[3][kind]
    if kind == "positions":
        np.testing.assert_array_equal(found[0], whole[0])
    tolerance = {"forces": 1e-10, "positions": 1e-6}[kind]
    np.testing.assert_allclose(found, whole, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def continued(tmp_path_factory):
    """What `restarting.py` found on 4 ranks without interruption, and from there on 3."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}
    for n_ranks, how in ((4, "begin"), (3, "continue")):
        where = folder / f"run-{n_ranks}"
        if how == "continue":
            shutil.copytree(folder / "run-4", where)
        done = launch(script(n_ranks, "restarting.py", how, where, f"{where}.npz"))
        assert done.returncode == 0, done.stderr
        found[n_ranks] = np.load(f"{where}.npz")
    return found
