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

// Whether a map of one pixel has its channels one after the other.
bool is_row(const Layout& layout) { return layout.lanes.count() == layout.lanes.channels && layout.channel() == 1; }

// Whether each lane's elements are runs of the array's: of a row or, where a map has one pixel, of all channels.
bool can_interleave(const Layout& layout) {
    return layout.element == Element::float32 && layout.vector_bytes() <= 4 * runtime_kernels().lanes &&
           layout.lanes.channels == 1 &&
           layout.lanes.columns * layout.columns == layout.width;
}

// Calls use(streams, n, place, apart) for each run of a tensor's vectors: n of them from `place` on, `apart` elements from
// each other, and where in the array each lane's elements are, or null. base: of the first image.
template <class T, class Use>
void each_run(const Layout& array, const Layout& layout, T* base, int64_t valid, int begin, int end, Use&& use) {
    const Lanes& lanes = layout.lanes;
    const int64_t count = lanes.count(), image_size = array.vectors();
    const bool by_channel = layout.height == 1 && layout.width == 1;
    T* streams[64];
    for (int group = 0; group < layout.groups; group++) {
        for (int c = begin; c < (by_channel ? begin + 1 : end); c++) {
            for (int y = 0; y < layout.rows; y++) {
                for (int lane = 0; lane < count; lane++) {
                    const int column = lane % lanes.columns, row = lane / lanes.columns % lanes.rows * layout.rows + y;
                    const int64_t image = static_cast<int64_t>(group) * lanes.images + lane / (lanes.columns * lanes.rows);
                    const bool inside = image < valid && row < layout.height;
                    streams[lane] = inside ? base + image * image_size + array.at(c, row, column * layout.columns) : nullptr;
                }
                const int64_t place = (layout.at(c, y, 0) + group) * count;
                use(streams, by_channel ? end - begin : layout.columns, place,
                    (by_channel ? layout.channel() : layout.groups) * count);
            }
        }
    }
}

}  // namespace

Share share(int channels, int worker, int workers) {
    return {static_cast<int>(static_cast<int64_t>(channels) * worker / workers),
            static_cast<int>(static_cast<int64_t>(channels) * (worker + 1) / workers)};
}

void check_windows(const Layout& in, const Layout& out, const std::vector<Range>& rows, const std::vector<Range>& columns) {
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
}

MoveStep::MoveStep(const Program& program, const Place& from, const Place& to, bool flatten)
    : program_(program), from_(from), to_(to) {
    const Layout &in = from.layout, &out = to.layout;
    pixels_ = static_cast<int64_t>(in.height) * in.width;
    flatten_ = flatten && pixels_ > 1;
    if (flatten_) {
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
                const int64_t at =
                    flat ? layout.element_at(image, 0, 0) : layout.element_at(image, p / in.width, p % in.width);
                demand(at <= INT32_MAX, "a move's map is too large");
                table.push_back(static_cast<int32_t>(at));
            }
        }
    };
    places(from, false, reads_);
    places(to, flatten_, writes_);
    if (from.tensor >= 0) reads = {from.tensor};
    if (to.tensor >= 0) writes = {to.tensor};
    is_copy_ = images_ == 1 && pixels_ == 1 && is_row(in) && is_row(out);
    is_strided_ = in_images == 1 && out_images == 1 && pixels_ == 1 && in.lanes.channels == 1 && out.lanes.channels == 1;
    in_lanes_ = !flatten_ && ((from.tensor < 0 && can_interleave(out)) || (to.tensor < 0 && can_interleave(in)));
}

void MoveStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const int in_images = in.images(), out_images = out.images();
    const int64_t valid = std::min(images_, program_.images() - frame.image);
    // Which images of the groups, and how far apart those of arrays are.
    const bool array_in = from_.tensor < 0, array_out = to_.tensor < 0;
    const int64_t in_apart = array_in ? in.vectors() : 0, out_apart = array_out ? out.vectors() : 0;
    const float* from = array_in ? frame.inputs[from_.array] + frame.image * in_apart : frame.at(from_.tensor);
    float* to = array_out ? frame.outputs[to_.array] + frame.image * out_apart : frame.at(to_.tensor);
    const int64_t in_first = array_in ? 0 : frame.image % in_images, out_first = array_out ? 0 : frame.image % out_images;

    const Share channels = share(in.channels, worker, workers);
    if (is_copy_) {
        std::copy(from + channels.begin, from + channels.end, to + channels.begin);
        return;
    }
    if (in_lanes_ && array_in) {
        const std::vector<float> nothing(std::max(out.columns, channels.end - channels.begin), out.fill);
        const Interleave interleave = runtime_kernels().interleave[std::countr_zero(static_cast<unsigned>(out.lanes.count()))];
        each_run(in, out, from, valid, channels.begin, channels.end,
                 [&](const float** streams, int64_t n, int64_t place, int64_t apart) {
                     for (int lane = 0; lane < out.lanes.count(); lane++) {
                         if (!streams[lane]) streams[lane] = nothing.data();
                     }
                     interleave(streams, n, to + place, apart);
                 });
        program_.surround(frame, to_.tensor, channels.begin, channels.end);
        return;
    }
    if (in_lanes_) {
        std::vector<float> nowhere(std::max(in.columns, channels.end - channels.begin));
        const Separate separate = runtime_kernels().separate[std::countr_zero(static_cast<unsigned>(in.lanes.count()))];
        each_run(out, in, to, valid, channels.begin, channels.end,
                 [&](float** streams, int64_t n, int64_t place, int64_t apart) {
                     for (int lane = 0; lane < in.lanes.count(); lane++) {
                         if (!streams[lane]) streams[lane] = nowhere.data();
                     }
                     separate(from + place, apart, n, streams);
                 });
        return;
    }
    if (is_strided_) {
        const int64_t read = in.element_at(1), write = out.element_at(1);  // from channel to channel
        from += reads_[0];
        to += writes_[0];
        for (int64_t c = channels.begin; c < channels.end; c++) to[c * write] = from[c * read];
        if (!array_out) program_.surround(frame, to_.tensor, channels.begin, channels.end);
        return;
    }
    for (int c = channels.begin; c < channels.end; c++) {
        const float* source = from + in.element_at(c);
        float* target = flatten_ ? to : to + out.element_at(c);
        const int32_t* read = reads_.data() + in_first;
        const int32_t* write = writes_.data() + out_first;
        if (valid == 1 && !flatten_) {
            for (int64_t p = 0; p < pixels_; p++) target[write[p * out_images]] = source[read[p * in_images]];
            continue;
        }
        for (int64_t p = 0; p < pixels_; p++, read += in_images, write += out_images) {
            if (flatten_) target = to + out.element_at(c * pixels_ + p);
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
    demand(in.vector_bytes() <= 4 * runtime_kernels().lanes, "a pool's vectors must not be wider than the widest");
    check_windows(in, out, rows, columns);
    const size_t places = static_cast<size_t>(out.rows) * out.columns * out.lanes.count();
    demand(!average || scale.size() == places, "an average needs " + std::to_string(places) + " factors, not " +
                                                   std::to_string(scale.size()));
    const int lanes = in.lanes.count();
    const AlignedVector<float>& inside = program.tensor_at(to).inside;
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
    const Share channels = share(in.planes(), worker, workers);
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
        demand(in.is_like(out), "what is added must be laid out alike");
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
    const Share channels = share(out.planes(), worker, workers);
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
