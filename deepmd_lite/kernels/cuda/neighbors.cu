// Open-boundary neighbour list. Atoms are put in the order of their cells, whose edge is the
// cutoff; a warp then looks through the 27 cells around an atom, once to count, once to write, and
// a block sorts each row.
//
// Cells that fill their box are numbered along x, y, z. Where there would be many more cells than
// atoms, atoms of a cell share a bucket of a hash table with those of other cells instead, so that
// memory does not depend on how far the atoms are scattered. A candidate counts for the cell that
// its position says, which makes both the same.
//
// The order of atoms in a bucket is the device's choice of the moment; the sorted rows do not
// depend on it.
#include <algorithm>
#include <cmath>

#include "../checks.h"
#include "device.h"
#include "scan.h"

namespace dpl {
namespace {

constexpr int kThreads = 128;
constexpr int kRowsPerBlock = kThreads / kWarp;
constexpr int kBoundBlocks = 256;
constexpr int kKeys = 1024;  // of a row, sorted in shared memory
constexpr int32_t kMaxTypes = 65536;
constexpr int64_t kCellsPerAtom = 2, kFewCells = 4096, kMostCells = 1 << 30;

struct Cells {
  double low[3], inverse_edge[3];
  int32_t count[3];  // cells along each axis
  int32_t mask;      // of the hash; 0: cells are numbered
};

// Scratch, in the order of its parts; bytes() tells how much.
struct Scratch {
  int64_t* sums;   // of tiles
  double* bounds;  // (kBoundBlocks, 6) lows, then highs, of parts of the atoms
  double* sorted;  // (n_all, 3) positions in the order of cells
  dpl_cuda_report* report;
  int32_t *atom, *slot;   // (n_all) of each place in that order; order of arrival in its bucket
  int32_t *size, *start;  // (n_buckets), (n_buckets + 1)
  int32_t* lengths;       // (n_local) of rows
  int64_t size_in_bytes;

  static int64_t buckets(int64_t n_all) {
    int64_t n = kFewCells;
    while (n < kCellsPerAtom * n_all && n < kMostCells) n *= 2;
    return n;
  }

