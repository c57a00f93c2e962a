// The 8-bit half of the runtime without Python, against plain loops of integers.
//
// Most scales are powers of two: then what is computed with floats is exact, in whatever order, and has to be equal bit
// for bit. With other scales, results may be off by what floats are.
#include <cmath>
#include <vector>

#include "../../src/sparsecycle/native/int8/kernels.h"
#include "../../src/sparsecycle/native/runtime/convolution.h"
#include "check_programs.h"

namespace sparsecycle {

namespace {

// --- Numbers of 8 bits ---------------------------------------------------------------------------------------------

float some_scale(double near, bool exact) {
    return static_cast<float>(exact ? std::exp2(std::round(std::log2(near))) : near * some(700, 1400) / 1000);
}

Scale coded(float scale) { return {scale, any_of({0, 128, some(0, 255)})}; }

int code(float x, const Scale& scale) {
    const float q = std::nearbyint(x * (1 / scale.scale) + static_cast<float>(scale.zero));
    return q > 0 ? static_cast<int>(std::min(q, 255.0f)) : 0;  // 0 for NaN
}

float decoded(int q, const Scale& scale) { return static_cast<float>(q - scale.zero) * scale.scale; }

const float strange_nan = std::bit_cast<float>(0x7fc000ff);

// Codes for images, with extreme ones, or some that are beyond what codes can stand for.
Images some_codes(int count, const Array& of, const Scale& scale) {
    Images made(count, of, false);
    const int kind = some(0, 3);
    for (float& number : made.numbers) {
        const int q = kind == 0 ? any_of({0, 255}) : some(0, 255);
        number = decoded(q, scale);
        if (kind == 1) number += scale.scale * static_cast<float>(some(-32, 32)) / 64;
        if (kind != 2 || !draw.one_in(8)) continue;
        number = any_of<float>({NAN, strange_nan, INFINITY, -INFINITY, 1e30f, -1e30f, -0.0f});
    }
    return made;
}

// What the map has for q - zero; 0 outside.
int64_t difference(const Images& images, const Scale& scale, int image, int c, int y, int x) {
    return images.has(y, x) ? code(images.numbers[images.place(image, c, y, x)], scale) - scale.zero : 0;
}

// A number, and by how much what floats have made of it may be off.
struct Real {
    double value, error;
};

// `size`: the sum of all terms' sizes; `unit` divides them all where scales are exact.
Real real(double value, double size, double unit, bool exact) {
    return {value, exact && size / unit < 1 << 24 ? 0 : 1e-6 * size};
}

// Whether the float, which is of a code where there is a scale, is what comes of the number.
bool follows(float found, Real of, const Activation& activation, const Scale* scale) {
    double low = of.value - of.error, high = of.value + of.error;
    if (activation.silu) {
        const double value = activated(of.value, activation);
        const double error = 1.1 * of.error + 1e-5 * std::fabs(value) + 1e-6;
        low = value - error, high = value + error;
    }
    if (!scale) {
        const Activation limits{activation.low, activation.high, false};
        const double least = activated(low, limits), most = activated(high, limits);
        return found >= static_cast<float>(least) && found <= static_cast<float>(most);
    }
    const auto limit = [&](float value) {
        return std::min(std::max(std::nearbyint(value / scale->scale) + scale->zero, 0.0f), 255.0f);
    };
    const auto rounded = [&](double value) {
        const double q = std::nearbyint(value / scale->scale + scale->zero);
        return static_cast<int>(std::min<double>(std::max<double>(q, limit(activation.low)), limit(activation.high)));
    };
    for (int q = rounded(low); q <= rounded(high); q++) {
        if (found == decoded(q, *scale)) return true;
    }
    return false;
}

// Most of a vector's lanes, as there are for bytes here.
int widest() { return int8::kernels().widest; }

Layout in_8_bits(Layout layout, const Scale& scale) {
    layout.element = Element::uint8;
    layout.scale = scale;
    layout.fill = static_cast<float>(scale.zero);
    return layout;
}

Layout in_floats(Layout layout) {
    layout.element = Element::float32;
    layout.fill = 0;
    layout.halo = {};
    return layout;
}

std::vector<Range> windows(int count, int by, int size) {
    std::vector<Range> made;
    for (int i = 0; i < count; i++) made.push_back({i + by, i + by + size});
    return made;
}

// Stores what lies so far from each place of a tensor of 8 bits.
struct Beside {
    int down, across;
};
Beside some_beside(const Halo& halo) { return {some(-halo.top, halo.bottom), some(-halo.left, halo.right)}; }

void store_beside(Program& program, int tensor, const Layout& layout, const Beside& beside, int output) {
    Layout without = layout;
    without.halo = {};
    const int taken = program.tensor(without);
    program.pool(tensor, taken, false, windows(layout.rows, beside.down, 1),
                 windows(layout.columns, beside.across, 1), {});
    program.store(taken, output, {layout.channels, layout.height, layout.width});
}

// Whether steps on floats can read it.
bool fits_floats(const Layout& layout) { return layout.vector_bytes() <= widest(); }

// Stores the sums of a block's floats, with what is outside the map.
void store_blocks(Program& program, int tensor, const Layout& layout, int output) {
    Layout blocks = layout;
    blocks.height = layout.lanes.rows, blocks.width = layout.lanes.columns;
    blocks.rows = blocks.columns = 1;
    const int summed = program.tensor(blocks);
    program.pool(tensor, summed, true, {{0, layout.rows}}, {{0, layout.columns}},
                 std::vector<float>(layout.lanes.count(), 1.0f));
    program.store(summed, output, {blocks.channels, blocks.height, blocks.width});
}

// --- Convolutions --------------------------------------------------------------------------------------------------

struct Case {
    Shape shape;
    std::vector<int8_t> weights;
    std::vector<float> scales, bias;
    Activation activation;
    bool exact, residual, floats;
    Scale read, added, written;

