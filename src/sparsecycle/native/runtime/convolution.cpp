#include "convolution.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace sparsecycle {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("a convolution's " + what);
}

}  // namespace

ConvolutionStep::ConvolutionStep(const Program& program, int from, int to, int residual, const Geometry& geometry,
                                 const float* weights, const float* bias, const Activation& activation)
    : from_(from), to_(to), residual_(residual), input_(program.tensor_at(from).layout),
      output_(program.tensor_at(to).layout), added_(residual < 0 ? nullptr : &program.tensor_at(residual).layout),
      inside_(&program.tensor_at(to).inside), program_(program), geometry_(geometry), activation_(activation) {
    const Geometry& g = geometry;
    g.check();
    demand(input_.element == Element::float32 && output_.element == Element::float32, "tensors must be of float32");
    demand(input_.channels == g.in, "input has " + std::to_string(input_.channels) + " channels, not " +
                                        std::to_string(g.in));
    demand(output_.channels == g.out, "output has " + std::to_string(output_.channels) + " channels, not " +
                                          std::to_string(g.out));
    demand(input_.lanes == output_.lanes && input_.groups == output_.groups, "tensors have different lanes");
    const auto along = [&](const std::string& axis, int in_size, int out_size, int in_block, int out_block, int lanes,
                           int before, int after, int kernel, int stride, int padding, int dilation) {
        demand(out_size == (in_size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1,
               "output has the wrong " + axis);
        demand(lanes == 1 || in_block == stride * out_block, "blocks do not follow each other along the " + axis);
        demand(before >= padding, "input's halo is too small before the " + axis);
        demand((out_block - 1) * stride - padding + (kernel - 1) * dilation <= in_block - 1 + after,
               "input's halo is too small after the " + axis);
    };
    along("height", input_.height, output_.height, input_.rows, output_.rows, input_.lanes.rows, input_.halo.top,
          input_.halo.bottom, g.kernel_height, g.stride_height, g.padding_height, g.dilation_height);
    along("width", input_.width, output_.width, input_.columns, output_.columns, input_.lanes.columns, input_.halo.left,
          input_.halo.right, g.kernel_width, g.stride_width, g.padding_width, g.dilation_width);
    demand(!added_ || (added_->channels == g.out && added_->lanes == output_.lanes && added_->groups == output_.groups &&
                       added_->rows == output_.rows && added_->columns == output_.columns),
           "residual is laid out differently from its output");
    demand(input_.fill == 0, "input must be filled with 0 outside its map");
    demand(output_.fill == 0 || inside_->empty(), "output must be filled with 0 outside its map");
    demand(weights, "weights have no address");
    weights_.assign(weights, weights + g.weights());
    bias_.assign(g.out, 0.0f);
    if (bias) bias_.assign(bias, bias + g.out);
    merged_ = g.stride_height == 1 && g.stride_width == 1 && input_.row() == output_.row() &&
              output_.row() == static_cast<int64_t>(output_.columns) * output_.groups &&
              (!added_ || added_->row() == output_.row());
    reads = {from};
    if (residual >= 0) reads.push_back(residual);
    writes = {to};
}

// Cuts the output into tiles of a form and, at the ends of rows and columns, of smaller ones.
class ConvolutionStep::Cutter {
public:
    Cutter(const ConvolutionStep& step, const Form& main) : step_(step), main_(main) {
        const Layout& out = step.output_;
        const int groups = out.groups;
        width_ = out.columns * groups;
        rows_ = out.rows;
        if (step.merged_) {
            width_ *= rows_;
            rows_ = 1;
        }
        // Vectors that follow each other and whose inputs are `main.step` apart.
        const int stride = step.geometry_.stride_width;
        run_ = stride == 1 ? width_ : groups == 1 && stride == main.step ? width_ : groups;
        find_taps();
    }

    template <class Use>
    void each(Use&& use) const {  // use(kernel, y, first vector of the row, taps)
        for (int y = 0; y < rows_;) {
            const int height = tallest(rows_ - y);
            for (int start = 0; start < width_; start += run_) {
                for (int v = start; v < start + run_;) {
                    const Convolution& kernel = widest(height, start + run_ - v);
                    use(kernel, y, v, taps(y, height, v, kernel.form.columns));
                    v += kernel.form.columns;
                }
            }
            y += height;
        }
    }

private:
    bool fits(const Form& form) const {
        return form.lanes == main_.lanes && form.step == main_.step && form.dense == main_.dense &&
               form.bfloat16 == main_.bfloat16;
    }

    int tallest(int rows) const {
        if (main_.rows <= rows) return main_.rows;
        int best = 1;
        for (const Convolution* k = runtime_kernels().convolutions; k->run; k++) {
            if (fits(k->form) && k->form.rows <= rows) best = std::max(best, k->form.rows);
        }
        return best;
    }

    const Convolution& widest(int rows, int columns) const {
        const Convolution* best = nullptr;
        for (const Convolution* k = runtime_kernels().convolutions; k->run; k++) {
            const Form& form = k->form;
            if (!fits(form) || form.rows != rows || form.columns > columns) continue;
            const bool is_main = rows == main_.rows && form.columns == main_.columns && form.bundle == main_.bundle;
            if (is_main) return *k;
            if (form.columns > main_.columns && rows == main_.rows) continue;
            if (!best || form.columns > best->form.columns) best = k;
        }
        if (!best) throw std::logic_error("no kernel for a tile of " + std::to_string(rows) + " rows");
        return *best;
    }

    // Which taps meet the map anywhere, for each of the output's vectors; the others only see padding.
    void find_taps() {
        const Geometry& g = step_.geometry_;
        const Layout &in = step_.input_, &out = step_.output_;
        const auto along = [](int places, int kernel, int lanes, int out_block, int out_size, int in_block, int in_size,
                              int stride, int padding, int dilation) {
            std::vector<std::vector<bool>> met(places, std::vector<bool>(kernel));
            for (int place = 0; place < places; place++) {
                for (int tap = 0; tap < kernel; tap++) {
                    for (int lane = 0; lane < lanes; lane++) {
                        const int from = lane * in_block + place * stride - padding + tap * dilation;
                        if (lane * out_block + place < out_size && from >= 0 && from < in_size) met[place][tap] = true;
                    }
                }
            }
            return met;
        };
        met_rows_ = along(out.rows, g.kernel_height, out.lanes.rows, out.rows, out.height, in.rows, in.height,
                          g.stride_height, g.padding_height, g.dilation_height);
        met_columns_ = along(out.columns, g.kernel_width, out.lanes.columns, out.columns, out.width, in.columns,
                             in.width, g.stride_width, g.padding_width, g.dilation_width);
    }

    std::vector<bool> taps(int y, int height, int v, int width) const {
        const Geometry& g = step_.geometry_;
        const Layout& out = step_.output_;
        std::vector<bool> valid(g.taps());
        int last_place = -1;
        for (int row = y; row < y + height; row++) {
            for (int i = v; i < v + width; i++) {
                const int place = row * out.columns + i / out.groups;
                if (place == last_place) continue;
                last_place = place;
                const std::vector<bool>& rows = met_rows_[place / out.columns];
                const std::vector<bool>& columns = met_columns_[place % out.columns];
                for (int tap = 0; tap < g.taps(); tap++) {
                    if (rows[tap / g.kernel_width] && columns[tap % g.kernel_width]) valid[tap] = true;
                }
            }
        }
        return valid;
    }

    const ConvolutionStep& step_;
    const Form main_;
    int width_, rows_, run_;
    std::vector<std::vector<bool>> met_rows_, met_columns_;
};

// A part's weights are gone through for every tile. Where all of them would leave the second-level cache, and the input
// would not, they are cut into parts that stay there.
void ConvolutionStep::prepare(int workers) {
    constexpr int64_t most = 256 * 1024, each = 128 * 1024;  // bytes
    const int64_t kept = weights_.size() - std::count(weights_.begin(), weights_.end(), 0.0f);
    const int64_t bytes = 6 * kept, input = 4 * input_.vectors() * input_.lanes.count();
    const int64_t vectors = static_cast<int64_t>(output_.rows) * output_.columns * output_.groups;
    const bool cut = vectors >= 8 && bytes / workers > most && input <= most;
    parts_ = workers * static_cast<int>(cut ? (bytes / workers + each - 1) / each : 1);
    parts_ = std::min(parts_, std::max(workers, geometry_.out / 32));
}

std::vector<int> ConvolutionStep::forms() const {
    std::vector<int> fitting;
    const Convolution* kernels = runtime_kernels().convolutions;
    const int stride = geometry_.stride_width, groups = output_.groups;
    for (int i = 0; kernels[i].run; i++) {
        const Form& form = kernels[i].form;
        const int step = stride == 1 || groups > 1 ? 1 : 2;
        const int run = merged_              ? output_.rows * output_.columns * groups
                        : stride == 1        ? output_.columns * groups
                        : groups > 1         ? groups
                        : stride == form.step ? output_.columns
                                              : 1;
        if (form.lanes == output_.lanes.count() && form.step == step && form.columns <= run &&
            form.rows <= (merged_ ? 1 : output_.rows)) {
            fitting.push_back(i);
        }
    }
    return fitting;
}

int ConvolutionStep::candidate(int number, int blocks) {
    const std::vector<int> fitting = forms();
    demand(std::find(fitting.begin(), fitting.end(), number) != fitting.end(),
           "form " + std::to_string(number) + " does not fit its layout");
    demand(blocks > 0 && blocks <= geometry_.in,
           "blocks=" + std::to_string(blocks) + " must be 1 to " + std::to_string(geometry_.in));
    demand(!weights_.empty(), "candidates must be made before the others are dropped");
    const Form& main = runtime_kernels().convolutions[number].form;

    // Parts have about the same number of weights.
    std::vector<int> ends{0};
    const int64_t row_weights = geometry_.weights() / geometry_.out;
    const auto count = [&](int channel) {
        return row_weights - std::count(weights_.begin() + channel * row_weights,
                                        weights_.begin() + (channel + 1) * row_weights, 0.0f);
    };
    int64_t total = 0, until = 0;
    for (int channel = 0; channel < geometry_.out; channel++) total += count(channel) + 1;
    for (int channel = 0; channel < geometry_.out; channel++) {
        until += count(channel) + 1;
        if (until * parts_ >= total * static_cast<int64_t>(ends.size())) ends.push_back(channel + 1);
    }
    ends.resize(parts_, geometry_.out);
    ends.push_back(geometry_.out);

    Candidate made;
    std::map<std::pair<std::vector<bool>, int>, int> seen;
    Cutter(*this, main).each([&](const Convolution& kernel, int y, int v, const std::vector<bool>& taps) {
        const auto [found, is_new] = seen.emplace(std::make_pair(taps, kernel.form.bundle), seen.size());
        if (is_new) {
            std::vector<Pack>& packs = made.packs.emplace_back();
            for (int part = 0; part < parts_; part++) {
                if (ends[part] == ends[part + 1]) continue;
                packs.emplace_back(geometry_, weights_.data(), input_, kernel.form, ends[part], ends[part + 1], blocks,
                                   taps);
                made.cost.stored += packs.back().bytes();
            }
        }
        const int x = v / output_.groups, group = v % output_.groups;
        const int64_t in = input_.at(0, y * geometry_.stride_height - geometry_.padding_height,
                                     x * geometry_.stride_width - geometry_.padding_width) + group;
        const int64_t inside = static_cast<int64_t>(y) * output_.columns * output_.groups + v;
        made.pieces.push_back({kernel.run, found->second, in, output_.at(0, y, 0) + v,
                               added_ ? added_->at(0, y, 0) + v : 0, inside});
        for (const Pack& pack : made.packs[found->second]) {
            const int64_t size = kernel.form.rows * kernel.form.columns, slots = pack.slots();
            made.cost.bytes += pack.bytes();
            made.cost.multiply_adds += slots * size;
            made.cost.loads += kernel.form.dense ? slots + slots / kernel.form.bundle * size : slots * size + slots / 2;
            for (const Pack::Block& block : pack.blocks()) made.cost.visits += block.bundles * kernel.form.bundle * size;
        }
    });
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
    std::vector<float>().swap(weights_);
}

Cost ConvolutionStep::cost(int candidate) const { return candidates_.at(candidate).cost; }

void ConvolutionStep::run(const Frame& frame, int worker, int workers) const {
    const Candidate& way = candidates_[chosen_];
    const int64_t lanes = output_.lanes.count();
    Tile tile;
    tile.input_row = geometry_.stride_height * input_.row() * lanes;
    tile.output_row = output_.row() * lanes;
    tile.output_channel = output_.channel() * lanes;
    tile.residual_row = added_ ? added_->row() * lanes : 0;
    tile.residual_channel = added_ ? added_->channel() * lanes : 0;
    tile.inside_row = static_cast<int64_t>(output_.columns) * output_.groups * lanes;
    tile.bias = bias_.data();
    tile.activation = activation_;
    const float* input = frame.at(from_);
    float* output = frame.at(to_);
    const float* residual = added_ ? frame.at(residual_) : nullptr;
    const float* inside = inside_->empty() ? nullptr : inside_->data();
    const int parts = static_cast<int>(way.packs[0].size());
    for (int part = worker; part < parts; part += workers) {
        for (const Piece& piece : way.pieces) {
            const Pack& pack = way.packs[piece.packs][part];
            tile.output = output + piece.output * lanes;
            tile.residual = residual ? residual + piece.residual * lanes : nullptr;
            tile.inside = inside ? inside + piece.inside * lanes : nullptr;
            for (const Pack::Block& block : pack.blocks()) {
                tile.input = input + (piece.input + block.channel * input_.channel()) * lanes;
                tile.first = block.first;
                tile.last = block.last;
                piece.run(tile, pack.weights(block));
            }
        }
        const auto [begin, end] = way.packs[0][part].channels();
        program_.surround(frame, to_, begin, end);
    }
}

}  // namespace sparsecycle
