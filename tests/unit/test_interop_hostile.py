"""Damaged, foreign and malicious files: one line each, nothing executed, nothing huge."""

import copy
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_files import read, unpacked
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmd_lite.interop import graph as graph_module
from deepmd_lite.interop import potential_from_tree
from deepmd_lite.interop.pickled import _CALLS, ArchiveError
from deepmd_lite.interop.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    WireError,
    fields,
    graph_nodes,
)
from deepmd_lite.system import ModelFileError

MUTATIONS = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    names = ("one_sided_compressed.pb", "two_sided.pb", "two_sided.pth", "two_sided.pt")
    return {name: unpacked(name, folder).read_bytes() for name in names}


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        read(path)
    return one_line(caught.value, path)


def one_line(error: Exception, path: Path) -> str:
    text = str(error)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert len(text) < 500
    return text


def accepted_or_refused(path: Path) -> None:
    try:
        potential_from_tree(read(path), str(path))
    except ModelFileError as error:
        one_line(error, path)


# --- protobuf -------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def field(number: int, wire: int, content: int | bytes) -> bytes:
    key = varint(number << 3 | wire)
    if wire == VARINT:
        return key + varint(content)
    return key + (varint(len(content)) if wire == BYTES else b"") + content


def node(name: str, op: str, **attributes: bytes) -> bytes:
    encoded = field(1, BYTES, name.encode()) + field(2, BYTES, op.encode())
    for key, value in attributes.items():
        entry = field(1, BYTES, key.encode()) + field(2, BYTES, value)
        encoded += field(5, BYTES, entry)
    return field(1, BYTES, encoded)


def constant(shape: list[int], dtype: int, *values: bytes) -> bytes:
    dimensions = b"".join(field(2, BYTES, field(1, VARINT, n)) for n in shape)
    tensor = field(1, VARINT, dtype) + field(2, BYTES, dimensions) + b"".join(values)
    return node("c", "Const", value=field(8, BYTES, tensor))


def value_of(encoded: bytes):
    return graph_nodes(memoryview(encoded))["c"].tensor()


values = st.one_of(
    st.tuples(st.just(VARINT), st.integers(0, 2**64 - 1)),
    st.tuples(st.just(FIXED64), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(FIXED32), st.binary(min_size=4, max_size=4)),
    st.tuples(st.just(BYTES), st.binary(max_size=300)),
)


@given(st.lists(st.tuples(st.integers(1, 2**29 - 1), values)))
def test_fields_are_what_was_written(message):
    encoded = b"".join(field(number, *value) for number, value in message)
    found = [(n, (wire, v)) for n, wire, v in fields(memoryview(encoded))]
    assert found == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        graph_nodes(memoryview(data))
    except WireError:
        pass
    else:
        pytest.fail("no random bytes are a graph")


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i4", "<i8", "?"])
def test_tensors_raw_listed_packed_and_filled(dtype):
    number, key = {
        "<f4": (1, 5),
        "<f8": (2, 6),
        "<i4": (3, 7),
        "<i8": (9, 10),
        "?": (10, 11),
    }[dtype]
    expected = np.array([[1, 0, 1], [0, 1, 1]], dtype)
    flat = expected.ravel()
    if expected.dtype.kind == "f":
        wire = FIXED32 if dtype == "<f4" else FIXED64
        listed = [field(key, wire, x.tobytes()) for x in flat]
        packed = field(key, BYTES, flat.tobytes())
    else:
        listed = [field(key, VARINT, int(x)) for x in flat]
        packed = field(key, BYTES, b"".join(varint(int(x)) for x in flat))
    raw = field(4, BYTES, flat.tobytes())
    for encoding in ([raw], listed, [packed], listed[:5]):  # the last value is repeated
        found = value_of(constant([2, 3], number, *encoding))
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_negative_integer():
    encoded = constant([], 3, field(7, VARINT, 2**64 - 5))
    assert value_of(encoded) == -5


@pytest.mark.parametrize(
    ("encoded", "sentence"),
    [
        (constant([1 << 40], 2, field(6, FIXED64, struct.pack("<d", 1.0))), "1 values for shape"),
        (constant([2**63, 2**63], 2), "dimension -"),
        (constant([1 << 62] * 8, 2, field(4, BYTES, b"12345678")), "8 bytes for shape"),
        (constant([2], 2, field(4, BYTES, bytes(24))), "24 bytes for shape"),
        (constant([1], 2, *[field(6, FIXED64, bytes(8))] * 3), "3 values for shape"),
        (constant([1], 8), "tensors of type 8"),
        (constant([1], 2, field(6, FIXED32, bytes(4))), "wire type 5"),
        (node("c", "Const"), "no attribute 'value'"),
    ],
)
def test_tensors_that_are_none(encoded, sentence):
    with pytest.raises(WireError, match=sentence):
        value_of(encoded)


