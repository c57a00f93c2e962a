// A convolution's 8-bit weights in the order in which a kernel uses them.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "../runtime/layout.h"
#include "../runtime/pack.h"
#include "kernels.h"

namespace sparsecycle::int8 {

// What a kernel of one form needs for the output channels from `begin` to `end`, at the taps that are `valid`.
class Pack {
public:
    // `blocks`: into how many ranges the input channels are cut, so that what a range reads of a
    // tile stays in the first-level cache. Throws std::invalid_argument if a range is too long for 16-bit offsets.
    Pack(const Geometry& geometry, const int8_t* weights, const Layout& input, const Form& form, int begin, int end,
         int blocks, const std::vector<bool>& valid);

    struct Block {
        int64_t channel;   // of the input, the first
        bool first, last;  // of those with the same output channels
        int bundles;
        size_t channels, counts, offsets, weights;  // where its data begin
    };
    const std::vector<Block>& blocks() const { return blocks_; }
    Weights weights(const Block& block) const;

    // What sums start with so that they become those of weight * (q - zero); of channel 0, though `begin` is the first.
    const int32_t* start() const { return start_.data() - begin_; }

    std::pair<int, int> channels() const { return {begin_, end_}; }
    int64_t fours() const { return fours_; }  // of weights that are multiplied with a vector, of all bundles
    int64_t longest() const { return longest_; }  // fours of a dense block
    int64_t bytes() const;

private:
    struct Entry {
        uint16_t offset;
        int8_t weight;
    };
    struct Range {
        int from, to;  // input channels
    };
    void add_block(const Geometry&, const int8_t* weights, const Layout&, int begin, int end, Range,
                   const std::vector<bool>& valid);
    void add_dense(const std::vector<std::vector<Entry>>& rows, int begin);
    void add_sparse(const std::vector<std::vector<Entry>>& rows, int begin);
    void add_weights(const Entry* four);

    const Form form_;
    int begin_, end_;
    std::vector<Block> blocks_;
    std::vector<int32_t> start_;
    std::vector<uint16_t> channels_;
    std::vector<uint32_t> counts_;
    AlignedVector<uint16_t> offsets_;
    AlignedVector<uint32_t> weights_;
    int64_t fours_ = 0, longest_ = 0;
};

}  // namespace sparsecycle::int8
