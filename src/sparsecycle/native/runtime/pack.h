// A convolution's weights in the order in which a kernel uses them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "aligned.h"
#include "kernels.h"
#include "layout.h"

namespace sparsecycle {

// A convolution as its user describes it; a linear layer is one with a kernel of 1 x 1 on a map of 1 x 1.
struct Geometry {
    int out = 0, in = 0, kernel_height = 1, kernel_width = 1;  // channels
    int stride_height = 1, stride_width = 1, padding_height = 0, padding_width = 0, dilation_height = 1,
        dilation_width = 1, groups = 1;

    int taps() const { return kernel_height * kernel_width; }
    int64_t weights() const { return static_cast<int64_t>(out) * (in / groups) * taps(); }
    void check() const;
};

// What a kernel of one form needs for the output channels from `begin` to `end`, at the taps that are `valid`.
class Pack {
public:
    // `blocks`: into how many ranges the input channels are cut, so that what a range reads of a tile stays in the
    // first-level cache. Throws std::invalid_argument if a range is too long for 16-bit offsets.
    Pack(const Geometry& geometry, const float* weights, const Layout& input, const Form& form, int begin, int end,
         int blocks, const std::vector<bool>& valid);

    struct Block {
        int64_t channel;          // of the input, the first
        bool first, last;         // of those with the same output channels
        int bundles;
        size_t channels, counts, offsets, weights;  // where its data begin
    };
    const std::vector<Block>& blocks() const { return blocks_; }
    Weights weights(const Block& block) const;

    std::pair<int, int> channels() const { return {begin_, end_}; }
    int64_t slots() const { return slots_; }  // multiply-adds of one vector, with those that padding adds
    int64_t bytes() const;

private:
    void add_block(const Geometry&, const float* weights, const Layout&, const Form&, int begin, int end, int from, int to,
                   const std::vector<bool>& valid);

    bool bfloat16_;
    int begin_, end_;
    std::vector<Block> blocks_;
    std::vector<uint16_t> channels_;
    std::vector<uint32_t> counts_;
    AlignedVector<uint16_t> offsets_;
    AlignedVector<float> weights_;
    AlignedVector<uint16_t> short_weights_;
    int64_t slots_ = 0;
};

uint16_t to_bfloat16(float value);  // rounded to nearest, ties to even

}  // namespace sparsecycle