def test_a_graph_of_something_else(tmp_path):
    path = tmp_path / "classifier.pb"
    path.write_bytes(node("input", "Placeholder") + constant([1], 1) + node("softmax", "Softmax"))
    assert "not a model of DeePMD-kit" in refused(path)


def test_constants_that_refer_to_themselves(tmp_path, originals):
    """Names that the reader asks for, as a ring of identities."""
    ring = field(3, BYTES, b"descrpt_attr/rcut")
    text = field(1, VARINT, 7) + field(8, BYTES, b"O H")
    path = tmp_path / "ring.pb"
    path.write_bytes(
        node("model_attr/tmap", "Const", value=field(8, BYTES, text))
        + field(
            1, BYTES, field(1, BYTES, b"descrpt_attr/rcut") + field(2, BYTES, b"Identity") + ring
        )
        + field(
            1,
            BYTES,
            field(1, BYTES, b"train_attr/training_script")
            + field(2, BYTES, b"Identity")
            + field(3, BYTES, b"train_attr/training_script"),
        )
    )
    assert "not a constant" in refused(path)


# --- archives -------------------------------------------------------------------------------


def archive(path: Path, pickled: bytes, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("m/data.pkl", pickled)
        for name, content in members.items():
            made.writestr(f"m/{name}", content)
    return path


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_nothing_is_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Evil()}, "evil.pt")
    assert "mkdir" in refused(tmp_path / "evil.pt")
    for name, pickled in (
        ("zip.pth", pickle.dumps(Evil(), 2)),
        ("new.pth", pickle.dumps(Evil(), 4)),
    ):
        refused(archive(tmp_path / name, pickled))
    assert not Path("executed").exists()
    Path("plain.pt").write_bytes(pickle.dumps(Evil()))
    assert "not a zip archive" in refused(tmp_path / "plain.pt")


@pytest.mark.parametrize(
    ("pickled", "sentence"),
    [
        (b"\x80\x02}r\xff\xff\xff\x7f.", "checkpoint of PyTorch, but not"),
        (b"\x80\x02(" + b"(" * 100 + b"t" * 50 + b".", "a checkpoint|damaged"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00(tR.", "damaged"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "damaged"),
        (b"\x80\x02\x8a\xff" + bytes(254) + b"\x7f.", "checkpoint of PyTorch, but not"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "damaged"),
        (b"\x80\x02]q\x00h\x00a.", "checkpoint of PyTorch, but not"),
        (b"", "damaged"),
        (b"\x80\x02}(X\x05\x00\x00\x00modelq\x00", "damaged"),
    ],
)
def test_pickles_that_are_none(pickled, sentence, tmp_path):
    with pytest.raises(ModelFileError, match=sentence):
        read(archive(tmp_path / "m.pt", pickled))


def test_laughing_pickles_end(tmp_path):
    """Tuples of tuples, each twice the one before: as keys they would be hashed for ever."""
    doubled = b"".join(
        b"h" + bytes([k]) + b"h" + bytes([k]) + b"\x86q" + bytes([k + 1]) for k in range(60)
    )
    pickled = b"\x80\x02)q\x00" + doubled + b"}h\x3ch\x3cs."
    assert "not one of names" in refused(archive(tmp_path / "m.pt", pickled))
    pickled = b"\x80\x02)q\x00" + doubled + b"h\x3cQ."
    assert "not a storage" in refused(archive(tmp_path / "n.pt", pickled))


def test_tensors_that_repeat_a_value_fill_no_memory(monkeypatch):
    monkeypatch.setattr(graph_module, "FILLED", 1000)
    graph = graph_module.Graph(graph_nodes(memoryview(constant([100], 1))), 10)
    for _ in range(2):
        assert graph.constant("c").nbytes == 400
    with pytest.raises(graph_module.PartsError, match="repeat their values"):
        graph.constant("c")


def test_ordered_dictionaries_have_names_for_keys(tmp_path):
    """A key of nested tuples would take forever to hash."""
    key = ()
    for _ in range(60):
        key = (key, key)
    for items, taken in (([("a", 1)], True), ([(key, 1)], False), ([1], False)):
        if taken:
            assert _CALLS["collections OrderedDict"](items) == {"a": 1}
        else:
            with pytest.raises(ArchiveError):
                _CALLS["collections OrderedDict"](items)


def test_a_tensor_that_repeats_a_number_is_refused():
    with pytest.raises(ArchiveError, match="repeats"):
        _CALLS["torch._utils _rebuild_tensor_v2"](np.zeros(4), 0, (3,), (0,))


def test_packed_members_are_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("m/data.pkl", bytes(50_000_000))
    assert "not stored as PyTorch" in refused(tmp_path / "bomb.pt")


def test_foreign_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "zip.pth", "w") as made:
        made.writestr("notes.txt", "nothing")
    assert "data.pkl" in refused(tmp_path / "zip.pth")
    torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "weights.pt")
    assert "not of a training of DeePMD-kit" in refused(tmp_path / "weights.pt")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "linear.pth")
    assert "not a model of DeePMD-kit" in refused(tmp_path / "linear.pth")
    onnx = field(1, VARINT, 8) + field(2, BYTES, b"pytorch") + field(7, BYTES, b"graph" * 20)
    renamed = Path(__file__).parents[1] / "golden" / "one_sided.dp"
    for content in (onnx, renamed.read_bytes(), b"", b"\x00" * 64, os.urandom(500)):
        for suffix in (".pb", ".pth", ".pt"):
            (tmp_path / f"foreign{suffix}").write_bytes(content)
            assert "not a " in refused(tmp_path / f"foreign{suffix}")
    for suffix in (".pb", ".pth"):
        assert "cannot be read" in refused(tmp_path / f"absent{suffix}")


