"""A process that evaluates one structure with one code; the parent asks, it answers.

    python worker.py '{"code": …, "model": …, "structure": …, "threads": …, …}'

Started by `common.Worker` with the Python of the code that is measured, so it imports nothing of
this project unless `code` is 'own'. One JSON line in on stdin, one out on stdout (everything that
libraries print goes to stderr):

    {"do": "time", "calls": n}    → {"seconds": wall time of n evaluations}
    {"do": "results"}             → {"energy": eV, "forces": (n, 3) eV/Å, "virial": (3, 3) eV}
    {"do": "frames", "path": …}   → {"frames": [results of each of the frames in an .npz]}
    {"do": "memory"}              → {"now_kb", "peak_kb"} resident memory of this process
    {"do": "gemm", "size": n, "precision": …} → {"gflops": best rate of square products}

An evaluation is energy, forces and virial. Before each one every atom moves by about 1e-4 Å to and
fro around the structure, so that nothing can be taken from a cache; results are those of the
structure itself.
"""

import json
import os
import sys
import time

import numpy as np

MOVE = 1e-4  # Å


class AseCode:
    """A code with an ASE calculator: `own` or `deepmd-kit`."""

    def __init__(self, job):
        from ase import Atoms

        data = np.load(job["structure"])
        self.atoms = Atoms(data["numbers"], data["positions"], cell=data["cell"], pbc=True)
        self.atoms.calc = self._calculator(job)
        self.start = self.atoms.positions.copy()
        self.step = MOVE * np.random.default_rng(0).uniform(-1, 1, self.start.shape)
        self.calls = 0

    @staticmethod
    def _calculator(job):
        if job["code"] == "deepmd-kit":
            from deepmd.calculator import DP

            return DP(model=job["model"])
        import torch

        import deepmd_lite

        torch.set_num_threads(job["threads"])
        options = {} if job.get("skin") is None else {"skin": job["skin"]}
        return deepmd_lite.Calculator(job["model"], precision=job["precision"], **options)

    def evaluate(self):
        self.calls += 1
        self.atoms.positions = self.start + (-1) ** self.calls * self.step
        self.atoms.get_forces()
        self.atoms.get_stress()
        return self.atoms.get_potential_energy()

    def run(self, calls):
        for _ in range(calls):
            self.evaluate()

    def results(self):
        self.atoms.positions = self.start
        return self._results()

    def frames(self, path):
        data = np.load(path)
        found = []
        for positions, cell in zip(data["positions"], data["cells"], strict=True):
            self.atoms.set_cell(cell)
            self.atoms.positions = positions
            found.append(self._results())
        return found

    def _results(self):
        return {
            "energy": float(self.atoms.get_potential_energy()),
            "forces": self.atoms.get_forces().tolist(),
            "virial": np.asarray(self.atoms.calc.get_property("virial", self.atoms)).tolist(),
        }


