// Copies 8-bit activations between layouts, and between them and floats.
#pragma once

#include <vector>

#include "../runtime/program.h"

namespace sparsecycle::int8 {

class MoveStep : public Step {
public:
    // As sparsecycle::MoveStep; one of the two has 8 bits, or both have them with the same scale. A float x becomes
    // rint(x * (1 / scale) + zero), limited to 0 ... 255; NaN becomes 0.
    MoveStep(const Program& program, const Place& from, const Place& to, bool flatten);

    int64_t scratch() const override { return together_ * pixels_; }
    void run(const Frame& frame, int worker, int workers) const override;

    int64_t images() const { return images_; }

private:
    // Where the elements of an image are: pixels apart, in a channel.
    struct Places {
        std::vector<int32_t> of;  // of each pixel of each image of a group
        int64_t image;            // from one image to the next one of an array; 0 of a tensor

        const int32_t* at(int64_t image_, int64_t pixels) const { return of.data() + (image ? 0 : image_ * pixels); }
    };
    template <class From, class To, class Turn>
    void copy(const Frame& frame, const From* from, To* to, int begin, int end, Turn&& turn) const;
    void load(const Frame& frame, int begin, int end) const;

    const Program& program_;
    Place from_, to_;
    bool flatten_;
    int64_t images_, pixels_;
    int64_t together_;  // channels of an array that become bytes at once
    Places reads_, writes_;
};

}  // namespace sparsecycle::int8
