"""What a training tells of how it differs from DeePMD-kit's."""

import pytest

from deepmd_lite.training.config import read_input
from deepmd_lite.training.differences import differences

AS_THERE = {
    "learning_rate": {"smooth": False},
    "optimizer": {"type": "Adam"},
    "training": {"spread_first_layer": False, "alike_elements": False, "scale_descriptor": False},
}


def line(tmp_path, elements=("O", "H"), from_model=False, model=None, **sections):
    training = {"training_data": {"systems": str(tmp_path)}, **sections.pop("training", {})}
    model = {"type_map": list(elements), **(model or {})}
    return differences(
        read_input({"model": model, "training": training, **sections})[0], from_model
    )


def test_an_input_that_says_nothing(tmp_path):
    said = line(tmp_path)
    for words in ('{"type": "Adam"}', "smooth false", "repulsion null", "spread_first_layer false"):
        assert words in said
    assert "scale_descriptor false" in said
    assert "alike_elements" not in said  # oxygen and hydrogen are no family
    assert "alike_elements false" in line(tmp_path, ("Cu", "Ag"))
    assert "\n" not in said


def test_an_input_that_trains_as_there(tmp_path):
    assert line(tmp_path, model={"repulsion": None}, **AS_THERE) is None
    assert line(tmp_path, optimizer={"type": "Adam"}).count("Adam") == 0
    assert "SOAP" not in line(tmp_path, training={"opt_type": "SOAP"})  # it knows


@pytest.mark.parametrize("words", ["spread_first_layer", "scale_descriptor", "alike_elements"])
def test_a_training_that_begins_with_a_model_draws_no_weights(tmp_path, words):
    assert words not in line(tmp_path, ("Cu", "Ag"), from_model=True)


def test_what_is_not_of_deepmd_kit_is_not_compared(tmp_path):
    assert line(tmp_path, preset="fast") is None
    assert line(tmp_path, model={"descriptor": {"type": "se_e2_q"}}) is None
    assert "smooth false" not in line(tmp_path, learning_rate={"type": "cosine"})
    assert "smooth false" not in line(tmp_path, training={"time_limit": "1h"})
