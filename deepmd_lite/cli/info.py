"""`dpl info`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..units import EV_PER_A3_IN_GPA
from .common import EPILOG, table

if TYPE_CHECKING:
    from ..model.descriptor import Descriptor


def add_info(verbs: argparse._SubParsersAction) -> None:
    p = verbs.add_parser("info", help="what a model file or a restart holds", epilog=EPILOG)
    p.add_argument(
        "file", type=Path, metavar="FILE", help="a model, a restart, or the folder of an MD run"
    )
    p.add_argument("--json", action="store_true", help="as JSON; of a model the whole header")
    p.set_defaults(run=_info)


def _info(args: argparse.Namespace) -> int:
    of_run = args.file.is_dir() and not any(args.file.glob("*.dpl"))
    return _info_of_restart(args) if of_run else _info_of_model(args)


def _info_of_restart(args: argparse.Namespace) -> int:
    from ..md import restart

    rows = restart.describe(args.file)
    print(json.dumps(rows, indent=2) if args.json else table(rows))
    return 0


def _info_of_model(args: argparse.Namespace) -> int:
    from ..model import load_model, read_header

    header = read_header(args.file)
    if args.json:
        print(json.dumps(header, indent=2))
        return 0
    model = load_model(args.file)
    f = model.config.fitting_net
    rows = {"elements": " ".join(model.type_map)}
    for k, d in enumerate(model.descriptors, 1):
        which = f" {k}" if len(model.descriptors) > 1 else ""
        kept = model.shared is not None
        found = _descriptor(d, model.type_map, model.table_min_distance(), kept)
        rows |= {name + which: value for name, value in found.items()}
    rows |= {
        "fitting": f"{_widths(f.neuron)}, {f.activation_function}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "precision": f"trained in {model.config.precision}",
    }
    if model.frame_parameters is not None:
        default = "give them, or fix them: dpl convert --fparam"
        if f.default_fparam:
            default = f"by default {' '.join(map(str, f.default_fparam))}"
        rows["frame parameters"] = (
            f"{f.numb_fparam} (fparam), in training {model.frame_parameters.summary()}; {default}"
        )
    if model.shared is not None:
        types = model.shared.type_embedding
        rows["elements"] += (
            f"; they share their networks, by vectors {_widths(types.neuron)} "
            f"({'smoothed ' if types.fades else ''}{types.tebd_input_mode})"
        )
    rows["repulsion"] = (
        "none"
        if model.repulsion is None
        else f"ZBL, inside {model.repulsion.summary(model.type_map)}"
    )
    if model.known_pairs is not None:
        rows["nearest in training"] = model.known_pairs.summary(model.type_map)
    if model.short_range is not None:
        rows["short range"] = model.short_range.summary(model.type_map)
    if not model.reference_frames:
        rows["reference frame"] = "none: nothing is compared when the file is read"
    for frame in model.reference_frames:
        rows["reference frame"] = f"{frame.name}, {len(frame.types)} atoms: same forces here"
    if model.members is not None:
        facts = model.members.facts
        rows["committee"] = f"{len(model.members)} last layers beside the model's own" + (
            f"; trusted below {facts['trust_lower']:.3g} eV/Å of deviation in a frame"
            if "trust_lower" in facts
            else ""
        )
    error = model.table_error
    if error:
        rows["table error"] = (
            f"{error['energy_ev_per_atom']:.1e} eV/atom, {error['force_ev_per_a']:.1e} eV/Å, "
            f"virial {error['virial_ev_per_atom']:.1e} eV/atom against the networks"
        )
    for element, energy in zip(model.type_map, model.energy_bias.tolist(), strict=True):
        rows[f"energy bias {element}"] = f"{energy:.6f} eV"
    for key, value in header["provenance"].items():
        rows[key] = value if isinstance(value, str) else json.dumps(value)
    print(table(rows))
    print(
        f"units: eV, Å; stress = -virial/volume, tension positive; 1 eV/Å³ = {EV_PER_A3_IN_GPA} GPa"
    )
    return 0


def _descriptor(d: Descriptor, type_map: list[str], nearest: float, kept: bool) -> dict[str, str]:
    """What to tell of one descriptor, whose table covers pairs down to `nearest` Å.

    `kept`: its networks stand in the file, whatever it is evaluated with.
    """
    from ..model.tabulated import TabulatedEmbedding

    config, numbers = d.config, d.coefficients()
    axis = "" if config.radial else f"axis {config.axis_neuron}, "
    axis += f"cubic {config.cubic_neuron}, " if config.cubic_neuron else ""
    degree = f", l_max {config.degree}" if config.second_degree else ""
    rows = {
        "descriptor": f"{config.type}{degree}, rcut {config.rcut:g} Å, "
        f"rcut_smth {config.rcut_smth:g} Å, sel {d.sel}, {config.width} numbers",
        "embedding": f"{_widths(config.neuron)}, {axis}{config.activation_function}",
        "table": f"{d.grid.n_intervals} intervals, "
        f"{numbers.numel() * numbers.element_size() / 1024:.0f} KiB, pairs down to {nearest:.2f} Å",
    }
    if config.exclude_types:
        pairs = {"-".join(type_map[t] for t in sorted(pair)) for pair in config.exclude_types}
        rows["descriptor"] += f", blind to {', '.join(sorted(pairs))}"
    if config.env_protection:
        rows["descriptor"] += f", env_protection {config.env_protection:g} Å"
    if isinstance(d.embedding, TabulatedEmbedding):
        rows["embedding"] += "; a table"
        rows["embedding"] += "" if kept else ", its networks are lost: no training"
    return rows


def _widths(layers: list[int]) -> str:
    return "-".join(map(str, layers))
