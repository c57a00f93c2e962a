#include "gather.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "../runtime/steps.h"

namespace sparsecycle::int8 {

namespace {

constexpr int most_places = 8;  // of a kernel

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("with channels in its lanes, a convolution's " + what);
}

// Where each place of a map is, in elements.
std::vector<int32_t> elements(const Layout& layout) {
    std::vector<int32_t> made;
    for (int y = 0; y < layout.height; y++) {
        for (int x = 0; x < layout.width; x++) made.push_back(static_cast<int32_t>(layout.element_at(0, y, x)));
    }
    return made;
}

struct Taken {
    int input;
    int8_t weight;
};

// Four of the weights, two and two so that what each two add up to fits into 16 bits, as far as kernels need that.
std::array<Taken, 4> take_four(std::vector<Taken>& left) {
    std::array<Taken, 4> four{};
    for (int i = 0; i < 4 && !left.empty(); i++) {
        auto fits = left.begin();
        if (i % 2 && kernels().adds_in_16_bits) {
            const int other = four[i - 1].weight;
            fits = std::find_if(left.begin(), left.end(), [&](const Taken& taken) {
                return (taken.weight < 0) != (other < 0) || std::abs(taken.weight + other) <= 128;
            });
        }
        if (fits == left.end()) continue;
        four[i] = *fits;
        left.erase(fits);
    }
    return four;
}

}  // namespace

