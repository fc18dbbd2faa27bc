// Compiled once for each instruction set with DPL_ISA_BYTES and DPL_ISA_SOAP (name of the function
// that returns the table of kernels). Nothing of std: see physics.h.
#include "soap_block.h"

#include "qr_block.h"

namespace dpl {
namespace {

// A side's basis. A matrix is seen in one that is whole by a product; in one of few columns as what
// is along these, and the rest.
struct Basis {
  Matrix columns;
  bool none, few;
};

// A matrix in the bases. What is along few columns of the left one are its first lines; what is
// along few columns of the right one stands apart.
struct Seen {
  Matrix along, rest;
};

// A matrix of the state, where products may read it.
Matrix readable(float* from, int32_t rows, int32_t columns, Memory& memory) {
  if (columns % kHalfPanel == 0) return {from, rows, columns, columns};
  const Matrix out = memory.take(rows, columns);
  copy(from, columns, out);
  return out;
}

Basis basis_of(const SoapSide& side, Memory& memory) {
  if (side.n_columns == 0) return {{}, true, false};
  return {readable(side.basis, side.length, side.n_columns, memory), false, side.few()};
}

// The lines of a matrix along few columns of the left basis, and the rest of it.
struct Parts {
  Matrix along, rest;
};
Parts parts(const Basis& left, const Matrix& x) {
  const int32_t few = left.few ? left.columns.columns : 0;
  return {x.lines(0, few), x.lines(few, x.rows - few)};
}

// The lines of `x` that are along few columns, from the rest.
void find_along(const Basis& left, const Matrix& x) {
  const auto [along, rest] = parts(left, x);
  if (left.few) outer(left.columns, rest, along);
}

// Into the left basis; where it has few columns in place, after `find_along`.
Matrix into_left(const Basis& left, const Matrix& x, Memory& memory) {
  if (left.none) return x;
  if (!left.few) return outer(left.columns, x, memory);
  const auto [along, rest] = parts(left, x);
  Memory own = memory;
  multiply(left.columns, negative(along, own), true, rest);
  return x;
}

Matrix out_of_left(const Basis& left, const Matrix& x, Memory& memory) {
  if (left.none) return x;
  if (!left.few) return multiplied(left.columns, x, memory);
  const auto [along, rest] = parts(left, x);
  Memory own = memory;
  subtract(outer(left.columns, rest, own), along);
  multiply(left.columns, along, true, rest);
  return rest;
}

// `lines`: the right basis, transposed.
Seen into_right(const Basis& right, const Matrix& lines, const Matrix& x, Memory& memory) {
  if (right.none) return {{}, x};
  const Matrix along = multiplied(x, right.columns, memory);
  if (!right.few) return {{}, along};
  Memory own = memory;
  multiply(negative(along, own), lines, true, x);
  return {along, x};
}

Matrix out_of_right(const Basis& right, const Matrix& lines, const Seen& x, Memory& memory) {
  if (right.none) return x.rest;
  if (!right.few) return multiplied(x.rest, lines, memory);
  Memory own = memory;
  subtract(multiplied(x.rest, right.columns, own), x.along);
  multiply(x.along, lines, true, x.rest);
  return x.rest;
}

// Places of the largest numbers first; of equal ones as they stand.
void descending(const float* numbers, int32_t n, int32_t* order) {
  for (int32_t k = 0; k < n; ++k) {
    int32_t place = k;
    for (; place > 0 && numbers[order[place - 1]] < numbers[k]; --place)
      order[place] = order[place - 1];
    order[place] = k;
  }
}

// A basis after one step of orthogonal iteration.
struct Turned {
  Basis basis;
  Matrix mixed;    // old basis, transposed, × new one
  int32_t* order;  // the places that its columns had in the old one
};

// Where the basis has few columns the state gets the mean of their images; the old basis, which may
// be the state's own, is still needed.
Turned iterate(const SoapSide& side, const Basis& old, Memory& memory) {
  const int32_t n = side.length, n_columns = side.n_columns;
  const Matrix order = memory.take(1, n_columns), mixed = memory.take(n_columns, n_columns);
  const Turned turned{
      {memory.take(n, n_columns), false, old.few}, mixed, reinterpret_cast<int32_t*>(order.at)};
  Memory own = memory;
  Matrix image = readable(side.mean, n, n_columns, own);
  if (!old.few) image = multiplied(image, old.columns, own);
  const Matrix sizes = own.take(1, n_columns);
  for (int32_t c = 0; c < n_columns; ++c) sizes.at[c] = 0;
  for (int32_t i = 0; i < n; ++i)
    for (int32_t c = 0; c < n_columns; ++c)
      sizes.at[c] += old.columns.line(i)[c] * image.line(i)[c];
  descending(sizes.at, n_columns, turned.order);
  const Matrix columns = transposed(image, own), sorted = own.take(n_columns, n);
  for (int32_t c = 0; c < n_columns; ++c)
    copy(columns.line(turned.order[c]), 0, sorted.lines(c, 1));
  transpose(orthogonal(sorted, own), turned.basis.columns);
  outer(old.columns, turned.basis.columns, mixed);
  if (old.few) copy(multiplied(image, mixed, own), side.mean, n_columns);
  return turned;
}

// The step of one matrix.
class Step {
 public:
  template <class real>
  Step(const SoapUpdate& update, const SoapMatrix<real>& matrix, float* memory)
      : update_(update),
        left_(matrix.left),
        right_(matrix.right),
        mean_(matrix.mean),
        squares_(matrix.squares),
        n_along_(right_.few() ? right_.n_columns : 0),
        memory_{memory},
        left_basis_(basis_of(left_, memory_)),
        right_basis_(basis_of(right_, memory_)),
        seen_(memory_.take(left_.n_seen(), right_.length)) {
    copy(matrix.gradient, right_.length, parts(left_basis_, seen_).rest);
  }

