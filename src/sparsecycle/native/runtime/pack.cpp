#include "pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace sparsecycle {

uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (std::isnan(value)) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void Geometry::check() const {
    const auto demand = [](bool holds, const char* what, int value, const std::string& allowed) {
        if (!holds) {
            throw std::invalid_argument("a convolution's " + std::string(what) + "=" + std::to_string(value) + " must " +
                                        allowed);
        }
    };
    demand(out > 0 && out <= 65536, "output channels", out, "be 1 to 65536");
    demand(in > 0, "input channels", in, "be positive");
    demand(groups > 0 && in % groups == 0 && out % groups == 0, "groups", groups, "divide its channels");
    demand(kernel_height > 0, "kernel height", kernel_height, "be positive");
    demand(kernel_width > 0, "kernel width", kernel_width, "be positive");
    demand(stride_height > 0 && stride_width > 0, "stride", std::min(stride_height, stride_width), "be positive");
    demand(dilation_height > 0 && dilation_width > 0, "dilation", std::min(dilation_height, dilation_width),
           "be positive");
    demand(padding_height >= 0 && padding_width >= 0, "padding", std::min(padding_height, padding_width),
           "not be negative");
}

namespace {

struct Entry {
    uint16_t offset;
    float weight;
};

}  // namespace

Pack::Pack(const Geometry& geometry, const float* weights, const Layout& input, const Form& form, int begin, int end,
           int blocks, const std::vector<bool>& valid)
    : bfloat16_(form.bfloat16), begin_(begin), end_(end) {
    const int group_in = geometry.in / geometry.groups, group_out = geometry.out / geometry.groups;
    const int per_block = (geometry.in + blocks - 1) / blocks;
    // Small groups share a block; but a dense kernel's channels read the same inputs, so there each has its own.
    const int together = form.dense ? 1 : std::max(1, per_block / group_in);
    for (int group = begin / group_out; group * group_out < end; group += together) {
        const int start = group * group_in, stop = std::min(geometry.in, start + together * group_in);
        for (int from = start; from < stop; from += per_block) {
            const int to = std::min(stop, from + per_block);
            add_block(geometry, weights, input, form, std::max(begin, group * group_out),
                      std::min(end, (group + together) * group_out), from, to, valid);
            blocks_.back().first = from == start;
            blocks_.back().last = to == stop;
        }
    }
    // Kernels read four at a time.
    offsets_.insert(offsets_.end(), 8, 0);
    if (bfloat16_) {
        short_weights_.insert(short_weights_.end(), 8, 0);
    } else {
        weights_.insert(weights_.end(), 8, 0.0f);
    }
}

