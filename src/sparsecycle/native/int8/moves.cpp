#include "moves.h"

#include <algorithm>
#include <bit>
#include <stdexcept>
#include <string>

#include "../runtime/steps.h"
#include "kernels.h"

namespace sparsecycle::int8 {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
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
    demand(in.element != out.element || (in.scale.scale == out.scale.scale && in.scale.zero == out.scale.zero),
           "a move's layouts must have the same scale");
    images_ = from.tensor < 0 ? out.images() : in.images();
    demand(from.tensor < 0 || to.tensor < 0 || out.images() % in.images() == 0,
           "a move's " + std::to_string(in.images()) + " images must divide the " + std::to_string(out.images()) +
               " of what it writes");
    // An array's images are apart by its size; a tensor's are inside its group.
    const auto places = [&](const Layout& layout, bool flat, std::vector<int32_t>& table) {
        for (int64_t p = 0; p < pixels_; p++) {
            for (int64_t image = 0; image < layout.images(); image++) {
                const int64_t at =
                    flat ? layout.element_at(image, 0, 0) : layout.element_at(image, p / in.width, p % in.width);
                demand(at <= INT32_MAX, "a move's map is too large");
                table.push_back(static_cast<int32_t>(at));
            }
        }
    };
    places(in, false, reads_);
    places(out, flatten, writes_);
    if (from.tensor >= 0) reads = {from.tensor};
    if (to.tensor >= 0) writes = {to.tensor};
}

template <class From, class To, class Turn>
void MoveStep::copy(const Frame& frame, const From* from, To* to, int begin, int end, Turn&& turn) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const bool array_in = from_.tensor < 0, array_out = to_.tensor < 0;
    const int64_t in_images = in.images(), out_images = out.images();
    const int64_t in_apart = array_in ? in.vectors() : 0, out_apart = array_out ? out.vectors() : 0;
    const int64_t in_first = array_in ? 0 : frame.image % in_images, out_first = array_out ? 0 : frame.image % out_images;
    const int64_t valid = std::min(images_, program_.images() - frame.image);
    from += frame.image * in_apart;
    to += frame.image * out_apart;
    for (int64_t c = begin; c < end; c++) {
        const From* source = from + in.element_at(c);
        const int32_t* read = reads_.data() + in_first;
        const int32_t* write = writes_.data() + out_first;
        for (int64_t p = 0; p < pixels_; p++, read += in_images, write += out_images) {
            To* target = to + out.element_at(flatten_ ? c * pixels_ + p : c);
            for (int64_t image = 0; image < valid; image++) {
                target[array_out ? *write + image * out_apart : write[image]] =
                    turn(source[array_in ? *read + image * in_apart : read[image]]);
            }
        }
    }
}

void MoveStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const Share channels = share(in.channels, worker, workers);
    const auto moved = [&](auto* from, auto* to, auto&& turn) {
        copy(frame, from, to, channels.begin, channels.end, turn);
    };
    const uint8_t flip = static_cast<uint8_t>(kernels().origin);
    if (in.element == out.element) {
        moved(frame.at<const uint8_t>(from_.tensor), frame.at<uint8_t>(to_.tensor), [](uint8_t byte) { return byte; });
    } else if (in.element == Element::float32) {
        const float* from = from_.tensor < 0 ? frame.inputs[from_.array] : frame.at(from_.tensor);
        const float inverse = 1 / out.scale.scale, zero = static_cast<float>(out.scale.zero);
        moved(from, frame.at<uint8_t>(to_.tensor), [=](float x) {
            float q = x * inverse + zero;
            q = q > 0 ? q : 0.0f;
            q = q < 255 ? q : 255.0f;
            return static_cast<uint8_t>(std::bit_cast<uint32_t>(q + 12582912.0f) ^ flip);  // rounded; see int8/vector.h
        });
    } else {
        float* to = to_.tensor < 0 ? frame.outputs[to_.array] : frame.at(to_.tensor);
        const Scale scale = in.scale;
        moved(frame.at<const uint8_t>(from_.tensor), to, [=](uint8_t byte) {
            return static_cast<float>((byte ^ flip) - scale.zero) * scale.scale;
        });
    }
    if (to_.tensor < 0) return;
    const int64_t first = frame.image % out.images(), valid = std::min(images_, program_.images() - frame.image);
    if (first + valid >= std::min<int64_t>(out.images(), program_.images() - frame.image + first)) {
        const int apart = static_cast<int>(flatten_ ? pixels_ : 1);
        program_.surround(frame, to_.tensor, channels.begin * apart, channels.end * apart);
    }
}

}  // namespace sparsecycle::int8