# --- damage ---------------------------------------------------------------------------------


@MUTATIONS
@given(data=st.data())
@pytest.mark.parametrize("name", ["two_sided.pb", "one_sided_compressed.pb", "two_sided.pth"])
def test_truncated_files(name, data, originals, tmp_path):
    whole = originals[name]
    path = tmp_path / f"cut{Path(name).suffix}"
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    accepted_or_refused(path)  # a graph may lose its last nodes, which only compute forces


@MUTATIONS
@given(data=st.data())
@pytest.mark.parametrize("name", ["two_sided.pb", "one_sided_compressed.pb", "two_sided.pt"])
def test_changed_bytes(name, data, originals, tmp_path):
    content = bytearray(originals[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"changed{Path(name).suffix}"
    path.write_bytes(content)
    accepted_or_refused(path)


@MUTATIONS
@given(data=st.data())
@pytest.mark.parametrize("name", ["two_sided.pt", "two_sided.pth"])
def test_changed_pickles(name, data, originals, tmp_path):
    """As `test_changed_bytes`, where no checksum of the archive tells."""
    path = tmp_path / f"changed{Path(name).suffix}"
    with zipfile.ZipFile(io.BytesIO(originals[name])) as found, zipfile.ZipFile(path, "w") as made:
        for member in found.infolist():
            content = bytearray(found.read(member))
            if member.filename.endswith("/data.pkl"):
                for _ in range(data.draw(st.integers(1, 3))):
                    k = data.draw(st.integers(0, len(content) - 1))
                    content[k] = data.draw(st.integers(0, 255))
            if "/code/" not in member.filename:
                made.writestr(member.filename, bytes(content))
    accepted_or_refused(path)


# --- training scripts -----------------------------------------------------------------------

strange = st.sampled_from(
    [None, True, -1, 0, 10**30, 1.5, float("nan"), "x", "", [], [0], [[0, 1]], {}, {"a": 1}, [None]]
)


def places(value, path=()):
    """Paths to every value inside mappings and lists."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


@MUTATIONS
@given(data=st.data())
def test_changed_training_scripts(data, originals, tmp_path):
    """A checkpoint whose `model` section has some value of another kind."""
    state = torch.load(io.BytesIO(originals["two_sided.pt"]), weights_only=True)
    section = state["model"]["_extra_state"]["model_params"]
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(section))))
        target = section
        for key in parents:
            target = target[key]
        target[last] = copy.deepcopy(data.draw(strange))
    torch.save(state, tmp_path / "changed.pt")
    accepted_or_refused(tmp_path / "changed.pt")


def test_a_training_script_that_holds_itself(originals, tmp_path):
    state = torch.load(io.BytesIO(originals["two_sided.pt"]), weights_only=True)
    section = state["model"]["_extra_state"]["model_params"]
    section["info"] = {"again": section}
    torch.save(state, tmp_path / "ring.pt")
    assert "larger than any" in refused(tmp_path / "ring.pt")
