"""dpl.h is plain C: a C11 program includes it, links the library and uses it without Python."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from deepmd_lite import kernels

SOURCES = Path(kernels.__file__).parent
LIBRARY = Path(kernels._kernels.__file__).parent
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror"]

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "dpl.h"

/* Two atoms 2 Å apart, rcut 4, a table that is 1 everywhere: moments = (1/2, ±1/2, 0, 0). */
int main(void) {
  double positions[6] = {0, 0, 0, 2, 0, 0};
  int32_t types[2] = {0, 0};
  dpl_neighbors *list = NULL;
  int64_t n_edges = 0, beyond = 0, offsets[3];
  int32_t indices[2], counts[2];
  if (dpl_neighbors_build(2, 2, positions, types, 4.0, 1, &list, &n_edges) != DPL_OK) return 1;
  if (n_edges != 2) return 2;
  dpl_neighbors_copy(list, 1, offsets, indices);
  dpl_neighbors_free(list);

  double davg[DPL_COLUMNS] = {0}, dstd[DPL_COLUMNS] = {1, 1, 1, 1};
  static double table[2][DPL_POWERS][DPL_FEATURE_PADDING];
  for (int m = 0; m < DPL_FEATURE_PADDING; ++m) table[0][0][m] = table[1][0][m] = 1;
  const dpl_atoms atoms = {2, 2, positions, types, offsets, indices};
  const dpl_environment environment = {4.0, 3.0, 1, 1, DPL_COLUMNS, davg, dstd, 0.0, 0.6, 0.0, 0};
  const dpl_table tables = {DPL_FLOAT64, 1, 2, DPL_FEATURE_PADDING, table};
  double moments[2][DPL_COLUMNS][DPL_FEATURE_PADDING];
  if (dpl_moments(&atoms, &environment, &tables, 1, moments, counts, &beyond) != DPL_OK) return 3;
  printf("%g %g %g %g %d %d\n", moments[0][0][15], moments[0][1][0], moments[1][1][0],
         moments[1][2][0], counts[1], (int)beyond);

  double grad[6];
  if (dpl_moments_backward(&atoms, &environment, &tables, 1, moments, grad, NULL) != DPL_OK)
    return 4;
  printf("%g %g\n", grad[0] + grad[3], grad[1]);

  positions[3] = 0;
  if (dpl_moments(&atoms, &environment, &tables, 1, moments, counts, &beyond) != DPL_COINCIDENT)
    return 5;
  printf("%s\n", dpl_last_error());
  dpl_release_workspace();
  return 0;
}
"""


@pytest.fixture(scope="module")
def compiler():
    found = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    assert found, "a C compiler is needed: the kernels were built with its C++ sibling"
    return found


@pytest.mark.parametrize("header", ["dpl.h", "dpl_soap.h"])
def test_header_is_c11(compiler, tmp_path, header):
    (tmp_path / "header.c").write_text(f'#include "{header}"\nint dpl_header_is_c11;\n')
    command = [compiler, *FLAGS, f"-I{SOURCES}", "-c", "header.c", "-o", "header.o"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "header.o").stat().st_size > 0


def test_a_c_program_uses_the_library(compiler, tmp_path):
    (tmp_path / "program.c").write_text(PROGRAM)
    libraries = [f"-L{LIBRARY}", "-ldpl_kernels", f"-Wl,-rpath,{LIBRARY}"]
    command = [compiler, *FLAGS, f"-I{SOURCES}", "program.c", "-o", "program", *libraries]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./program"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, f"stopped at check {done.returncode}"
    assert done.stdout.splitlines() == [
        "0.5 0.5 -0.5 0 1 0",
        "0 0",
        "rows 0 and 1 coincide (distance < 1e-6 Å)",
    ]
