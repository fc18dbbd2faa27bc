"""Memory of the machine and of the groups that a process is in, from the kernel's files."""

import subprocess
import sys

import pytest

from deepmd_lite.free_memory import available_bytes

FREE = 8_000_000
"""kB of the machine."""


def machine(root, groups, cgroup):
    """The kernel's files, `groups` by folder: limit, use and what can be taken back."""
    (root / "proc/self").mkdir(parents=True)
    meminfo = f"MemTotal: 9000000 kB\nMemAvailable:    {FREE} kB\n"
    (root / "proc/meminfo").write_text(meminfo)
    (root / "proc/self/cgroup").write_text(cgroup)
    for folder, (limit, used, cache) in groups.items():
        place = root / "sys/fs/cgroup" / folder
        place.mkdir(parents=True, exist_ok=True)
        first = folder.split("/")[0] == "memory"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        limit_name, used_name, cache_name = (
            names if first else ("memory.max", "memory.current", "inactive_file")
        )
        (place / limit_name).write_text(f"{limit}\n")
        (place / used_name).write_text(f"{used}\n")
        (place / "memory.stat").write_text(f"anon 5\n{cache_name} {cache}\nfile 7\n")
    return root


STEP = "system.slice/job_7/step_0"


@pytest.mark.parametrize(
    ("groups", "cgroup", "expected"),
    [
        ({}, "", 1024 * FREE),
        ({STEP: (3e9, 1e9, 0)}, f"0::/{STEP}\n", 2e9),
        # the limit of a group above counts, and files in memory are given back
        ({STEP: ("max", 5, 0), "system.slice/job_7": (2e9, 1.5e9, 4e8)}, f"0::/{STEP}\n", 9e8),
        ({STEP: (5e9, 1e9, 0), "system.slice": (2e9, 1.5e9, 0)}, f"0::/{STEP}\n", 5e8),
        ({"": (1e9, 4e8, 0)}, "0::/\n", 6e8),  # a container
        ({STEP: (1e9, 2e9, 0)}, f"0::/{STEP}\n", 0.0),
        ({STEP: (1e12, 0, 0)}, f"0::/{STEP}\n", 1024 * FREE),
        ({"memory/job_7": (2e9, 1e9, 5e8)}, "5:cpu:/x\n4:memory:/job_7\n0::/\n", 1.5e9),
        # as a container may see it: the path is that of the host
        ({"memory": (2e9, 1e9, 0)}, "4:hugetlb,memory:/docker/4f\n", 1e9),
        ({"memory": (9223372036854771712, 1e9, 0)}, "4:memory:/\n", 1024 * FREE),
    ],
)
def test_what_is_free(tmp_path, groups, cgroup, expected):
    assert available_bytes(root=machine(tmp_path, groups, cgroup)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("soft", "processes", "expected"),
    [
        ("unlimited", 1, 1024 * FREE),
        (3_000_000 * 1024, 1, 1_000_000 * 1024),
        (3_000_000 * 1024, 4, 4_000_000 * 1024),  # each of them may map as much
        (3_000_000 * 1024, 20, 1024 * FREE),
        (1_000_000 * 1024, 1, 0.0),
    ],
)
def test_what_a_process_may_map(tmp_path, soft, processes, expected):
    own = machine(tmp_path, {}, "") / "proc/self"
    (own / "status").write_text("Name: dpl\nVmSize:  2000000 kB\n")
    (own / "limits").write_text(
        "Limit                     Soft Limit           Hard Limit           Units\n"
        "Max file size             5                    5                    bytes\n"
        f"Max address space         {soft}           unlimited            bytes\n"
    )
    assert available_bytes(processes, tmp_path) == pytest.approx(expected)


def test_other_systems_say_nothing(tmp_path):
    assert available_bytes(root=tmp_path) is None


@pytest.mark.skipif(sys.platform != "linux", reason="the files of Linux")
def test_this_machine():
    free = available_bytes()
    assert free is not None
    assert 1e6 < free < 1e15


@pytest.mark.skipif(sys.platform != "linux", reason="the files of Linux")
def test_a_limit_of_this_process():
    code = (
        "import resource\n"
        "from deepmd_lite.free_memory import available_bytes\n"
        "free = available_bytes()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (60 * 2**30, resource.RLIM_INFINITY))\n"
        "print(free, available_bytes(), available_bytes(10**6))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    free, limited, of_many = map(float, done.stdout.split())
    assert limited < 60 * 2**30
    assert of_many == pytest.approx(free, rel=0.2)
