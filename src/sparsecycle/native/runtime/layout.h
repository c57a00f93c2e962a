// Where the elements of an activation lie.
//
// A vector holds one place of several images, or of several blocks of one image's map, in its lanes: a map of H x W is
// cut into lanes.rows x lanes.columns blocks of equal size, and lane (n, r, c) is block (r, c) of image n. A vector is
// then one place inside all blocks, and a shift by any tap of a kernel is another vector at a constant distance: all
// loads are aligned, and nothing is copied as im2col would. What lies around a block is kept beside it, as a halo.
//
// Where maps are so small that this would leave lanes empty, a vector can hold one place of several channels instead.
//
// With one lane this is a plain array.
#pragma once

#include <cstdint>
#include <vector>

namespace sparsecycle {

enum class Element : int { float32, uint8 };

inline int size_of(Element element) { return element == Element::float32 ? 4 : 1; }

struct Lanes {
    int images = 1, rows = 1, columns = 1;
    int channels = 1;  // the innermost

    int count() const { return images * rows * columns * channels; }
    bool operator==(const Lanes&) const = default;
};

struct Halo {
    int top = 0, bottom = 0, left = 0, right = 0;

    bool operator==(const Halo&) const = default;
};

// What an element q of 8 bits stands for: scale * (q - zero).
struct Scale {
    float scale = 1;
    int zero = 0;
};

struct Layout {
    Element element = Element::float32;
    Scale scale;                  // of elements of 8 bits
    int channels = 0, height = 0, width = 0;
    Lanes lanes;
    int groups = 1;               // vectors a place, each of lanes.images images
    int rows = 0, columns = 0;    // of a block; lanes.rows * rows >= height: places outside the map hold `fill`
    Halo halo;
    float fill = 0;               // what a place outside the map holds

    int images() const { return lanes.images * groups; }
    int vector_bytes() const { return lanes.count() * size_of(element); }

    // Channels, or as many together as a vector has.
    int planes() const { return (channels + lanes.channels - 1) / lanes.channels; }

    // Distances in vectors; a channel's is that of its plane.
    int64_t row() const { return static_cast<int64_t>(halo.left + columns + halo.right) * groups; }
    int64_t channel() const { return (halo.top + rows + halo.bottom) * row(); }
    int64_t vectors() const { return planes() * channel(); }
    int64_t at(int64_t plane, int64_t y, int64_t x) const {
        return plane * channel() + (halo.top + y) * row() + (halo.left + x) * groups;
    }

    // The place of a pixel of an image, in elements; and of a channel relative to the first one.
    int64_t element_at(int64_t image, int64_t y, int64_t x) const;
    int64_t element_at(int64_t channel_) const {
        return channel_ / lanes.channels * channel() * lanes.count() + channel_ % lanes.channels;
    }

    // Whether some vectors of the blocks, not of the halo, have lanes outside the map.
    bool ragged() const { return lanes.rows * rows > height || lanes.columns * columns > width; }
    bool inside(int lane, int y, int x) const;

    // Whether the other one has the same elements in the same vectors; halos may differ.
    bool is_like(const Layout& other) const;

    // Throws std::invalid_argument naming what is wrong.
    void check() const;
};

// How the halo's vectors come from those of the blocks: to = (the vector that starts `from` bytes into the plane) where
// the mask is set, fill elsewhere. Distances in bytes from a channel's first vector. Vectors that are all fill are not
// among them: they never change.
struct BorderMove {
    int32_t to, from;
    int32_t mask;  // its number
};
struct Border {
    std::vector<BorderMove> moves;
    std::vector<uint8_t> masks;  // 0 or 255, vector_bytes() each
    std::vector<uint8_t> fill;   // a vector of it

    explicit Border(const Layout& layout);
};

}  // namespace sparsecycle
