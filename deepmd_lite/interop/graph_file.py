"""Frozen graphs of TensorFlow (`.pb`), as DeePMD-kit 2.0 to 3.2 write them, plain and compressed.

Weights are constants with the names of the variables that training had; the training script is a
constant as well. Numbers that the graph computes with come before those that the script mentions:
its cutoffs are attributes of an operation, and rounded to float32 there.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..model.type_embedding_config import DPA1
from ..system import ModelFileError
from . import nodes
from .assembly import DescriptorParts, Layer, Parts, assembled, one_sided_input
from .graph import Graph
from .graph_types import TABLE, check_vectors, factors_of_pairs, fading
from .nodes import HYBRID, RADIAL, Tree
from .protobuf import Node, WireError, graph_nodes
from .sections import PartsError, brief, check_supported, count_of_fparam, section_of
from .table_parts import TableParts

LARGEST = 1 << 31
"""Bytes: protobuf itself allows no larger message."""


def read_graph(path: str | Path) -> Tree:
    """The tree of DeePMD-kit's `.dp` for the frozen graph in `path`.

    Its `training_script` is the whole input of the training, as far as the graph has it. The
    embedding of a compressed model is a `TabulatedEmbedding` (see `nodes`). Raises
    ModelFileError for a file that is missing, damaged, not a graph of DeePMD-kit, or of a model
    that is not supported.
    """
    path = Path(path)
    try:
        if path.stat().st_size > LARGEST:
            raise ModelFileError(f"{path}: more than 2 GiB, which no frozen graph has")
        data = path.read_bytes()
    except OSError as e:
        raise ModelFileError(f"{path}: cannot be read: {e.strerror or e}") from None
    try:
        graph = Graph(graph_nodes(memoryview(data)), len(data))
    except WireError as e:
        raise ModelFileError(
            f"{path}: not a frozen graph of TensorFlow ({len(data)} bytes): {brief(e)}; "
            "copy it again from where it was written"
        ) from None
    try:
        parts, script = _parts(graph)
        return {"backend": "TensorFlow", **assembled(parts), "training_script": script}
    except (WireError, PartsError) as e:
        raise ModelFileError(f"{path}: {brief(e)}") from None


def _parts(graph: Graph) -> tuple[Parts, Tree]:
    """What the graph holds, and its training script."""
    if "model_attr/tmap" not in graph or "descrpt_attr/rcut" not in graph:
        raise PartsError(
            "a graph of TensorFlow, but not a model of DeePMD-kit (no 'descrpt_attr/rcut')"
        )
    kind = graph.text("model_attr/model_type") if "model_attr/model_type" in graph else "ener"
    if kind != "ener":
        raise PartsError(f"a model of type '{kind}' is not supported; only energies ('ener')")
    script = _script(graph)
    section = section_of(script.get("model", {}))
    sections, _ = check_supported(section)
    type_map = graph.text("model_attr/tmap").split()
    vectors = _type_vectors(graph)
    hybrid = section["descriptor"].get("type") == HYBRID
    places = [f"_{k}" for k in range(len(sections))] if hybrid else [""]
    descriptors = [
        _descriptor(graph, own, place, len(type_map), vectors)
        for own, place in zip(sections, places, strict=True)
    ]
    suffixes = [""] if vectors else [f"_type_{a}" for a in range(len(type_map))]
    fittings = [_fitting(graph, suffix) for suffix in suffixes]
    parts = Parts(
        section=section,
        type_map=type_map,
        descriptors=descriptors,
        type_vectors=vectors,
        concatenated=sections[0].get("concat_output_tebd", True) is True,
        fparam_scales=_fparam_scales(graph, count_of_fparam(section)),
        fittings=fittings,
        fitting_residual=_fitting_residual(fittings[0]),
        bias_atom_e=_bias(graph, len(type_map)),
        out_bias=_out_statistics(graph, "t_out_bias", len(type_map), 0.0),
        out_std=_out_statistics(graph, "t_out_std", len(type_map), 1.0),
        min_nbor_dist=_min_distance(graph),
        short_range=_short_range(graph, section, _bias(graph, len(type_map))),
    )
    return parts, script


def _script(graph: Graph) -> Tree:
    if "train_attr/training_script" not in graph:
        raise PartsError(
            "the graph lacks its training script ('train_attr/training_script'), as before "
            "DeePMD-kit 2.0; convert it with `dp convert-from` and freeze it with a newer release"
        )
    script = section_of(graph.text("train_attr/training_script"))
    training = script.get("training")
    if isinstance(training, dict) and training.get("mixed_precision"):
        raise PartsError("training/mixed_precision is not supported")
    return script


# --- descriptors ----------------------------------------------------------------------------


def _descriptor(
    graph: Graph, section: Tree, place: str, n_types: int, vectors: list[Layer] | None
) -> DescriptorParts:
    """`place`: what scopes of the descriptor end with, '' for the only one."""
    radial, is_dpa1 = section.get("type") in RADIAL, section.get("type") in DPA1
    operation = "ProdEnvMatAMix" if is_dpa1 else "ProdEnvMatR" if radial else "ProdEnvMatA"
    mean = f"descrpt_attr{place}/t_avg"
    environment = [
        node
        for node in graph.of(operation, "DescrptSeR" if radial else "DescrptSeA")
        if not place or any(name.startswith(mean) for name in node.inputs)
    ]
    if len(environment) != 1 or not n_types:
        raise PartsError(f"expected one operation '{operation}', found {len(environment)}")
    n_sel = 1 if is_dpa1 else n_types
    sel, davg, dstd = _scales(graph, n_types, environment[0], n_sel, radial, f"descrpt_attr{place}")
    tables = _compressed(graph, section, n_types, place)

    def networks(scope: str, seen: list[int]) -> list[list[Layer]]:
        return [_network(graph, scope, f"_{b}", 1) for b in seen]

    factors = rows = None
    if is_dpa1:
        check_vectors(graph)
        if tables:
            rows = factors_of_pairs(graph, n_types, fading(section) is not None)
        elif f"filter_type_all/matrix_1{_OF_PAIRS}" in graph:
            factors = _network(graph, "filter_type_all", _OF_PAIRS, -1)
    embeddings: list[list[Layer] | None] = []
    one_side = False
    if vectors and not tables:
        shared = _network(graph, "filter_type_all", "", -1)
        embeddings = [shared]
        one_side = one_sided_input(factors or shared, vectors, scalars=0 if factors else 1)
    elif not tables:
        embeddings = _in_order(graph, section, n_types, place, networks)
    return DescriptorParts(
        section=section,
        rcut=environment[0].number("rcut" if radial else "rcut_r"),
        rcut_smth=environment[0].number("rcut_smth" if radial else "rcut_r_smth"),
        sel=sel,
        davg=davg,
        dstd=dstd,
        one_side=one_side if vectors else _one_side(graph, place),
        embeddings=embeddings,
        tables=tables,
        type_factors=factors,
        factor_rows=rows,
        fading=fading(section) if is_dpa1 else None,
    )


def _scales(
    graph: Graph, n_types: int, environment: Node, n_sel: int, radial: bool, scope: str
) -> tuple[list[int], np.ndarray, np.ndarray]:
    """sel, and davg and dstd (n_types, N_sel, 4), or 1 in the place of 4.

    A model whose sel was changed after training divides by the sum of the original one.
    """
    sel, columns = environment.integers("sel" if radial else "sel_a"), 1 if radial else 4
    if len(sel) != n_sel or min(sel) < 0 or sum(sel) < 1:
        raise PartsError(f"sel {sel} for {n_types} types")
    shape = (n_types, columns * sum(sel))
    davg, dstd = (
        graph.array(f"{scope}/{name}", shape).reshape(n_types, -1, columns)
        for name in ("t_avg", "t_std")
    )
    original = sel
    if f"{scope}/original_sel" in graph:
        original = graph.integers(f"{scope}/original_sel")
    if original != sel:
        if davg.any() or len(original) != n_sel or not 0 < sum(original) < 1 << 14:
            raise PartsError(f"sel was changed from {original} to {sel} with davg that is not 0")
        davg, dstd = (np.repeat(x[:, :1], sum(original), axis=1) for x in (davg, dstd))
    return original, davg, dstd


def _bias(graph: Graph, n_types: int) -> np.ndarray:
    """Energies of the types; where there are none, the output layers have them in their biases."""
    if "fitting_attr/t_bias_atom_e" not in graph:
        return np.zeros(n_types)
    return graph.array("fitting_attr/t_bias_atom_e", (n_types,))


def _out_statistics(graph: Graph, name: str, n_types: int, default: float) -> np.ndarray:
    for scope in ("model_attr/model_attr/", "model_attr/"):
        if scope + name in graph:
            return graph.array(scope + name, (1, n_types, 1))
    return np.full((1, n_types, 1), default)


def _short_range(graph: Graph, section: Tree, bias: np.ndarray) -> TableParts | None:
    """The table and radii of a model with `use_srtab`; `bias` (n_types,) eV of the networks."""
    found = graph.of("SoftMinSwitch")
    if not found:
        return None
    if section["descriptor"].get("type") in DPA1 and len(bias) > 1:
        raise PartsError(
            "model/use_srtab: DeePMD-kit's TensorFlow looks every neighbour up in the table as the "
            "first element where the descriptor is se_atten; train with PyTorch or se_e2_a"
        )
    zero = np.zeros((1, len(bias), 1))
    added = section.get("srtab_add_bias", True)
    return TableParts(
        info=graph.array("model_attr/t_tab_info", (4,)),
        data=graph.array("model_attr/t_tab_data", (-1,)),
        smin_alpha=found[0].number("alpha"),
        sw_rmin=found[0].number("rmin"),
        sw_rmax=found[0].number("rmax"),
        bias=bias.reshape(zero.shape) if added else zero,
        shared_bias=zero,
    )


def _fparam_scales(graph: Graph, count: int) -> tuple[np.ndarray, np.ndarray] | None:
    if not count:
        return None
    average, inverse = (
        graph.array(f"fitting_attr/t_fparam_{name}", (count,)) for name in ("avg", "istd")
    )
    return average, inverse


def _min_distance(graph: Graph) -> float | None:
    if "train_attr/min_nbor_dist" not in graph:
        return None
    return float(graph.array("train_attr/min_nbor_dist", ()))


# --- networks -------------------------------------------------------------------------------

E = TypeVar("E")


def _one_side(graph: Graph, place: str) -> bool:
    return any(name.startswith(f"filter_type_all{place}/") for name in graph.nodes)


def _in_order(
    graph: Graph,
    section: Tree,
    n_types: int,
    place: str,
    of: Callable[[str, list[int]], list[E]],
) -> list[E | None]:
    """What `of` finds in each scope for the neighbour types that it lists, at their places.

    By neighbour type, or centre + neighbour · n_types; None for an excluded pair.
    """
    if _one_side(graph, place):
        return list(of(f"filter_type_all{place}", list(range(n_types))))
    excluded = _excluded(section)
    found: list[E | None] = [None] * n_types**2
    for a in range(n_types):
        seen = [b for b in range(n_types) if (a, b) not in excluded]
        for b, element in zip(seen, of(f"filter_type_{a}{place}", seen), strict=True):
            found[a + b * n_types] = element
    return found


def _excluded(section: Tree) -> set[tuple[int, int]]:
    try:
        pairs = [(int(a), int(b)) for a, b in section.get("exclude_types") or []]
    except (TypeError, ValueError):
        raise PartsError("model/descriptor/exclude_types is not a list of pairs") from None
    return {*pairs, *((b, a) for a, b in pairs)}


def _network(graph: Graph, scope: str, suffix: str, width: int) -> list[Layer]:
    """Hidden layers matrix_1, matrix_2, … of a scope; `width` of the input, or -1."""
    layers: list[Layer] = []
    while not layers or f"{scope}/matrix_{len(layers) + 1}{suffix}" in graph:
        layers.append(_layer(graph, f"{scope}/{{}}_{len(layers) + 1}{suffix}", width))
        width = layers[-1][0].shape[1]
    return layers


_OF_PAIRS = "_two_side_ebd"
"""Of the names of DPA-1's second network with `tebd_input_mode` strip."""


