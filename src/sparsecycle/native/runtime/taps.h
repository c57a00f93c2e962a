// Which of a convolution's taps look at the map, from which places.
#pragma once

#include <cstdint>
#include <vector>

#include "layout.h"
#include "pack.h"

namespace sparsecycle {

// Throws std::invalid_argument unless a convolution can read tensors laid out like this and write one like that.
void check_fit(const Geometry& geometry, const Layout& in, const Layout& out, const Layout* residual);

class Taps {
public:
    Taps(const Geometry& geometry, const Layout& in, const Layout& out);

    // Whether each tap meets the map from any of `columns` vectors from the v-th one of the output's row y on; the
    // others only see padding.
    std::vector<bool> met(int y, int v, int columns) const;

private:
    int width_, groups_;
    std::vector<std::vector<bool>> rows_, columns_;
};

}  // namespace sparsecycle
