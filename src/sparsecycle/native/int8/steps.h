// The steps on 8-bit activations that are no convolutions.
#pragma once

#include <vector>

#include "../runtime/program.h"
#include "kernels.h"

namespace sparsecycle::int8 {

class PoolStep : public Step {
public:
    // As sparsecycle::PoolStep. What is largest keeps the input's scale.
    PoolStep(const Program& program, int from, int to, bool average, const std::vector<Range>& rows,
             const std::vector<Range>& columns, const std::vector<float>& factors);

    void run(const Frame& frame, int worker, int workers) const override;

private:
    const Program& program_;
    int from_, to_;
    std::vector<Range> rows_, columns_;
    AlignedVector<float> scale_;
    AlignedVector<uint8_t> inside_;
    Pooling pooling_;
};

// to = activation(left + right), or activation(left) if right is negative
class CombineStep : public Step {
public:
    CombineStep(const Program& program, int left, int right, int to, const Activation& activation);

    void run(const Frame& frame, int worker, int workers) const override;

private:
    const Program& program_;
    int left_, right_, to_;
    Combining combining_;
};

}  // namespace sparsecycle::int8
