// What selection and masks need done to a run of elements; one table of functions for each instruction set.
//
// Numbers are ranked by integer keys in the order of the numbers themselves: of the magnitude, its bits; of the number,
// its bits with the negative ones turned round. Half-precision numbers have the keys of the same numbers in float32, so
// all types compare with each other, and every comparison is exact.
#pragma once

#include <cstdint>

#include "../isa.h"

namespace sparsecycle {

enum class Type : int { float32, bfloat16, float16 };
constexpr int types = 3;

constexpr int32_t lowest_key = INT32_MIN;     // no number has it
constexpr int32_t infinite_key = 0x7f800000;  // of infinity; those of NaN are greater

// An element and where it is in its run.
struct Found {
    int32_t key;
    uint32_t at;
};

struct Tally {
    int64_t above = 0;   // keys greater than `high`
    int64_t inside = 0;  // keys greater than `below`, up to `high`
    int32_t top = 0;     // the greatest magnitude's key, of all elements
    bool stray = false;  // an element that is not `among` is not 0
};

// Counts the keys, and writes those inside into `found` as long as there is room. A null `among` means all.
using Collect = Tally (*)(const void* scores, const uint8_t* among, int64_t n, int32_t below, int32_t high, Found* found,
                          int64_t room);

// mask[i] = whether element i is `among` those that may stay and its key is at least `least`.
using Mark = void (*)(const void* scores, const uint8_t* among, int64_t n, int32_t least, uint8_t* mask);

// The same for weights by their magnitude, among those that the mask has until now; the others are set to 0.
using Cut = void (*)(void* weights, int64_t n, int32_t least, uint8_t* mask);

// Keys as unsigned numbers, the lowest one being 0: adds to counts[(key >> shift) % bins] for keys whose bits above that
// are `prefix`.
using Histogram = void (*)(const void* scores, const uint8_t* among, int64_t n, uint32_t prefix, int shift, int bins,
                           int64_t* counts);

// The greatest magnitude's key.
using Top = int32_t (*)(const void* scores, int64_t n);

// Sets elements to 0 where the mask is 0.
using Clear = void (*)(const uint8_t* mask, int64_t n, void* data);

// Whether an element has any bit set where the mask is 0.
using Strays = bool (*)(const uint8_t* mask, int64_t n, const void* data);

struct Kernels {
    // By type, and by whether magnitudes are ranked.
    Collect collect[types][2];
    Mark mark[types][2];
    Histogram histogram[types][2];
    // By type.
    Cut cut[types];
    Top top[types];
    // By the logarithm of an element's bytes, from 1 on: two, four or eight.
    Clear clear[4];
    Strays strays[4];
};

// The table of the instruction set in use.
const Kernels& kernels();

namespace baseline {
extern const Kernels selection_kernels;
}
namespace avx2 {
extern const Kernels selection_kernels;
}
namespace avx512 {
extern const Kernels selection_kernels;
}

}  // namespace sparsecycle
