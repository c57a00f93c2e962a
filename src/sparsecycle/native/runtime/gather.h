// A convolution of a tiny map, one image at a time, with output channels in the lanes.
#pragma once

#include <vector>

#include "aligned.h"
#include "kernels.h"
#include "pack.h"
#include "program.h"

namespace sparsecycle {

class GatherStep : public Step {
public:
    // Tensors have as many channels in their lanes as the widest vectors of floats have lanes; maps are of 1 x 1, or of
    // 2 x 2 with a kernel of 3 x 3, stride 1 and padding 1. Throws std::invalid_argument for others.
    GatherStep(const Program& program, int from, int to, int residual, const Geometry& geometry, const float* weights,
               const float* bias, const Activation& activation);

    void prepare(int workers) override;
    void run(const Frame& frame, int worker, int workers) const override;

private:
    struct Part {  // some planes of the output
        int begin, end;
        std::vector<uint16_t> sizes, planes, counts;
        AlignedVector<uint8_t> inputs;
        AlignedVector<float> weights;
    };
    Part part(int begin, int end) const;

    const Program& program_;
    int from_, to_, residual_;
    Geometry geometry_;
    std::vector<float> weights_;
    AlignedVector<float> bias_;
    Activation activation_;
    int side_;
    std::vector<Part> parts_;
};

}  // namespace sparsecycle