void Pack::add_block(const Geometry& geometry, const float* weights, const Layout& input, const Form& form, int begin,
                     int end, int from, int to, const std::vector<bool>& valid) {
    const int group_in = geometry.in / geometry.groups, group_out = geometry.out / geometry.groups;
    const int taps = geometry.taps(), bundle = form.bundle, channels = end - begin;
    std::vector<int64_t> tap_offset(taps);
    int64_t furthest = 0;
    const int64_t unit = 8, vector = input.vector_bytes();
    const auto in_units = [&](int64_t vectors) { return vectors * vector / unit; };
    for (int tap = 0; tap < taps; tap++) {
        const int64_t y = static_cast<int64_t>(tap / geometry.kernel_width) * geometry.dilation_height;
        const int64_t x = static_cast<int64_t>(tap % geometry.kernel_width) * geometry.dilation_width;
        tap_offset[tap] = in_units(y * input.row() + x * input.groups);
        furthest = std::max(furthest, tap_offset[tap]);
    }
    const int64_t plane = in_units(input.channel());
    if ((to - from - 1) * plane + furthest > UINT16_MAX) {
        throw std::invalid_argument("blocks of " + std::to_string(to - from) + " channels of " +
                                    std::to_string(plane * unit) + " bytes are too long for 16-bit offsets");
    }
    blocks_.push_back({from, true, true, 0, channels_.size(), counts_.size(), offsets_.size(),
                       bfloat16_ ? short_weights_.size() : weights_.size()});
    int& bundles = blocks_.back().bundles;

    // The weights of an output channel, of this block; a channel of a group has some of the block's inputs only.
    const auto row = [&](int channel, auto&& use) {
        const int first = channel / group_out * group_in;
        for (int c = std::max(from, first); c < std::min(to, first + group_in); c++) {
            const float* w = weights + (static_cast<int64_t>(channel) * group_in + (c - first)) * taps;
            for (int tap = 0; tap < taps; tap++) {
                if (valid[tap]) use(static_cast<uint16_t>((c - from) * plane + tap_offset[tap]), w[tap]);
            }
        }
    };
    const auto push = [&](float weight) {
        if (bfloat16_) {
            short_weights_.push_back(to_bfloat16(weight));
        } else {
            weights_.push_back(weight);
        }
    };
    if (form.dense) {
        uint32_t entries = 0;
        row(begin, [&](uint16_t offset, float) {
            offsets_.push_back(offset);
            entries++;
        });
        counts_.push_back(entries);
        std::vector<std::vector<float>> rows(bundle);
        for (int at = begin; at < end; at += bundle, bundles++) {
            for (int b = 0; b < bundle; b++) {
                const int channel = std::min(at + b, end - 1);
                channels_.push_back(static_cast<uint16_t>(channel));
                rows[b].clear();
                row(channel, [&](uint16_t, float weight) { rows[b].push_back(weight); });
            }
            for (uint32_t entry = 0; entry < entries; entry++) {
                for (int b = 0; b < bundle; b++) push(rows[b][entry]);
            }
            slots_ += static_cast<int64_t>(entries) * bundle;
        }
        return;
    }
    std::vector<std::vector<Entry>> rows(channels);
    for (int i = 0; i < channels; i++) {
        row(begin + i, [&](uint16_t offset, float weight) {
            if (weight != 0) rows[i].push_back({offset, weight});
        });
    }
    // Bundles of channels with as many weights: they advance in lockstep, and the shorter ones are padded with zeros for
    // inputs that they read anyway. Those without weights read none, so they are on their own: 0 times infinity is NaN.
    std::vector<int> order(channels);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return rows[a].size() < rows[b].size(); });
    const int empty = static_cast<int>(std::count_if(rows.begin(), rows.end(), [](const auto& r) { return r.empty(); }));
    for (int at = 0, stop = 0; at < channels; at = stop, bundles++) {
        stop = std::min(at + bundle, at < empty ? empty : channels);
        size_t longest = 0;
        for (int b = 0; b < bundle; b++) {
            const int i = order[std::min(at + b, stop - 1)];
            channels_.push_back(static_cast<uint16_t>(begin + i));
            longest = std::max(longest, rows[i].size());
        }
        counts_.push_back(static_cast<uint32_t>(longest));
        slots_ += static_cast<int64_t>(longest) * bundle;
        for (size_t j = 0; j < longest; j++) {
            for (int b = 0; b < bundle; b++) {
                const std::vector<Entry>& entries = rows[order[std::min(at + b, stop - 1)]];
                const bool has = j < entries.size();
                offsets_.push_back(has ? entries[j].offset : entries.back().offset);
                push(has ? entries[j].weight : 0.0f);
            }
        }
    }
}

Weights Pack::weights(const Block& block) const {
    return {channels_.data() + block.channels, block.bundles, counts_.data() + block.counts,
            offsets_.data() + block.offsets,
            bfloat16_ ? static_cast<const void*>(short_weights_.data() + block.weights) : weights_.data() + block.weights};
}

int64_t Pack::bytes() const {
    return static_cast<int64_t>(2 * (channels_.size() + offsets_.size() + short_weights_.size()) +
                                4 * (counts_.size() + weights_.size()));
}

}  // namespace sparsecycle
