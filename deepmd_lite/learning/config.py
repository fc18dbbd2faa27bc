"""The input of `dpl learn`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from ..data.places import located_data
from ..md.config import Copies, MdConfig
from ..schema import Section, located, parse, read_mapping
from ..system import InputError
from ..training.legacy import modern

PLACES = "{input}", "{output}"
"""What the command that labels is told."""


class Initial(Section):
    """Structures to begin with: copies of one, strained and with displaced atoms."""

    structure: str
    """Anything ASE reads, as in `dpl md`."""
    replicate: Copies = (1, 1, 1)
    frames: PositiveInt = 20
    rattle: Annotated[float, Field(ge=0)] = 0.1
    """Å, standard deviation of each coordinate."""
    strain: Annotated[float, Field(ge=0, lt=0.3)] = 0.03
    """Largest component, where all three directions are periodic."""
    seed: int = 1


class Select(Section):
    """Which explored structures are labelled."""

    every: PositiveInt = 20
    """Steps between two structures that are looked at."""
    most: PositiveInt = 20
    """Structures that are labelled in a round."""
    verify: NonNegativeInt = 8
    """Explored structures, drawn at random, that are labelled before it counts as done: the root
    mean square of the errors of their forces must be below `lower`, too."""
    lower: PositiveFloat = 0.2
    """eV/Å: the error of the force on an atom that is good enough. A structure in which all atoms
    deviate by less is not labelled."""
    upper: PositiveFloat | None = None
    """eV/Å: where an exploration ends. Default: five times `lower`, or the upper trust level of the
    model, if that is higher."""

    @model_validator(mode="after")
    def _in_order(self) -> Select:
        if self.upper is not None and self.upper <= self.lower:
            raise ValueError(f"upper {self.upper:g} must be above lower {self.lower:g} eV/Å")
        return self


def _listed(value: object) -> object:
    return [value] if isinstance(value, Mapping) else value


class LearnConfig(Section):
    """The whole input of `dpl learn`."""

    train: str
    """A training's input; its data, if it has any, are where it begins."""
    initial: Initial | None = None
    explore: Annotated[list[dict[str, Any]], BeforeValidator(_listed), Field(min_length=1)]
    """Inputs of `dpl md`, without `model` and `output`."""
    label: str | None = None
    """A command that reads structures from {input} and writes them to {output} with energies and
    forces, both extended XYZ. It runs in the folder of the input, without a shell (`sh -c '…'` has
    one); {python} is this Python."""
    select: Select = Select()
    rounds: PositiveInt = 10
    """At most."""
    converged: Annotated[float, Field(gt=0, le=1)] = 0.99
    """Share of the explored structures below `lower` with which it is done, where no exploration
    broke off."""
    reuse: bool = False
    """Begin each training with the model of the round before, instead of anew."""
    output: Path = Path("learn")

    @field_validator("train", mode="before")
    @classmethod
    def _in_a_file(cls, value: object) -> object:
        if isinstance(value, Mapping):
            raise ValueError("expected the path of a training's input file, found its content")
        return value

    @field_validator("label")
    @classmethod
    def _told_where(cls, value: str | None) -> str | None:
        missing = [place for place in PLACES if place not in (value or "")]
        if value is not None and missing:
            raise ValueError(f"expected {' and '.join(PLACES)} in the command, {missing[0]} lacks")
        shlex.split(value or "")  # "No closing quotation"
        return value

    @field_validator("explore")
    @classmethod
    def _without_model(cls, value: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in value:
            for key in ("model", "output"):
                if key in entry:
                    raise ValueError(f"'{key}' is chosen here; leave it out")
        return value


def read_config(source: str | Path | Mapping[str, Any]) -> tuple[LearnConfig, Path]:
    """The checked input with all paths where they lead, and the folder where it lies.

    Paths are relative to the working directory or, where nothing is there, to the input file's
    folder. Raises InputError.
    """
    folder, where = None, "learn input"
    if not isinstance(source, Mapping):
        folder, where = Path(source).resolve().parent, str(source)
        source = read_mapping(source)
    config = parse(LearnConfig, source, where)
    config.train = _absolute(located(config.train, folder, f"{where}: train"))
    if config.initial is not None:
        given = config.initial.structure
        found = located_data(given, folder, f"{where}: initial/structure")
        config.initial.structure = _absolute(found)
    for k, entry in enumerate(config.explore):
        at = f"{where}: explore/{k}"
        if "structure" in entry:
            found = located_data(str(entry["structure"]), folder, f"{at}/structure")
            entry["structure"] = _absolute(found)
        if isinstance(entry.get("plumed"), str):
            entry["plumed"] = _absolute(located(entry["plumed"], folder, f"{at}/plumed"))
        steps = parse(MdConfig, {**entry, "model": "model.dpl"}, at).steps
        if steps < config.select.every:
            raise InputError(
                f"{at}/steps {steps}: nothing would be looked at; expected at least select/every, "
                f"{config.select.every}"
            )
    return config, folder or Path.cwd()


def _absolute(path: str) -> str:
    """The same from whatever folder the loop is started again."""
    return str(Path(path).resolve())


def training_input(
    path: str, data: Sequence[str], validation: Sequence[str], elements: Sequence[str] = ()
) -> dict[str, Any]:
    """The content of a training's input with the systems `data` and `validation` besides its own,
    with all paths where they lead and, where it has no type_map, with `elements`, if any.

    Raises InputError for sections that are no mappings.
    """
    folder = Path(path).resolve().parent
    content = dict(modern(read_mapping(path), path)[0])
    training = _section(content, "training", path)
    for name, more in (("training_data", data), ("validation_data", validation)):
        section = _section(training, name, f"{path}: training")
        systems = section.get("systems") or []
        own = [systems] if isinstance(systems, str) else list(systems)
        places = [located_data(s, folder, f"{path}: training/{name}/systems") for s in own]
        section["systems"] = [*places, *more]
        if not section["systems"]:
            del training[name]
    model = _section(content, "model", path)
    if elements and not model.get("type_map"):
        model["type_map"] = list(elements)
    if model.get("use_srtab"):
        model["use_srtab"] = located(model["use_srtab"], folder, f"{path}: model/use_srtab")
    return content


def own_systems(path: str) -> tuple[list[str], list[str]]:
    """Systems that a training's input names itself, for training and for validation."""
    training = training_input(path, [], [])["training"]
    names = "training_data", "validation_data"
    first, second = (training.get(name, {}).get("systems", []) for name in names)
    return first, second


def _section(content: dict[str, Any], name: str, where: str) -> dict[str, Any]:
    """A section, made where there is none."""
    found = content.get(name)
    if found is not None and not isinstance(found, dict):
        raise InputError(f"{where}: {name}: expected a mapping of keys, found {found!r}")
    content[name] = dict(found or {})
    section: dict[str, Any] = content[name]
    return section
