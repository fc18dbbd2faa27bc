"""Memory that a process can still have: of the machine, and within the limits of its job.

Batch systems and containers limit the memory of a group of processes (Linux control groups,
version 1 and 2); the kernel ends a process that goes beyond, whatever the machine has. Some limit
what each process maps instead (`ulimit -v`), and refuse it more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def available_bytes(processes: int = 1, root: Path = ROOT) -> float | None:
    """Free for so many `processes` of this machine together, this one and others like it; None
    where the system does not say (it is not Linux). `root`: of the kernel's files, for tests."""
    free = status(root / "proc/meminfo", "MemAvailable")
    if free is None:
        return None
    own = processes * _room_to_map(root)
    return min([free, own, *(_room(*files) for files in _limits(root))])


def status(path: Path, key: str) -> float | None:
    """Bytes of a 'key: N kB' line of the kernel's files; None off Linux, which has none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = (line for line in lines if line.startswith(key + ":"))
    line = next(found, None)
    return None if line is None else 1024.0 * int(line.split()[1])


def _room_to_map(root: Path) -> float:
    """Bytes that this process may still map; infinite where there is no limit."""
    try:
        lines = (root / "proc/self/limits").read_text().splitlines()
    except OSError:
        return float("inf")
    soft = next((x.split()[3] for x in lines if x.startswith("Max address space")), "unlimited")
    mapped = status(root / "proc/self/status", "VmSize")
    if soft == "unlimited" or mapped is None:
        return float("inf")
    return max(float(soft) - mapped, 0.0)


def _limits(root: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folder of each group that this process is in, and the names of limit, use, and of that part
    of the use that the kernel takes back before it ends anyone."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top = root / "sys/fs/cgroup"
            names = "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            top = root / "sys/fs/cgroup/memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inside = Path(path.lstrip("/"))
        for part in (inside, *inside.parents):  # a container may see its own group as the top
            yield (top / part, *names)


def _room(folder: Path, limit: str, use: str, reclaimed: str) -> float:
    """Bytes; infinite where there is no limit."""
    try:
        allowed = float((folder / limit).read_text())
        used = float((folder / use).read_text())
    except (OSError, ValueError):  # 'max' is no number
        return float("inf")
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        lines = []
    cache = sum(float(x.split()[1]) for x in lines if x.split()[0] == reclaimed)
    return max(allowed - used + cache, 0.0)