  // The change of the values.
  Matrix change() {
    sample(memory_);
    if (update_.turns) turn();
    const Matrix lines = lines_of(right_basis_);
    Seen seen = into_right(right_basis_, lines, into_left(left_basis_, seen_, memory_), memory_);
    move(seen);
    seen.along = out_of_left(left_basis_, seen.along, memory_);
    seen.rest = out_of_left(left_basis_, seen.rest, memory_);
    return out_of_right(right_basis_, lines, seen, memory_);
  }

 private:
  Matrix lines_of(const Basis& right) {
    return right.none ? Matrix{} : transposed(right.columns, memory_);
  }

  // A mean moves towards what is seen now.
  void approach(float* mean, const Matrix& now) const {
    const float weight = update_.new_squares;
    for (int32_t i = 0; i < now.rows; ++i, mean += now.columns)
      for (int32_t j = 0; j < now.columns; ++j) mean[j] += weight * (now.line(i)[j] - mean[j]);
  }

  // The means of G Gᵀ and GᵀG, or of their products with bases of few columns, see the gradient.
  void sample(Memory memory) const {
    const auto [along_left, gradient] = parts(left_basis_, seen_);
    Memory own = memory;
    if (left_basis_.few) {
      find_along(left_basis_, seen_);
      approach(left_.mean, multiplied(gradient, transposed(along_left, own), own));
    } else if (!left_basis_.none) {
      approach(left_.mean, gram(transposed(gradient, own), own));
    }
    own = memory;
    if (right_basis_.few) {
      const Matrix along = multiplied(gradient, right_basis_.columns, own);
      approach(right_.mean, outer(gradient, along, own));
    } else if (!right_basis_.none) {
      approach(right_.mean, gram(gradient, own));
    }
  }

