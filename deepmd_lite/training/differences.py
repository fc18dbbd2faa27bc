"""What an input that is silent of it trains otherwise than DeePMD-kit does, for its log."""

from __future__ import annotations

from collections.abc import Iterator

from .config import TrainInput
from .together import families_of


def differences(settings: TrainInput, from_model: bool) -> str | None:
    """One line on what holds for this input, each with the value that trains as there.

    `from_model`: the training begins with the weights of a model. None where there is nothing to
    say: the input has said all of it, it has a preset, or a descriptor that DeePMD-kit has not.
    """
    strange = any(d.second_degree for d in settings.model.descriptors)
    if settings.preset is not None or strange:
        return None
    found = [f"{what} ({key})" for what, key in _found(settings, from_model)]
    if not found:
        return None
    return f"not as in DeePMD-kit, in brackets what is: {', '.join(found)}"


def _found(settings: TrainInput, from_model: bool) -> Iterator[tuple[str, str]]:
    training, rate = settings.training, settings.learning_rate
    silent = training.model_fields_set.isdisjoint
    named = "type" in settings.optimizer.model_fields_set or training.opt_type is not None
    if settings.optimizer.type == "SOAP" and not named:
        yield "the optimiser is SOAP", 'optimizer {"type": "Adam"}'
    stairs = rate.type == "exp" and training.time_limit is None
    if stairs and rate.smooth and "smooth" not in rate.model_fields_set:
        yield "the learning rate falls smoothly", "learning_rate/smooth false"
    if settings.model.repulsion and "repulsion" not in settings.model.model_fields_set:
        yield "close atoms repel", "model/repulsion null"
    if from_model:
        return
    if training.spread_first_layer and silent(["spread_first_layer"]):
        yield "embeddings begin spread out", "training/spread_first_layer false"
    elements = settings.model.type_map
    alike = settings.model.type_embedding is None and len(families_of(elements)) < len(elements)
    if alike and training.alike_elements and silent(["alike_elements"]):
        yield "elements of a family begin alike and learn together", "training/alike_elements false"
    if training.scale_descriptor and silent(["scale_descriptor"]):
        yield "first layers of fittings are scaled", "training/scale_descriptor false"