    const Scale* output() const { return floats ? nullptr : &written; }
    Real sum(const Images& input, const Images& residuals, int image, int channel, int y, int x) const {
        int64_t products = 0, size = 0;
        each_weight(shape.geometry, channel, y, x, [&](size_t number, int c, int from_y, int from_x) {
            products += weights[number] * difference(input, read, image, c, from_y, from_x);
            size += std::abs(weights[number]) * 255;
        });
        const double unit = double{read.scale} * scales[channel], constant = bias.empty() ? 0 : bias[channel];
        double value = unit * static_cast<double>(products) + constant;
        double sizes = unit * static_cast<double>(size) + std::fabs(constant);
        if (!floats) sizes += 255 * double{written.scale};
        if (residual) {
            value += added.scale * static_cast<double>(difference(residuals, added, image, channel, y, x));
            sizes += 2 * 255 * double{added.scale};
        }
        return real(value, sizes, floats ? unit : std::min<double>(unit, written.scale), exact);
    }
};

Case some_case(const Shape& shape) {
    const Geometry& g = shape.geometry;
    Case made{shape, {}, {}, {}, some_activation(), !draw.one_in(4), draw.one_in(2), draw.one_in(3), {}, {}, {}};
    const int64_t one_in = any_of({1, 2, 10, 1000});
    const bool extreme = draw.one_in(3);
    for (int64_t i = 0; i < g.weights(); i++) {
        const int weight = extreme ? any_of({-127, 127}) : some(-127, 127);
        made.weights.push_back(static_cast<int8_t>(draw.one_in(one_in) ? weight : 0));
    }
    made.read = coded(some_scale(0.02, made.exact));
    for (int i = 0; i < g.out; i++) made.scales.push_back(some_scale(any_of({0.25, 0.5, 1.0}), made.exact));
    // Outputs of about all codes; sums of one weight and of all are far apart.
    const double few = 127 * 128 * made.read.scale, all = few * static_cast<double>(g.weights()) / g.out;
    made.written = coded(some_scale(any_of({few, std::sqrt(few * all), all}) / any_of({32, 256, 2048}), made.exact));
    made.added = coded(some_scale(made.written.scale * any_of({0.25, 1.0, 4.0}), made.exact));
    for (int i = 0; i < g.out && draw.one_in(g.out); i++) made.bias.push_back(0);
    made.bias.resize(made.bias.empty() ? 0 : g.out);
    for (size_t i = 0; i < made.bias.size(); i++) {
        made.bias[i] = made.read.scale * made.scales[i] * static_cast<float>(some(-9999, 9999));
    }
    return made;
}

// Loads, convolves and stores, and perhaps stores what lies around what is made; returns the convolution's step.
int build(Program& program, const Case& of, const Layout& read, const Layout& written,
          const Beside* beside = nullptr) {
    const int source = program.tensor(read), made = program.tensor(written);
    program.load(0, of.shape.from, source);
    int residual = -1;
    if (of.residual) program.load(1, of.shape.to, residual = program.tensor(in_8_bits(written, of.added)));
    const int step =
        program.convolution(source, made, residual, of.shape.geometry, of.weights.data(), of.scales.data(),
                            of.bias.empty() ? nullptr : of.bias.data(), of.activation);
    program.store(made, 0, of.shape.to);
    if (beside && !of.floats) store_beside(program, made, written, *beside, 1);
    if (beside && of.floats && fits_floats(written)) store_blocks(program, made, written, 1);
    program.finish();
    return step;
}

// Of all places, in the order of the output's array.
std::vector<Real> sums(const Case& of, const Images& input, const Images& added) {
    std::vector<Real> made;
    each_place(added, [&](int image, int c, int y, int x) { made.push_back(of.sum(input, added, image, c, y, x)); });
    return made;
}

void check_result(const Case& of, const std::vector<Real>& sums, const Images& output, const char* what) {
    bool right = true;
    for (size_t i = 0; i < sums.size(); i++) right &= follows(output.numbers[i], sums[i], of.activation, of.output());
    expect(right, what);
}

void check_blocks(const Images& output, const Images& sums, const Layout& layout) {
    bool right = true;
    each_place(sums, [&](int image, int c, int row, int column) {
        double sum = 0, size = 0;
        for (int y = 0; y < layout.rows; y++) {
            for (int x = 0; x < layout.columns; x++) {
                const double value = output.at(image, c, row * layout.rows + y, column * layout.columns + x);
                sum += value;
                size += std::fabs(value);
            }
        }
        right &= std::fabs(sums.at(image, c, row, column) - sum) <= 1e-5 * size;
    });
    expect(right, "convolution: floats outside the map are 0");
}

void check_convolution(int threads) {
    std::vector<int> lanes;
    for (const int8::Convolution* k = int8::kernels().convolutions; k->run; k++) lanes.push_back(k->form.lanes);
    const Case of = some_case(some_shape(6, 6, 9, 5));
    const Array &from = of.shape.from, &to = of.shape.to;
    Layout written = some_layout(to, lanes[draw.below(static_cast<int64_t>(lanes.size()))]);
    const Layout read = in_8_bits(layout_to_read(of.shape, written), of.read);
    written = of.floats ? in_floats(written) : in_8_bits(written, of.written);
    const Beside beside = some_beside(written.halo);
    const int images = any_of({1, 2, 5, 40});
    Program program(images, threads);
    TunableStep& convolution = program.convolution_at(build(program, of, read, written, &beside));
    const Images input = some_codes(images, from, of.read), added = some_codes(images, to, of.added);
    const std::vector<Real> expected = sums(of, input, added);
    const std::vector<int> forms = convolution.forms();
    expect(!forms.empty(), "convolution: a form for every layout");
    for (int turn = 0; turn < 3; turn++) {
        const int form = forms[draw.below(static_cast<int64_t>(forms.size()))];
        convolution.choose(convolution.candidate(form, some(1, from.channels)));
        const Array blocks{to.channels, written.lanes.rows, written.lanes.columns};
        Images output(images, to, false), around(images, of.floats ? blocks : to, false);
        run(program, {&input, &added}, {&output, &around});
        check_result(of, expected, output, "convolution");
        if (of.floats) {
            if (fits_floats(written)) check_blocks(output, around, written);
            continue;
        }
        bool right = true;
        each_place(around, [&](int image, int c, int y, int x) {
            right &= around.at(image, c, y, x) == output.at(image, c, y + beside.down, x + beside.across);
        });
        expect(right, "convolution: what lies around its blocks");
    }
}

void check_every_form() {
    const int8::Convolution* all = int8::kernels().convolutions;
    for (int form = 0; all[form].run; form++) {
        doing = "8 bits, form " + std::to_string(form);
        for (int step : {1, 2}) {
            const Case of = some_case(shape_for_tiles(step));
            Layout written = channel_layout(of.shape.to, 1);
            written.lanes.images = all[form].form.lanes;
            const Layout read = in_8_bits(layout_to_read(of.shape, written), of.read);
            written = of.floats ? in_floats(written) : in_8_bits(written, of.written);
            const int images = written.lanes.images + 1;
            Program program(images, 1);
            TunableStep& convolution = program.convolution_at(build(program, of, read, written));
            const Images input = some_codes(images, of.shape.from, of.read);
            const Images added = some_codes(images, of.shape.to, of.added);
            const std::vector<Real> expected = sums(of, input, added);
            for (int blocks : {1, 3}) {
                convolution.choose(convolution.candidate(form, blocks));
                Images output(images, of.shape.to, false);
                run(program, {&input, &added}, {&output});
                check_result(of, expected, output, "a form on a map of its tiles and smaller ones");
            }
        }
    }
}

void check_gather(int threads) {
    if (!int8::kernels().gatherers) return;
    const Case of = some_case(some_shape(3 * widest(), 2 * widest(), 4, 3));
    const Layout read = in_8_bits(channel_layout(of.shape.from, widest()), of.read);
    Layout written = channel_layout(of.shape.to, widest());
    written = of.floats ? in_floats(written) : in_8_bits(written, of.written);
    const int images = some(1, 4);
    Program program(images, threads);
    build(program, of, read, written);
    const Images input = some_codes(images, of.shape.from, of.read);
    const Images added = some_codes(images, of.shape.to, of.added);
    Images output(images, of.shape.to, false);
    run(program, {&input, &added}, {&output});
    check_result(of, sums(of, input, added), output, "convolution with channels in its lanes");
}

// --- All other steps -----------------------------------------------------------------------------------------------

// An array through two layouts. Of the places beside each one the largest is taken, or their average; what it came from
// is added to this; sum and terms are concatenated.
void check_steps(int threads) {
    const bool exact = !draw.one_in(4), average = draw.one_in(2), floats = average && draw.one_in(2);
    const Array of{some(1, 5), some(1, 9), some(1, 9)}, thrice{3 * of.channels, of.height, of.width};
    const Scale scale = coded(some_scale(0.05, exact)), other = coded(some_scale(any_of({0.02, 0.1}), exact)),
                pooled = average ? other : scale, sum = coded(some_scale(any_of({0.03, 0.2}), exact));
    const int lanes = 1 << some(0, std::countr_zero(static_cast<unsigned>(widest())));
    Layout second = some_layout(of, lanes), first = second;
    const Layout third = in_8_bits(second, pooled);
    Layout whole = in_8_bits(second, sum);
    whole.channels = thrice.channels;
    first.lanes = {1 << some(0, std::countr_zero(static_cast<unsigned>(second.lanes.images))), 1, 1};
    first.rows = of.height, first.columns = of.width, first.groups = 1, first.halo = {};
    const bool from_floats = draw.one_in(3) && 4 * first.lanes.count() <= widest();
    if (!from_floats) first = in_8_bits(first, scale);
    second = in_8_bits(second, scale);
    second.fill = static_cast<float>(any_of({scale.zero, 0, 255}));
    const auto [down, across] = some_beside(second.halo);
    const int high = some(1, second.halo.bottom - down + 1), wide = some(1, second.halo.right - across + 1);
    const std::vector<Range> rows = windows(third.rows, down, high), columns = windows(third.columns, across, wide);
    const std::vector<float> factors(static_cast<size_t>(third.rows) * third.columns * lanes, 0.25f);
    const Activation activation = some_activation(), none = Activation{-INFINITY, INFINITY, false};
    const Beside beside = some_beside(second.halo);

    const int images = any_of({1, 3, 8, 33});
    Program program(images, threads);
    const int loaded = program.tensor(first), moved = program.tensor(second), taken = program.tensor(third),
              together = program.tensor(whole);
    program.load(0, of, loaded);
    program.move(loaded, moved, false);
    program.pool(moved, taken, average, rows, columns, average ? factors : std::vector<float>{});
    program.combine(taken, moved, program.view(together, 0, of.channels), activation);
    program.combine(moved, -1, program.view(together, of.channels, of.channels), none);
    program.combine(taken, -1, program.view(together, 2 * of.channels, of.channels), activation);
    program.store(taken, 0, of);
    program.store(together, 1, thrice);
    store_beside(program, taken, third, beside, 2);
    store_beside(program, together, whole, beside, 3);
    if (floats) {
        const int means = program.tensor(in_floats(second));
        program.pool(moved, means, true, rows, columns, factors);
        program.store(means, 4, of);
    }
    program.finish();

    const Images input = some_codes(images, of, scale);
    Images pools(images, of, false), sums(images, thrice, false), beside_pools(images, of, false),
        beside_sums(images, thrice, false), means(images, of, false);
    run(program, {&input}, {&pools, &sums, &beside_pools, &beside_sums, &means});
    const auto at = [&](int image, int c, int y, int x) {
        if (!input.has(y, x)) return static_cast<int>(second.fill);
        return code(input.numbers[input.place(image, c, y, x)], scale);
    };
    bool right_pools = true, right_means = true, right_sums = true, right_beside = true;
    each_place(input, [&](int image, int c, int y, int x) {
        int64_t total = 0;
        int largest = 0;
        for (int i = y + down; i < y + down + high; i++) {
            for (int j = x + across; j < x + across + wide; j++) {
                total += at(image, c, i, j) - scale.zero;
                largest = std::max(largest, at(image, c, i, j));
            }
        }
        const size_t place = input.place(image, c, y, x);
        const float pool = pools.numbers[place];
        const double unit = 0.25 * scale.scale;
        const Real mean = real(unit * static_cast<double>(total), unit * 255 * high * wide + 255 * pooled.scale,
                               std::min<double>(unit, pooled.scale), exact);
        right_pools &= average ? follows(pool, mean, none, &pooled) : pool == decoded(largest, scale);
        if (floats) right_means &= follows(means.numbers[place], mean, none, nullptr);
        const auto is_sum = [&](int turn, double value, const Activation& its) {
            const Real its_sum = real(value, 4 * 255 * (scale.scale + pooled.scale + sum.scale),
                                      std::min({scale.scale, pooled.scale, sum.scale}), exact);
            return follows(sums.numbers[sums.place(image, turn * of.channels + c, y, x)], its_sum, its, &sum);
        };
        const double here = decoded(at(image, c, y, x), scale);
        right_sums &= is_sum(0, here + pool, activation) && is_sum(1, here, none) && is_sum(2, pool, activation);
    });
    each_place(sums, [&](int image, int c, int y, int x) {
        const int from_y = y + beside.down, from_x = x + beside.across;
        // Outside the map, sums are of what is there.
        if (!sums.has(from_y, from_x) && second.fill != static_cast<float>(scale.zero)) return;
        right_beside &= beside_sums.at(image, c, y, x) == sums.at(image, c, from_y, from_x);
        if (c >= of.channels) return;
        right_beside &= beside_pools.at(image, c, y, x) == pools.at(image, c, from_y, from_x);
    });
    expect(right_pools, "pools");
    expect(right_means, "averages as floats");
    expect(right_sums, "sums, concatenated");
    expect(right_beside, "what lies around the blocks of pools and sums");
}

// A map of any layout as a row of features, in lanes of images or of channels.
void check_flatten(int threads) {
    const Array of{some(1, 5), some(1, 5), some(1, 5)}, row{of.channels * of.height * of.width, 1, 1};
    const Scale scale = coded(some_scale(0.05, draw.one_in(2)));
    const bool by_channels = draw.one_in(2);
    const int lanes = 1 << some(0, std::countr_zero(static_cast<unsigned>(widest())));
    Layout map = some_layout(of, lanes), flat = by_channels ? channel_layout(row, widest()) : some_layout(row, lanes);
    if (by_channels) map.groups = 1, map.lanes.images = 1;
    flat.lanes.images = by_channels ? 1 : map.lanes.images * any_of({1, widest() / lanes});
    flat.lanes.rows = flat.lanes.columns = 1;
    flat.groups = by_channels ? 1 : map.groups;
    const int images = any_of({1, 3, 40});
    Program program(images, threads);
    const int loaded = program.tensor(in_8_bits(map, scale)), flattened = program.tensor(in_8_bits(flat, scale));
    program.load(0, of, loaded);
    program.move(loaded, flattened, true);
    program.store(flattened, 0, row);
    program.finish();
    const Images input = some_codes(images, of, scale);
    Images output(images, row, false);
    run(program, {&input}, {&output});
    bool right = true;
    for (size_t i = 0; i < input.numbers.size(); i++) {
        right &= output.numbers[i] == decoded(code(input.numbers[i], scale), scale);
    }
    expect(right, "a flattened map");
}

}  // namespace

void check_int8(double share) {
    check_every_form();
    const int64_t rounds = std::max<int64_t>(3, std::lround(150 * share));
    for (int64_t i = 0; i < rounds; i++) {
        const int threads = some(1, 3);
        doing = "8 bits, round " + std::to_string(i) + ", threads " + std::to_string(threads);
        check_convolution(threads);
        check_gather(threads);
        check_steps(threads);
        check_flatten(threads);
    }
}

}  // namespace sparsecycle
