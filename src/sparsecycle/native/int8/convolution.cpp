#include "convolution.h"

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>

#include "../runtime/taps.h"
#include "scale.h"

namespace sparsecycle::int8 {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("a convolution's " + what);
}

}  // namespace

ConvolutionStep::ConvolutionStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                                 const int8_t* weights, const float* scales, const float* bias,
                                 const Activation& activation)
    : program_(program), from_(from), to_(to), residual_(residual), input_(program.tensor_at(from).layout),
      output_(program.tensor_at(to).layout), added_(residual < 0 ? nullptr : &program.tensor_at(residual).layout),
      geometry_(geometry), numbers_(geometry, input_, output_, added_, weights, scales, bias, activation),
      inside_(inside(output_)) {
    check_fit(geometry, input_, output_, added_);
    const auto zero = [](const Layout& layout) { return static_cast<float>(layout.scale.zero ^ flip(layout)); };
    demand(input_.fill == zero(input_), "input must be filled with its zero outside its map");
    const float outside = output_.element == Element::float32 ? 0.0f : zero(output_);
    demand(output_.fill == outside || inside_.empty(), "output must be filled with its zero outside its map");
    reads = {from};
    if (residual >= 0) reads.push_back(residual);
    writes = {to};
}

// Vectors that follow each other and whose inputs are equally far apart.
int ConvolutionStep::run_length() const {
    if (geometry_.stride_width == 1) return output_.columns * output_.groups;
    return output_.groups == 1 ? output_.columns : output_.groups;
}

std::vector<int> ConvolutionStep::forms() const {
    std::vector<int> fitting;
    const Convolution* all = kernels().convolutions;
    for (int i = 0; all[i].run; i++) {
        const Form& form = all[i].form;
        if (form.lanes == output_.lanes.count() && form.vectors <= run_length()) fitting.push_back(i);
    }
    return fitting;
}

int64_t ConvolutionStep::sums_bytes() const {
    int vectors = 1;
    for (int form : forms()) vectors = std::max(vectors, kernels().convolutions[form].form.vectors);
    return static_cast<int64_t>(geometry_.out) * vectors * output_.lanes.count() * 4;
}

int64_t ConvolutionStep::scratch() const {
    const int64_t fours = (geometry_.weights() / geometry_.out + 3) / 4;
    return sums_bytes() + fours * output_.lanes.count() * kernels().interleaved;
}

// Where the output channels of each part end, so that parts have about the same number of weights; the first one is 0.
std::vector<int> ConvolutionStep::part_ends() const {
    const int64_t row = geometry_.weights() / geometry_.out;
    std::vector<int64_t> until{0};
    for (int channel = 0; channel < geometry_.out; channel++) {
        const auto begin = numbers_.weights.begin() + channel * row;
        until.push_back(until.back() + 1 + row - std::count(begin, begin + row, 0));
    }
    std::vector<int> ends{0};
    for (int part = 1; part <= parts_; part++) {
        const int64_t share = until.back() * part / parts_;
        ends.push_back(static_cast<int>(std::lower_bound(until.begin(), until.end(), share) - until.begin()));
    }
    return ends;
}

