#include "select.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "../threads.h"

namespace sparsecycle {

const Kernels& kernels() {
    switch (current()) {
#ifdef SPARSECYCLE_HAS_AVX512
        case Isa::avx512vnni:
        case Isa::avx512: return avx512::selection_kernels;
#endif
#ifdef SPARSECYCLE_HAS_AVX2
        case Isa::avx2: return avx2::selection_kernels;
#endif
        default: return baseline::selection_kernels;
    }
}

namespace {

// Ranks keys of a range by counting them in bins, which leaves few candidates for the last step.
struct Bins {
    static constexpr int count = 1024;
    uint32_t first;
    int shift;
    int64_t keys[count] = {};

    Bins(int32_t low, int32_t high)
        : first(static_cast<uint32_t>(low)),
          shift(std::max(0, 22 - std::countl_zero(static_cast<uint32_t>(high) - first))) {}  // leaves ten bits

    int of(int32_t key) const { return static_cast<int>((static_cast<uint32_t>(key) - first) >> shift); }

    // The bin with the rank-th largest key, and the key's rank there.
    std::pair<int, int64_t> find(int64_t rank) const {
        int bin = count - 1;
        for (; rank > keys[bin]; bin--) rank -= keys[bin];
        return {bin, rank};
    }
};

// The rank-th largest of these keys, from 1 on.
int32_t largest_of(std::vector<int32_t> keys, int64_t rank) {
    if (keys.size() > 2 * Bins::count) {
        const auto [low, high] = std::minmax_element(keys.begin(), keys.end());
        Bins bins(*low, *high);
        for (int32_t key : keys) bins.keys[bins.of(key)]++;
        const auto [bin, within] = bins.find(rank);
        std::erase_if(keys, [&, bin = bin](int32_t key) { return bins.of(key) != bin; });
        rank = within;
    }
    std::nth_element(keys.begin(), keys.begin() + (rank - 1), keys.end(), std::greater<>());
    return keys[rank - 1];
}

// A bracket around the k-th largest of `size` keys, from a sample: it fails less often than once in 100,000 times.
Bracket sampled(const std::vector<Layer>& layers, bool absolute, int64_t k, int64_t size) {
    const int64_t all = size_of(layers);
    // Of n elements 2 n^(2/3): a larger sample takes longer to sort, a smaller one leaves more inside the bracket. A
    // step that shares no factor with the usual widths and kernels does not keep hitting the same column.
    int64_t step = std::max<int64_t>(1, std::llround(std::cbrt(static_cast<double>(all)) / 2));
    while (std::gcd(step, int64_t{2 * 3 * 5 * 7}) > 1) step++;
    std::vector<int32_t> sample;
    for (const Layer& layer : layers) {
        const Collect collect = kernels().collect[static_cast<int>(layer.type)][absolute];
        for (int64_t i = 0; i < layer.size; i += step) {
            Found found;
            if (layer.mask && !layer.mask[i]) continue;
            collect(element(layer, i), nullptr, 1, lowest_key, INT32_MAX, &found, 1);
            sample.push_back(found.key);
        }
    }
    // Places from the largest sampled key on; beyond the ends, whatever there is.
    const double n = static_cast<double>(sample.size()), p = static_cast<double>(k) / static_cast<double>(size);
    const double deviation = std::sqrt(std::max(n * p * (1 - p), 1.0));
    const double upper = std::floor(n * p - 4.5 * deviation), lower = std::ceil(n * p + 4.5 * deviation);
    const int32_t high = upper < 1 ? INT32_MAX : largest_of(sample, static_cast<int64_t>(upper));
    const int32_t low = lower > n ? lowest_key + 1 : largest_of(std::move(sample), static_cast<int64_t>(lower));
    return {low - 1, high};
}

// The k-th largest key, a digit at a time: three passes that need no more memory than their counts.
int32_t by_digits(const std::vector<Layer>& layers, bool absolute, int64_t k, int threads) {
    constexpr std::pair<int, int> digits[] = {{20, 1 << 12}, {10, 1 << 10}, {0, 1 << 10}};
    uint32_t prefix = 0;
    for (const auto& [shift, bins] : digits) {
        const std::vector<int64_t> counts = histogram(layers, absolute, prefix, shift, bins, threads);
        int digit = bins - 1;
        for (; k > counts[digit]; digit--) k -= counts[digit];
        prefix = prefix * static_cast<uint32_t>(bins) + static_cast<uint32_t>(digit);
    }
    return static_cast<int32_t>(prefix ^ 0x80000000u);
}

}  // namespace

int64_t size_of(const std::vector<Layer>& layers) {
    int64_t size = 0;
    for (const Layer& layer : layers) size += layer.size;
    return size;
}

int team(const std::vector<Layer>& layers, int threads) { return size_of(layers) < worth_a_team ? 1 : threads; }

int64_t participants(const std::vector<Layer>& layers, int threads) {
    if (std::none_of(layers.begin(), layers.end(), [](const Layer& layer) { return layer.mask; })) return size_of(layers);
    const std::vector<Piece> work = pieces(layers);
    std::atomic<int64_t> total{0};
    parallel(team(layers, threads), static_cast<int64_t>(work.size()), [&](int, int64_t item) {
        const Piece& part = work[item];
        const uint8_t* mask = layers[part.layer].mask;
        total += mask ? std::accumulate(mask + part.begin, mask + part.begin + part.size, int64_t{0}) : part.size;
    });
    return total;
}

std::vector<Piece> pieces(const std::vector<Layer>& layers) {
    std::vector<Piece> all;
    for (size_t i = 0; i < layers.size(); i++)
        for (int64_t begin = 0; begin < layers[i].size; begin += piece)
            all.push_back({static_cast<int>(i), begin, std::min(piece, layers[i].size - begin)});
    return all;
}

int64_t room_for(const std::vector<Layer>& layers) { return size_of(layers) / 64 + (1 << 14); }

Census census(const std::vector<Layer>& layers, bool absolute, Bracket bracket, int64_t room, int threads) {
    const std::vector<Piece> work = pieces(layers);
    threads = team(layers, threads);
    Census result;
    result.runs.resize(work.size());
    result.lists.resize(threads);
    std::vector<int64_t> used(threads);
    for (auto& list : result.lists) list.reset(room ? new Found[room] : nullptr);  // takes memory as it fills
    parallel(threads, static_cast<int64_t>(work.size()), [&](int worker, int64_t item) {
        // Backwards: what the optimizer wrote last is still in the cache, and what is read last here comes next.
        item = static_cast<int64_t>(work.size()) - 1 - item;
        const auto [i, begin, size] = work[item];
        const Layer& layer = layers[i];
        const int64_t first = used[worker];
        const Tally tally = kernels().collect[static_cast<int>(layer.type)][absolute](
            element(layer, begin), layer.mask ? layer.mask + begin : nullptr, size, bracket.below, bracket.high,
            result.lists[worker].get() + first, room - first);
        used[worker] = std::min(room, first + tally.inside);
        result.runs[item] = {i, worker, begin, size, tally, first};
    });
    for (const Census::Run& run : result.runs) {
        result.above += run.tally.above;
        result.inside += run.tally.inside;
        result.stray |= run.tally.stray;
        result.top = std::max(result.top, run.tally.top);
    }
    result.complete = result.inside <= room;
    return result;
}

Selection::Selection(int32_t threshold, bool stray, int64_t k, std::vector<int64_t> greater, std::vector<int64_t> equal)
    : threshold(threshold), stray(stray), greater(std::move(greater)), equal(std::move(equal)) {
    int64_t wanted = k - std::accumulate(this->greater.begin(), this->greater.end(), int64_t{0});
    for (int64_t there : this->equal) {
        taken.push_back(std::min(there, wanted));
        wanted -= taken.back();
    }
}

Selection of_census(const Census& census, size_t layers, int64_t k) {
    int32_t low = INT32_MAX, high = lowest_key;
    census.each([&](const Census::Run&, const Found& found) {
        low = std::min(low, found.key);
        high = std::max(high, found.key);
    });
    Bins bins(low, high);
    census.each([&](const Census::Run&, const Found& found) { bins.keys[bins.of(found.key)]++; });
    const auto [bin, rank] = bins.find(k - census.above);
    std::vector<int64_t> greater(layers), equal(layers);
    std::vector<int32_t> keys;
    std::vector<int> of_layer;
    for (const Census::Run& run : census.runs) {
        int64_t above = run.tally.above;
        const Found* found = census.lists[run.worker].get() + run.first;
        for (int64_t i = 0; i < run.tally.inside; i++) {
            const int its_bin = bins.of(found[i].key);
            above += its_bin > bin;
            if (its_bin == bin) {
                keys.push_back(found[i].key);
                of_layer.push_back(run.layer);
            }
        }
        greater[run.layer] += above;
    }
    const int32_t threshold = largest_of(keys, rank);
    for (size_t i = 0; i < keys.size(); i++) {
        greater[of_layer[i]] += keys[i] > threshold;
        equal[of_layer[i]] += keys[i] == threshold;
    }
    return Selection(threshold, census.stray, k, std::move(greater), std::move(equal));
}

void check(int32_t top, int32_t limit) {
    if (top > limit) throw std::domain_error(top > infinite_key ? "a score is NaN" : "a score is infinite");
}

Selection largest(const std::vector<Layer>& layers, bool absolute, int64_t k, std::optional<Bracket> bracket,
                  int32_t limit, int threads) {
    const int64_t room = room_for(layers);
    if (bracket) {
        const Census found = census(layers, absolute, *bracket, room, threads);
        check(found.top, limit);
        if (found.complete && found.above < k && k <= found.above + found.inside)
            return of_census(found, layers.size(), k);
    }
    const int64_t size = participants(layers, threads);
    if (k < 1 || k > size)
        throw std::invalid_argument("k=" + std::to_string(k) + " must be from 1 to " + std::to_string(size) +
                                    ", the number of scores that may be kept");
    const Census found = census(layers, absolute, sampled(layers, absolute, k, size), room, threads);
    check(found.top, limit);
    if (found.complete && found.above < k && k <= found.above + found.inside)
        return of_census(found, layers.size(), k);
    const int32_t threshold = by_digits(layers, absolute, k, threads);
    const Census counted = census(layers, absolute, {threshold - 1, threshold}, 0, threads);
    std::vector<int64_t> greater(layers.size()), equal(layers.size());
    for (const Census::Run& run : counted.runs) {
        greater[run.layer] += run.tally.above;
        equal[run.layer] += run.tally.inside;
    }
    return Selection(threshold, counted.stray, k, std::move(greater), std::move(equal));
}

void mark(const std::vector<Layer>& layers, bool absolute, const Selection& selection,
          const std::vector<uint8_t*>& masks, int threads) {
    const std::vector<Piece> work = pieces(layers);
    parallel(team(layers, threads), static_cast<int64_t>(work.size()), [&](int, int64_t item) {
        const auto [i, begin, size] = work[item];
        const Layer& layer = layers[i];
        kernels().mark[static_cast<int>(layer.type)][absolute](element(layer, begin),
                                                              layer.mask ? layer.mask + begin : nullptr, size,
                                                              selection.least(i), masks[i] + begin);
    });
    for (size_t i = 0; i < layers.size(); i++) {
        if (!selection.has_surplus(i)) continue;
        Layer marked = layers[i];
        marked.mask = masks[i];
        each_surplus(marked, absolute, selection.threshold, selection.taken[i], selection.equal[i], threads,
                     [&](int64_t at) { masks[i][at] = 0; });
    }
}

int64_t number_of(const Layer& layer, int64_t at) {
    if (layer.shape.empty()) return at;
    // Index by index, from the dimension with the longest stride on.
    std::vector<size_t> dimensions(layer.shape.size());
    std::iota(dimensions.begin(), dimensions.end(), size_t{0});
    std::sort(dimensions.begin(), dimensions.end(),
              [&](size_t one, size_t other) { return layer.strides[one] > layer.strides[other]; });
    std::vector<int64_t> index(layer.shape.size());
    for (size_t d : dimensions) {
        if (layer.shape[d] == 1) continue;
        index[d] = at / layer.strides[d];
        at %= layer.strides[d];
    }
    int64_t number = 0;
    for (size_t d = 0; d < index.size(); d++) number = number * layer.shape[d] + index[d];
    return number;
}

void each_surplus(const Layer& layer, bool absolute, int32_t threshold, int64_t taken, int64_t equal, int threads,
                  const std::function<void(int64_t)>& drop) {
    if (equal <= room_for({layer})) {
        std::vector<std::pair<int64_t, int64_t>> numbered;
        census({layer}, absolute, {threshold - 1, threshold}, equal, threads)
            .each([&](const Census::Run& run, const Found& found) {
                const int64_t at = run.begin + found.at;
                numbered.emplace_back(number_of(layer, at), at);
            });
        std::sort(numbered.begin(), numbered.end());
        for (size_t i = static_cast<size_t>(taken); i < numbered.size(); i++) drop(numbered[i].second);
        return;
    }
    // Too many to list: a mask of the greater ones tells them apart.
    const std::unique_ptr<uint8_t[]> greater(new uint8_t[layer.size]);
    mark({layer}, absolute, Selection(threshold, false, 0, {0}, {0}), {greater.get()}, threads);
    int64_t equals = 0;
    in_order(layer, [&](int64_t at) {
        if (layer.mask[at] != greater[at] && ++equals > taken) drop(at);
        return equals < equal;
    });
}

std::vector<int64_t> histogram(const std::vector<Layer>& layers, bool absolute, uint32_t prefix, int shift, int bins,
                               int threads) {
    const std::vector<Piece> work = pieces(layers);
    threads = team(layers, threads);
    std::vector<std::vector<int64_t>> counts(threads, std::vector<int64_t>(bins));
    parallel(threads, static_cast<int64_t>(work.size()), [&](int worker, int64_t item) {
        const auto [i, begin, size] = work[item];
        const Layer& layer = layers[i];
        kernels().histogram[static_cast<int>(layer.type)][absolute](element(layer, begin),
                                                                   layer.mask ? layer.mask + begin : nullptr, size,
                                                                   prefix, shift, bins, counts[worker].data());
    });
    for (int worker = 1; worker < threads; worker++)
        for (int bin = 0; bin < bins; bin++) counts[0][bin] += counts[worker][bin];
    return std::move(counts[0]);
}

int32_t top(const std::vector<Layer>& layers, int threads) {
    const std::vector<Piece> work = pieces(layers);
    threads = team(layers, threads);
    std::vector<int32_t> tops(threads);
    parallel(threads, static_cast<int64_t>(work.size()), [&](int worker, int64_t item) {
        const auto [i, begin, size] = work[item];
        tops[worker] = std::max(tops[worker],
                                kernels().top[static_cast<int>(layers[i].type)](element(layers[i], begin), size));
    });
    return *std::max_element(tops.begin(), tops.end());
}

}  // namespace sparsecycle
