// A mask update, whole: the threshold, the masks, and zeros in the weights and in what belongs to them.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "select.h"

namespace sparsecycle {

// Memory that lies as the weights of a layer do: a gradient, or an optimizer's state.
struct Companion {
    void* data;
    int bytes;  // of an element: 2, 4 or 8
};

// Layers that compete, by their indices, and how many of their weights are kept.
struct Share {
    std::vector<int> layers;
    int64_t keep;
    int64_t before;  // how many are kept until now
    std::optional<Bracket> bracket;
};

using Companions = std::vector<std::vector<Companion>>;  // of every layer

// Zeroes one of them where the mask, of so many elements, is 0.
void clear(const uint8_t* mask, int64_t size, const Companion& companion, int threads);

// Zeroes weights and companions where the masks are 0, and says whether a weight was not 0 there.
bool enforce(const std::vector<Layer>& layers, const Companions& companions, int threads);

// Keeps the largest magnitudes of each share: changes masks, weights and companions in place.
//
// Args:
//   returns: whether a pruned weight, being 0, competes too.
//   floor: how many weights every layer of a share of several keeps (or all it has).
//
// Returns the thresholds' keys; a share that keeps nothing has none. Throws std::domain_error, and changes nothing, if a
// weight is NaN or infinite.
std::vector<std::optional<int32_t>> prune(const std::vector<Layer>& layers, const Companions& companions,
                                          const std::vector<Share>& shares, bool returns, int64_t floor, int threads);

}  // namespace sparsecycle