int ConvolutionStep::candidate(int number, int blocks) {
    const std::vector<int> fitting = forms();
    demand(std::find(fitting.begin(), fitting.end(), number) != fitting.end(),
           "form " + std::to_string(number) + " does not fit its layout");
    demand(blocks > 0 && blocks <= geometry_.in,
           "blocks=" + std::to_string(blocks) + " must be 1 to " + std::to_string(geometry_.in));
    demand(!numbers_.weights.empty(), "candidates must be made before the others are dropped");
    const std::vector<int> ends = part_ends();
    const Taps taps(geometry_, input_, output_);
    const Convolution* all = kernels().convolutions;
    const Convolution& main = all[number];
    // The ends of runs are left to the form of one vector.
    const Convolution& single = *std::find_if(all, all + fitting.back() + 1, [&](const Convolution& kernel) {
        return kernel.form.lanes == main.form.lanes && kernel.form.dense == main.form.dense && kernel.form.vectors == 1;
    });

    Candidate made;
    std::map<std::pair<std::vector<bool>, int>, int> seen;
    const auto add = [&](const Convolution& kernel, int y, int v) {
        const std::vector<bool> met = taps.met(y, v, kernel.form.vectors);
        const auto [found, is_new] = seen.emplace(std::pair(met, kernel.form.vectors), seen.size());
        if (is_new) {
            std::vector<Pack>& packs = made.packs.emplace_back();
            for (int part = 0; part < parts_; part++) {
                if (ends[part] == ends[part + 1]) continue;
                packs.emplace_back(geometry_, numbers_.weights.data(), input_, kernel.form, ends[part], ends[part + 1],
                                   blocks, met);
                made.cost.stored += packs.back().bytes();
            }
        }
        const int x = v / output_.groups, group = v % output_.groups;
        const int64_t in = input_.at(0, y * geometry_.stride_height - geometry_.padding_height,
                                     x * geometry_.stride_width - geometry_.padding_width) + group;
        made.pieces.push_back({kernel.run, found->second, in, output_.at(0, y, 0) + v,
                               added_ ? added_->at(0, y, 0) + v : 0,
                               static_cast<int64_t>(y) * output_.columns * output_.groups + v});
        for (const Pack& pack : made.packs[found->second]) {
            made.cost.bytes += pack.bytes();
            made.cost.multiply_adds += 4 * pack.fours() * kernel.form.vectors;
            for (const Pack::Block& block : pack.blocks()) {
                made.cost.visits += static_cast<int64_t>(block.bundles) * kernel.form.bundle * kernel.form.vectors;
            }
        }
    };
    const int run = run_length();
    for (int y = 0; y < output_.rows; y++) {
        for (int start = 0; start < output_.columns * output_.groups; start += run) {
            int v = start;
            for (; v + main.form.vectors <= start + run; v += main.form.vectors) add(main, y, v);
            for (; v < start + run; v++) add(single, y, v);
        }
    }
    candidates_.push_back(std::move(made));
    if (chosen_ < 0) chosen_ = 0;
    return static_cast<int>(candidates_.size()) - 1;
}

void ConvolutionStep::choose(int candidate) {
    demand(candidate >= 0 && candidate < static_cast<int>(candidates_.size()),
           "candidate=" + std::to_string(candidate) + " must be below " + std::to_string(candidates_.size()));
    chosen_ = candidate;
}

void ConvolutionStep::keep_chosen() {
    demand(chosen_ >= 0, "candidates: there are none");
    Candidate kept = std::move(candidates_[chosen_]);
    candidates_.clear();
    candidates_.push_back(std::move(kept));
    candidates_.shrink_to_fit();
    chosen_ = 0;
    std::vector<int8_t>().swap(numbers_.weights);
}

void ConvolutionStep::run(const Frame& frame, int worker, int workers) const {
    const Candidate& way = candidates_[chosen_];
    const int64_t lanes = output_.lanes.count();
    Tile tile;
    tile.floats = output_.element == Element::float32;
    const int64_t step = output_.groups == 1 ? geometry_.stride_width : 1;
    tile.input_apart = step * lanes;
    tile.output_apart = tile.residual_apart = lanes;
    tile.output_channel = output_.channel() * lanes;
    tile.residual_channel = added_ ? added_->channel() * lanes : 0;
    tile.sums = reinterpret_cast<int32_t*>(frame.scratch);
    tile.interleaved = reinterpret_cast<uint8_t*>(frame.scratch) + sums_bytes();
    const uint8_t* input = frame.at<uint8_t>(from_);
    char* output = frame.address(to_);
    const uint8_t* residual = added_ ? frame.at<uint8_t>(residual_) : nullptr;
    const int parts = static_cast<int>(way.packs[0].size());
    for (int part = worker; part < parts; part += workers) {
        for (const Piece& piece : way.pieces) {
            const Pack& pack = way.packs[piece.packs][part];
            tile.output = output + piece.output * output_.vector_bytes();
            tile.residual = residual ? residual + piece.residual * lanes : nullptr;
            tile.inside = inside_.empty() ? nullptr : inside_.data() + piece.inside * lanes;
            tile.start = pack.start();
            for (const Pack::Block& block : pack.blocks()) {
                tile.input = input + (piece.input + block.channel * input_.channel()) * lanes;
                tile.first = block.first;
                tile.last = block.last;
                piece.run(tile, pack.weights(block), numbers_.finish);
            }
        }
        const auto [begin, end] = way.packs[0][part].channels();
        program_.surround(frame, to_, begin, end);
    }
}

}  // namespace sparsecycle::int8
