#include "gather.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sparsecycle {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("with channels in its lanes, a convolution's " + what);
}

}  // namespace

GatherStep::GatherStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                       const float* weights, const float* bias, const Activation& activation)
    : program_(program), from_(from), to_(to), residual_(residual), geometry_(geometry), activation_(activation) {
    const Geometry& g = geometry;
    g.check();
    const Layout &in = program.tensor_at(from).layout, &out = program.tensor_at(to).layout;
    const int widest = runtime_kernels().lanes;
    for (int number : {from, to, residual}) {
        if (number < 0) continue;
        const Layout& layout = program.tensor_at(number).layout;
        demand(layout.lanes.channels == widest && layout.lanes.count() == widest && layout.groups == 1 &&
                   layout.element == Element::float32,
               "tensors must have " + std::to_string(widest) + " of float32 there, and nothing else");
        demand(number == from || (layout.channels == g.out && layout.rows == out.rows && layout.columns == out.columns),
               "residual must be laid out as its output");
    }
    side_ = in.height;
    demand(in.channels == g.in && out.channels == g.out, "tensors must have its channels");
    const bool one = side_ == 1 && out.height == 1 && out.width == 1 && g.padding_height < g.dilation_height * g.kernel_height &&
                     g.padding_width < g.dilation_width * g.kernel_width &&
                     g.padding_height % g.dilation_height == 0 && g.padding_width % g.dilation_width == 0;
    const bool two = side_ == 2 && out.height == 2 && out.width == 2 && g.kernel_height == 3 && g.kernel_width == 3 &&
                     g.stride_height == 1 && g.stride_width == 1 && g.padding_height == 1 && g.padding_width == 1 &&
                     g.dilation_height == 1 && g.dilation_width == 1;
    demand(in.width == side_ && (one || two) && g.groups == 1,
           "maps must be of 1 x 1, or of 2 x 2 with a kernel of 3 x 3 and a padding of 1, without groups");
    weights_.assign(weights, weights + g.weights());
    bias_.assign(static_cast<size_t>(out.planes()) * widest, 0.0f);
    if (bias) std::copy(bias, bias + g.out, bias_.begin());
    reads = {from};
    if (residual >= 0) reads.push_back(residual);
    writes = {to};
}

void GatherStep::prepare(int workers) {
    const int planes = program_.tensor_at(to_).layout.planes();
    for (int i = 0; i < workers; i++) parts_.push_back(part(planes * i / workers, planes * (i + 1) / workers));
    std::vector<float>().swap(weights_);
}

GatherStep::Part GatherStep::part(int begin, int end) const {
    const Geometry& g = geometry_;
    const int lanes = runtime_kernels().lanes;
    // Of a map of one pixel only one tap meets it.
    std::vector<int> taps;
    if (side_ == 1) {
        taps = {g.padding_height / g.dilation_height * g.kernel_width + g.padding_width / g.dilation_width};
    } else {
        for (int tap = 0; tap < g.taps(); tap++) taps.push_back(tap);
    }
    Part made{begin, end, {}, {}, {}, {}, {}};
    for (int first = 0; first < g.in; first += 2 * lanes) {
        for (int tap : taps) {
            struct Rows {
                int plane;
                size_t steps;
                std::vector<std::vector<int>> inputs;  // of each lane
            };
            std::vector<Rows> found;
            for (int plane = begin; plane < end; plane++) {
                Rows rows{plane, 0, std::vector<std::vector<int>>(lanes)};
                for (int lane = 0; lane < lanes && plane * lanes + lane < g.out; lane++) {
                    const int64_t row = static_cast<int64_t>(plane * lanes + lane) * g.in;
                    for (int c = first; c < std::min(g.in, first + 2 * lanes); c++) {
                        if (weights_[(row + c) * g.taps() + tap] != 0) rows.inputs[lane].push_back(c - first);
                    }
                    rows.steps = std::max(rows.steps, rows.inputs[lane].size());
                }
                if (rows.steps) found.push_back(std::move(rows));
            }
            // Loops of equal length after each other are predicted.
            std::stable_sort(found.begin(), found.end(), [](const Rows& a, const Rows& b) { return a.steps < b.steps; });
            made.sizes.push_back(static_cast<uint16_t>(found.size()));
            for (const Rows& rows : found) {
                made.planes.push_back(static_cast<uint16_t>(rows.plane));
                made.counts.push_back(static_cast<uint16_t>(rows.steps));
                for (size_t step = 0; step < rows.steps; step++) {
                    for (int lane = 0; lane < lanes; lane++) {
                        const std::vector<int>& inputs = rows.inputs[lane];
                        const int input = step < inputs.size() ? inputs[step] : inputs.empty() ? 0 : inputs.back();
                        const int64_t row = static_cast<int64_t>(rows.plane * lanes + lane) * g.in;
                        made.inputs.push_back(static_cast<uint8_t>(input));
                        made.weights.push_back(step < inputs.size() ? weights_[(row + first + input) * g.taps() + tap] : 0);
                    }
                }
            }
        }
    }
    return made;
}

void GatherStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = program_.tensor_at(from_).layout, &out = program_.tensor_at(to_).layout;
    const int lanes = out.lanes.count();
    Gather g{};
    g.input = frame.at(from_) + in.at(0, 0, 0) * lanes;
    g.input_row = in.row() * lanes;
    g.input_column = lanes;
    g.input_plane = in.channel() * lanes;
    g.input_planes = in.planes();
    g.output = frame.at(to_) + out.at(0, 0, 0) * lanes;
    g.output_row = out.row() * lanes;
    g.output_column = lanes;
    g.output_plane = out.channel() * lanes;
    if (residual_ >= 0) {
        const Layout& added = program_.tensor_at(residual_).layout;
        g.residual = frame.at(residual_) + added.at(0, 0, 0) * lanes;
        g.residual_row = added.row() * lanes;
        g.residual_column = lanes;
        g.residual_plane = added.channel() * lanes;
    }
    g.bias = bias_.data();
    g.activation = activation_;
    const int parts = static_cast<int>(parts_.size());
    for (int i = worker; i < parts; i += workers) {
        const Part& part = parts_[i];
        g.begin = part.begin;
        g.end = part.end;
        g.sizes = part.sizes.data();
        g.planes = part.planes.data();
        g.counts = part.counts.data();
        g.inputs = part.inputs.data();
        g.weights = part.weights.data();
        runtime_kernels().gather[side_ - 1](g);
    }
}

}  // namespace sparsecycle
