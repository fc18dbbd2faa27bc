"""Fifty times kill -9 in a parallel run (pytest -m validation; about eight minutes)."""

import pytest
from kill_and_continue import differing, summary
from killing import killed_and_whole

pytestmark = pytest.mark.validation


def test_fifty_kills_leave_no_trace(tmp_path):
    *_, (tally, killed, whole) = killed_and_whole(tmp_path, n_ranks=3, rounds=50, seed=2)
    print(summary(tally))
    assert tally.kills == 50
    assert not differing(killed, whole)
