"""DeePMD-kit beside this project: its environments, its models, its trainings.

    python benchmarks/peer.py [--peer-venv FOLDER] [--backend tensorflow pytorch]

makes the environments and says which versions they hold; the benchmarks do the same on demand.
`FOLDER/tensorflow`: the PyPI wheel with TensorFlow CPU and LAMMPS. `FOLDER/pytorch`: the wheel is
tied to one release of torch, so its source is built against the torch of `constraints.txt`
(a C++ compiler and some minutes). Neither touches the environment of this project.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from common import HERE, BenchmarkError, progress, run_main, thread_environment

VERSION = "3.2.0"
BACKENDS = ("tensorflow", "pytorch")
SUFFIX = {"tensorflow": ".pb", "pytorch": ".pth"}
FLAG = {"tensorflow": "--tf", "pytorch": "--pt"}
# what deepmd-kit[torch] asks for beside torch itself, whose pinned release it would pull with CUDA
PYTORCH_NEEDS = ("ase", "e3nn>=0.5.9", "vesin[torch]", "mpich")


class Peer:
    """One environment of DeePMD-kit."""

    def __init__(self, folder: Path, backend: str) -> None:
        """Make the environment where it is missing. Raises BenchmarkError where that fails."""
        self.backend = backend
        self.folder = folder.resolve() / backend
        self.python = self.folder / "bin" / "python"
        self.log = self.folder / "install.log"
        if not (self.folder / ".installed").exists():
            self._install()
        self.versions = self._versions()

    # --- environment ----------------------------------------------------------------------------

    def _install(self) -> None:
        progress(f"making {self.folder} (log: {self.log})")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._logged([sys.executable, "-m", "venv", str(self.folder)])
        pip = [str(self.python), "-m", "pip", "install"]
        wheel = f"deepmd-kit=={VERSION}"
        if self.backend == "tensorflow":
            self._logged([*pip, f"deepmd-kit[cpu,lmp]=={VERSION}", "ase"])
        else:
            torch = next(
                line
                for line in (HERE.parent / "constraints.txt").read_text().splitlines()
                if line.startswith("torch==")
            )
            self._logged([*pip, torch, wheel, *PYTORCH_NEEDS])  # the wheel brings the other needs
            source = ["--no-deps", "--force-reinstall", "--no-binary", "deepmd-kit", wheel]
            self._logged(
                [*pip, *source],
                DP_ENABLE_PYTORCH="1",
                DP_ENABLE_TENSORFLOW="0",
                DP_VARIANT="cpu",
            )
        (self.folder / ".installed").touch()

    def _logged(self, command: Sequence[str], **environment: str) -> None:
        with open(self.log, "a") as log:
            print("$", *command, file=log, flush=True)
            status = subprocess.run(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**thread_environment(2), **environment},
            ).returncode
        if status:
            raise BenchmarkError(f"{self.folder}: status {status} of an installation: {self.log}")

    def _versions(self) -> dict[str, str]:
        names = ["deepmd-kit", "tensorflow-cpu", "torch", "lammps", "numpy", "ase"]
        code = (
            "import importlib.metadata as m, json\n"
            "found = {d.metadata['Name'].lower().replace('_', '-'): d.version "
            "for d in m.distributions()}\n"
            f"print(json.dumps({{n: found[n] for n in {names} if n in found}}))"
        )
        done = subprocess.run([self.python, "-c", code], capture_output=True, text=True, check=True)
        return {f"{self.backend} peer {k}": v for k, v in json.loads(done.stdout).items()}

    # --- commands -------------------------------------------------------------------------------

    def run(self, *words: str | Path, folder: Path, threads: int = 1) -> str:
        """Output of `python …` of the peer in `folder`. Raises BenchmarkError where it fails."""
        done = subprocess.run(
            [str(self.python), *map(str, words)],
            cwd=folder,
            env=thread_environment(threads),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            log = folder / "peer-failure.log"
            log.write_text(done.stdout)
            raise BenchmarkError(f"deepmd-kit {words[0]} …: status {done.returncode}; see {log}")
        return done.stdout

    def dp(self, *words: str | Path, folder: Path, threads: int = 1) -> str:
        """Output of `dp` with the flag of the backend."""
        flag = FLAG[self.backend]
        return self.run("-m", "deepmd", flag, *words, folder=folder, threads=threads)

    def models(self, arrays: Path) -> dict[str, Path]:
        """'frozen' and 'compressed' model with the weights of `arrays` (.npz)."""
        folder = arrays.parent
        plain = arrays.with_suffix(".dp")
        frozen = arrays.with_suffix(SUFFIX[self.backend])
        compressed = frozen.with_stem(f"{arrays.stem}-compressed")
        if not compressed.exists() or compressed.stat().st_mtime < arrays.stat().st_mtime:
            progress(f"{self.backend}: {arrays.name} → {frozen.name}, {compressed.name}")
            self.run(HERE / "peer_model.py", "weights", arrays, plain, folder=folder)
            self.run("-m", "deepmd", "convert-backend", plain, frozen, folder=folder)
            if self.backend == "tensorflow":
                self.run(HERE / "peer_model.py", "script", frozen, folder=folder)
            self.dp("compress", "-i", frozen, "-o", compressed, folder=folder)
        return {"frozen": frozen, "compressed": compressed}

    def test(self, model: Path, data: Path, folder: Path) -> dict[str, float]:
        """RMSE on every frame of `data`: 'energy' eV/atom, 'force' eV/Å, as `dp test` prints."""
        text = self.dp("test", "-m", model, "-s", data, "-n", "1000000", folder=folder)
        found = {}
        for key, name in (("energy", r"Energy RMSE/Natoms"), ("force", r"Force\s+RMSE")):
            hits = re.findall(rf"{name}\s*:\s*(\S+)", text)
            if not hits:
                raise BenchmarkError(f"dp test: no '{key}' RMSE in its output")
            found[key] = float(hits[-1])
        return found


def peers(folder: Path, backends: Sequence[str]) -> list[Peer]:
    """The environments that could be made; one that cannot is reported and left out."""
    made = []
    for backend in backends:
        try:
            made.append(Peer(folder, backend))
        except BenchmarkError as error:
            progress(f"left out: {error}")
    if not made:
        raise BenchmarkError("no environment of the peer could be made")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer-venv", type=Path, default=HERE.parent / "build" / "peer")
    parser.add_argument("--backend", nargs="+", choices=BACKENDS, default=BACKENDS)
    arguments = parser.parse_args()
    started = time.monotonic()
    for peer in peers(arguments.peer_venv, arguments.backend):
        print(peer.folder, peer.versions)
    print(f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    run_main(main)
