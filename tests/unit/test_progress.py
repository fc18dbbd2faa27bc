"""How far long work is: what is told where there is no terminal, on one, and to whom it may end."""

import io
import logging

import pytest
from ase.build import bulk
from copper import settings, written

from deepmd_lite.md import Simulation
from deepmd_lite.progress import OFTEN, SECONDS, Progress, progress, telling
from deepmd_lite.training import TrainingError, clock, train
from deepmd_lite.training.clock import Clock
from deepmd_lite.training.deadline import Deadline, tell_what_is_left
from deepmd_lite.training.report import TrainingProgress


class Ticks:
    """A clock whose time is set."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(name="plain", autouse=True)
def _plain(monkeypatch, caplog):
    """Standard error is no terminal."""
    monkeypatch.setattr("sys.stderr", io.StringIO())
    caplog.set_level(logging.INFO)


def test_a_line_now_and_then_and_none_at_first(caplog):
    ticks = Ticks()
    with Progress("checking", 1000, clock=ticks) as told:
        for _ in range(100):
            ticks.now += SECONDS / 100 - 1e-6
            told.advance()
        assert caplog.messages == []
        ticks.now += 1.0
        told.advance()
        assert caplog.messages == ["checking: 101 of 1000 frames, 04:35 left"]
        ticks.now += SECONDS - 1.0
        told.advance()
        assert len(caplog.messages) == 1
    assert len(caplog.messages) == 1


def test_a_total_that_is_estimated_or_unknown(caplog):
    ticks = Ticks()
    told = Progress("reading data", None, clock=ticks)
    ticks.now = 40.0
    told.advance(200)
    assert caplog.messages[-1] == "reading data: 200 frames in 00:40"
    ticks.now = 80.0
    told.advance(100, share=0.25)
    assert caplog.messages[-1] == "reading data: 300 of about 1200 frames, 04:00 left"


def test_quiet_says_nothing(caplog):
    ticks = Ticks()
    told = Progress("checking", 10, quiet=True, clock=ticks)
    ticks.now = 1000.0
    told.advance()
    assert caplog.messages == []


def test_a_bar_on_a_terminal(monkeypatch, caplog):
    monkeypatch.setattr("sys.stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    assert list(progress(range(3), "checking")) == [0, 1, 2]
    assert "checking" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", silent := io.StringIO())
    silent.isatty = lambda: True
    assert list(progress(iter(range(3)), "checking", 3, quiet=True)) == [0, 1, 2]
    assert silent.getvalue() == ""


# --- time limits ------------------------------------------------------------------------------


def test_a_closed_standard_error_is_no_terminal(monkeypatch, caplog):
    """As `2>&-` leaves it: bars are not drawn, and lines go where the log goes."""
    monkeypatch.setattr("sys.stderr", None)
    ticks = Ticks()
    with Progress("checking", 4, clock=ticks) as told:
        ticks.now = 2 * SECONDS
        told.advance()
    training = TrainingProgress(100, None, 0, 0.0, quiet=False)
    training.advance(1, 0.01)
    training.close()
    assert caplog.messages == ["checking: 1 of 4 frames, 03:00 left"]


def test_a_limit_that_loading_would_use_up_ends_it_soon():
    watch = Deadline(Clock(), 60.0)
    watch("reading data", 0.5, 4.0)  # too early to tell
    watch("reading data", 0.1, 6.0)  # 60 s: not sure
    watch("neighbour lists", 0.05, 10.0)  # 200 s, if the first frames are as the others
    with pytest.raises(TrainingError) as caught:
        watch("statistics", 0.4, 80.0)
    said = str(caught.value)
    assert "time_limit: 1m will be over before the first step" in said
    assert "takes about 2m or longer (statistics: 40% done" in said
    assert "DATA@::10" in said
    Deadline(Clock(), None)("reading data", 0.05, 1e6)


def test_a_limit_that_the_start_has_used_up_is_not_blamed_on_the_data():
    started = Clock(clock.monotonic() - 7.0)
    with pytest.raises(TrainingError) as caught:
        Deadline(started, 5.0)("reading data", 0.005, 1.0)
    said = str(caught.value)
    assert "time_limit: 5s are over before the first step: 6s passed before this was begun" in said
    assert "reading data, 0% done in 1s; give a longer one" in said
    assert "loading alone" not in said
    assert "DATA@" not in said
    with pytest.raises(TrainingError, match=r"loading alone takes about 3h59m.*DATA@::10"):
        Deadline(Clock(clock.monotonic() - 3601.0), 3600.0)("reading data", 0.25, 3590.0)


def test_a_training_asks_while_it_loads(tmp_path, monkeypatch):
    data, asked = written(tmp_path), []
    monkeypatch.setattr(Deadline, "__call__", lambda self, what, done, seconds: asked.append(what))
    config = settings(data, time_limit=600.0, numb_steps=1)
    train(config, output=tmp_path / "a", quiet=True)
    assert list(dict.fromkeys(asked)) == [
        "reading data",
        "neighbour lists, training data",
        "neighbour lists, validation data",
        "statistics",
    ]


@pytest.mark.parametrize("given", ["input", "data"])
def test_a_limit_that_is_over_ends_the_reading(tmp_path, monkeypatch, given):
    """Each look at the clock of the work is 7 s later."""
    data = written(tmp_path)
    seconds = iter(range(0, 10_000, 7))
    monkeypatch.setitem(Progress.__init__.__kwdefaults__, "clock", lambda: float(next(seconds)))
    what = settings(data, time_limit=50.0) if given == "input" else data / "train.extxyz"
    limit = "50s" if given == "data" else None
    before = clock.monotonic() - 100.0
    with pytest.raises(TrainingError, match=r"^time_limit: 50s are over .* begun: reading data, "):
        train(what, output=tmp_path / "a", time_limit=limit, started=before, quiet=True)
    assert not (tmp_path / "a").exists()


def test_data_alone_are_read_once(tmp_path, monkeypatch):
    from deepmd_lite.data import formats

    data, read, original = written(tmp_path), [], formats._read
    monkeypatch.setattr(formats, "_read", lambda *a: read.append(a[0].path) or original(*a))
    limits = {"time_limit": "600s", "preset": "fast"}
    monkeypatch.setattr("deepmd_lite.training.loop._run", lambda *_: None)
    train(data / "train.extxyz", output=tmp_path / "a", quiet=True, **limits)
    assert read == [data / "train.extxyz"]


def test_a_restart_says_what_is_left_of_a_limit(caplog):
    time = Clock()
    time.limit, time.earlier, time.reserve = 120.0, 60.0, 59.0
    time._started -= 30.0
    tell_what_is_left(time)
    (line,) = caplog.messages
    assert "time limit of 2m" in line
    assert "1m passed before this restart, 30s were needed to load the data again, 0s are" in line
    assert line.endswith("give a longer one")
    time.limit = 1200.0
    tell_what_is_left(time)
    assert caplog.messages[-1].endswith("are left for steps")
    time.earlier = 0.0
    tell_what_is_left(time)
    assert len(caplog.messages) == 2


def test_the_log_is_shown_where_nobody_has_set_up_logging(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    log = logging.getLogger("deepmd_lite.progress")
    with telling(quiet=False):
        log.info("one")
        with telling(quiet=False):
            log.info("two")
        for _ in range(9):
            log.info("many", extra={OFTEN: True})
    with telling(quiet=True):
        log.info("quiet")
    assert capsys.readouterr().err == "one\ntwo\nmany\n"
    assert logging.getLogger().handlers == []
    assert logging.getLogger("deepmd_lite").level == logging.NOTSET


def test_logging_that_is_set_up_stays_as_it_is(monkeypatch, capsys):
    shown = io.StringIO()
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(shown)])
    with telling(quiet=False):
        logging.getLogger("deepmd_lite").info("one")
    assert (shown.getvalue(), capsys.readouterr().err) == ("one\n", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_who_trains_and_runs_from_python_sees_the_log(monkeypatch, capsys, caplog, tmp_path, quiet):
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    config = settings(written(tmp_path), numb_steps=4)
    model = train(config, output=tmp_path / "out", quiet=quiet)
    place = str(tmp_path / "run")
    Simulation(bulk("Cu", cubic=True), model, quiet=quiet, output=place).run(1)
    told = capsys.readouterr().err
    for line in "model after step 4", "1 steps of 4 atoms":
        assert told.count(line) == (0 if quiet else 1), told
