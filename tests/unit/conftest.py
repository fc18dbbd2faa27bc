"""What the tests of this folder have in common."""

import pytest

DRAWING = ("test_train_report", "test_train_parallel", "test_cli", "test_learning")
"""Modules that ask for learning curves, compare them, or choose themselves which are drawn."""


@pytest.fixture(autouse=True)
def _few_learning_curves(request, monkeypatch):
    """A picture takes a second, more than many of the trainings that end with it. Those of the
    fixtures of whole modules are drawn, also the one that `test_train_loop` looks for."""
    if request.module.__name__ not in DRAWING:
        monkeypatch.setattr("deepmd_lite.training.loop.plot_learning_curve", lambda *_: None)
