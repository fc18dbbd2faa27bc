"""Configuration errors as a person reads them."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from deepmd_lite.schema import Section, parse, read_mapping
from deepmd_lite.system import InputError


class Round(Section):
    type: Literal["round"] = "round"
    radius: float = Field(1.0, gt=0)


class Square(Section):
    type: Literal["square"]
    edge: float = 2.0


class Drawing(Section):
    shape: Annotated[Round | Square, Field(discriminator="type")] = Round()
    colours: list[str] = []
    layers: list[Round] = []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"shap": {}}, "unknown key 'shap'; did you mean 'shape'?"),
        ({"zzz": 1}, "unknown key 'zzz'; known keys: colours, layers, shape"),
        ({"shape": {"type": "round", "radios": 3}}, "did you mean 'radius'?"),
        ({"shape": {"type": "square", "egde": 3}}, "did you mean 'edge'?"),
        ({"shape": {"type": "round", "radius": -1}}, "radius': Input should be greater than 0"),
        ({"layers": [{"radius": 1}, {"raduis": 1}]}, "did you mean 'radius'?"),
        ({"colours": "red"}, "key 'colours'"),
    ],
)
def test_messages(data, message):
    with pytest.raises(InputError) as error:
        parse(Drawing, data, "in.json")
    assert message in str(error.value)
    assert str(error.value).startswith("in.json: ")
    assert "\n" not in str(error.value)


def test_comments_are_dropped():
    data = {"_comment": "x", "layers": [{"_comment1": "y", "radius": 2}]}
    assert parse(Drawing, data, "in").layers[0].radius == 2


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"a": 1,\n "b": }', "line 2: not valid JSON"),
        ("a.yaml", "a: 1\nb: [1, 2", "not valid YAML"),
        ("a.yaml", "- 1\n- 2", "expected a mapping of keys, found list"),
        ("a.json", "[" * 100_000, "a.json"),
        ("a.yaml", "!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_unreadable_files(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_mapping(path)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_mapping(tmp_path / "none.json")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not a text file"):
        read_mapping(tmp_path / "b.json")


def test_keys_given_twice_are_named(tmp_path):
    """Not so comments, and what replaces a merged key."""
    path = tmp_path / "input.yaml"
    path.write_text("timestep: 1\noutput: {thermo: 1}\ntimestep: 2\n")
    with pytest.raises(InputError, match="line 3: key 'timestep' is given twice"):
        read_mapping(path)
    path.write_text("a: {b: 1, c: {d: 1, e: 2, d: 3}}\n")
    with pytest.raises(InputError, match="line 1: key 'd' is given twice"):
        read_mapping(path)
    path.write_text("a: &a {b: 1, c: 2}\nd: {<<: *a, b: 3}\n_comment: x\n_comment: y\n")
    assert read_mapping(path)["d"] == {"b": 3, "c": 2}
    path = tmp_path / "input.json"
    path.write_text('{"model": {"seed": 1, "seed": 2}}')
    with pytest.raises(InputError, match="key 'seed' is given twice"):
        read_mapping(path)
    path.write_text('{"_comment": 1, "_comment": 2, "model": {}}')
    assert read_mapping(path)["model"] == {}


def test_plain_words_are_those_of_yaml_1_2(tmp_path):
    """`off` is a word, 1e4 a number, and 1:30 no time of day."""
    path = tmp_path / "input.yaml"
    path.write_text(
        "a: off\nb: 1e4\nc: 1:30\nd: true\ne: -3\nf: .5\ng: 010\nh: 1.0e-3\ni: ~\nj: No\n"
    )
    found = {"a": "off", "b": 1e4, "c": "1:30", "d": True, "e": -3, "f": 0.5, "g": 10, "h": 1e-3}
    assert read_mapping(path) == {**found, "i": None, "j": "No"}
    assert isinstance(read_mapping(path)["e"], int)