  Scratch(void* memory, int64_t n_all, int64_t n_local) {
    char* next = static_cast<char*>(memory);
    const auto take = [&](auto*& array, int64_t n) {
      array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(next);
      next += divided_up(n * int64_t(sizeof *array), 256) * 256;
    };
    const int64_t n = buckets(n_all);
    take(sums, scan::tiles(std::max(n, n_local)) + 1);
    take(bounds, 6 * kBoundBlocks);
    take(sorted, 3 * n_all);
    take(report, 1);
    take(atom, n_all), take(slot, n_all);
    take(size, n), take(start, n + 1);
    take(lengths, n_local);
    size_in_bytes = next - static_cast<char*>(memory);
  }
};

// --- cells --------------------------------------------------------------------------------------

// Low and high corner of a part of the positions, in one thread of each block.
__global__ void bounds_kernel(int64_t n_all, const double* positions, const int32_t* types,
                              double* bounds, dpl_cuda_report* report) {
  double* low = static_cast<double*>(shared_memory());  // (3, kThreads), then the highs
  double* high = low + 3 * kThreads;
  const int tid = int(threadIdx.x);
  for (int k = 0; k < 3; ++k)
    low[k * kThreads + tid] = HUGE_VAL, high[k * kThreads + tid] = -HUGE_VAL;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + tid; i < n_all;
       i += int64_t(gridDim.x) * kThreads) {
    if (types[i] < 0 || types[i] >= kMaxTypes) note(report->bad_type, uint64_t(i));
    for (int k = 0; k < 3; ++k) {
      const double x = positions[3 * i + k];
      if (!isfinite(x)) note(report->not_finite, uint64_t(i));
      low[k * kThreads + tid] = fmin(low[k * kThreads + tid], x);
      high[k * kThreads + tid] = fmax(high[k * kThreads + tid], x);
    }
  }
  __syncthreads();
  if (tid < 3)
    for (int other = 1; other < kThreads; ++other) {
      low[tid * kThreads] = fmin(low[tid * kThreads], low[tid * kThreads + other]);
      high[tid * kThreads] = fmax(high[tid * kThreads], high[tid * kThreads + other]);
    }
  if (tid < 3) {
    bounds[6 * int64_t(blockIdx.x) + tid] = low[tid * kThreads];
    bounds[6 * int64_t(blockIdx.x) + 3 + tid] = high[tid * kThreads];
  }
}

__device__ inline void cell_of(const Cells& cells, const double* x, int32_t* cell) {
  for (int k = 0; k < 3; ++k) cell[k] = int32_t((x[k] - cells.low[k]) * cells.inverse_edge[k]);
}

// The bucket of a cell; -1 outside the box.
__device__ inline int32_t bucket_of(const Cells& cells, const int32_t* cell) {
  for (int k = 0; k < 3; ++k)
    if (cell[k] < 0 || cell[k] >= cells.count[k]) return -1;
  if (cells.mask == 0) return (cell[2] * cells.count[1] + cell[1]) * cells.count[0] + cell[0];
  const uint32_t hash =
      uint32_t(cell[0]) * 73856093u ^ uint32_t(cell[1]) * 19349663u ^ uint32_t(cell[2]) * 83492791u;
  return int32_t((hash ^ hash >> 15) & uint32_t(cells.mask));
}

__global__ void count_kernel(int64_t n_all, const double* positions, Cells cells, Scratch s) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n_all) return;
  int32_t cell[3];
  cell_of(cells, positions + 3 * i, cell);
  s.slot[i] = atomicAdd(&s.size[bucket_of(cells, cell)], 1);
}

__global__ void place_kernel(int64_t n_all, const double* positions, Cells cells, Scratch s) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n_all) return;
  int32_t cell[3];
  cell_of(cells, positions + 3 * i, cell);
  const int64_t place = s.start[bucket_of(cells, cell)] + s.slot[i];
  s.atom[place] = int32_t(i);
  for (int k = 0; k < 3; ++k) s.sorted[3 * place + k] = positions[3 * i + k];
}

// --- rows ---------------------------------------------------------------------------------------

// One warp for each place in the order of cells: the length of its row, or the row itself.
template <bool write>
__global__ void rows_kernel(int64_t n_all, int64_t n_local, double limit, Cells cells, Scratch s,
                            const int64_t* offsets, int32_t* indices) {
  const int64_t self = int64_t(blockIdx.x) * kRowsPerBlock + threadIdx.x / kWarp;
  if (self >= n_all) return;
  const int32_t i = s.atom[self];
  if (i >= n_local) return;
  double x[3];
  int32_t home[3], length = 0;
  for (int k = 0; k < 3; ++k) x[k] = s.sorted[3 * self + k];
  cell_of(cells, x, home);
  for (int around = 0; around < 27; ++around) {
    const int32_t cell[3] = {home[0] + around % 3 - 1, home[1] + around / 3 % 3 - 1,
                             home[2] + around / 9 - 1};
    const int32_t bucket = bucket_of(cells, cell);
    if (bucket < 0) continue;
    for (int32_t begin = s.start[bucket]; begin < s.start[bucket + 1]; begin += kWarp) {
      const int32_t place = begin + lane();
      bool inside = false;
      if (place < s.start[bucket + 1] && place != self) {
        const double* y = s.sorted + 3 * int64_t(place);
        int32_t own[3];
        cell_of(cells, y, own);
        const double dx = y[0] - x[0], dy = y[1] - x[1], dz = y[2] - x[2];
        // not left to the compiler, which might round otherwise where the list is counted and
        // filled
        const double r2 = fma(dz, dz, fma(dy, dy, dx * dx));
        inside = r2 < limit && own[0] == cell[0] && own[1] == cell[1] && own[2] == cell[2];
        if (!write && inside && r2 < kCoincident) {
          const int32_t j = s.atom[place];
          note(s.report->coincident, pair_of(i, j));
        }
      }
      const unsigned ballot = __ballot_sync(kAllLanes, inside);
      if (write && inside) indices[offsets[i] + length + rank_in(ballot)] = s.atom[place];
      length += __popc(ballot);
    }
  }
  if (!write && lane() == 0) s.lengths[i] = length;
}

