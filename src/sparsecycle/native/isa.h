// The instruction sets this program has paths for, and the one in use.
//
// Kernels are compiled once per instruction set, into a namespace of its name; everything else is compiled for the
// oldest machine of the platform. Which path runs is decided when the program runs.
#pragma once

#include <string>
#include <vector>

namespace sparsecycle {

enum class Isa { baseline, avx2, avx512, avx512vnni };  // in the order of preference

const char* name(Isa isa);

// The paths that this program has and this processor can run; `baseline` is always among them.
std::vector<Isa> available();

// The path in use: the best available one, until `use` chooses another.
Isa current();

// Throws std::invalid_argument if the path is not available.
void use(const std::string& isa);

}  // namespace sparsecycle
