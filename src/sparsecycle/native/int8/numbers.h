// What a convolution's weights of 8 bits and its sums stand for.
#pragma once

#include <vector>

#include "../runtime/aligned.h"
#include "../runtime/pack.h"
#include "kernels.h"

namespace sparsecycle::int8 {

struct Numbers {
    std::vector<int8_t> weights;
    AlignedVector<float> scale, bias;  // of output channels, and zeros up to a multiple of 64
    Finish finish;                     // with these

    // Weights are -127 to 127, and stand for themselves times their output channel's scale. Throws std::invalid_argument
    // if one is not, if a layout has the wrong elements, or if a sum or a result does not fit into 32 bits.
    Numbers(const Geometry& geometry, const Layout& in, const Layout& out, const Layout* residual, const int8_t* weights,
            const float* scales, const float* bias, const Activation& activation);
};

}  // namespace sparsecycle::int8
