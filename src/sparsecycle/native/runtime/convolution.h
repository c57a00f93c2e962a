// A convolution, and the ways of computing it that were made for it.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "kernels.h"
#include "pack.h"
#include "program.h"

namespace sparsecycle {

// What one way costs, in the terms of a model of costs.
struct Cost {
    int64_t bytes = 0;          // of weights and offsets that are read in a run, for one group
    int64_t multiply_adds = 0;  // of vectors, with those that padding adds
    int64_t loads = 0;          // of vectors, weights and offsets by the inner loops
    int64_t visits = 0;         // of a tile's sums of a channel: they are read, written, and take a bundle's start
    int64_t stored = 0;         // bytes that weights and offsets take
};

// A step with several ways of computing it, from which one is to be chosen.
class TunableStep : public Step {
public:
    // The forms that fit this convolution's layouts, by their place in the instruction set's table.
    virtual std::vector<int> forms() const = 0;
    // Prepares the weights for a form and a number of blocks, and chooses it if it is the first. Returns its number.
    virtual int candidate(int form, int blocks) = 0;
    virtual void choose(int candidate) = 0;
    virtual void keep_chosen() = 0;  // drops the others, and the weights they were made from
    virtual Cost cost(int candidate) const = 0;
};

class ConvolutionStep : public TunableStep {
public:
    ConvolutionStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                    const float* weights, const float* bias, const Activation& activation);

    void prepare(int workers) override;
    bool ready() const override { return chosen_ >= 0; }
    void run(const Frame& frame, int worker, int workers) const override;

    std::vector<int> forms() const override;
    int candidate(int form, int blocks) override;
    void choose(int candidate) override;
    void keep_chosen() override;
    Cost cost(int candidate) const override;
    const Geometry& geometry() const { return geometry_; }

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
    class Cutter;

    int from_, to_, residual_;
    const Layout &input_, &output_;
    const Layout* added_;
    const AlignedVector<float>* inside_;
    const Program& program_;
    Geometry geometry_;
    std::vector<float> weights_, bias_;
    Activation activation_;
    int parts_ = 1;  // of the output channels, which the workers share
    bool merged_;  // rows follow each other without a gap everywhere, and are one
    std::vector<Candidate> candidates_;
    int chosen_ = -1;
};

}  // namespace sparsecycle