def _type_vectors(graph: Graph) -> list[Layer] | None:
    """The network of a type embedding, which it may do without."""
    if "type_embed_net/matrix_1" not in graph:
        return None
    return _network(graph, "type_embed_net", "", -1)


def _layer(graph: Graph, names: str, width: int) -> Layer:
    """`names` has a place for 'matrix', 'bias', 'idt'; `width` of the input, or -1."""
    w = graph.array(names.format("matrix"), (width, -1))
    n = w.shape[1]
    bias, idt = names.format("bias"), names.format("idt")
    b = graph.array(bias, (n,)) if bias in graph else None
    step = None
    if idt in graph:  # (n,) in a fitting net, (1, n) elsewhere
        fitting = "layer_" in idt
        step = graph.array(idt, (n,) if fitting else (1, n)).reshape(-1)
    return w, b, step


def _fitting(graph: Graph, suffix: str) -> list[Layer]:
    layers: list[Layer] = []
    width = -1
    while not layers or f"layer_{len(layers)}{suffix}/matrix" in graph:
        layers.append(_layer(graph, f"layer_{len(layers)}{suffix}/{{}}", width))
        width = layers[-1][0].shape[1]
    layers.append(_layer(graph, f"final_layer{suffix}/{{}}", width))
    if layers[-1][0].shape[1] != 1:
        raise PartsError(f"'final_layer{suffix}/matrix' has more than one output")
    return layers


