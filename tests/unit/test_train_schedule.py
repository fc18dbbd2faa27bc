"""Learning rates and prefactors against numbers worked out by hand."""

import pytest
from copper import settings, written

from deepmd_lite.system import InputError
from deepmd_lite.training.config import LearningRateConfig, LossConfig, read_input
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
    assert Schedule.from_config(config, 2000).decay.decay_steps == 100
    assert Schedule.from_config(config, 500).decay.decay_steps == 6


def test_over_a_share_of_the_time_the_decay_is_the_same():
    s = Schedule.over_share(LearningRateConfig(start_lr=1e-3, stop_lr=1e-7, decay_steps=77))
    assert [s.learning_rate(t) for t in (0.0, 0.25, 0.5, 1.0)] == pytest.approx(
        [1e-3, 1e-4, 1e-5, 1e-7], rel=1e-12
    )
    assert s.learning_rate(1.3) == 1e-7  # a step that ends late
    loss = LossConfig(start_pref_f=1000, limit_pref_f=1)
    assert s.prefactors(loss, 0.25)[1] == pytest.approx(0.9 * 1 + 0.1 * 1000)


@pytest.mark.parametrize("given", [{"stop_lr_ratio": 0.01}, {"stop_lr": 1e-5}, {"type": "cosine"}])
def test_an_input_with_all_its_values_means_the_same(given):
    """As out.json and checkpoints have it."""
    config = LearningRateConfig(**given)
    assert LearningRateConfig(**config.model_dump(mode="json")) == config
    with pytest.raises(ValueError, match="not both"):
        LearningRateConfig(stop_lr=1e-6, stop_lr_ratio=0.01)


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


AT = (0, 30, 100, 150, 500, 700, 905, 960, 999, 1000)
EXP = {"start_lr": 1e-3, "stop_lr": 1e-6, "decay_steps": 90}
WSD = {"type": "wsd", "start_lr": 1e-3, "stop_lr": 1e-5}


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        (
            {"type": "cosine", "start_lr": 1e-3, "stop_lr": 1e-5},
            "1e-3 0.0009978031725 0.0009757729756 0.0009460482295 0.000505 0.0002140463001 "
            "3.188245767e-05 1.390322285e-05 1.000244273e-05 1e-05",
        ),
        (
            {"type": "cosine", "stop_lr_ratio": 0.02, "warmup_steps": 100}
            | {"warmup_start_factor": 0.1, "stop_lr": None},
            "0.0001 0.00037 0.001 0.000992555799 0.0005950876071 0.000265 "
            "4.669589796e-05 2.476864632e-05 2.000298525e-05 2e-05",
        ),
        (WSD, 6 * "1e-3 " + "0.0001680672269 1.655629139e-05 1.00999899e-05 1e-05"),
        (
            WSD | {"decay_phase_ratio": 0.35, "decay_type": "cosine", "warmup_ratio": 0.2},
            "0.0 0.00015 0.0005 0.00075 0.001 0.0009509795896 "
            "0.0001793203307 4.156373903e-05 1.00199405e-05 1e-05",
        ),
        (
            WSD | {"decay_phase_ratio": 0.95, "decay_type": "linear", "warmup_ratio": 0.2},
            "0.0 0.00015 0.0005 0.00075 0.00062875 0.00038125 "
            "0.0001275625 5.95e-05 1.12375e-05 1e-05",
        ),
        (
            EXP | {"warmup_steps": 100},
            "0.0 0.0003 0.001 0.0006812920691 4.641588834e-05 1e-05 "
            "2.073321573e-06 1.359356391e-06 1.007704814e-06 1e-06",
        ),
        (
            EXP | {"warmup_ratio": 0.1, "warmup_start_factor": 0.5, "smooth": False},
            "0.0005 0.00065 0.001 0.001 6.309573445e-05 1.584893192e-05 "
            "3.981071706e-06 1.995262315e-06 1.995262315e-06 1e-06",
        ),
        (
            {"stop_lr": 0.0, "warmup_steps": 40, "smooth": False},
            "0.0 0.00075 0.0003651741273 0.0001577308583 4.424185554e-07 1.539926526e-08 "
            "5.360023165e-10 1.957341781e-10 1.182814573e-10 1e-10",
        ),
        (
            {"stop_lr": 1e-4, "decay_rate": 0.5, "decay_steps": 100, "warmup_steps": 50},
            "0.0 0.0006 0.0007071067812 0.0005" + 6 * " 1e-4",
        ),
    ],
)
def test_rates_are_those_of_deepmd_kit(keys, rates):
    """Numbers that DeePMD-kit 3.2 (`BaseLR.value`, 1,000 steps) gives."""
    s = Schedule.from_config(LearningRateConfig(**keys), 1000)
    expected = [float(rate) for rate in rates.split()]
    assert [s.learning_rate(t) for t in AT] == pytest.approx(expected, rel=1e-9, abs=1e-30)


@pytest.mark.parametrize(
    "keys",
    [
        {"type": "cosine", "warmup_ratio": 0.2},
        {"type": "wsd", "decay_phase_ratio": 0.4, "warmup_ratio": 0.1, "warmup_start_factor": 0.2},
        {"type": "wsd", "decay_phase_ratio": 1.0, "warmup_ratio": 0.5, "decay_type": "linear"},
        {"type": "exp", "warmup_ratio": 0.25},
    ],
)
def test_over_a_share_of_the_time_every_schedule_is_the_same(keys):
    config = LearningRateConfig(**keys, stop_lr=1e-6)
    steps, share = Schedule.from_config(config, 1000), Schedule.over_share(config)
    for t in AT:
        assert share.learning_rate(t / 1000) == pytest.approx(steps.learning_rate(t), rel=1e-9)
    assert share.learning_rate(1.2) == 1e-6


def test_a_warm_up_that_leaves_no_step(tmp_path):
    with pytest.raises(InputError, match="warmup_steps 10: no step of 10 is left"):
        Schedule.from_config(LearningRateConfig(warmup_steps=10), 10)
    given = settings(written(tmp_path), numb_steps=10)
    given["learning_rate"]["warmup_steps"] = 10
    with pytest.raises(InputError, match="no step of training/numb_steps 10 is left"):
        read_input(given)  # before any data are read


def test_prefactors_follow_the_rate_in_a_warm_up():
    s = Schedule.from_config(LearningRateConfig(warmup_steps=100), 1000)
    loss = LossConfig(start_pref_f=1000, limit_pref_f=1)
    assert s.prefactors(loss, 0)[1] == 1.0
    assert s.prefactors(loss, 50)[1] == pytest.approx(500.5)
    assert s.prefactors(loss, 100)[1] == 1000.0
