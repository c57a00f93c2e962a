#include "moves.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "../runtime/steps.h"
#include "kernels.h"
#include "scale.h"

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
    together_ = std::max<int64_t>(1, 4096 / pixels_);
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
    const auto places = [&](const Place& place, bool flat) {
        const Layout& layout = place.layout;
        Places made{{}, place.tensor < 0 ? layout.vectors() : 0};
        for (int64_t image = 0; image < layout.images(); image++) {
            for (int64_t p = 0; p < pixels_; p++) {
                const int64_t at = flat ? layout.element_at(image, 0, 0)
                                        : layout.element_at(image, p / in.width, p % in.width);
                demand(at <= INT32_MAX, "a move's map is too large");
                made.of.push_back(static_cast<int32_t>(at));
            }
        }
        return made;
    };
    reads_ = places(from, false);
    writes_ = places(to, flatten);
    if (from.tensor >= 0) reads = {from.tensor};
    if (to.tensor >= 0) writes = {to.tensor};
}

template <class From, class To, class Turn>
void MoveStep::copy(const Frame& frame, const From* from, To* to, int begin, int end, Turn&& turn) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const int64_t valid = std::min(images_, program_.images() - frame.image);
    for (int64_t i = 0; i < valid; i++) {
        const int64_t image = frame.image + i;
        const int32_t* read = reads_.at(image % in.images(), pixels_);
        const int32_t* write = writes_.at(image % out.images(), pixels_);
        for (int64_t c = begin; c < end; c++) {
            const From* source = from + image * reads_.image + in.element_at(c);
            To* target = to + image * writes_.image;
            if (flatten_) {
                for (int64_t p = 0; p < pixels_; p++) {
                    target[*write + out.element_at(c * pixels_ + p)] = turn(source[read[p]]);
                }
            } else {
                target += out.element_at(c);
                for (int64_t p = 0; p < pixels_; p++) target[write[p]] = turn(source[read[p]]);
            }
        }
    }
}

// From the user's array: a map's floats follow each other.
void MoveStep::load(const Frame& frame, int begin, int end) const {
    const Layout& out = to_.layout;
    uint8_t* to = frame.at<uint8_t>(to_.tensor);
    const uint8_t flipped = flip(out);
    uint8_t* maps = reinterpret_cast<uint8_t*>(frame.scratch);
    const int64_t apart = out.channel() * out.lanes.count();  // channels, where none share a vector
    const float inverse = 1 / out.scale.scale, zero = static_cast<float>(out.scale.zero);
    const int64_t valid = std::min(images_, program_.images() - frame.image);
    for (int64_t i = 0; i < valid; i++) {
        const float* from = frame.inputs[from_.array] + (frame.image + i) * reads_.image;
        const int32_t* write = writes_.at(i, pixels_);
        for (int64_t first = begin; first < end; first += together_) {
            const int64_t last = std::min<int64_t>(end, first + together_);
            kernels().quantize(from + first * pixels_, (last - first) * pixels_, inverse, zero, maps);
            const uint8_t* map = maps;
            for (int64_t c = first; c < last; c++, map += pixels_) {
                uint8_t* target = to + (out.lanes.channels == 1 ? c * apart : out.element_at(c));
                for (int64_t p = 0; p < pixels_; p++) target[write[p]] = map[p] ^ flipped;
            }
        }
    }
}

void MoveStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = from_.layout, &out = to_.layout;
    const auto [begin, end] = share(in.channels, worker, workers);
    if (from_.tensor < 0) {
        load(frame, begin, end);
    } else if (in.element == out.element) {
        copy(frame, frame.at<const uint8_t>(from_.tensor), frame.at<uint8_t>(to_.tensor), begin, end,
             [flipped = flip(in) ^ flip(out)](uint8_t byte) { return byte ^ flipped; });
    } else if (in.element == Element::float32) {
        const float inverse = 1 / out.scale.scale, zero = static_cast<float>(out.scale.zero);
        const uint8_t flipped = flip(out);
        copy(frame, frame.at<const float>(from_.tensor), frame.at<uint8_t>(to_.tensor), begin, end, [&](float x) {
            uint8_t byte;
            kernels().quantize(&x, 1, inverse, zero, &byte);
            return byte ^ flipped;
        });
    } else {
        float* to = to_.tensor < 0 ? frame.outputs[to_.array] : frame.at(to_.tensor);
        const Scale scale = in.scale;
        copy(frame, frame.at<const uint8_t>(from_.tensor), to, begin, end, [=, flipped = flip(in)](uint8_t byte) {
            return static_cast<float>((byte ^ flipped) - scale.zero) * scale.scale;
        });
    }
    if (to_.tensor < 0) return;
    const int64_t first = frame.image % out.images(), valid = std::min(images_, program_.images() - frame.image);
    if (first + valid >= std::min<int64_t>(out.images(), program_.images() - frame.image + first)) {
        const int apart = static_cast<int>(flatten_ ? pixels_ : 1);
        program_.surround(frame, to_.tensor, begin * apart, end * apart);
    }
}

}  // namespace sparsecycle::int8
