// Model files, whole and damaged.
#pragma once

#include <cstdint>

// Reads the model of data/silicon; then `cases` damaged copies of it, most of them in their header,
// each of which is read or refused.
void model_files(int cases, uint64_t seed);
