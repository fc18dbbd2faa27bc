"""Strict configuration sections: an unknown key is an error that names the nearest known one."""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeGuard, TypeVar, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator

from .system import InputError


def _device(value: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d+)?", value):
        raise ValueError(f"expected 'cpu', 'cuda' or 'cuda:N', found '{value}'")
    return value


DeviceName = Annotated[str, AfterValidator(_device)]
"""Where something computes; processes of one machine take turns at its GPUs where no N is given."""


class Section(BaseModel):
    """Base of every configuration section."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


class Vocabulary(Section):
    """A section in another program's words: it knows which of its keys it ignores or refuses."""

    aliases: ClassVar[dict[str, str]] = {}
    """Other name of a key → its name here."""
    ignored: ClassVar[dict[str, str]] = {}
    """Key without a meaning here → the note that is given."""
    refused: ClassVar[dict[str, str]] = {}
    """Key that would change the result → what to do instead. Accepted where it switches off."""
    harmless: ClassVar[dict[str, Any]] = {}
    """The value, besides null, false, 0 and nothing, at which a refused key changes nothing."""

    @model_validator(mode="before")
    @classmethod
    def _sort_out(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        kept = {}
        for key, value in data.items():
            name = cls.aliases.get(key, key)
            if name in cls.refused:
                if not _is_off(value) and value != cls.harmless.get(name):
                    raise ValueError(f"'{key}' is not supported; {cls.refused[name]}")
            elif name not in cls.ignored:
                if name in kept:
                    raise ValueError(f"'{key}' and '{name}' are the same key; give one of them")
                kept[name] = value
        return kept

    @classmethod
    def ignored_notes(cls, data: Any, where: str) -> list[str]:
        """What to tell about the ignored keys of `data`, a section `where` ('': the whole)."""
        if not isinstance(data, Mapping):
            return []
        given = [key for key, value in data.items() if key in cls.ignored and value]
        return [f"{where}/{key} is ignored: {cls.ignored[key]}".lstrip("/") for key in given]


def _is_off(value: Any) -> bool:
    """Whether a value says that something is not wanted, a section by its `enable`."""
    return not value or (isinstance(value, Mapping) and value.get("enable") is False)


S = TypeVar("S", bound=Section)


def is_input(path: object) -> TypeGuard[str | Path]:
    """Whether `path` is called as an input file is: .json, .yaml or .yml."""
    return isinstance(path, (str, Path)) and Path(path).suffix in (".json", ".yaml", ".yml")


def read_mapping(path: str | Path) -> dict[str, Any]:
    """The mapping in a JSON or YAML file (by content: YAML is a superset of JSON).

    Raises InputError if the file is missing, is not valid, gives a key twice, or does not hold a
    mapping.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows write a BOM
    except OSError as e:
        raise InputError(f"{path}: cannot be read: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file; expected JSON or YAML") from None
    try:
        if path.suffix == ".json":
            data = json.loads(text, object_pairs_hook=_each_once)
        else:
            data = yaml.load(text, Loader=_EachOnce)  # a safe one
    except _GivenTwice as e:
        raise InputError(f"{path}: {e}") from None
    except json.JSONDecodeError as e:
        raise InputError(f"{path}: line {e.lineno}: not valid JSON: {e.msg}") from None
    except (yaml.YAMLError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        problem = getattr(e, "problem", None) or "nested too deeply"
        raise InputError(f"{path}: {line}not valid YAML: {problem}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


_OF_YAML_1_2 = {
    "bool": ("tTfF", "true|True|TRUE|false|False|FALSE"),
    "int": ("-+0123456789", "[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F]+)"),
    "float": (
        "-+.0123456789",
        r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
}
"""Kind of a plain word → its first letters, and what is one."""


class _GivenTwice(Exception):
    """A key that a mapping has twice, of which one would be lost."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found and not key.startswith("_comment"):
            raise _GivenTwice(f"key '{key}' is given twice; leave one of them")
        found[key] = value
    return found


class _EachOnce(yaml.SafeLoader):
    """YAML as `yaml.safe_load` reads it, without mappings that have a key twice.

    Plain words mean what they do in YAML 1.2: `off` is a word, 1e4 a number, 1:30 no number.
    """

    yaml_implicit_resolvers = {
        first: [(tag, words) for tag, words in known if tag.split(":")[-1] not in _OF_YAML_1_2]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found = set()
        for key, _ in node.value:
            # a merge (<<) gives keys to be replaced; it may come more than once
            if not isinstance(key, yaml.ScalarNode) or key.value.startswith(("_comment", "<<")):
                continue
            if key.value in found:
                line = key.start_mark.line + 1
                raise _GivenTwice(
                    f"line {line}: key '{key.value}' is given twice; leave one of them"
                )
            found.add(key.value)
        return node


for _kind, (_first, _words) in _OF_YAML_1_2.items():
    _EachOnce.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_words})$"), list(_first)
    )


