"""Learning rates and prefactors against numbers worked out by hand."""

import pytest

from deepmd_lite.training.config import LearningRateConfig, LossConfig
from deepmd_lite.training.schedule import Schedule


def test_the_decay_reaches_stop_lr_at_the_last_step():
    s = Schedule.from_config(LearningRateConfig(start_lr=1e-3, stop_lr=1e-7), 1000)
    assert s.learning_rate(0) == 1e-3
    assert s.learning_rate(250) == pytest.approx(1e-4, rel=1e-12)
    assert s.learning_rate(500) == pytest.approx(1e-5, rel=1e-12)
    assert s.learning_rate(1000) == pytest.approx(1e-7, rel=1e-12)


@pytest.mark.parametrize("n_steps", [5, 40, 400])
def test_a_decay_much_slower_than_the_training_is_fitted_to_it(n_steps):
    """What is left of a long training's input for a short one."""
    config = LearningRateConfig(start_lr=1e-3, stop_lr=3.51e-8, decay_steps=100_000)
    s = Schedule.from_config(config, n_steps)
    rates = [s.learning_rate(t) for t in range(n_steps + 1)]
    assert rates[0] == 1e-3
    assert rates[n_steps // 2] == pytest.approx(1e-3 * 3.51e-5 ** (n_steps // 2 / n_steps))
    assert rates[-1] == pytest.approx(3.51e-8)


def test_a_given_decay_rate_is_the_factor_per_decay_steps_and_ends_at_stop_lr():
    config = LearningRateConfig(start_lr=0.01, stop_lr=1e-3, decay_steps=100, decay_rate=0.25)
    s = Schedule.from_config(config, 10_000)
    assert s.learning_rate(50) == pytest.approx(0.005)
    assert s.learning_rate(100) == pytest.approx(0.0025)
    assert s.learning_rate(1000) == 1e-3


def test_stairs_are_those_of_deepmd():
    # rate = (1e-6/1e-3)^(100/300) = 0.1 for each stair of 100 steps
    config = LearningRateConfig(start_lr=1e-3, stop_lr=1e-6, decay_steps=100, smooth=False)
    s = Schedule.from_config(config, 300)
    assert [s.learning_rate(t) for t in (0, 99, 100, 199, 200)] == pytest.approx(
        [1e-3, 1e-3, 1e-4, 1e-4, 1e-5], rel=1e-12
    )


def test_stairs_longer_than_the_training_are_shortened():
    config = LearningRateConfig(decay_steps=5000, smooth=False)
    assert Schedule.from_config(config, 2000).decay_steps == 100
    assert Schedule.from_config(config, 500).decay_steps == 6


def test_over_a_share_of_the_time_the_decay_is_the_same():
    s = Schedule.over_share(LearningRateConfig(start_lr=1e-3, stop_lr=1e-7, decay_steps=77))
    assert [s.learning_rate(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [1e-3, 1e-4, 1e-5, 1e-7], rel=1e-12
    )
    assert s.learning_rate(1.3) == 1e-7  # a step that ends late
    loss = LossConfig(start_pref_f=1000, limit_pref_f=1)
    assert s.prefactors(loss, 0.25)[1] == pytest.approx(0.9 * 1 + 0.1 * 1000)


def test_stop_lr_ratio():
    s = Schedule.from_config(LearningRateConfig(start_lr=2e-3, stop_lr_ratio=0.01), 10)
    assert s.learning_rate(10) == pytest.approx(2e-5)


def test_prefactors_go_linearly_with_the_learning_rate_from_start_to_limit():
    loss = LossConfig(
        start_pref_e=0.02, limit_pref_e=1, start_pref_f=1000, limit_pref_f=1, limit_pref_v=2
    )
    s = Schedule.from_config(LearningRateConfig(start_lr=1e-3, stop_lr=1e-5), 100)
    assert s.prefactors(loss, 0) == (0.02, 1000.0, 0.0)
    # half way: lr/lr0 = 0.1 → 0.9·1 + 0.1·0.02, 0.9·1 + 0.1·1000, 0.9·2
    assert s.prefactors(loss, 50) == pytest.approx((0.902, 100.9, 1.8))
    assert s.prefactors(loss, 100) == pytest.approx((0.9902, 10.99, 1.98))
