// The runtime without Python: programs in all layouts, on own threads, against the plainest loops there are.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "../../src/sparsecycle/native/runtime/convolution.h"
#include "../../src/sparsecycle/native/runtime/program.h"
#include "check.h"

namespace sparsecycle {

namespace {

int some(int low, int high) { return low + static_cast<int>(draw.below(high - low + 1)); }

template <class T>
T any_of(std::initializer_list<T> values) {
    return values.begin()[draw.below(static_cast<int64_t>(values.size()))];
}

float some_number() { return static_cast<float>(some(-1000, 1000)) / 500; }

// Maps of several images, as the user's array has them.
struct Images {
    int count;
    Array of;
    std::vector<float> numbers;

    Images(int count, const Array& of, bool filled)
        : count(count), of(of), numbers(static_cast<size_t>(count) * of.channels * of.height * of.width, NAN) {
        if (filled) std::generate(numbers.begin(), numbers.end(), some_number);
    }
    size_t place(int image, int channel, int y, int x) const {
        return ((static_cast<size_t>(image) * of.channels + channel) * of.height + y) * of.width + x;
    }
    // What is outside the map is 0.
    double at(int image, int channel, int y, int x) const {
        return y >= 0 && y < of.height && x >= 0 && x < of.width ? numbers[place(image, channel, y, x)] : 0;
    }
};

template <class Expected>
void compare(const Images& found, const char* what, Expected&& expected) {  // expected(image, channel, y, x)
    bool right = true;
    for (int image = 0; image < found.count; image++) {
        for (int c = 0; c < found.of.channels; c++) {
            for (int y = 0; y < found.of.height; y++) {
                for (int x = 0; x < found.of.width; x++) {
                    const double value = expected(image, c, y, x);
                    right &= std::fabs(found.at(image, c, y, x) - value) <= 2e-5 * (1 + std::fabs(value));
                }
            }
        }
    }
    expect(right, what);
}

int rounded_up(int a, int b) { return (a + b - 1) / b; }

// Lanes of one of the widths that there are kernels for.
Layout some_layout(const Array& of) {
    Layout layout;
    layout.channels = of.channels;
    layout.height = of.height;
    layout.width = of.width;
    const int count = any_of({4, std::min(8, runtime_kernels().lanes), runtime_kernels().lanes});
    layout.lanes.images = 1 << draw.below(std::countr_zero(static_cast<unsigned>(count)) + 1);
    layout.lanes.rows = 1 << draw.below(std::countr_zero(static_cast<unsigned>(count / layout.lanes.images)) + 1);
    layout.lanes.columns = count / layout.lanes.images / layout.lanes.rows;
    layout.groups = some(1, 3);
    layout.rows = rounded_up(of.height, layout.lanes.rows) + some(0, 1);
    layout.columns = rounded_up(of.width, layout.lanes.columns) + some(0, 1);
    layout.halo = {some(0, 2), some(0, 2), some(0, 2), some(0, 2)};
    return layout;
}

void run(const Program& program, const std::vector<const Images*>& inputs, Images& output) {
    std::vector<const float*> in;
    for (const Images* images : inputs) in.push_back(images->numbers.data());
    float* out = output.numbers.data();
    program.run(in.data(), &out);
}

double activated(double x, const Activation& activation) {
    if (activation.silu) return x / (1 + std::exp(-x));
    return std::min<double>(std::max<double>(x, activation.low), activation.high);
}

Activation some_activation() {
    const float infinity = std::numeric_limits<float>::infinity();
    return any_of<Activation>({{-infinity, infinity, false}, {0, infinity, false}, {0, 6, false}, {-infinity, infinity, true}});
}

struct Case {
    Geometry geometry;
    std::vector<float> weights, bias;
    Activation activation;
    bool residual;

    double weight(int out, int in, int tap, bool rounded) const {
        const int group_in = geometry.in / geometry.groups;
        const float number = weights[(static_cast<size_t>(out) * group_in + in) * geometry.taps() + tap];
        if (!rounded) return number;
        const uint32_t bits = static_cast<uint32_t>(to_bfloat16(number)) << 16;
        float result;
        std::memcpy(&result, &bits, sizeof result);
        return result;
    }

