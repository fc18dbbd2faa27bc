// Two reductions over edges whose result does not depend on the number of threads: no atomics, no
// sum whose order is decided by who comes first. Both work on one round (some consecutive blocks
// of atoms) at a time, so that memory is bounded.
#pragma once

#include <algorithm>
#include <vector>

#include "moments_block.h"
#include "runtime.h"

namespace dpl {

// Consecutive blocks [first, last) of atoms and their edges.
struct Round {
  int64_t first, last;
  int64_t edge_begin, edge_end;
};

// grad[j] += Σ of the edge gradients that point to row j.
//
// The blocks of a round deal their edges into buckets, each a range of rows: a block has its own
// range of slots in each bucket. Then one thread owns a bucket and adds it up in order of slots.
class PositionGradient {
 public:
  PositionGradient(double* grad, int64_t n_all, Workspace& memory) : grad_(grad), memory_(memory) {
    while ((n_all - 1) >> shift_ >= kMaxBuckets) ++shift_;
    n_buckets_ = n_all > 0 ? ((n_all - 1) >> shift_) + 1 : 0;
  }

  // Lays out the slots of a round. `starts`: first atom of each block.
  void begin(const Round& round, const std::vector<int64_t>& starts, const int64_t* offsets,
             const int32_t* indices, int threads) {
    round_ = round;
    const int64_t n_blocks = round.last - round.first;
    slots_ = memory_.slots.get<Slot>(round.edge_end - round.edge_begin);
    first_ = memory_.slot_counts.get<int32_t>(2 * n_blocks * n_buckets_);
    next_ = first_ + n_blocks * n_buckets_;
    parallel_for(n_blocks, threads, [&](int64_t k) {
      int32_t* count = next_ + k * n_buckets_;
      std::fill(count, count + n_buckets_, 0);
      const int64_t b = round.first + k;
      for (int64_t e = offsets[starts[b]]; e < offsets[starts[b + 1]]; ++e)
        ++count[std::min<int64_t>(uint32_t(indices[e]) >> shift_, n_buckets_ - 1)];
    });
    int32_t total = 0;
    for (int64_t bucket = 0; bucket < n_buckets_; ++bucket)
      for (int64_t k = 0; k < n_blocks; ++k) {
        const int64_t cell = k * n_buckets_ + bucket;
        const int32_t count = next_[cell];
        first_[cell] = next_[cell] = total;
        total += count;
      }
  }

  // Deals out the edges of a block and takes their sum off the centres.
  template <class real>
  void add(int64_t block, int64_t atom_begin, int64_t atom_end, const Edges<real>& edges) {
    int32_t* next = next_ + (block - round_.first) * n_buckets_;
    for (int64_t i = atom_begin; i < atom_end; ++i) {
      double total[3] = {0, 0, 0};
      for (int32_t e = edges.start[i - atom_begin]; e < edges.start[i - atom_begin + 1]; ++e) {
        Slot& slot = slots_[next[edges.neighbor[e] >> shift_]++];
        slot.row = edges.neighbor[e];
        for (int k = 0; k < 3; ++k) {
          slot.g[k] = edges.gradient[k][e];
          total[k] += slot.g[k];
        }
      }
      for (int k = 0; k < 3; ++k) grad_[3 * i + k] -= total[k];
    }
  }

  void end(int threads) {
    const int64_t n_blocks = round_.last - round_.first;
    parallel_for(n_buckets_, threads, [&](int64_t bucket) {
      for (int64_t k = 0; k < n_blocks; ++k) {
        const int64_t cell = k * n_buckets_ + bucket;
        for (int32_t s = first_[cell]; s < next_[cell]; ++s)
          for (int c = 0; c < 3; ++c) grad_[3 * int64_t(slots_[s].row) + c] += slots_[s].g[c];
      }
    });
  }

 private:
  static constexpr int64_t kMaxBuckets = 128;
  struct Slot {
    double g[3];
    int32_t row;
  };
  double* grad_;
  Workspace& memory_;
  Round round_{};
  int shift_ = 3;
  int64_t n_buckets_ = 0;
  Slot* slots_ = nullptr;
  int32_t *first_ = nullptr, *next_ = nullptr;  // (n_blocks, n_buckets)
};

// grad[bin] += the gradient of each table interval's (kPowers, n_features) coefficients.
//
// The runs of a round are sorted by bin; tasks of at most kTask runs of one bin give partial sums
// in double, which are added up in order.
template <class real>
class CoefficientGradient {
 public:
  CoefficientGradient(const Problem<real>& problem, double* grad, Workspace& memory)
      : p_(problem),
        n_bins_(problem.n_bins()),
        run_size_(run_size(problem.n_columns)),
        grad_(grad),
        memory_(memory) {}

