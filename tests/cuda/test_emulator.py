"""The emulation of tests/cuda/emulate.h finds what it is for: kernels that are wrong on a GPU."""

import subprocess

import pytest
from emulation import EMULATOR, FLAGS, compiler

PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include "device.h"

// Each thread takes what the thread that mirrors it has put into shared memory.
template <bool barrier>
__global__ void mirror(int n, int* out) {
  int* shared = static_cast<int*>(dpl::shared_memory());
  shared[threadIdx.x] = int(threadIdx.x);
  if (barrier) __syncthreads();
  out[threadIdx.x] = shared[n - 1 - threadIdx.x];
}
__global__ void some_leave(int, int*) { if (threadIdx.x > 5) __syncthreads(); }
__global__ void some_wait_elsewhere(int, int*) {
  if (threadIdx.x < 32) __syncthreads();
  else __ballot_sync(dpl::kAllLanes, true);
}
__global__ void half_a_warp(int, int*) { if (threadIdx.x % 32 < 16) dpl::warp_sum(1); }
__global__ void beyond(int n, int*) { static_cast<int*>(dpl::shared_memory())[n] = 1; }
__global__ void sums(int, int* out) {
  out[threadIdx.x] = dpl::warp_sum(int(threadIdx.x));
  out[threadIdx.x] += dpl::rank_in(__ballot_sync(dpl::kAllLanes, threadIdx.x % 2));
}

int main(int, char** argument) {
  constexpr int n = 64;
  void (*kernels[])(int, int*) = {mirror<true>, mirror<false>, some_leave, some_wait_elsewhere,
                                  half_a_warp,  beyond,        sums};
  int out[n] = {};
  dpl_emulate_shuffle(3);
  dpl::launch(kernels[std::atoi(argument[1])], 1, n, n * sizeof(int), nullptr, n, out);
  if (cudaGetLastError() != cudaSuccess) return std::puts(cudaGetErrorString(cudaSuccess)), 0;
  for (int x : out) std::printf("%d ", x);
}
"""
WAITS = "threads wait for others that have ended or wait elsewhere\n"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("emulator")
    (folder / "program.cpp").write_text(PROGRAM)
    sources = ["program.cpp", str(EMULATOR / "emulate.cpp")]
    subprocess.run([compiler(), *FLAGS, *sources, "-o", "program"], cwd=folder, check=True)
    return folder / "program"


def output(program, number):
    done = subprocess.run([program, str(number)], capture_output=True, text=True, check=True)
    return done.stdout


def test_a_barrier_and_what_its_lack_does(program):
    mirrored = [63 - k for k in range(64)]
    assert [int(x) for x in output(program, 0).split()] == mirrored
    without = [int(x) for x in output(program, 1).split()]
    assert without != mirrored
    assert -1 in without  # what shared memory holds at first


@pytest.mark.parametrize("number", [2, 3, 4])
def test_barriers_that_not_all_reach(program, number):
    assert output(program, number) == WAITS


def test_a_write_behind_shared_memory(program):
    assert output(program, 5) == "a write behind the shared memory of a block\n"


def test_shuffles_and_ballots(program):
    expected = [sum(range(w, w + 32)) + k // 2 for w in (0, 32) for k in range(32)]
    assert [int(x) for x in output(program, 6).split()] == expected