class LammpsCode:
    """LAMMPS with either pair style: one process, MD steps that hardly move the atoms.

    That of this project, where the job names its plugin.

    The list has a skin of 2 Å and is not rebuilt within the few steps of a measurement, as in a
    molecular dynamics where a rebuild comes every 10 to 50 steps.
    """

    def __init__(self, job):
        from lammps import lammps

        data = np.load(job["structure"])
        edges = np.diag(data["cell"])
        if np.abs(data["cell"] - np.diag(edges)).max() > 0:
            raise SystemExit("LAMMPS worker: expected an orthogonal cell")
        self.n_atoms = len(data["numbers"])
        types = [1 if z == 8 else 2 for z in data["numbers"]]
        self.lammps = lammps(cmdargs=["-screen", "none", "-log", "none"])
        for line in (
            "units metal",
            "atom_style atomic",
            "boundary p p p",
            "atom_modify sort 0 0 map yes",
            f"region box block 0 {edges[0]:.12f} 0 {edges[1]:.12f} 0 {edges[2]:.12f}",
            "create_box 2 box",
            "mass 1 15.999",
            "mass 2 1.008",
        ):
            self.lammps.command(line)
        wrapped = data["positions"] % edges
        ids = list(range(1, self.n_atoms + 1))
        self.lammps.create_atoms(self.n_atoms, ids, types, wrapped.ravel().tolist())
        if "plugin" in job:
            self.lammps.command(f"plugin load {job['plugin']}")
        style = "deepmd_lite" if "plugin" in job else "deepmd"
        for line in (
            f"pair_style {style} {job['model']}",
            "pair_coeff * * O H",
            "neighbor 2.0 bin",
            "neigh_modify every 1 delay 0 check yes",
            "timestep 1e-5",  # ps: 0.01 fs
            "fix 1 all nve",
            "thermo_style custom step pe pxx pyy pzz pxy pxz pyz",
            "thermo 1",  # the virial at every step, as the others
            "run 0",
        ):
            self.lammps.command(line)

    def run(self, calls):
        self.lammps.command(f"run {calls} pre no post no")

    def results(self):
        self.lammps.command("run 0")
        forces = np.array(self.lammps.gather_atoms("f", 1, 3))
        energy = float(self.lammps.get_thermo("pe"))
        return {"energy": energy, "forces": forces.reshape(-1, 3).tolist(), "virial": None}


def memory():
    """Resident memory now and at its peak, kB; of this process alone, not of its parent."""
    found = {}
    with open("/proc/self/status") as status:
        for line in status:
            key, _, value = line.partition(":")
            if key in ("VmRSS", "VmHWM"):
                found[key] = int(value.split()[0])
    return {"now_kb": found["VmRSS"], "peak_kb": found["VmHWM"]}


def gemm_rate(size, precision, seconds=0.3):
    """Gflop/s of the fastest product of two (size, size) matrices, by numpy or torch."""
    best = float("inf")
    a, b = np.random.default_rng(0).normal(size=(2, size, size)).astype(precision)
    products = [lambda: a @ b]
    try:
        import torch
    except ImportError:
        pass
    else:
        ta, tb = torch.from_numpy(a), torch.from_numpy(b)
        products.append(lambda: ta @ tb)
    for product in products:
        product()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            product()
            best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best * 1e-9


def versions():
    """Versions of what is loaded."""
    names = ("deepmd", "tensorflow", "torch", "lammps")
    found = {n: getattr(sys.modules.get(n), "__version__", None) for n in names}
    return {n: str(v) for n, v in found.items() if v is not None}


def answer(code, question):
    do = question["do"]
    if do == "time":
        start = time.perf_counter()
        code.run(question["calls"])
        return {"seconds": time.perf_counter() - start}
    if do == "results":
        return code.results()
    if do == "frames":
        return {"frames": code.frames(question["path"])}
    if do == "memory":
        return memory()
    if do == "gemm":
        return {"gflops": gemm_rate(question["size"], question["precision"])}
    raise SystemExit(f"worker: unknown question {do!r}")


def find_lammps_libraries():
    """Start again with the library paths that importing LAMMPS sets: the loader reads them once."""
    import lammps  # noqa: F401

    if os.environ.get("BENCHMARK_LIBRARY_PATHS") != "set":
        os.environ["BENCHMARK_LIBRARY_PATHS"] = "set"
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main():
    job = json.loads(sys.argv[1])
    if job["code"] == "lammps":
        find_lammps_libraries()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    codes = {"own": AseCode, "deepmd-kit": AseCode, "lammps": LammpsCode, "gemm": lambda job: None}
    code = codes[job["code"]](job)
    answers.write(json.dumps({"versions": versions(), **memory()}) + "\n")
    for line in sys.stdin:
        answers.write(json.dumps(answer(code, json.loads(line))) + "\n")


if __name__ == "__main__":
    main()