def parse(section: type[S], data: Mapping[str, Any], where: str) -> S:
    """Validate `data` as `section`; keys that start with `_comment` are dropped at every level.

    Raises InputError with one line for each problem, naming `where` and the key.
    """
    try:
        return section.model_validate(_without_comments(data))
    except ValidationError as e:
        problems = [_sentence(section, err) for err in e.errors(include_url=False)]
        raise InputError(f"{where}: {'; '.join(_once(problems))}") from None


def _once(problems: list[str]) -> list[str]:
    """Each problem once, and with the first of several the keys that are known."""
    told: set[str] = set()
    kept = []
    for problem in dict.fromkeys(problems):
        said, mark, keys = problem.partition("; known keys: ")
        kept.append(said if keys in told else said + mark + keys)
        told.add(keys)
    return kept


def located(path: str, folder: Path | None, where: str) -> str:
    """`path` (a file, a folder, a glob pattern or `FILE#/inside`) where it leads somewhere.

    Relative paths are looked up in the working directory, then in `folder`, that of the input
    file. Raises InputError, naming `where`, if nothing is there.
    """
    candidates = [Path(path).expanduser()]
    if folder is not None and not candidates[0].is_absolute():
        candidates.append(folder / path)
    for candidate in candidates:
        file, inside, _ = str(candidate).partition("#")
        if candidate.exists() or glob.glob(str(candidate)) or (inside and Path(file).is_file()):
            return str(candidate)
    looked = " or ".join(dict.fromkeys(str(c.parent.resolve()) for c in candidates))
    raise InputError(f"{where}: nothing at '{path}' (looked in {looked}); correct the path")


def _without_comments(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {
            k: _without_comments(v)
            for k, v in data.items()
            if not (isinstance(k, str) and k.startswith("_comment"))
        }
    if isinstance(data, list):
        return [_without_comments(v) for v in data]
    return data


def _sentence(section: type[Section], err: Any) -> str:
    loc = [str(p) for p in err["loc"] if not str(p).startswith("<")]  # tags of unions
    key = "/".join(loc)
    if err["type"] == "extra_forbidden":
        return unknown_key(key, _known_keys(section, loc[:-1]))
    if err["type"] == "missing":
        return f"key '{key}' is missing"
    message = err["msg"].removeprefix("Value error, ")
    found = err.get("input")
    told = isinstance(found, dict) or message.endswith(f"found {found!r}")
    shown = "" if told else f", found {found!r}"
    return f"key '{key}': {message}{shown}" if key else f"{message}"


def unknown_key(key: str, known: Collection[str]) -> str:
    """The sentence on a key 'section/key' that is none of those `known` there."""
    close = difflib.get_close_matches(key.rpartition("/")[2], known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key '{key}'; {hint}"


def _known_keys(section: type[Section], path: list[str]) -> set[str]:
    """Keys known at `path`; a step that is not a field (a union's tag, a list index) is skipped."""
    current: list[type[BaseModel]] = [section]
    for step in path:
        following: list[type[BaseModel]] = []
        for model in current:
            field = model.model_fields.get(step) or next(
                (f for f in model.model_fields.values() if f.alias == step), None
            )
            if field is not None:
                following += _sections_in(field.annotation)
        if not following:  # a tag such as 'se_e2_a': keep those models that carry it
            tagged = [m for m in current if step in repr(m.model_fields.get("type"))]
            following = tagged or current
        current = following
    return {f.alias or name for m in current for name, f in m.model_fields.items()}


def _sections_in(annotation: Any) -> list[type[BaseModel]]:
    # list[X] is an instance of type, but no class, in Python 3.10
    if get_origin(annotation) is None and isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    found: list[type[BaseModel]] = []
    for arg in get_args(annotation):
        found += _sections_in(arg)
    return found
