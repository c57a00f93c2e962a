// The steps that are no convolutions.
#pragma once

#include <vector>

#include "kernels.h"
#include "program.h"

namespace sparsecycle {

// Of some channels, or other things.
struct Share {
    int begin, end;
};
Share share(int channels, int worker, int workers);

// Throws std::invalid_argument unless a pool with these windows can read the one layout and write the other.
void check_windows(const Layout& in, const Layout& out, const std::vector<Range>& rows, const std::vector<Range>& columns);

// Copies the activations of one layout, or of the user's array, into another's.
class MoveStep : public Step {
public:
    // flatten: pixel p of channel c becomes channel c * pixels + p of a map of one pixel.
    MoveStep(const Program& program, const Place& from, const Place& to, bool flatten);

    void run(const Frame& frame, int worker, int workers) const override;

    int64_t images() const { return images_; }  // that one run moves

private:
    const Program& program_;
    Place from_, to_;
    bool flatten_;
    int64_t images_, pixels_;
    bool is_copy_;  // elements are in the same order here and there
    bool is_strided_;  // features of one image, each in a vector of its own here or there
    bool in_lanes_;  // an array goes to the lanes of a tensor, or comes from them, by runs
    std::vector<int32_t> reads_, writes_;  // elements from channel 0: of a pixel, of each image of a group
};

class PoolStep : public Step {
public:
    // rows, columns: of the input's block, halo included, for each row and column of the output's. scale: of an average,
    // a factor for each lane of each of the output's places.
    PoolStep(const Program& program, int from, int to, bool average, const std::vector<Range>& rows,
             const std::vector<Range>& columns, const std::vector<float>& scale);

    void run(const Frame& frame, int worker, int workers) const override;

private:
    const Program& program_;
    int from_, to_;
    std::vector<Range> rows_, columns_;
    AlignedVector<float> scale_;
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
    Activation activation_;
};

}  // namespace sparsecycle
