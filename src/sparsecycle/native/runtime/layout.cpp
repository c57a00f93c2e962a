#include "layout.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>

namespace sparsecycle {

int64_t Layout::element_at(int64_t image, int64_t y, int64_t x) const {
    const int64_t lane = ((image % lanes.images) * lanes.rows + y / rows) * lanes.columns + x / columns;
    return (at(0, y % rows, x % columns) + image / lanes.images) * lanes.count() + lane * lanes.channels;
}

bool Layout::inside(int lane, int y, int x) const {
    lane /= lanes.channels;
    const int column = lane % lanes.columns, row = lane / lanes.columns % lanes.rows;
    y += row * rows;
    x += column * columns;
    return y >= 0 && y < height && x >= 0 && x < width;
}

bool Layout::is_like(const Layout& other) const {
    return element == other.element && channels == other.channels && height == other.height && width == other.width &&
           lanes == other.lanes && groups == other.groups && rows == other.rows && columns == other.columns;
}

void Layout::check() const {
    const auto demand = [](bool holds, const char* what, int64_t value, const char* allowed) {
        if (!holds) {
            throw std::invalid_argument("a layout's " + std::string(what) + "=" + std::to_string(value) + " must be " +
                                        allowed);
        }
    };
    const int count = lanes.count();
    demand(channels > 0, "channels", channels, "positive");
    demand(height > 0, "height", height, "positive");
    demand(width > 0, "width", width, "positive");
    demand(lanes.images > 0 && lanes.rows > 0 && lanes.columns > 0 && lanes.channels > 0, "lanes", count, "positive");
    demand(count <= 64 && (count & (count - 1)) == 0, "lanes", count, "a power of two, up to 64");
    demand(lanes.channels == 1 || lanes.channels == count, "channels a vector", lanes.channels, "1, or all its lanes");
    demand(groups > 0, "groups", groups, "positive");
    demand(static_cast<int64_t>(rows) * lanes.rows >= height, "rows", rows, "enough for its height");
    demand(static_cast<int64_t>(columns) * lanes.columns >= width, "columns", columns, "enough for its width");
    const int least = std::min({halo.top, halo.bottom, halo.left, halo.right});
    demand(least >= 0, "halo", least, "not negative");
    demand(channel() * vector_bytes() < INT32_MAX, "bytes a channel", channel() * vector_bytes(), "under 2 GiB");
}

Border::Border(const Layout& layout) {
    const int bytes = layout.vector_bytes(), count = layout.lanes.count(), size = size_of(layout.element);
    fill.resize(bytes);
    for (int lane = 0; lane < count; lane++) {
        if (layout.element == Element::float32) {
            std::memcpy(&fill[lane * size], &layout.fill, size);
        } else {
            fill[lane] = static_cast<uint8_t>(layout.fill);
        }
    }
    const auto floor_div = [](int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); };
    std::map<std::vector<bool>, int> seen;
    for (int y = -layout.halo.top; y < layout.rows + layout.halo.bottom; y++) {
        for (int x = -layout.halo.left; x < layout.columns + layout.halo.right; x++) {
            if (y >= 0 && y < layout.rows && x >= 0 && x < layout.columns) continue;
            // The neighbouring block that has this place is `down` and `across` lanes away.
            const int down = floor_div(y, layout.rows), across = floor_div(x, layout.columns);
            std::vector<bool> inside(count);
            for (int lane = 0; lane < count; lane++) {
                const int block = lane / layout.lanes.channels;
                const int column = block % layout.lanes.columns + across;
                const int row = block / layout.lanes.columns % layout.lanes.rows + down;
                inside[lane] = layout.inside(lane, y, x) && column >= 0 && column < layout.lanes.columns && row >= 0 &&
                               row < layout.lanes.rows;
            }
            if (std::find(inside.begin(), inside.end(), true) == inside.end()) continue;
            const auto [mask, is_new] = seen.emplace(inside, static_cast<int>(seen.size()));
            if (is_new) {
                for (bool has : inside) masks.insert(masks.end(), size, has ? 255 : 0);
            }
            const int64_t shift = static_cast<int64_t>(down) * layout.lanes.columns + across;
            const int64_t to = layout.at(0, y, x) * bytes;
            const int64_t from =
                layout.at(0, y - down * layout.rows, x - across * layout.columns) * bytes + shift * size;
            for (int64_t group = 0; group < layout.groups; group++) {
                moves.push_back({static_cast<int32_t>(to + group * bytes), static_cast<int32_t>(from + group * bytes),
                                 mask->second});
            }
        }
    }
}

}  // namespace sparsecycle
