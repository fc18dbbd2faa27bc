// Standard normal numbers that are a function of what they are for, on host and device.
//
// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11;
// Box and Muller's transform of uniform numbers (k + ½)/2³².
#pragma once

#include <cmath>
#include <cstdint>

#include "physics.h"

namespace dpl {

DPL_INLINE void philox(uint32_t (&c)[4], uint32_t key_0, uint32_t key_1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(c[0]) * 0xD2511F53u, p1 = uint64_t(c[2]) * 0xCD9E8D57u;
    c[0] = uint32_t(p1 >> 32) ^ c[1] ^ key_0;
    c[1] = uint32_t(p1);
    c[2] = uint32_t(p0 >> 32) ^ c[3] ^ key_1;
    c[3] = uint32_t(p0);
    key_0 += 0x9E3779B9u;
    key_1 += 0xBB67AE85u;
  }
}

// Three numbers of an atom at a step.
DPL_INLINE void three_normals(int64_t id, uint32_t seed, uint32_t stream, int64_t step,
                              double* normals) {
  const uint64_t who = uint64_t(id), when = uint64_t(step);
  uint32_t bits[4] = {uint32_t(who), uint32_t(who >> 32), uint32_t(when), uint32_t(when >> 32)};
  philox(bits, seed, stream);
  double u[4];
  for (int i = 0; i < 4; ++i) u[i] = (bits[i] + 0.5) * 0x1p-32;
  constexpr double two_pi = 6.283185307179586;
  const double r0 = sqrt(-2.0 * log(u[0])), r1 = sqrt(-2.0 * log(u[2]));
  normals[0] = r0 * cos(two_pi * u[1]);
  normals[1] = r0 * sin(two_pi * u[1]);
  normals[2] = r1 * cos(two_pi * u[3]);
}

}  // namespace dpl