__device__ inline uint64_t key_of(const int32_t* types, int32_t j) {
  return uint64_t(types[j]) << 32 | uint32_t(j);
}

// One block for each row: by type, then by index.
__global__ void sort_kernel(const int32_t* types, const int64_t* offsets, int32_t* indices) {
  uint64_t* keys = static_cast<uint64_t*>(shared_memory());
  int32_t* row = indices + offsets[blockIdx.x];
  const int64_t n = offsets[int64_t(blockIdx.x) + 1] - offsets[blockIdx.x];
  const int tid = int(threadIdx.x);
  if (n <= kKeys) {  // the place of a key is the number of those below it
    for (int k = tid; k < n; k += kThreads) keys[k] = key_of(types, row[k]);
    __syncthreads();
    for (int k = tid; k < n; k += kThreads) {
      int place = 0;
      for (int other = 0; other < n; ++other) place += keys[other] < keys[k];
      row[place] = int32_t(uint32_t(keys[k]));
    }
    return;
  }
  for (int64_t phase = 0; phase < n; ++phase) {  // rare: neighbours change places
    for (int64_t k = (phase & 1) + 2 * tid; k + 1 < n; k += 2 * kThreads) {
      const int32_t a = row[k], b = row[k + 1];
      if (key_of(types, a) > key_of(types, b)) row[k] = b, row[k + 1] = a;
    }
    __syncthreads();
  }
}

// --- on the host --------------------------------------------------------------------------------

dpl_status check_arguments(int64_t n_all, int64_t n_local, double cutoff) {
  if (const dpl_status wrong = check_counts(n_local, n_all)) return wrong;
  if (!(cutoff > 0) || !std::isfinite(cutoff))
    return fail(DPL_INVALID_ARGUMENT, "expected a positive cutoff, found %g", cutoff);
  return DPL_OK;
}

// Lays out the cells. Waits.
dpl_status make_cells(const Queue& queue, int64_t n_all, const double* positions,
                      const int32_t* types, double cutoff, const Scratch& s, Cells& cells) {
  const int64_t blocks = std::min<int64_t>(kBoundBlocks, divided_up(n_all, kThreads));
  launch(bounds_kernel, blocks, kThreads, 6 * kThreads * sizeof(double), queue.stream, n_all,
         positions, types, s.bounds, s.report);
  double bounds[6 * kBoundBlocks];
  if (blocks > 0)
    cudaMemcpyAsync(bounds, s.bounds, blocks * 6 * sizeof(double), cudaMemcpyDeviceToHost,
                    queue.stream);
  dpl_status status = queue.status("the bounds of the atoms");
  if (status == DPL_OK) status = queue.wait();
  if (status != DPL_OK) return status;
  // Cells are wider than the cutoff by more than the rounding of a coordinate; wider still in a box
  // that would have more of them along an axis than a number tells apart.
  constexpr double kMaxCells = 1 << 21;
  double n_cells = 1;
  for (int k = 0; k < 3; ++k) {
    double low = HUGE_VAL, high = -HUGE_VAL;
    for (int64_t b = 0; b < blocks; ++b) {
      low = std::min(low, bounds[6 * b + k]);
      high = std::max(high, bounds[6 * b + 3 + k]);
    }
    if (!(low <= high)) low = high = 0;  // no atoms, or none with a position: the report says so
    const double length = high - low;
    if (!std::isfinite(length))
      return fail(DPL_TOO_LARGE, "coordinates from %g to %g Å are too far apart", low, high);
    cells.low[k] = low;
    cells.inverse_edge[k] = 1.0 / std::max(cutoff * (1 + 1e-6), length / kMaxCells);
    cells.count[k] = int32_t(length * cells.inverse_edge[k]) + 1;
    n_cells *= cells.count[k];
  }
  const int64_t room = Scratch::buckets(n_all);
  cells.mask = n_cells <= double(room) ? 0 : int32_t(room - 1);
  return DPL_OK;
}

}  // namespace
}  // namespace dpl

