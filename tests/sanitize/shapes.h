// Random systems, tables and networks, and random damage to them.
#pragma once

#include <cstdint>
#include <string>

// The case of `seed`, in both precisions; `where` begins the message of a failure.
void random_shape(const std::string& where, uint64_t seed);
