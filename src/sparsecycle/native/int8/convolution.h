// A convolution of 8-bit activations, and the ways of computing it that were made for it.
#pragma once

#include <memory>
#include <vector>

#include "../runtime/convolution.h"
#include "kernels.h"
#include "numbers.h"
#include "pack.h"

namespace sparsecycle::int8 {

class ConvolutionStep : public TunableStep {
public:
    // Weights are -127 to 127, and stand for themselves times their channel's scale. The output may be of floats.
    ConvolutionStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                    const int8_t* weights, const float* scales, const float* bias, const Activation& activation);

    void prepare(int workers) override { parts_ = workers; }
    int64_t scratch() const override;
    bool ready() const override { return chosen_ >= 0; }
    void run(const Frame& frame, int worker, int workers) const override;

    std::vector<int> forms() const override;
    int candidate(int form, int blocks) override;
    void choose(int candidate) override;
    void keep_chosen() override;
    Cost cost(int candidate) const override { return candidates_.at(candidate).cost; }

private:
    struct Piece {  // of the output: a tile
        Convolve run;
        int packs;  // which of the candidate's: there is one for each part
        int64_t input, output, residual, inside;  // distances in vectors
    };
    struct Candidate {
        std::vector<Piece> pieces;
        std::vector<std::vector<Pack>> packs;
        Cost cost;
    };
    int run_length() const;
    int64_t sums_bytes() const;
    std::vector<int> part_ends() const;

    const Program& program_;
    int from_, to_, residual_;
    const Layout &input_, &output_;
    const Layout* added_;
    Geometry geometry_;
    Numbers numbers_;
    AlignedVector<uint8_t> inside_;
    int parts_ = 1;
    std::vector<Candidate> candidates_;
    int chosen_ = -1;
};

}  // namespace sparsecycle::int8
