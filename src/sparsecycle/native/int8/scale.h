// What 8-bit activations stand for, and how they are stored.
#pragma once

#include <cstdint>
#include <utility>

#include "../runtime/aligned.h"
#include "../runtime/kernels.h"
#include "../runtime/layout.h"

namespace sparsecycle::int8 {

// Throws std::invalid_argument unless the scale is positive and the zero one of the elements.
void check(const Scale& scale);

// A kernel has q ^ flip for q.
uint8_t flip(const Layout& layout);
Layout as_stored(Layout layout);  // with its fill so

// The least and the largest q that an activation leaves.
std::pair<uint8_t, uint8_t> limits(const Activation& activation, const Scale& scale);

// A vector for each of a block's, of bytes with all bits set in lanes inside the map; empty where all are.
AlignedVector<uint8_t> inside(const Layout& layout);

}  // namespace sparsecycle::int8
