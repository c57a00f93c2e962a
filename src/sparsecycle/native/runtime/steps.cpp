#include "steps.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

namespace sparsecycle {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

struct Share {
    int begin, end;
};

Share share(int channels, int worker, int workers) {
    return {static_cast<int>(static_cast<int64_t>(channels) * worker / workers),
            static_cast<int>(static_cast<int64_t>(channels) * (worker + 1) / workers)};
}

}  // namespace

MoveStep::MoveStep(const Program& program, const Place& from, const Place& to, bool flatten)
    : program_(program), from_(from), to_(to), flatten_(flatten) {
    const Layout &in = from.layout, &out = to.layout;
    pixels_ = static_cast<int64_t>(in.height) * in.width;
    if (flatten) {
        demand(out.height == 1 && out.width == 1 && out.channels == in.channels * pixels_,
               "a flattened map has one pixel, and a channel for each of the map's elements");
    } else {
        demand(in.channels == out.channels && in.height == out.height && in.width == out.width,
               "a move's layouts must have the same channels, height and width");
    }
    const int in_images = in.images(), out_images = out.images();
    if (from.tensor < 0) {
        images_ = out_images;
    } else if (to.tensor < 0) {
        images_ = in_images;
    } else {
        images_ = in_images;
        demand(out_images % in_images == 0, "a move's " + std::to_string(in_images) + " images must divide the " +
                                                std::to_string(out_images) + " of what it writes");
    }
    // An array's images are apart by its size; a tensor's are inside its group.
    const auto places = [&](const Place& place, bool flat, std::vector<int32_t>& table) {
        const Layout& layout = place.layout;
        for (int64_t p = 0; p < pixels_; p++) {
            for (int64_t image = 0; image < layout.images(); image++) {
                const int64_t at = flat ? layout.element_at(image, p, 0, 0)
                                        : layout.element_at(image, 0, p / in.width, p % in.width);
                demand(at <= INT32_MAX, "a move's map is too large");
                table.push_back(static_cast<int32_t>(at));
            }
        }
    };
    places(from, false, reads_);
    places(to, flatten, writes_);
    if (from.tensor >= 0) reads = {from.tensor};
    if (to.tensor >= 0) writes = {to.tensor};
}

void MoveStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const int in_images = in.images(), out_images = out.images();
    const int64_t valid = std::min(images_, program_.images() - frame.image);
    const int64_t in_channel = in.channel() * in.lanes.count();
    const int64_t out_channel = out.channel() * out.lanes.count() * (flatten_ ? pixels_ : 1);
    // Which images of the groups, and how far apart those of arrays are.
    const bool array_in = from_.tensor < 0, array_out = to_.tensor < 0;
    const int64_t in_apart = array_in ? in.vectors() : 0, out_apart = array_out ? out.vectors() : 0;
    const float* from = array_in ? frame.inputs[from_.array] + frame.image * in_apart : frame.at(from_.tensor);
    float* to = array_out ? frame.outputs[to_.array] + frame.image * out_apart : frame.at(to_.tensor);
    const int64_t in_first = array_in ? 0 : frame.image % in_images, out_first = array_out ? 0 : frame.image % out_images;

    const Share channels = share(in.channels, worker, workers);
    for (int c = channels.begin; c < channels.end; c++) {
        const float* source = from + c * in_channel;
        float* target = to + c * out_channel;
        const int32_t* read = reads_.data() + in_first;
        const int32_t* write = writes_.data() + out_first;
        if (valid == 1) {
            for (int64_t p = 0; p < pixels_; p++) target[write[p * out_images]] = source[read[p * in_images]];
            continue;
        }
        for (int64_t p = 0; p < pixels_; p++, read += in_images, write += out_images) {
            for (int64_t image = 0; image < valid; image++) {
                const int64_t r = array_in ? *read + image * in_apart : read[image];
                const int64_t w = array_out ? *write + image * out_apart : write[image];
                target[w] = source[r];
            }
        }
    }
    if (!array_out && out_first + valid >= std::min<int64_t>(out_images, program_.images() - frame.image + out_first)) {
        const int scale = static_cast<int>(flatten_ ? pixels_ : 1);
        program_.surround(frame, to_.tensor, channels.begin * scale, channels.end * scale);
    }
}

