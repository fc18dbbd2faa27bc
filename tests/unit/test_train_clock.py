"""Durations as people write them, and the share of a time limit."""

import pytest

from deepmd_lite.training import clock
from deepmd_lite.training.clock import Clock, format_duration, parse_duration


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1h0m30s", 3630),
        ("1.5h", 5400),
        ("2H", 7200),
        (" 45 ", 45),
        (45, 45),
        (0.5, 0.5),
    ],
)
def test_durations(given, seconds):
    assert parse_duration(given) == seconds


@pytest.mark.parametrize("given", ["", "h", "30x", "m30", "30m1h", "1h-5m", "-30m", "nan", True])
def test_what_is_no_duration(given):
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(given)


@pytest.mark.parametrize("given", [0, "0m", 0.0])
def test_no_time_is_no_duration(given):
    with pytest.raises(ValueError, match="longer than 0 s"):
        parse_duration(given)


@pytest.mark.parametrize("text", ["45s", "30m", "2h", "1h30m", "1h5s", "26h3m4s"])
def test_formatting_is_the_inverse(text):
    assert format_duration(parse_duration(text)) == text


def test_the_share_counts_earlier_segments_and_leaves_the_reserve(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    c = Clock()
    now = 1030.0
    assert (c.seconds(), c.share(), c.left()) == (30.0, 0.0, float("inf"))
    c.limit, c.earlier, c.reserve = 110.0, 20.0, 10.0
    assert (c.seconds(), c.share(), c.left()) == (50.0, 0.5, 50.0)
    now = 1090.0
    assert (c.share(), c.left()) == (1.1, -10.0)


def test_preparation_is_no_part_of_the_time_for_steps(monkeypatch):
    """The share is 0 at the first step, and does not fall where a restart prepares once more."""
    now = 1000.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    c = Clock(started=990.0)
    c.limit, c.reserve = 120.0, 10.0
    c.steps_begin()
    assert c.share() == 0.0
    now = 1050.0
    assert c.share() == 0.5
    later = Clock()
    later.limit, later.reserve = c.limit, c.reserve
    later.earlier, later.preparation = c.seconds(), c.preparation
    now = 1060.0
    later.steps_begin()
    assert (later.seconds(), later.share()) == (70.0, 50.0 / 90.0)
    now = 1100.0
    assert later.share() == 1.0


def test_a_reserve_that_fills_the_limit_leaves_nothing():
    c = Clock()
    c.limit = c.reserve = 5.0
    assert c.share() == 1.0