  void begin(const Round& round) {
    round_ = round;
    const int64_t n_edges = round.edge_end - round.edge_begin;
    entries_ = memory_.entries.get<RunEntry<real>>(n_edges);
    sums_ = memory_.entry_sums.get<real>(n_edges * run_size_);
    order_ = memory_.order.get<int32_t>(n_edges);
    count_ = memory_.bin_counts.get<int32_t>((round.last - round.first) * n_bins_);
    n_entries_.assign(round.last - round.first, 0);
  }

  // Notes the runs of a block, whose list begins at `edge_begin`.
  void add(int64_t block, int64_t edge_begin, int64_t atom_begin, int64_t atom_end,
           const Edges<real>& edges) {
    const int64_t k = block - round_.first;
    n_entries_[k] = edges.n_runs;
    int32_t* count = count_ + k * n_bins_;
    std::fill(count, count + n_bins_, 0);
    RunEntry<real>* entry = entries_ + (edge_begin - round_.edge_begin);
    for (int64_t i = atom_begin; i < atom_end; ++i)
      for (int32_t r = edges.run_start[i - atom_begin]; r < edges.run_start[i - atom_begin + 1];
           ++r, ++entry) {
        entry->atom = int32_t(i);
        entry->bin = edges.run_bin[r];
        real* sums = sums_ + (entry - entries_) * run_size_;
        std::copy_n(edges.sums + r * run_size_, run_size_, sums);
        entry->sums = sums;
        ++count[entry->bin];
      }
  }

  void end(const std::vector<int64_t>& starts, const real* grad_moments,
           const BlockKernels<real>& kernels, int threads) {
    sort(starts, threads);
    const int64_t size = int64_t(kPowers) * p_.n_features;
    const int64_t n_tasks = int64_t(tasks_.size());
    double* partials = memory_.partials.template get<double>(n_tasks * size);
    parallel_for(n_tasks, threads, [&](int64_t k) {
      RunEntry<real> local[kTask];
      const int32_t n = tasks_[k].end - tasks_[k].begin;
      for (int32_t e = 0; e < n; ++e) local[e] = entries_[order_[tasks_[k].begin + e]];
      std::fill(partials + k * size, partials + (k + 1) * size, 0.0);
      kernels.accumulate(p_.n_features, local, n, grad_moments, partials + k * size);
    });
    // one thread for each of the bins that have runs
    parallel_for(int64_t(first_task_.size()) - 1, threads, [&](int64_t k) {
      double* grad = grad_ + tasks_[first_task_[k]].bin * size;
      for (int64_t task = first_task_[k]; task < first_task_[k + 1]; ++task)
        for (int64_t m = 0; m < size; ++m) grad[m] += partials[task * size + m];
    });
  }

 private:
  static constexpr int32_t kTask = 64;
  struct Task {
    int64_t bin;
    int32_t begin, end;  // of order_
  };

  // Stable counting sort of the entries by bin, and the tasks that follow from it.
  void sort(const std::vector<int64_t>& starts, int threads) {
    const int64_t n_blocks = round_.last - round_.first;
    tasks_.clear();
    first_task_.clear();
    int32_t total = 0;
    for (int64_t bin = 0; bin < n_bins_; ++bin) {
      const int32_t begin = total;
      for (int64_t k = 0; k < n_blocks; ++k) {
        int32_t& cell = count_[k * n_bins_ + bin];
        const int32_t count = cell;
        cell = total;
        total += count;
      }
      if (total > begin) first_task_.push_back(int64_t(tasks_.size()));
      for (int32_t first = begin; first < total; first += kTask)
        tasks_.push_back({bin, first, std::min(first + kTask, total)});
    }
    first_task_.push_back(int64_t(tasks_.size()));
    parallel_for(n_blocks, threads, [&](int64_t k) {
      int32_t* next = count_ + k * n_bins_;
      const int32_t begin = int32_t(p_.offsets[starts[round_.first + k]] - round_.edge_begin);
      for (int32_t e = begin; e < begin + n_entries_[k]; ++e) order_[next[entries_[e].bin]++] = e;
    });
  }

  const Problem<real>& p_;
  int64_t n_bins_, run_size_;
  double* grad_;
  Workspace& memory_;
  Round round_{};
  RunEntry<real>* entries_ = nullptr;
  real* sums_ = nullptr;                         // (n_edges, run_size)
  int32_t *order_ = nullptr, *count_ = nullptr;  // count_ (n_blocks, n_bins)
  std::vector<int32_t> n_entries_;               // of each block
  std::vector<Task> tasks_;
  std::vector<int64_t> first_task_;
};

}  // namespace dpl
