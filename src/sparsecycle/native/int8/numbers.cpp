#include "numbers.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "scale.h"

namespace sparsecycle::int8 {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("a convolution's " + what);
}

}  // namespace

Numbers::Numbers(const Geometry& geometry, const Layout& in, const Layout& out, const Layout* residual,
                 const int8_t* of, const float* scales, const float* constants, const Activation& activation) {
    const bool floats = out.element == Element::float32;
    demand(in.element == Element::uint8 && (!residual || residual->element == Element::uint8),
           "input and residual must be of 8 bits");
    demand(!floats || out.halo == Halo{}, "output of floats must have no halo");
    demand(of && scales, "weights and scales must have addresses");
    weights.assign(of, of + geometry.weights());
    demand(std::find(weights.begin(), weights.end(), -128) == weights.end(), "weights must be -127 to 127, not -128");

    // In units of the output where that is of 8 bits and nothing has to be done to the value itself.
    const bool folded = !floats && !activation.silu;
    const float unit = folded ? out.scale.scale : 1.0f, zero = static_cast<float>(out.scale.zero);
    const float residual_scale = residual ? residual->scale.scale / unit : 0.0f;
    const float residual_zero = residual ? static_cast<float>(residual->scale.zero) * residual_scale : 0.0f;
    const int64_t row = geometry.weights() / geometry.out;
    for (int channel = 0; channel < geometry.out; channel++) {
        scale.push_back(in.scale.scale * scales[channel] / unit);
        bias.push_back((constants ? constants[channel] : 0.0f) / unit - residual_zero + (folded ? zero : 0.0f));
        int64_t sum = 0;
        for (int64_t i = 0; i < row; i++) sum += 255 * std::abs(weights[channel * row + i]);
        const double largest = (static_cast<double>(sum) * std::abs(scale.back()) + std::abs(bias.back()) +
                                255.0 * residual_scale) / (floats || folded ? 1.0f : out.scale.scale);
        demand(sum <= INT32_MAX && largest < INT32_MAX,  // which NaN is not
               "sums of channel " + std::to_string(channel) + " are up to " + std::to_string(sum) + ", for results up to " +
                   std::to_string(largest) + "; both must fit into 32 bits");
    }
    scale.resize((geometry.out + 63) / 64 * 64);
    bias.resize(scale.size());
    const auto [low, high] = folded ? limits(activation, out.scale) : std::pair<uint8_t, uint8_t>(0, 255);
    finish = {scale.data(), bias.data(), residual_scale, activation, 1 / out.scale.scale, zero, low, high,
              static_cast<uint8_t>(out.scale.zero ^ flip(out))};
}

}  // namespace sparsecycle::int8
