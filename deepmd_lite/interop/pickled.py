"""Archives of `torch.save` and `torch.jit.save`, read as plain data.

Both are zip files whose `data.pkl` describes objects and whose `data/N` hold the arrays. The
pickle is interpreted here, opcode by opcode, with the few constructors that weights need: nothing
in it can import, call or execute anything, and the TorchScript code beside it is not touched.
(Loading with `torch.jit.load` would run the code of `__setstate__` methods.)
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MOST_PICKLED = 1 << 25
"""Bytes of `data.pkl`; that of a model with 100 elements and a network for each pair has less."""

_STORAGE: dict[str, np.dtype] = {
    "torch DoubleStorage": np.dtype("<f8"),
    "torch FloatStorage": np.dtype("<f4"),
    "torch HalfStorage": np.dtype("<f2"),
    "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"),
    "torch ShortStorage": np.dtype("<i2"),
    "torch CharStorage": np.dtype("i1"),
    "torch ByteStorage": np.dtype("u1"),
    "torch BoolStorage": np.dtype("?"),
}


class ArchiveError(ValueError):
    """An archive that is damaged or holds what a model does not need."""


@dataclass
class Module:
    """An object of a TorchScript class: its attributes."""

    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names; it is never imported."""

    name: str


class Archive:
    """The zip file. Every method raises ArchiveError; so does the constructor.

    PyTorch packs nothing that is read here, so no more is ever read than the file is long.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
            self.members = {m.filename: m for m in self.zip.infolist()}
            self.left = path.stat().st_size
        except Exception as e:  # beyond BadZipFile: whatever damaged directories lead to
            raise ArchiveError(f"not a zip archive ({e})") from None
        roots = [name.removesuffix("data.pkl") for name in self.members if _is_data(name)]
        if len(roots) != 1:
            self.zip.close()
            raise ArchiveError("a zip archive without the 'data.pkl' of PyTorch")
        self.root = roots[0]

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def __contains__(self, name: str) -> bool:
        return self.root + name in self.members

    def read(self, name: str) -> bytes:
        """The content of a member, below the archive's own folder."""
        member = self.members.get(self.root + name)
        if member is None:
            raise ArchiveError(f"'{name}' is missing")
        self.left -= member.file_size
        if member.compress_type != zipfile.ZIP_STORED or self.left < 0:
            raise ArchiveError(f"'{name}' is not stored as PyTorch does it")
        try:
            return self.zip.read(member)
        except Exception as e:
            raise ArchiveError(f"'{name}' cannot be read: {e}") from None

    def unpickled(self) -> Any:
        """What `data.pkl` describes: dicts, lists, tuples, numbers, arrays and `Module`s."""
        order = self.read("byteorder") if "byteorder" in self else b"little"
        if order != b"little":
            raise ArchiveError(f"byte order {order[:20]!r} is not supported")
        pickled = self.read("data.pkl")
        if len(pickled) > MOST_PICKLED:
            raise ArchiveError(
                f"'data.pkl' has {len(pickled)} bytes, a model at most {MOST_PICKLED}"
            )
        return _Machine(self).run(pickled)

    def storage(self, kind: str, key: str, length: int) -> np.ndarray:
        """The flat array `data/KEY`."""
        if kind not in _STORAGE:
            raise ArchiveError(f"arrays of type '{kind}' are not supported")
        content = self.read(f"data/{key}")
        if len(content) != length * _STORAGE[kind].itemsize:
            raise ArchiveError(f"'data/{key}' has {len(content)} bytes for {length} numbers")
        return np.frombuffer(content, _STORAGE[kind])


