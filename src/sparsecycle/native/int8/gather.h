// A convolution of a tiny map of 8-bit activations, one image at a time, with output channels in the lanes.
#pragma once

#include <vector>

#include "../runtime/aligned.h"
#include "../runtime/program.h"
#include "kernels.h"
#include "numbers.h"

namespace sparsecycle::int8 {

class GatherStep : public Step {
public:
    // As ConvolutionStep; tensors have one image, and as many channels in their lanes as the widest vectors have bytes.
    GatherStep(const Program& program, int from, int to, int residual, const Geometry& geometry, const int8_t* weights,
               const float* scales, const float* bias, const Activation& activation);

    void prepare(int workers) override;
    int64_t scratch() const override;
    void run(const Frame& frame, int worker, int workers) const override;

private:
    // Where a tap takes places of the input to, as many as a kernel does at once.
    struct Places {
        int tap;
        std::vector<int> in, out;
    };
    struct Run {  // steps
        size_t first;
        int count;
    };
    // Some of the output's channels: bundles of as many as a register has, one after the other.
    struct Part {
        int begin, end;              // bundles
        const Gatherers* kernels;
        std::vector<int32_t> start;  // what sums start with: for each bundle, place and channel
        std::vector<Run> runs;       // of each bundle and tap
        std::vector<uint16_t> windows;
        AlignedVector<uint8_t> steps;
    };
    Part part(int begin, int end) const;
    Run add_steps(Part& part, int bundle, int tap) const;
    double nanoseconds(const Part& part) const;  // about, to compare windows by

    const Program& program_;
    int from_, to_, residual_;
    Geometry geometry_;
    Numbers numbers_;
    std::vector<Places> places_;
    std::vector<int32_t> inputs_, outputs_, residuals_;  // where each place is, in elements
    std::vector<Part> parts_;
};

}  // namespace sparsecycle::int8
