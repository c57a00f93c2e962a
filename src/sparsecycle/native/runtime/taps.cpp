#include "taps.h"

#include <stdexcept>
#include <string>

namespace sparsecycle {

namespace {

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument("a convolution's " + what);
}

// One of a map's two axes.
struct Axis {
    const char* name;
    int in_size, in_block, before, after, out_size, out_block, lanes;
    int kernel, stride, padding, dilation;
};

Axis height(const Geometry& g, const Layout& in, const Layout& out) {
    return {"height",  in.height,  in.rows,          in.halo.top,     in.halo.bottom,   out.height,
            out.rows, out.lanes.rows, g.kernel_height, g.stride_height, g.padding_height, g.dilation_height};
}

Axis width(const Geometry& g, const Layout& in, const Layout& out) {
    return {"width",     in.width,          in.columns,     in.halo.left,   in.halo.right,   out.width,
            out.columns, out.lanes.columns, g.kernel_width, g.stride_width, g.padding_width, g.dilation_width};
}

void check(const Axis& a) {
    const std::string axis = a.name;
    demand(a.out_size == (a.in_size + 2 * a.padding - a.dilation * (a.kernel - 1) - 1) / a.stride + 1,
           "output has the wrong " + axis);
    demand(a.lanes == 1 || a.in_block == a.stride * a.out_block, "blocks do not follow each other along the " + axis);
    demand(a.before >= a.padding, "input's halo is too small before the " + axis);
    demand((a.out_block - 1) * a.stride - a.padding + (a.kernel - 1) * a.dilation <= a.in_block - 1 + a.after,
           "input's halo is too small after the " + axis);
}

// For each place of a block of the output, the kernel's rows or columns that meet the map in any lane.
std::vector<std::vector<bool>> along(const Axis& a) {
    std::vector<std::vector<bool>> met(a.out_block, std::vector<bool>(a.kernel));
    for (int place = 0; place < a.out_block; place++) {
        for (int tap = 0; tap < a.kernel; tap++) {
            for (int lane = 0; lane < a.lanes; lane++) {
                const int from = lane * a.in_block + place * a.stride - a.padding + tap * a.dilation;
                if (lane * a.out_block + place < a.out_size && from >= 0 && from < a.in_size) met[place][tap] = true;
            }
        }
    }
    return met;
}

}  // namespace

void check_fit(const Geometry& g, const Layout& in, const Layout& out, const Layout* residual) {
    g.check();
    demand(in.channels == g.in, "input has " + std::to_string(in.channels) + " channels, not " + std::to_string(g.in));
    demand(out.channels == g.out,
           "output has " + std::to_string(out.channels) + " channels, not " + std::to_string(g.out));
    demand(in.lanes == out.lanes && in.groups == out.groups, "tensors have different lanes");
    check(height(g, in, out));
    check(width(g, in, out));
    demand(!residual || (residual->channels == g.out && residual->lanes == out.lanes && residual->groups == out.groups &&
                         residual->rows == out.rows && residual->columns == out.columns),
           "residual is laid out differently from its output");
}

Taps::Taps(const Geometry& geometry, const Layout& in, const Layout& out)
    : width_(geometry.kernel_width), groups_(out.groups), rows_(along(height(geometry, in, out))),
      columns_(along(width(geometry, in, out))) {}

std::vector<bool> Taps::met(int y, int v, int columns) const {
    std::vector<bool> met(rows_[y].size() * width_);
    for (int x = v / groups_; x <= (v + columns - 1) / groups_; x++) {
        for (size_t tap = 0; tap < met.size(); tap++) {
            if (rows_[y][tap / width_] && columns_[x][tap % width_]) met[tap] = true;
        }
    }
    return met;
}

}  // namespace sparsecycle