GatherStep::GatherStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                       const int8_t* weights, const float* scales, const float* bias, const Activation& activation)
    : program_(program), from_(from), to_(to), residual_(residual), geometry_(geometry),
      numbers_(geometry, program.tensor_at(from).layout, program.tensor_at(to).layout,
               residual < 0 ? nullptr : &program.tensor_at(residual).layout, weights, scales, bias, activation) {
    const Geometry& g = geometry;
    g.check();
    demand(kernels().gatherers, "kernels are not there for this instruction set");
    const Layout &in = program.tensor_at(from).layout, &out = program.tensor_at(to).layout;
    for (int number : {from, to, residual}) {
        if (number < 0) continue;
        const Layout& layout = program.tensor_at(number).layout;
        const Lanes& lanes = layout.lanes;
        demand(lanes.channels == kernels().widest && lanes.count() == kernels().widest && layout.groups == 1,
               "tensors must have " + std::to_string(kernels().widest) + " there, and nothing else");
        demand(number == from || (layout.channels == g.out && layout.height == out.height && layout.width == out.width),
               "residual must be a map as its output");
    }
    demand(in.channels == g.in, "input has " + std::to_string(in.channels) + " channels, not " + std::to_string(g.in));
    demand(in.vectors() * in.vector_bytes() / 16 <= UINT16_MAX, "input is too large");
    const auto places_along = [](int size, int padding, int dilation, int kernel, int stride) {
        return (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
    };
    const int height = places_along(in.height, g.padding_height, g.dilation_height, g.kernel_height, g.stride_height);
    const int width = places_along(in.width, g.padding_width, g.dilation_width, g.kernel_width, g.stride_width);
    demand(out.height == height && out.width == width, "output has the wrong size");
    for (int tap = 0; tap < g.taps(); tap++) {
        const int down = tap / g.kernel_width * g.dilation_height - g.padding_height;
        const int across = tap % g.kernel_width * g.dilation_width - g.padding_width;
        for (int place = 0; place < height * width; place++) {
            const int y = place / width * g.stride_height + down, x = place % width * g.stride_width + across;
            if (y < 0 || y >= in.height || x < 0 || x >= in.width) continue;
            if (places_.empty() || places_.back().tap != tap || places_.back().in.size() == most_places) {
                places_.push_back({tap, {}, {}});
            }
            places_.back().in.push_back(y * in.width + x);
            places_.back().out.push_back(place);
        }
    }
    inputs_ = elements(in);
    outputs_ = elements(out);
    if (residual >= 0) residuals_ = elements(program.tensor_at(residual).layout);
    reads = {from};
    if (residual >= 0) reads.push_back(residual);
    writes = {to};
}

void GatherStep::prepare(int workers) {
    const int channels = kernels().widest / 4, bundles = (geometry_.out + channels - 1) / channels;
    for (int i = 0; i < workers; i++) parts_.push_back(part(bundles * i / workers, bundles * (i + 1) / workers));
    std::vector<int8_t>().swap(numbers_.weights);
}

GatherStep::Part GatherStep::part(int begin, int end) const {
    const int channels = kernels().widest / 4, zero = program_.tensor_at(from_).layout.scale.zero;
    const int64_t row = geometry_.weights() / geometry_.out, taps = geometry_.taps();
    Part best;
    for (const Gatherers* way = kernels().gatherers; way->window; way++) {
        Part made{begin, end, way, {}, {}, {}, {}};
        for (int bundle = begin; bundle < end; bundle++) {
            for (int tap = 0; tap < taps; tap++) made.runs.push_back(add_steps(made, bundle, tap));
        }
        if (way == kernels().gatherers || nanoseconds(made) < nanoseconds(best)) best = std::move(made);
    }
    best.start.resize((end - begin) * outputs_.size() * channels);
    for (int channel = begin * channels; channel < std::min(geometry_.out, end * channels); channel++) {
        const int bundle = channel / channels - begin;
        for (const Places& places : places_) {
            int32_t sum = 0;
            for (int64_t i = places.tap; i < row; i += taps) sum += numbers_.weights[channel * row + i];
            for (int place : places.out) {
                best.start[(bundle * outputs_.size() + place) * channels + channel % channels] -= zero * sum;
            }
        }
    }
    return best;
}

// A step's bytes come from an outer cache. Each place takes a shuffle for every 16 channels, as many operations to join
// them, and two to multiply and add; more than two tables take two more each, once for all places.
double GatherStep::nanoseconds(const Part& part) const {
    double sum = 0;
    for (const Places& places : places_) {
        int64_t steps = 0;
        for (size_t i = places.tap; i < part.runs.size(); i += geometry_.taps()) steps += part.runs[i].count;
        const int tables = kernels().adds_in_16_bits ? part.kernels->window / 16 : 1;
        const int once = tables > 2 ? 2 * tables : 0, each = 2 + 2 * tables;
        const double operations = once + each * static_cast<double>(places.in.size());
        sum += static_cast<double>(steps) * std::max(1.4, 0.13 * operations);
    }
    return sum;
}

GatherStep::Run GatherStep::add_steps(Part& part, int bundle, int tap) const {
    const Layout& in = program_.tensor_at(from_).layout;
    const int bytes = kernels().widest, channels = bytes / 4, window = part.kernels->window;
    const int group_in = geometry_.in / geometry_.groups, group_out = geometry_.out / geometry_.groups;
    const auto element = [&](int channel) { return static_cast<uint16_t>(in.element_at(channel) / 16); };
    Run run{part.windows.size() / 2, 0};
    // A tap that only sees padding has no places.
    if (std::none_of(places_.begin(), places_.end(), [&](const Places& p) { return p.tap == tap; })) return run;
    for (int first = 0; first < geometry_.in; first += window) {
        std::vector<std::vector<Taken>> rows(channels);
        for (int i = 0; i < channels; i++) {
            const int channel = bundle * channels + i;
            if (channel >= geometry_.out) break;
            const int own = channel / group_out * group_in;  // its inputs' first
            for (int c = std::max(first, own); c < std::min({geometry_.in, first + window, own + group_in}); c++) {
                const int8_t weight =
                    numbers_.weights[(static_cast<int64_t>(channel) * group_in + c - own) * geometry_.taps() + tap];
                if (weight) rows[i].push_back({c - first, weight});
            }
        }
        while (std::any_of(rows.begin(), rows.end(), [](const auto& row) { return !row.empty(); })) {
            std::vector<uint8_t> choice, weights;
            for (std::vector<Taken>& row : rows) {
                for (const Taken& taken : take_four(row)) {
                    choice.push_back(static_cast<uint8_t>(taken.input % 16 + taken.input / 16 * part.kernels->next));
                    weights.push_back(static_cast<uint8_t>(taken.weight));
                }
            }
            part.steps.insert(part.steps.end(), choice.begin(), choice.end());
            part.steps.insert(part.steps.end(), weights.begin(), weights.end());
            part.windows.push_back(element(first));
            part.windows.push_back(element(first + window / 2 < geometry_.in ? first + window / 2 : first));
            run.count++;
        }
    }
    return run;
}

int64_t GatherStep::scratch() const { return static_cast<int64_t>(outputs_.size()) * kernels().widest; }

void GatherStep::run(const Frame& frame, int worker, int workers) const {
    const Layout& out = program_.tensor_at(to_).layout;
    const int bytes = kernels().widest, channels = bytes / 4, taps = geometry_.taps();
    const uint8_t* input = frame.at<const uint8_t>(from_);
    int32_t* sums = reinterpret_cast<int32_t*>(frame.scratch);
    const int64_t size = static_cast<int64_t>(outputs_.size()) * channels;
    for (size_t i = worker; i < parts_.size(); i += workers) {
        const Part& part = parts_[i];
        for (int bundle = part.begin; bundle < part.end; bundle++) {
            std::copy_n(part.start.data() + (bundle - part.begin) * size, size, sums);
            const Run* runs = part.runs.data() + static_cast<int64_t>(bundle - part.begin) * taps;
            for (const Places& places : places_) {
                const uint8_t* inputs[most_places];
                int32_t* into[most_places];
                for (size_t j = 0; j < places.in.size(); j++) {
                    inputs[j] = input + inputs_[places.in[j]];
                    into[j] = sums + places.out[j] * channels;
                }
                const auto [first, count] = runs[places.tap];
                part.kernels->run[places.in.size()]({inputs, into, part.windows.data() + 2 * first,
                                                    part.steps.data() + 2 * bytes * first, count});
            }
            const int channel = bundle * channels;
            const uint8_t* residual = nullptr;
            if (residual_ >= 0) {
                const Layout& added = program_.tensor_at(residual_).layout;
                residual = frame.at<const uint8_t>(residual_) + added.element_at(channel);
            }
            kernels().settle({sums, static_cast<int>(outputs_.size()),
                              frame.address(to_) + out.element_at(channel) * size_of(out.element), outputs_.data(),
                              residual, residuals_.data(), channel, out.element == Element::float32},
                             numbers_.finish);
        }
    }
}

}  // namespace sparsecycle::int8
