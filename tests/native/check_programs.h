// What the checks of the runtime's programs have in common: numbers, layouts and convolutions, drawn at random.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <initializer_list>
#include <limits>
#include <vector>

#include "../../src/sparsecycle/native/runtime/program.h"
#include "check.h"

namespace sparsecycle {

inline int some(int low, int high) { return low + static_cast<int>(draw.below(high - low + 1)); }

template <class T>
T any_of(std::initializer_list<T> values) {
    return values.begin()[draw.below(static_cast<int64_t>(values.size()))];
}

inline float some_number() { return static_cast<float>(some(-1000, 1000)) / 500; }

inline int rounded_up(int a, int b) { return (a + b - 1) / b; }

// Maps of several images, as the user's array has them.
struct Images {
    int count;
    Array of;
    std::vector<float> numbers;

    Images(int count, const Array& of, bool filled)
        : count(count), of(of), numbers(static_cast<size_t>(count) * of.channels * of.height * of.width, NAN) {
        if (filled) std::generate(numbers.begin(), numbers.end(), some_number);
    }
    bool has(int y, int x) const { return y >= 0 && y < of.height && x >= 0 && x < of.width; }
    size_t place(int image, int channel, int y, int x) const {
        return ((static_cast<size_t>(image) * of.channels + channel) * of.height + y) * of.width + x;
    }
    // What is outside the map is 0.
    double at(int image, int channel, int y, int x) const {
        return has(y, x) ? numbers[place(image, channel, y, x)] : 0;
    }
};

template <class Use>
void each_place(const Images& images, Use&& use) {  // use(image, channel, y, x), in the order of the array
    for (int image = 0; image < images.count; image++) {
        for (int c = 0; c < images.of.channels; c++) {
            for (int y = 0; y < images.of.height; y++) {
                for (int x = 0; x < images.of.width; x++) use(image, c, y, x);
            }
        }
    }
}

inline void run(const Program& program, const std::vector<const Images*>& inputs, const std::vector<Images*>& outputs) {
    std::vector<const float*> in;
    std::vector<float*> out;
    for (const Images* images : inputs) in.push_back(images->numbers.data());
    for (Images* images : outputs) {
        std::fill(images->numbers.begin(), images->numbers.end(), NAN);
        out.push_back(images->numbers.data());
    }
    program.run(in.data(), out.data());
}

inline Layout some_layout(const Array& of, int lanes) {
    Layout layout;
    layout.channels = of.channels;
    layout.height = of.height;
    layout.width = of.width;
    layout.lanes.images = 1 << draw.below(std::countr_zero(static_cast<unsigned>(lanes)) + 1);
    layout.lanes.rows = 1 << draw.below(std::countr_zero(static_cast<unsigned>(lanes / layout.lanes.images)) + 1);
    layout.lanes.columns = lanes / layout.lanes.images / layout.lanes.rows;
    layout.groups = some(1, 3);
    layout.rows = rounded_up(of.height, layout.lanes.rows) + some(0, 1);
    layout.columns = rounded_up(of.width, layout.lanes.columns) + some(0, 1);
    layout.halo = {some(0, 2), some(0, 2), some(0, 2), some(0, 2)};
    return layout;
}

// Of whole vectors of channels, on a tiny map.
inline Layout channel_layout(const Array& of, int lanes) {
    Layout layout;
    layout.channels = of.channels;
    layout.height = layout.rows = of.height;
    layout.width = layout.columns = of.width;
    layout.lanes.channels = lanes;
    layout.halo = {some(0, 1), some(0, 1), some(0, 1), some(0, 1)};
    return layout;
}

inline double activated(double x, const Activation& activation) {
    if (activation.silu) return x / (1 + std::exp(-x));
    return std::min<double>(std::max<double>(x, activation.low), activation.high);
}

inline Activation some_activation() {
    const float infinity = std::numeric_limits<float>::infinity();
    return any_of<Activation>(
        {{-infinity, infinity, false}, {0, infinity, false}, {0, 6, false}, {-infinity, infinity, true}});
}

// A convolution, of which map to which; without weights.
struct Shape {
    Geometry geometry;
    Array from, to;
};

// Of up to so many channels in, and for each group of them out.
inline Shape some_shape(int in, int out, int largest_map, int largest_kernel) {
    Shape made{{}, {some(1, in), some(1, largest_map), some(1, largest_map)}, {}};
    Geometry& g = made.geometry;
    g.in = made.from.channels;
    g.groups = g.in % 2 ? 1 : any_of({1, 2, g.in});
    g.out = g.groups * some(1, std::max(1, out / g.groups));
    const auto axis = [&](int length, int& kernel, int& stride, int& padding, int& dilation) {
        do {
            kernel = some(1, largest_kernel), stride = some(1, 3), dilation = some(1, 2), padding = some(0, kernel);
        } while (length + 2 * padding < dilation * (kernel - 1) + 1);
        return (length + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    };
    made.to.channels = g.out;
    made.to.height =
        axis(made.from.height, g.kernel_height, g.stride_height, g.padding_height, g.dilation_height);
    made.to.width = axis(made.from.width, g.kernel_width, g.stride_width, g.padding_width, g.dilation_width);
    return made;
}

// A kernel of 3 x 3 on a map on which a form has some whole tiles and, at its ends, smaller ones.
inline Shape shape_for_tiles(int step) {
    Shape made{{}, {3, 5, 17 * step}, {19, 5, 17}};
    made.geometry.in = 3, made.geometry.out = 19;
    made.geometry.kernel_height = made.geometry.kernel_width = 3;
    made.geometry.padding_height = made.geometry.padding_width = 1;
    made.geometry.stride_width = step;
    return made;
}

// Makes the layout of what a convolution writes large enough for what it reads, and returns a layout for that.
inline Layout layout_to_read(const Shape& shape, Layout& written) {
    const Geometry& g = shape.geometry;
    written.rows = std::max(written.rows, rounded_up(shape.from.height, written.lanes.rows * g.stride_height));
    written.columns = std::max(written.columns, rounded_up(shape.from.width, written.lanes.columns * g.stride_width));
    Layout read = written;
    read.channels = shape.from.channels, read.height = shape.from.height, read.width = shape.from.width;
    read.rows = written.rows * g.stride_height, read.columns = written.columns * g.stride_width;
    const auto after = [](int block, int stride, int padding, int reach) {
        return std::max(0, (block - 1) * stride - padding + reach - block * stride);
    };
    read.halo = {g.padding_height + some(0, 1),
                 after(written.rows, g.stride_height, g.padding_height, (g.kernel_height - 1) * g.dilation_height + 1),
                 g.padding_width,
                 after(written.columns, g.stride_width, g.padding_width, (g.kernel_width - 1) * g.dilation_width + 1) +
                     some(0, 1)};
    return read;
}

// Calls use(weight's number, input's channel, y, x) for all that a place of a convolution's output sees, padding too.
template <class Use>
void each_weight(const Geometry& g, int channel, int y, int x, Use&& use) {
    const int group_in = g.in / g.groups, first = channel / (g.out / g.groups) * group_in;
    for (int c = 0; c < group_in; c++) {
        for (int tap = 0; tap < g.taps(); tap++) {
            use((static_cast<size_t>(channel) * group_in + c) * g.taps() + tap, first + c,
                y * g.stride_height - g.padding_height + tap / g.kernel_width * g.dilation_height,
                x * g.stride_width - g.padding_width + tap % g.kernel_width * g.dilation_width);
        }
    }
}

}  // namespace sparsecycle
