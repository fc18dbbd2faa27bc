"""The C library as a program without Python sees it: `dpl_force_field` of dpl.h through ctypes."""

from __future__ import annotations

import ctypes as c
from pathlib import Path

import numpy as np
import torch

from deepmd_lite.kernels import _kernels
from deepmd_lite.system import DeepmdLiteError, Evaluation, LocalEnv

LIBRARY = c.CDLL(str(Path(_kernels.__file__).parent / "libdpl_kernels.so"))
PRECISIONS = {None: -1, "float32": 0, "float64": 1}
DPL_FILE = 7


class Atoms(c.Structure):
    """dpl_atoms."""

    _fields_ = [
        ("n_all", c.c_int64),
        ("n_local", c.c_int64),
        *((name, c.c_void_p) for name in ("positions", "types", "offsets", "indices")),
    ]


LIBRARY.dpl_last_error.restype = c.c_char_p
LIBRARY.dpl_force_field_element.restype = c.c_char_p
LIBRARY.dpl_force_field_element.argtypes = [c.c_void_p, c.c_int32]
LIBRARY.dpl_force_field_cutoff.restype = c.c_double
LIBRARY.dpl_force_field_cutoff.argtypes = [c.c_void_p]
LIBRARY.dpl_force_field_n_types.argtypes = [c.c_void_p]
LIBRARY.dpl_force_field_n_members.argtypes = [c.c_void_p]
LIBRARY.dpl_force_field_free.argtypes = [c.c_void_p]


class Refused(DeepmdLiteError):
    """What the library said, with its status."""

    def __init__(self, status: int) -> None:
        super().__init__(LIBRARY.dpl_last_error().decode(errors="replace"))
        self.status = status


ITSELF = -1


class ForceField:
    """A model file, read by the library."""

    def __init__(
        self,
        path: Path | str,
        precision: str | None = None,
        threads: int = 1,
        member: int = ITSELF,
    ) -> None:
        self.handle = c.c_void_p()
        path = str(path).encode()
        number = PRECISIONS.get(precision, precision)
        check(LIBRARY.dpl_force_field_load(path, member, number, threads, c.byref(self.handle)))

    def __del__(self) -> None:
        LIBRARY.dpl_force_field_free(self.handle)

    @property
    def elements(self) -> list[str]:
        n = LIBRARY.dpl_force_field_n_types(self.handle)
        return [LIBRARY.dpl_force_field_element(self.handle, k).decode() for k in range(n)]

    @property
    def n_members(self) -> int:
        """Of the committee in the file."""
        return LIBRARY.dpl_force_field_n_members(self.handle)

    @property
    def cutoff(self) -> float:
        return LIBRARY.dpl_force_field_cutoff(self.handle)

    def evaluate(self, env: LocalEnv, threads: int = 1) -> Evaluation:
        atoms = atoms_of(env)
        energies, forces, virial = np.empty(env.n_local), np.empty((env.n_all, 3)), np.empty((3, 3))
        outputs = (c.c_void_p(x.ctypes.data) for x in (energies, forces, virial))
        beyond = c.c_int64()
        check(
            LIBRARY.dpl_force_field_evaluate(
                self.handle, c.byref(atoms), threads, *outputs, c.byref(beyond)
            )
        )
        arrays = (torch.from_numpy(x) for x in (energies, forces, virial))
        return Evaluation(*arrays, beyond.value)

    def atomic_virials(self, env: LocalEnv, forces: torch.Tensor, threads: int = 1) -> torch.Tensor:
        """(n_all, 3, 3) eV."""
        atoms, given = atoms_of(env), forces.contiguous().numpy()
        virials = np.empty((env.n_all, 3, 3))
        own = (c.c_void_p(x.ctypes.data) for x in (given, virials))
        check(LIBRARY.dpl_force_field_atomic_virials(self.handle, c.byref(atoms), threads, *own))
        return torch.from_numpy(virials)


def atoms_of(env: LocalEnv) -> Atoms:
    """The same memory: `env` must live as long."""
    rows = env.positions, env.types, env.offsets, env.indices
    assert all(x.is_contiguous() for x in rows)
    return Atoms(env.n_all, env.n_local, *(x.data_ptr() for x in rows))


def check(status: int) -> None:
    if status != 0:
        raise Refused(status)