PoolStep::PoolStep(const Program& program, int from, int to, bool average, const std::vector<Range>& rows,
                   const std::vector<Range>& columns, const std::vector<float>& scale)
    : program_(program), from_(from), to_(to), rows_(rows), columns_(columns), scale_(scale.begin(), scale.end()) {
    const Layout &in = program.tensor_at(from).layout, &out = program.tensor_at(to).layout;
    demand(in.element == Element::float32 && out.element == Element::float32, "a pool's tensors must be of float32");
    demand(in.channels == out.channels && in.lanes == out.lanes && in.groups == out.groups,
           "a pool's tensors must have the same channels and lanes");
    demand(static_cast<int>(rows.size()) == out.rows && static_cast<int>(columns.size()) == out.columns,
           "a pool needs a range for each row and column of its output's block");
    const auto check = [](const std::vector<Range>& ranges, int before, int places) {
        for (const Range& range : ranges) {
            demand(range.start < range.stop && range.start >= -before && range.stop <= places,
                   "a pool's range " + std::to_string(range.start) + " to " + std::to_string(range.stop) +
                       " must not be empty and be inside the input's block and halo, " + std::to_string(-before) + " to " +
                       std::to_string(places));
        }
    };
    check(rows, in.halo.top, in.rows + in.halo.bottom);
    check(columns, in.halo.left, in.columns + in.halo.right);
    const size_t places = static_cast<size_t>(out.rows) * out.columns * out.lanes.count();
    demand(!average || scale.size() == places, "an average needs " + std::to_string(places) + " factors, not " +
                                                   std::to_string(scale.size()));
    const int lanes = in.lanes.count();
    const std::vector<float>& inside = program.tensor_at(to).inside;
    pooling_ = {rows_.data(), columns_.data(), out.rows, out.columns, in.groups, in.row() * lanes,
                static_cast<ptrdiff_t>(in.groups) * lanes, out.row() * lanes, average, scale_.data(),
                inside.empty() ? nullptr : inside.data()};
    reads = {from};
    writes = {to};
}

void PoolStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = program_.tensor_at(from_).layout, &out = program_.tensor_at(to_).layout;
    const int lanes = in.lanes.count();
    const Pool pool = runtime_kernels().pool[std::countr_zero(static_cast<unsigned>(lanes))];
    const Share channels = share(in.channels, worker, workers);
    const float* from = frame.at(from_) + in.at(0, 0, 0) * lanes;
    float* to = frame.at(to_) + out.at(0, 0, 0) * lanes;
    for (int64_t c = channels.begin; c < channels.end; c++) {
        pool(pooling_, from + c * in.channel() * lanes, to + c * out.channel() * lanes);
    }
    program_.surround(frame, to_, channels.begin, channels.end);
}

CombineStep::CombineStep(const Program& program, int left, int right, int to, const Activation& activation)
    : program_(program), left_(left), right_(right), to_(to), activation_(activation) {
    const Layout& out = program.tensor_at(to).layout;
    for (int from : {left, right}) {
        if (from < 0) continue;
        const Layout& in = program.tensor_at(from).layout;
        demand(in.element == out.element && in.channels == out.channels && in.lanes == out.lanes &&
                   in.groups == out.groups && in.rows == out.rows && in.columns == out.columns && in.height == out.height &&
                   in.width == out.width,
               "what is added must be laid out alike");
        reads.push_back(from);
    }
    writes = {to};
}

void CombineStep::run(const Frame& frame, int worker, int workers) const {
    const Layout& out = program_.tensor_at(to_).layout;
    const Layout& a = program_.tensor_at(left_).layout;
    const Layout& b = program_.tensor_at(right_ < 0 ? left_ : right_).layout;
    const int lanes = out.lanes.count();
    const int64_t width = static_cast<int64_t>(out.columns) * out.groups * lanes;
    const Share channels = share(out.channels, worker, workers);
    const Combine combine = runtime_kernels().combine;
    const float* left = frame.at(left_);
    const float* right = right_ < 0 ? nullptr : frame.at(right_);
    float* to = frame.at(to_);
    for (int c = channels.begin; c < channels.end; c++) {
        for (int y = 0; y < out.rows; y++) {
            combine(left + a.at(c, y, 0) * lanes, right ? right + b.at(c, y, 0) * lanes : nullptr,
                    to + out.at(c, y, 0) * lanes, width, activation_);
        }
    }
    program_.surround(frame, to_, channels.begin, channels.end);
}

}  // namespace sparsecycle
