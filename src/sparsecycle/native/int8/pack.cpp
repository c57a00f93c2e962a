#include "pack.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <stdexcept>
#include <string>

namespace sparsecycle::int8 {

namespace {

// Entries four by four, the last four filled up with zeros.
template <class Entry>
std::vector<Entry> in_fours(std::vector<Entry> entries) {
    while (entries.size() % 4) entries.push_back({entries.back().offset, 0});
    return entries;
}

// The same, so that the first and the second two of four do not differ in sign.
template <class Entry>
std::vector<Entry> in_alike_fours(const std::vector<Entry>& entries) {
    std::vector<Entry> ordered;
    for (const bool negative : {false, true}) {
        for (const Entry& entry : entries) {
            if ((entry.weight < 0) == negative) ordered.push_back(entry);
        }
        if (ordered.size() % 2) ordered.push_back({ordered.back().offset, 0});
    }
    return in_fours(std::move(ordered));
}

}  // namespace

Pack::Pack(const Geometry& geometry, const int8_t* weights, const Layout& input, const Form& form, int begin, int end,
           int blocks, const std::vector<bool>& valid)
    : form_(form), begin_(begin), end_(end) {
    const int group_in = geometry.in / geometry.groups, group_out = geometry.out / geometry.groups;
    const int per_block = (geometry.in + blocks - 1) / blocks;
    // Small groups share a block; but a dense kernel's channels read the same inputs, so there each has its own.
    const int together = form.dense ? 1 : std::max(1, per_block / group_in);
    for (int group = begin / group_out; group * group_out < end; group += together) {
        const int start = group * group_in, stop = std::min(geometry.in, start + together * group_in);
        for (int from = start; from < stop; from += per_block) {
            const int to = std::min(stop, from + per_block);
            add_block(geometry, weights, input, std::max(begin, group * group_out),
                      std::min(end, (group + together) * group_out), {from, to}, valid);
            blocks_.back().first = from == start;
            blocks_.back().last = to == stop;
        }
    }
    // Taps that are not valid would read the zero.
    const int64_t row = geometry.weights() / geometry.out, taps = geometry.taps();
    for (int channel = begin; channel < end; channel++) {
        int32_t sum = 0;
        for (int64_t i = 0; i < row; i++) {
            if (valid[i % taps]) sum += weights[channel * row + i];
        }
        start_.push_back(sum * (kernels().flip - input.scale.zero));
    }
}

void Pack::add_block(const Geometry& geometry, const int8_t* weights, const Layout& input, int begin, int end,
                     Range range, const std::vector<bool>& valid) {
    const int group_in = geometry.in / geometry.groups, group_out = geometry.out / geometry.groups;
    const int taps = geometry.taps();
    constexpr int64_t unit = 8;
    const auto in_units = [&](int64_t vectors) { return vectors * input.vector_bytes() / unit; };
    std::vector<int64_t> tap_offset(taps);
    for (int tap = 0; tap < taps; tap++) {
        const int64_t y = static_cast<int64_t>(tap / geometry.kernel_width) * geometry.dilation_height;
        const int64_t x = static_cast<int64_t>(tap % geometry.kernel_width) * geometry.dilation_width;
        tap_offset[tap] = in_units(y * input.row() + x * input.groups);
    }
    const int64_t plane = in_units(input.channel());
    if ((range.to - range.from - 1) * plane + tap_offset.back() > UINT16_MAX) {
        throw std::invalid_argument("blocks of " + std::to_string(range.to - range.from) + " channels of " +
                                    std::to_string(plane * unit) + " bytes are too long for 16-bit offsets");
    }
    blocks_.push_back({range.from, true, true, (end - begin + form_.bundle - 1) / form_.bundle, channels_.size(),
                       counts_.size(), offsets_.size(), weights_.size()});
    // The weights of each output channel, of this block; a channel of a group has some of the block's inputs only.
    std::vector<std::vector<Entry>> rows(end - begin);
    for (int channel = begin; channel < end; channel++) {
        const int first = channel / group_out * group_in;
        for (int c = std::max(range.from, first); c < std::min(range.to, first + group_in); c++) {
            const int8_t* w = weights + (static_cast<int64_t>(channel) * group_in + (c - first)) * taps;
            for (int tap = 0; tap < taps; tap++) {
                if (!valid[tap] || (w[tap] == 0 && !form_.dense)) continue;
                const int64_t offset = (c - range.from) * plane + tap_offset[tap];
                rows[channel - begin].push_back({static_cast<uint16_t>(offset), w[tap]});
            }
        }
    }
    form_.dense ? add_dense(rows, begin) : add_sparse(rows, begin);
}

void Pack::add_weights(const Entry* four) {
    const int words = kernels().weight_words;
    const std::array<int8_t, 4> weights{four[0].weight, four[1].weight, four[2].weight, four[3].weight};
    weights_.resize(weights_.size() + words);
    const auto encode = form_.dense ? kernels().encode_dense : kernels().encode_sparse;
    encode(weights.data(), weights_.data() + weights_.size() - words);
}

void Pack::add_dense(const std::vector<std::vector<Entry>>& rows, int begin) {
    std::vector<std::vector<Entry>> fours;
    for (const std::vector<Entry>& row : rows) fours.push_back(in_fours(row));
    for (const Entry& entry : fours[0]) offsets_.push_back(entry.offset);
    const size_t count = fours[0].size() / 4;
    counts_.push_back(static_cast<uint32_t>(count));
    longest_ = std::max<int64_t>(longest_, count);
    const int channels = static_cast<int>(rows.size());
    for (int at = 0; at < channels; at += form_.bundle) {
        const auto channel = [&](int b) { return std::min(at + b, channels - 1); };
        for (int b = 0; b < form_.bundle; b++) channels_.push_back(static_cast<uint16_t>(begin + channel(b)));
        for (size_t i = 0; i < count; i++) {
            for (int b = 0; b < form_.bundle; b++) add_weights(&fours[channel(b)][4 * i]);
        }
        fours_ += static_cast<int64_t>(count) * form_.bundle;
    }
}

void Pack::add_sparse(const std::vector<std::vector<Entry>>& rows, int begin) {
    std::vector<std::vector<Entry>> fours;
    for (const std::vector<Entry>& row : rows) fours.push_back(kernels().alike ? in_alike_fours(row) : in_fours(row));
    // Bundles of channels with as many weights: they advance in lockstep, and the shorter ones are filled up.
    const int channels = static_cast<int>(rows.size());
    std::vector<int> order(channels);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return fours[a].size() < fours[b].size(); });
    for (int at = 0; at < channels; at += form_.bundle) {
        const auto channel = [&](int b) { return order[std::min(at + b, channels - 1)]; };
        for (int b = 0; b < form_.bundle; b++) channels_.push_back(static_cast<uint16_t>(begin + channel(b)));
        const size_t longest = fours[channel(form_.bundle - 1)].size() / 4;
        counts_.push_back(static_cast<uint32_t>(longest));
        for (size_t i = 0; i < longest; i++) {
            for (int b = 0; b < form_.bundle; b++) {
                const std::vector<Entry>& own = fours[channel(b)];
                const std::array<Entry, 4> none{};
                const Entry* four = 4 * i < own.size() ? &own[4 * i] : none.data();
                for (int j = 0; j < 4; j++) offsets_.push_back(four[j].offset);
                add_weights(four);
            }
        }
        fours_ += static_cast<int64_t>(longest) * form_.bundle;
    }
}

Weights Pack::weights(const Block& block) const {
    return {channels_.data() + block.channels, block.bundles, counts_.data() + block.counts,
            offsets_.data() + block.offsets, weights_.data() + block.weights};
}

int64_t Pack::bytes() const {
    return static_cast<int64_t>(2 * (channels_.size() + offsets_.size()) + 4 * (counts_.size() + weights_.size()));
}

}  // namespace sparsecycle::int8