int64_t dpl_cuda_neighbors_scratch(int64_t n_all, int64_t n_local) {
  return dpl::Scratch(nullptr, n_all, n_local).size_in_bytes;
}

dpl_status dpl_cuda_neighbors_count(const dpl_cuda_queue* queue, int64_t n_all, int64_t n_local,
                                    const double* positions, const int32_t* types, double cutoff,
                                    void* scratch, int64_t* offsets, int64_t* n_edges) {
  using namespace dpl;
  dpl_status status = check_arguments(n_all, n_local, cutoff);
  if (status != DPL_OK) return status;
  const Queue q(*queue);
  const Scratch s(scratch, n_all, n_local);
  Cells cells;
  int64_t beyond;
  status = dpl_cuda_report_clear(queue, 1, s.report);
  if (status != DPL_OK) return status;
  const dpl_status box = make_cells(q, n_all, positions, types, cutoff, s, cells);
  status = dpl_cuda_report_read(queue, 1, s.report, n_all, kMaxTypes, &beyond);
  if (status != DPL_OK) return status;  // a row that is not finite, before a box that is not
  if (box != DPL_OK) return box;
  const int64_t n_buckets = Scratch::buckets(n_all), blocks = divided_up(n_all, kThreads);
  cudaMemsetAsync(s.size, 0, n_buckets * sizeof(int32_t), q.stream);
  launch(count_kernel, blocks, kThreads, 0, q.stream, n_all, positions, cells, s);
  scan::exclusive(q, s.size, n_buckets, s.start, s.sums);
  launch(place_kernel, blocks, kThreads, 0, q.stream, n_all, positions, cells, s);
  launch(rows_kernel<false>, divided_up(n_all, kRowsPerBlock), kThreads, 0, q.stream, n_all,
         n_local, squared_limit(cutoff), cells, s, nullptr, nullptr);
  scan::exclusive(q, s.lengths, n_local, offsets, s.sums);
  cudaMemcpyAsync(n_edges, offsets + n_local, sizeof *n_edges, cudaMemcpyDeviceToHost, q.stream);
  status = q.status("the cells of the atoms");
  return status == DPL_OK ? dpl_cuda_report_read(queue, 1, s.report, n_all, kMaxTypes, &beyond)
                          : status;
}

dpl_status dpl_cuda_neighbors_fill(const dpl_cuda_queue* queue, int64_t n_all, int64_t n_local,
                                   const double* positions, const int32_t* types, double cutoff,
                                   void* scratch, const int64_t* offsets, int32_t* indices) {
  using namespace dpl;
  dpl_status status = check_arguments(n_all, n_local, cutoff);
  if (status != DPL_OK) return status;
  const Queue q(*queue);
  const Scratch s(scratch, n_all, n_local);
  Cells cells;
  status = make_cells(q, n_all, positions, types, cutoff, s, cells);
  if (status != DPL_OK) return status;
  launch(rows_kernel<true>, divided_up(n_all, kRowsPerBlock), kThreads, 0, q.stream, n_all, n_local,
         squared_limit(cutoff), cells, s, offsets, indices);
  launch(sort_kernel, n_local, kThreads, kKeys * sizeof(uint64_t), q.stream, types, offsets,
         indices);
  status = q.status("the rows of the list");
  return status == DPL_OK ? q.wait() : status;
}
