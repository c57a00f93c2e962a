// Copies 8-bit activations between layouts, and between them and floats.
#pragma once

#include <vector>

#include "../runtime/program.h"

namespace sparsecycle::int8 {

class MoveStep : public Step {
public:
    // As sparsecycle::MoveStep; one of the two has 8 bits, or both of them with the same scale. A float x becomes
    // rint(x * (1 / scale) + zero), limited to 0 ... 255; NaN becomes 0.
    MoveStep(const Program& program, const Place& from, const Place& to, bool flatten);

    void run(const Frame& frame, int worker, int workers) const override;

    int64_t images() const { return images_; }

private:
    template <class From, class To, class Turn>
    void copy(const Frame& frame, const From* from, To* to, int begin, int end, Turn&& turn) const;

    const Program& program_;
    Place from_, to_;
    bool flatten_;
    int64_t images_, pixels_;
    std::vector<int32_t> reads_, writes_;  // elements from channel 0: of a pixel, of each image of a group
};

}  // namespace sparsecycle::int8