    double result(const Images& input, const Images& added, int image, int channel, int y, int x, bool rounded) const {
        const Geometry& g = geometry;
        const int group_in = g.in / g.groups, first = channel / (g.out / g.groups) * group_in;
        double sum = bias.empty() ? 0 : bias[channel];
        for (int c = 0; c < group_in; c++) {
            for (int tap = 0; tap < g.taps(); tap++) {
                const int from_y = y * g.stride_height - g.padding_height + tap / g.kernel_width * g.dilation_height;
                const int from_x = x * g.stride_width - g.padding_width + tap % g.kernel_width * g.dilation_width;
                sum += weight(channel, c, tap, rounded) * input.at(image, first + c, from_y, from_x);
            }
        }
        return activated(sum + (residual ? added.at(image, channel, y, x) : 0), activation);
    }
};

Case some_case(const Geometry& geometry) {
    Case made{geometry, {}, {}, some_activation(), draw.one_in(2)};
    const int64_t one_in = any_of({1, 2, 10, 1000});
    for (int64_t i = 0; i < geometry.weights(); i++) made.weights.push_back(draw.one_in(one_in) ? some_number() / 8 : 0);
    for (int i = 0; i < geometry.out && draw.one_in(geometry.out); i++) made.bias.push_back(some_number());
    made.bias.resize(made.bias.empty() ? 0 : geometry.out);
    return made;
}

// Loads, convolves and stores; returns the convolution's step.
int build(Program& program, const Case& of, const Array& from, const Array& to, const Layout& read, const Layout& written) {
    const int source = program.tensor(read), made = program.tensor(written);
    program.load(0, from, source);
    int residual = -1;
    if (of.residual) program.load(1, to, residual = program.tensor(written));
    const int step = program.convolution(source, made, residual, of.geometry, of.weights.data(),
                                         of.bias.empty() ? nullptr : of.bias.data(), of.activation);
    program.store(made, 0, to);
    program.finish();
    return step;
}

void check_convolution(int threads) {
    const Array from{some(1, 4), some(1, 9), some(1, 9)};
    Geometry g;
    g.in = from.channels;
    g.groups = g.in % 2 ? 1 : any_of({1, 2, g.in});
    g.out = g.groups * some(1, 5);
    Array to{g.out, 0, 0};
    const auto axis = [](int length, int& kernel, int& stride, int& padding, int& dilation) {
        do {
            kernel = some(1, 5), stride = some(1, 3), dilation = some(1, 2), padding = some(0, kernel);
        } while (length + 2 * padding < dilation * (kernel - 1) + 1);
        return (length + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    };
    to.height = axis(from.height, g.kernel_height, g.stride_height, g.padding_height, g.dilation_height);
    to.width = axis(from.width, g.kernel_width, g.stride_width, g.padding_width, g.dilation_width);
    const Case of = some_case(g);

    Layout written = some_layout(to);
    written.rows = std::max(written.rows, rounded_up(from.height, written.lanes.rows * g.stride_height));
    written.columns = std::max(written.columns, rounded_up(from.width, written.lanes.columns * g.stride_width));
    Layout read = written;
    read.channels = from.channels, read.height = from.height, read.width = from.width;
    read.rows = written.rows * g.stride_height, read.columns = written.columns * g.stride_width;
    const auto after = [](int block, int stride, int padding, int reach) {
        return std::max(0, (block - 1) * stride - padding + reach - block * stride);
    };
    read.halo = {g.padding_height + some(0, 1),
                 after(written.rows, g.stride_height, g.padding_height, (g.kernel_height - 1) * g.dilation_height + 1),
                 g.padding_width,
                 after(written.columns, g.stride_width, g.padding_width, (g.kernel_width - 1) * g.dilation_width + 1) +
                     some(0, 1)};

    const int images = any_of({1, 2, 5, 40});
    Program program(images, threads);
    const int step = build(program, of, from, to, read, written);
    const Images input(images, from, true), added(images, to, true);
    const std::vector<int> forms = program.convolution_at(step).forms();
    expect(!forms.empty(), "convolution: a form for every layout");
    for (int turn = 0; turn < 3; turn++) {
        const int form = forms[draw.below(static_cast<int64_t>(forms.size()))];
        const bool rounded = runtime_kernels().convolutions[form].form.bfloat16;
        program.convolution_at(step).choose(program.convolution_at(step).candidate(form, some(1, g.in)));
        Images output(images, to, false);
        run(program, {&input, &added}, output);
        compare(output, "convolution", [&](int image, int c, int y, int x) {
            return of.result(input, added, image, c, y, x, rounded);
        });
    }
}

void check_gather(int threads) {
    const int side = some(1, 2), lanes = runtime_kernels().lanes;
    const Array from{some(1, 3 * lanes), side, side}, to{some(1, 3 * lanes), side, side};
    Geometry g;
    g.in = from.channels, g.out = to.channels;
    g.kernel_height = g.kernel_width = side == 2 ? 3 : any_of({1, 3});
    g.padding_height = g.padding_width = g.kernel_height / 2;
    const Case of = some_case(g);
    const auto layout = [&](const Array& array) {
        Layout made;
        made.channels = array.channels, made.height = made.width = made.rows = made.columns = side;
        made.lanes.channels = lanes;
        made.halo = {some(0, 1), some(0, 1), some(0, 1), some(0, 1)};
        return made;
    };
    const int images = some(1, 4);
    Program program(images, threads);
    build(program, of, from, to, layout(from), layout(to));
    const Images input(images, from, true), added(images, to, true);
    Images output(images, to, false);
    run(program, {&input, &added}, output);
    compare(output, "convolution with channels in its lanes", [&](int image, int c, int y, int x) {
        return of.result(input, added, image, c, y, x, false);
    });
}

// An array through two layouts, from each place of which another one is taken, and added to what it came from.
void check_steps(int threads) {
    const Array of{some(1, 5), some(1, 9), some(1, 9)};
    const int images = any_of({1, 3, 8, 33});
    Program program(images, threads);
    Layout first = some_layout(of), second = some_layout(of);
    first.lanes = {first.lanes.count() / second.lanes.rows / second.lanes.columns, 1, 1};
    first.lanes.images = std::max(1, std::min(first.lanes.images, second.lanes.images));
    first.rows = of.height, first.columns = of.width;
    first.groups = 1;
    second.fill = any_of({0.0f, -3.0f});
    Layout third = second;
    third.halo = {}, third.fill = 0;
    const int down = some(-second.halo.top, second.halo.bottom), across = some(-second.halo.left, second.halo.right);
    const auto windows = [](int count, int by) {
        std::vector<Range> made;
        for (int i = 0; i < count; i++) made.push_back({i + by, i + by + 1});
        return made;
    };
    const bool average = draw.one_in(2);
    const std::vector<float> twice(static_cast<size_t>(third.rows) * third.columns * third.lanes.count(), 2);
    const int loaded = program.tensor(first), moved = program.tensor(second), taken = program.tensor(third),
              added = program.tensor(third);
    program.load(0, of, loaded);
    program.move(loaded, moved, false);
    program.pool(moved, taken, average, windows(third.rows, down), windows(third.columns, across), twice);
    const Activation activation = some_activation();
    program.combine(moved, taken, added, activation);
    program.store(added, 0, of);
    program.finish();
    const Images input(images, of, true);
    for (int turn = 0; turn < 2; turn++) {
        Images output(images, of, false);
        run(program, {&input}, output);
        compare(output, "moves, pools and sums", [&](int image, int c, int y, int x) {
            const bool inside = y + down >= 0 && y + down < of.height && x + across >= 0 && x + across < of.width;
            const double other = inside ? input.at(image, c, y + down, x + across) : second.fill;
            return activated(input.at(image, c, y, x) + (average ? 2 : 1) * other, activation);
        });
    }
}

}  // namespace

void check_runtime(double share) {
    const int64_t rounds = std::max<int64_t>(3, std::lround(300 * share));
    for (int64_t i = 0; i < rounds; i++) {
        const int threads = some(1, 3);
        doing = "the runtime, round " + std::to_string(i) + ", threads " + std::to_string(threads);
        check_convolution(threads);
        check_gather(threads);
        check_steps(threads);
    }
}

}  // namespace sparsecycle
