// What the checks of the core have in common.
#pragma once

#include <cstdint>
#include <string>

namespace sparsecycle {

extern int64_t checks;     // that were made
extern std::string doing;  // what is checked, to be read where it is wrong

// Says what is wrong and ends the program, if it is not right.
void expect(bool right, const char* what);

// Numbers that follow from a seed on every machine.
struct Random {
    uint64_t state;

    uint32_t bits() {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        return static_cast<uint32_t>(state >> 24);
    }
    int64_t below(int64_t n) { return n > 0 ? static_cast<int64_t>(bits() % static_cast<uint64_t>(n)) : 0; }
    bool one_in(int64_t n) { return below(n) == 0; }
};

extern Random draw;

// On the path in use:
void check_runtime(double share);
void check_int8(double share);

}  // namespace sparsecycle
