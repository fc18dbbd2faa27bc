// The scheduler of emulate.h. Fibers start on stacks of their own through ucontext and change
// places by _setjmp and _longjmp, which, other than swapcontext, call no system.
#include "emulate.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

emulated_index threadIdx, blockIdx, gridDim;

namespace {

constexpr int kMaxThreads = 256, kLanes = 32;
constexpr size_t kStack = 64 * 1024, kGuard = 256;
constexpr int64_t kSharedMemory = 99 * 1024;  // of the smallest GPU that there are kernels for
constexpr unsigned char kUnset = 0xff;

enum class State { kFresh, kReady, kWaitsForBlock, kWaitsForWarp, kDone };

struct Fiber {
  State state;
  jmp_buf place;
  std::unique_ptr<char[]> stack;
  uint64_t exchanged[2];
  int turn;  // which of the two
};

Fiber fibers[kMaxThreads];
jmp_buf scheduler;
const std::function<void()>* body;
std::vector<unsigned char> memory;
std::mt19937_64 random_order;
bool shuffled = false;
int64_t launches = 0, shared_memory_of_block = kSharedMemory;
const char* failure = nullptr;

Fiber& self() { return fibers[threadIdx.x]; }

void wait_for(State what) {
  self().state = what;
  if (!_setjmp(self().place)) _longjmp(scheduler, 1);
}

void start() {
  (*body)();
  self().state = State::kDone;
  _longjmp(scheduler, 1);
}

// Runs fiber t until it waits or ends.
void resume(int t) {
  Fiber& fiber = fibers[t];
  threadIdx.x = unsigned(t);
  const bool fresh = fiber.state == State::kFresh;
  fiber.state = State::kReady;
  if (_setjmp(scheduler)) return;
  if (!fresh) _longjmp(fiber.place, 1);
  static ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStack;
  context.uc_link = nullptr;
  makecontext(&context, start, 0);
  setcontext(&context);
}

// Gives bits to the other lanes and waits until they have done so; returns which of the two places
// holds them: the other one may still be read by some.
int give(uint64_t bits) {
  const int turn = self().turn ^= 1;
  self().exchanged[turn] = bits;
  wait_for(State::kWaitsForWarp);
  return turn;
}

// Lets the fibers [begin, end) go on if all of them wait for the same.
bool release(int begin, int end, State what) {
  for (int t = begin; t < end; ++t)
    if (fibers[t].state != what) return false;
  for (int t = begin; t < end; ++t) fibers[t].state = State::kReady;
  return true;
}

const char* run_block(int threads, std::vector<int>& order) {
  for (int t = 0; t < threads; ++t) {
    if (!fibers[t].stack) fibers[t].stack.reset(new char[kStack]);
    fibers[t].state = State::kFresh;
    fibers[t].turn = 0;
  }
  while (true) {
    if (shuffled) std::shuffle(order.begin(), order.end(), random_order);
    bool moved = false, all_done = true;
    for (int t : order)
      if (fibers[t].state == State::kFresh || fibers[t].state == State::kReady) {
        resume(t);
        moved = true;
      }
    for (int warp = 0; warp < threads; warp += kLanes)
      moved |= release(warp, warp + kLanes, State::kWaitsForWarp);
    moved |= release(0, threads, State::kWaitsForBlock);
    for (int t = 0; t < threads; ++t) all_done &= fibers[t].state == State::kDone;
    if (all_done) return nullptr;
    if (!moved) return "threads wait for others that have ended or wait elsewhere";
  }
}

}  // namespace

void __syncthreads() { wait_for(State::kWaitsForBlock); }

namespace emulate {

uint64_t exchange(uint64_t mine, int lane) {
  const int turn = give(mine);
  return fibers[threadIdx.x / kLanes * kLanes + lane].exchanged[turn];
}

unsigned ballot(bool mine) {
  const int turn = give(mine);
  const Fiber* warp = fibers + threadIdx.x / kLanes * kLanes;
  unsigned bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= unsigned(warp[lane].exchanged[turn]) << lane;
  return bits;
}

void* shared_memory() { return memory.data(); }

void run(int64_t blocks, int threads, size_t shared, const std::function<void()>& kernel) {
  if (failure || blocks == 0) return;
  ++launches;
  body = &kernel;
  gridDim.x = unsigned(blocks);
  std::vector<int64_t> block_order(blocks);
  std::vector<int> order(threads);
  std::iota(block_order.begin(), block_order.end(), int64_t(0));
  std::iota(order.begin(), order.end(), 0);
  if (shuffled) std::shuffle(block_order.begin(), block_order.end(), random_order);
  for (int64_t block : block_order) {
    blockIdx.x = unsigned(block);
    memory.assign(shared + kGuard, kUnset);
    failure = run_block(threads, order);
    for (size_t k = shared; k < memory.size(); ++k)
      if (memory[k] != kUnset) failure = "a write behind the shared memory of a block";
    if (failure) return;
  }
}

}  // namespace emulate

cudaError_t cudaGetLastError() { return failure ? cudaErrorLaunchFailure : cudaSuccess; }

const char* cudaGetErrorString(cudaError_t) {
  const char* found = failure ? failure : "no error";
  failure = nullptr;
  return found;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  return *value = int(shared_memory_of_block), cudaSuccess;
}

void dpl_emulate_shared_memory(int64_t bytes) {
  shared_memory_of_block = bytes ? bytes : kSharedMemory;
}

void dpl_emulate_shuffle(uint64_t seed) {
  shuffled = seed != 0;
  random_order.seed(seed);
}

int64_t dpl_emulate_launches() { return launches; }