  // New bases, and the mean gradient in these. Squares only follow the order of their directions.
  void turn() {
    const int32_t n = right_.n_seen(), rows = left_.n_seen();
    Seen mean{memory_.take(rows, n_along_), memory_.take(rows, right_.length)};
    copy(mean_, n, mean.along);
    copy(mean_ + n_along_, n, mean.rest);
    if (!left_basis_.none) {
      const Turned turned = iterate(left_, left_basis_, memory_);
      mean.along = turned_left(turned, mean.along);
      mean.rest = turned_left(turned, mean.rest);
      order_lines(turned.order, left_.n_columns, n);
      adopt(left_, turned.basis, left_basis_);
      find_along(left_basis_, seen_);
    }
    if (!right_basis_.none) {
      const Matrix old_lines = lines_of(right_basis_);
      const Turned turned = iterate(right_, right_basis_, memory_);
      if (right_basis_.few) {
        const Matrix whole = out_of_right(right_basis_, old_lines, mean, memory_);
        mean = into_right(turned.basis, lines_of(turned.basis), whole, memory_);
      } else {
        mean.rest = multiplied(mean.rest, turned.mixed, memory_);
      }
      order_columns(turned.order, right_.n_columns, rows, n);
      adopt(right_, turned.basis, right_basis_);
    }
    copy(mean.along, mean_, n);
    copy(mean.rest, mean_ + n_along_, n);
  }

  static void adopt(const SoapSide& side, const Basis& turned, Basis& basis) {
    copy(turned.columns, side.basis, side.n_columns);
    basis = turned;
  }

  Matrix turned_left(const Turned& turned, const Matrix& x) {
    if (!left_basis_.few) return outer(turned.mixed, x, memory_);
    out_of_left(left_basis_, x, memory_);
    find_along(turned.basis, x);
    return into_left(turned.basis, x, memory_);
  }

  void order_lines(const int32_t* order, int32_t n_ordered, int32_t n) const {
    Memory own = memory_;
    const Matrix before = own.take(n_ordered, n);
    copy(squares_, n, before);
    for (int32_t i = 0; i < n_ordered; ++i)
      copy(before.lines(order[i], 1), squares_ + int64_t(i) * n, n);
  }
  void order_columns(const int32_t* order, int32_t n_ordered, int32_t rows, int32_t n) const {
    Memory own = memory_;
    const Matrix before = own.take(1, n_ordered);
    float* line = squares_;
    for (int32_t i = 0; i < rows; ++i, line += n) {
      copy(line, n, before);
      for (int32_t c = 0; c < n_ordered; ++c) line[c] = before.at[order[c]];
    }
  }

  // Adam's update of the means; what is seen becomes the step.
  void move(const Seen& seen) const {
    const int32_t n = right_.n_seen();
    for (int32_t i = 0; i < left_.n_seen(); ++i) {
      float *mean = mean_ + int64_t(i) * n, *squares = squares_ + int64_t(i) * n;
      move_line(n_along_, mean, squares, seen.along.line(i));
      move_line(right_.length, mean + n_along_, squares + n_along_, seen.rest.line(i));
    }
  }
  void move_line(int32_t n, float* __restrict mean, float* __restrict squares,
                 float* __restrict seen) const {
    const SoapUpdate u = update_;
    for (int32_t j = 0; j < n; ++j) {
      const float g = seen[j], m = mean[j] + u.new_mean * (g - mean[j]);
      const float s = (1 - u.new_squares) * squares[j] + u.new_squares * g * g;
      mean[j] = m, squares[j] = s;
      const float step = -u.pace * m / (__builtin_sqrtf(s) * u.inverse_root + u.epsilon);
      const float above = step < -u.most ? -u.most : step;
      seen[j] = above > u.most ? u.most : above;
    }
  }

  const SoapUpdate& update_;
  const SoapSide left_, right_;
  float *const mean_, *const squares_;  // in the bases, (left_.n_seen(), right_.n_seen())
  const int32_t n_along_;               // of a line of these, numbers along few columns
  Memory memory_;
  Basis left_basis_, right_basis_;
  Matrix seen_;  // the gradient, after lines for what is along few columns of the left basis
};

template <class real>
void step(const SoapUpdate& update, const SoapMatrix<real>& matrix, float* memory) {
  const Matrix change = Step(update, matrix, memory).change();
  real* values = matrix.values;
  for (int32_t i = 0; i < change.rows; ++i, values += change.columns)
    for (int32_t j = 0; j < change.columns; ++j) values[j] += real(change.line(i)[j]);
}

}  // namespace

template <class real>
SoapKernel<real> DPL_ISA_SOAP() {
  return step<real>;
}
template SoapKernel<float> DPL_ISA_SOAP<float>();
template SoapKernel<double> DPL_ISA_SOAP<double>();

}  // namespace dpl