def _is_data(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> np.ndarray:
    if not isinstance(storage, np.ndarray):
        raise ArchiveError("a tensor without storage")
    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or not all(type(n) is int and n >= 0 for n in numbers):
        raise ArchiveError("a tensor whose shape is not one")
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count > len(storage) or (count > 0 and last >= len(storage)):
        raise ArchiveError(f"a tensor of {count} numbers in a storage of {len(storage)}")
    if count == 0:
        return np.empty(size, storage.dtype)
    if 0 in (step for n, step in zip(size, stride, strict=True) if n > 1):
        raise ArchiveError("a tensor that repeats its numbers")
    width = storage.dtype.itemsize
    strides = tuple(step * width for step in stride)
    view = np.lib.stride_tricks.as_strided(storage[offset:], size, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(size)


_CALLS: dict[str, Callable[..., Any]] = {
    "collections OrderedDict": lambda items=(): _mapping(items),
    "torch._utils _rebuild_tensor_v2": _tensor,
    "torch._utils _rebuild_parameter": lambda data, *_: data,
    "torch.jit._pickle restore_type_tag": lambda value, _: value,
    "torch.jit._pickle build_intlist": lambda value: value,
    "torch.jit._pickle build_doublelist": lambda value: value,
    "torch.jit._pickle build_boollist": lambda value: value,
    "torch.jit._pickle build_tensorlist": lambda value: value,
    "torch Size": tuple,
    "torch device": lambda *_: None,
}
_SCRIPT = "__torch__."


class _Machine:
    """The stack machine of pickle, without the means to do harm."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, np.ndarray] = {}

    def run(self, data: bytes) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(data):
                if opcode.name == "STOP":
                    break
                self._step(opcode.name, argument)
            return self.stack.pop()
        except ArchiveError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, AssertionError) as e:
            raise ArchiveError(f"'data.pkl' is damaged: {e}") from None

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "GLOBAL":
            stack.append(_known(argument))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, made = stack.pop(), stack.pop()
            stack.append(_called(made, arguments))
        elif name in _ACTIONS:
            _ACTIONS[name](self)
        elif name not in ("PROTO", "FRAME"):
            raise ArchiveError(f"'data.pkl' needs the operation {name}, which a model does not")

    def since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def make_tuple(self) -> None:
        self.stack.append(tuple(self.since_mark()))

    def persistent(self) -> None:
        match self.stack.pop():
            case ("storage", _Global(name=kind), str(key), str(), int(length)):
                if key not in self.storages:
                    self.storages[key] = self.archive.storage(kind, key, length)
                self.stack.append(self.storages[key])
            case _:
                raise ArchiveError("'data.pkl' refers to what is not a storage")

    def set_items(self) -> None:
        items = self.since_mark()
        _dictionary(self.stack[-1]).update(_pairs(items))

    def set_item(self) -> None:
        items = [self.stack.pop(-2), self.stack.pop()]
        _dictionary(self.stack[-1]).update(_pairs(items))

    def append(self) -> None:
        value = self.stack.pop()
        _list(self.stack[-1]).append(value)

    def appends(self) -> None:
        items = self.since_mark()
        _list(self.stack[-1]).extend(items)

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Module):
            target.attributes.update(_dictionary(state))
        elif not isinstance(target, dict):  # an OrderedDict's own attributes: nothing of a model
            raise ArchiveError("'data.pkl' gives a state to an object that has none")


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE"),
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES"),
}
_ACTIONS: dict[str, Callable[[_Machine], None]] = {
    "TUPLE": _Machine.make_tuple,
    "BINPERSID": _Machine.persistent,
    "SETITEMS": _Machine.set_items,
    "SETITEM": _Machine.set_item,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "BUILD": _Machine.build,
}


def _known(name: str) -> _Global:
    if name in _CALLS or name in _STORAGE or name.startswith(_SCRIPT):
        return _Global(name)
    raise ArchiveError(f"it holds an object of '{name.replace(' ', '.')}', which a model does not")


def _called(made: Any, arguments: Any) -> Any:
    if not isinstance(made, _Global) or not isinstance(arguments, tuple):
        raise ArchiveError("'data.pkl' calls what is not a class")
    if made.name.startswith(_SCRIPT):
        return Module()
    if made.name not in _CALLS:
        raise ArchiveError(f"'data.pkl' calls '{made.name}'")
    return _CALLS[made.name](*arguments)


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise ArchiveError("'data.pkl' sets items of what is not a mapping")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ArchiveError("'data.pkl' appends to what is not a list")
    return value


def _mapping(items: Any) -> dict[Any, Any]:
    """What OrderedDict makes of a list of pairs."""
    if not isinstance(items, (list, tuple)) or not all(
        isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in items
    ):
        raise ArchiveError("'data.pkl' has a mapping that is not one of names")
    return dict(_pairs([part for pair in items for part in pair]))


def _pairs(items: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Keys and values; keys are names and numbers, as nested ones could take forever to hash."""
    if len(items) % 2 or not all(isinstance(key, (str, int)) for key in items[::2]):
        raise ArchiveError("'data.pkl' has a mapping that is not one of names")
    return zip(items[::2], items[1::2], strict=True)
