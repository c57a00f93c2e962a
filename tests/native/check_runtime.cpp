// The runtime without Python: programs in all layouts, on own threads, against the plainest loops there are.
#include <cmath>
#include <cstring>
#include <vector>

#include "../../src/sparsecycle/native/runtime/convolution.h"
#include "check_programs.h"

namespace sparsecycle {

namespace {

template <class Expected>
void compare(const Images& found, const char* what, Expected&& expected) {  // expected(image, channel, y, x)
    bool right = true;
    each_place(found, [&](int image, int c, int y, int x) {
        const double value = expected(image, c, y, x);
        right &= std::fabs(found.at(image, c, y, x) - value) <= 2e-5 * (1 + std::fabs(value));
    });
    expect(right, what);
}

// Lanes of one of the widths that there are kernels for.
Layout some_layout(const Array& of) {
    return some_layout(of, any_of({4, std::min(8, runtime_kernels().lanes), runtime_kernels().lanes}));
}

float as_bfloat16(float number) {
    return std::bit_cast<float>(static_cast<uint32_t>(to_bfloat16(number)) << 16);
}

struct Case {
    Shape shape;
    std::vector<float> weights, bias;
    Activation activation;
    bool residual;

    Case rounded() const {
        Case made = *this;
        std::transform(weights.begin(), weights.end(), made.weights.begin(), as_bfloat16);
        return made;
    }
    double result(const Images& input, const Images& added, int image, int channel, int y, int x) const {
        double sum = bias.empty() ? 0 : bias[channel];
        each_weight(shape.geometry, channel, y, x, [&](size_t number, int c, int from_y, int from_x) {
            sum += weights[number] * input.at(image, c, from_y, from_x);
        });
        return activated(sum + (residual ? added.at(image, channel, y, x) : 0), activation);
    }
};

Case some_case(const Shape& shape) {
    const Geometry& g = shape.geometry;
    Case made{shape, {}, {}, some_activation(), draw.one_in(2)};
    const int64_t one_in = any_of({1, 2, 10, 1000});
    for (int64_t i = 0; i < g.weights(); i++) made.weights.push_back(draw.one_in(one_in) ? some_number() / 8 : 0);
    for (int i = 0; i < g.out && draw.one_in(g.out); i++) made.bias.push_back(some_number());
    made.bias.resize(made.bias.empty() ? 0 : g.out);
    return made;
}

// Loads, convolves and stores; returns the convolution's step.
int build(Program& program, const Case& of, const Layout& read, const Layout& written) {
    const int source = program.tensor(read), made = program.tensor(written);
    program.load(0, of.shape.from, source);
    int residual = -1;
    if (of.residual) program.load(1, of.shape.to, residual = program.tensor(written));
    const int step = program.convolution(source, made, residual, of.shape.geometry, of.weights.data(),
                                         of.bias.empty() ? nullptr : of.bias.data(), of.activation);
    program.store(made, 0, of.shape.to);
    program.finish();
    return step;
}

void check_convolution(int threads) {
    const Case of = some_case(some_shape(4, 5, 9, 5));
    const Array &from = of.shape.from, &to = of.shape.to;
    Layout written = some_layout(to);
    const Layout read = layout_to_read(of.shape, written);
    const int images = any_of({1, 2, 5, 40});
    Program program(images, threads);
    const int step = build(program, of, read, written);
    TunableStep& convolution = program.convolution_at(step);
    const Images input(images, from, true), added(images, to, true);
    const std::vector<int> forms = convolution.forms();
    expect(!forms.empty(), "convolution: a form for every layout");
    for (int turn = 0; turn < 3; turn++) {
        const int form = forms[draw.below(static_cast<int64_t>(forms.size()))];
        const bool rounded = runtime_kernels().convolutions[form].form.bfloat16;
        convolution.choose(convolution.candidate(form, some(1, from.channels)));
        Images output(images, to, false);
        run(program, {&input, &added}, {&output});
        const Case computed = rounded ? of.rounded() : of;
        compare(output, "convolution", [&](int image, int c, int y, int x) {
            return computed.result(input, added, image, c, y, x);
        });
    }
}

// Forms of as many lanes and the same steps, on the same images.
void check_every_form() {
    for (int lanes = 4; lanes <= runtime_kernels().lanes; lanes *= 2) {
        for (int step : {1, 2}) {
            Case exact = some_case(shape_for_tiles(step));
            for (size_t i = 0; i < exact.weights.size(); i++) exact.weights[i] = i % 3 ? some_number() : 0;
            const Array &from = exact.shape.from, &to = exact.shape.to;
            Layout written;
            written.channels = to.channels;
            written.height = written.rows = to.height;
            written.width = written.columns = to.width;
            written.lanes.images = lanes;
            const Layout read = layout_to_read(exact.shape, written);
            Program program(lanes + 1, 1);
            TunableStep& convolution = program.convolution_at(build(program, exact, read, written));
            const Images input(lanes + 1, from, true), added(lanes + 1, to, true);
            std::vector<Images> expected;
            for (const Case& of : {exact, exact.rounded()}) {
                Images& images = expected.emplace_back(lanes + 1, to, false);
                each_place(images, [&](int image, int c, int y, int x) {
                    images.numbers[images.place(image, c, y, x)] =
                        static_cast<float>(of.result(input, added, image, c, y, x));
                });
            }
            std::vector<int> forms;
            for (int i = 0; runtime_kernels().convolutions[i].run; i++) {
                const Form& form = runtime_kernels().convolutions[i].form;
                if (form.lanes == lanes && form.step == step) forms.push_back(i);
            }
            doing = "the runtime, each form of " + std::to_string(lanes) + " lanes and step " + std::to_string(step);
            expect(convolution.forms() == forms, "a map that all forms fit");
            for (int form : forms) {
                const Form& its = runtime_kernels().convolutions[form].form;
                doing = "the runtime, form " + std::to_string(form);
                for (int blocks : {1, 3}) {
                    convolution.choose(convolution.candidate(form, blocks));
                    Images output(lanes + 1, to, false);
                    run(program, {&input, &added}, {&output});
                    compare(output, "a map of its tiles and smaller ones", [&](int image, int c, int y, int x) {
                        return expected[its.bfloat16].at(image, c, y, x);
                    });
                }
            }
        }
    }
}

void check_gather(int threads) {
    const int side = some(1, 2), lanes = runtime_kernels().lanes;
    Shape shape{{}, {some(1, 3 * lanes), side, side}, {some(1, 3 * lanes), side, side}};
    Geometry& g = shape.geometry;
    g.in = shape.from.channels, g.out = shape.to.channels;
    g.kernel_height = g.kernel_width = side == 2 ? 3 : any_of({1, 3});
    if (side == 1) {
        g.dilation_height = some(1, 2), g.dilation_width = some(1, 2);
        g.stride_height = some(1, 2), g.stride_width = some(1, 2);
    }
    g.padding_height = g.kernel_height / 2 * g.dilation_height;
    g.padding_width = g.kernel_width / 2 * g.dilation_width;
    const Case of = some_case(shape);
    const int images = some(1, 4);
    Program program(images, threads);
    build(program, of, channel_layout(shape.from, lanes), channel_layout(shape.to, lanes));
    const Images input(images, shape.from, true), added(images, shape.to, true);
    Images output(images, shape.to, false);
    run(program, {&input, &added}, {&output});
    compare(output, "convolution with channels in its lanes", [&](int image, int c, int y, int x) {
        return of.result(input, added, image, c, y, x);
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
        run(program, {&input}, {&output});
        compare(output, "moves, pools and sums", [&](int image, int c, int y, int x) {
            const bool inside = input.has(y + down, x + across);
            const double other = inside ? input.at(image, c, y + down, x + across) : second.fill;
            return activated(input.at(image, c, y, x) + (average ? 2 : 1) * other, activation);
        });
    }
}

}  // namespace

void check_runtime(double share) {
    check_every_form();
    const int64_t rounds = std::max<int64_t>(3, std::lround(200 * share));
    for (int64_t i = 0; i < rounds; i++) {
        const int threads = some(1, 3);
        doing = "the runtime, round " + std::to_string(i) + ", threads " + std::to_string(threads);
        check_convolution(threads);
        check_gather(threads);
        check_steps(threads);
    }
}

}  // namespace sparsecycle