def _fitting_residual(layers: list[Layer]) -> list[bool]:
    """Whether the graph adds its input to each hidden layer: only to one as wide as the last.

    A connection that the widths do not allow is none, so True stands for the usual rule.
    """
    found = []
    for number, (w, _, _) in enumerate(layers[:-1]):
        n_in, n_out = w.shape
        has, would = number > 0 and n_in == n_out, n_out in (n_in, 2 * n_in)
        found.append(has or not would)
    return found


# --- tables ---------------------------------------------------------------------------------


def _compressed(graph: Graph, section: Tree, n_types: int, place: str) -> list[Tree | None] | None:
    """Tables in the order of `_in_order`; None for a model that has none."""
    scopes: dict[str, dict[int, Tree]] = {}
    for node in graph.of("TabulateFusionSeA", "TabulateFusionSeR", "TabulateFusion", TABLE):
        scope, _, name = node.name.rpartition("/")
        number = name.partition("_")[2] or "0"  # NAME, NAME_1, …: in the order of neighbour types
        if not number.isdecimal() or len(node.inputs) < 2:
            raise PartsError(f"the table of '{node.name}' is not understood")
        coefficients = graph.array(node.inputs[0], (-1, -1))
        info = graph.array(node.inputs[1], (-1,))
        try:
            table = nodes.table(info, coefficients, node.integer("last_layer_size"))
        except ValueError as e:
            raise PartsError(f"'{node.name}': {e}") from None
        scopes.setdefault(scope, {})[int(number)] = table
    if not scopes:
        return None

    def tables(scope: str, seen: list[int]) -> list[Tree]:
        found = scopes.get(scope, {})
        if len(found) != len(seen):
            raise PartsError(f"{len(found)} tables in '{scope}', expected {len(seen)}")
        return [table for _, table in sorted(found.items())]

    if section.get("type") in DPA1:  # one of all types
        return list(tables("filter_type_all", [0]))
    return _in_order(graph, section, n_types, place, tables)
