#include "steps.h"

#include <bit>
#include <stdexcept>
#include <string>

#include "../runtime/steps.h"
#include "scale.h"

namespace sparsecycle::int8 {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

}  // namespace

PoolStep::PoolStep(const Program& program, int from, int to, bool average, const std::vector<Range>& rows,
                   const std::vector<Range>& columns, const std::vector<float>& factors)
    : program_(program), from_(from), to_(to), rows_(rows), columns_(columns),
      inside_(inside(program.tensor_at(to).layout)) {
    const Layout &source = program.tensor_at(from).layout, &target = program.tensor_at(to).layout;
    const bool floats = target.element == Element::float32;
    demand(source.element == Element::uint8 && (average || !floats), "what is largest must be of 8 bits as its input");
    check_windows(source, target, rows, columns);
    const Scale &in = source.scale, &out = target.scale;
    const float unit = floats ? 1.0f : out.scale;
    demand(average || (in.scale == out.scale && in.zero == out.zero), "what is largest must keep its scale");
    const int lanes = source.lanes.count();
    if (average) {
        const size_t places = static_cast<size_t>(target.rows) * target.columns * lanes;
        demand(factors.size() == places, "an average needs " + std::to_string(places) + " factors, not " +
                                             std::to_string(factors.size()));
        for (float factor : factors) scale_.push_back(factor * (in.scale / unit));
        for (const Range& row : rows) {
            for (const Range& column : columns) {
                const int64_t area = static_cast<int64_t>(row.stop - row.start) * (column.stop - column.start);
                demand(area <= 65536, "a window of " + std::to_string(area) + " places is too large to be averaged");
            }
        }
    }
    pooling_ = {rows_.data(), columns_.data(), target.rows, target.columns, source.groups, source.row() * lanes,
                static_cast<ptrdiff_t>(source.groups) * lanes, target.row() * lanes, average, floats, scale_.data(),
                floats ? 0.0f : static_cast<float>(out.zero), in.zero, inside_.empty() ? nullptr : inside_.data(),
                static_cast<uint8_t>(out.zero ^ flip(target)), flip(target)};
    if (floats) pooling_.inside = nullptr;  // their scale is 0 there
    reads = {from};
    writes = {to};
}

void PoolStep::run(const Frame& frame, int worker, int workers) const {
    const Layout &in = program_.tensor_at(from_).layout, &out = program_.tensor_at(to_).layout;
    const int lanes = in.lanes.count();
    const Pool pool = kernels().pool[std::countr_zero(static_cast<unsigned>(lanes))];
    const Share channels = share(in.planes(), worker, workers);
    for (int c = channels.begin; c < channels.end; c++) {
        pool(pooling_, frame.at<uint8_t>(from_) + in.at(c, 0, 0) * lanes,
             frame.address(to_) + out.at(c, 0, 0) * out.vector_bytes());
    }
    program_.surround(frame, to_, channels.begin, channels.end);
}

CombineStep::CombineStep(const Program& program, int left, int right, int to, const Activation& activation)
    : program_(program), left_(left), right_(right), to_(to) {
    const Layout& made = program.tensor_at(to).layout;
    demand(made.element == Element::uint8, "what is made must be of 8 bits");
    for (int from : {left, right}) {
        if (from < 0) continue;
        demand(program.tensor_at(from).layout.is_like(made), "what is added must be laid out alike");
        reads.push_back(from);
    }
    const Scale &out = made.scale, &left_scale = program.tensor_at(left).layout.scale;
    const Scale right_scale = right < 0 ? Scale{} : program.tensor_at(right).layout.scale;
    const bool folded = !activation.silu;
    const float unit = folded ? out.scale : 1.0f;
    const float a = left_scale.scale / unit, b = right < 0 ? 0.0f : right_scale.scale / unit;
    const float zeros = static_cast<float>(left_scale.zero) * a + static_cast<float>(right_scale.zero) * b;
    const auto [low, high] = limits(activation, out);
    combining_ = {a, b, (folded ? static_cast<float>(out.zero) : 0.0f) - zeros, activation, 1 / out.scale,
                  static_cast<float>(out.zero), low, high, flip(made)};
    writes = {to};
}

void CombineStep::run(const Frame& frame, int worker, int workers) const {
    const Layout& out = program_.tensor_at(to_).layout;
    const Layout& a = program_.tensor_at(left_).layout;
    const Layout& b = program_.tensor_at(right_ < 0 ? left_ : right_).layout;
    const int lanes = out.lanes.count();
    const int64_t width = static_cast<int64_t>(out.columns) * out.groups * lanes;
    const Share channels = share(out.planes(), worker, workers);
    for (int c = channels.begin; c < channels.end; c++) {
        for (int y = 0; y < out.rows; y++) {
            kernels().combine(frame.at<uint8_t>(left_) + a.at(c, y, 0) * lanes,
                              right_ < 0 ? nullptr : frame.at<uint8_t>(right_) + b.at(c, y, 0) * lanes,
                              frame.at<uint8_t>(to_) + out.at(c, y, 0) * lanes, width, combining_);
        }
    }
    program_.surround(frame, to_, channels.begin, channels.end);
}

}  // namespace sparsecycle::int8
