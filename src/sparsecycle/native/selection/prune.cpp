#include "prune.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "../threads.h"

namespace sparsecycle {

namespace {

int log2_of(int bytes) { return bytes == 2 ? 1 : bytes == 4 ? 2 : 3; }

// The k largest, pruned weights counting as zeros: all kept weights but zeros, and zeros by their numbers.
Selection reopened(const std::vector<Layer>& layers, int64_t keep, int threads) {
    const Census found = census(layers, true, {-1, 0}, 0, threads);
    check(found.top, infinite_key - 1);
    std::vector<int64_t> greater(layers.size()), equal(layers.size());
    for (const Census::Run& run : found.runs) {
        greater[run.layer] += run.tally.above;
        equal[run.layer] += run.size - run.tally.above;
    }
    return Selection(0, found.stray, keep, std::move(greater), std::move(equal));
}

void clear_piece(const uint8_t* mask, int64_t size, const Companion& companion, int64_t begin) {
    kernels().clear[log2_of(companion.bytes)](mask, size,
                                              static_cast<char*>(companion.data) + begin * companion.bytes);
}

void zero(const Layer& layer, const std::vector<Companion>& companions, int64_t at) {
    layer.mask[at] = 0;
    std::memset(element(layer, at), 0, bytes_of(layer.type));
    for (const Companion& companion : companions)
        std::memset(static_cast<char*>(companion.data) + at * companion.bytes, 0, companion.bytes);
}

// What is to become of a share, decided before anything is changed.
struct Decision {
    std::vector<int> indices;  // of its layers
    std::vector<Layer> layers;
    Selection selection;
    std::optional<Census> listed;  // all weights that may go, if they are few
    bool reopens;                  // pruned weights are among those that equal the threshold, which is 0
};

Decision decide(std::vector<Layer> layers, const Share& share, bool returns, int threads) {
    const auto reopening = [&] {
        Selection selection = reopened(layers, share.keep, threads);
        return Decision{share.layers, std::move(layers), std::move(selection), std::nullopt, true};
    };
    const int64_t room = room_for(layers) / 4;
    std::optional<Bracket> bracket = share.bracket;
    if (returns && share.keep > share.before) return reopening();
    if (bracket && share.keep > 0 && share.before - share.keep < room) {
        // The usual case: since the last update few weights have fallen to where the threshold may be now.
        Census found = census(layers, true, {lowest_key, bracket->high}, room, threads);
        check(found.top, infinite_key - 1);
        if (found.complete && found.above < share.keep && share.keep <= found.above + found.inside) {
            Selection selection = of_census(found, layers.size(), share.keep);
            if (returns && selection.threshold == 0) return reopening();
            return {share.layers, std::move(layers), std::move(selection), std::move(found), false};
        }
        if (found.complete) bracket.reset();  // the threshold is not in it
    }
    if (share.keep == 0) {
        check(top(layers, threads), infinite_key - 1);
        Selection none(INT32_MAX - 1, false, 0, std::vector<int64_t>(layers.size()), std::vector<int64_t>(layers.size()));
        return {share.layers, std::move(layers), std::move(none), std::nullopt, false};
    }
    std::vector<Layer> seen = layers;
    if (share.before == size_of(layers))
        for (Layer& layer : seen) layer.mask = nullptr;  // all take part: that need not be read
    Selection selection = largest(seen, true, share.keep, bracket, infinite_key - 1, threads);
    if (returns && selection.threshold == 0) return reopening();
    return {share.layers, std::move(layers), std::move(selection), std::nullopt, false};
}

// Decides on a share, and returns its threshold if it keeps anything. A layer that would fall below the floor keeps its
// own largest: what it gains the others lose, which may starve another one.
std::optional<int32_t> decide_all(const std::vector<Layer>& layers, const Share& share, bool returns, int64_t floor,
                                  int threads, std::vector<Decision>& decisions) {
    std::vector<Layer> theirs;
    for (int i : share.layers) theirs.push_back(layers[i]);
    Decision decision = decide(std::move(theirs), share, returns, threads);
    const int32_t threshold = decision.selection.threshold;
    Share fed{{}, share.keep, share.before, Bracket{threshold - (1 << 17), std::min(threshold, infinite_key) + (1 << 17)}};
    for (size_t i = 0; i < share.layers.size(); i++) {
        const Layer& layer = decision.layers[i];
        const int64_t kept = decision.selection.kept(i);
        const bool may_starve = share.layers.size() > 1 && kept < std::min(floor, layer.size);
        const int64_t before = may_starve ? participants({layer}, threads) : 0;
        const int64_t least = std::min(floor, returns ? layer.size : before);
        if (!may_starve || kept >= least) {
            fed.layers.push_back(share.layers[i]);
            continue;
        }
        decide_all(layers, {{share.layers[i]}, least, before, std::nullopt}, returns, floor, threads, decisions);
        fed.keep -= least;
        fed.before -= before;
    }
    if (fed.layers.size() < share.layers.size()) return decide_all(layers, fed, returns, floor, threads, decisions);
    decisions.push_back(std::move(decision));
    if (!share.keep) return std::nullopt;
    return threshold;
}

// Drops the listed weights that are not among the k largest.
void drop_listed(const Decision& decision, const Companions& companions) {
    const Selection& selection = decision.selection;
    std::vector<std::vector<std::pair<int64_t, int64_t>>> tied(decision.layers.size());  // numbers, indices in memory
    decision.listed->each([&](const Census::Run& run, const Found& found) {
        const int i = run.layer;
        const int64_t at = run.begin + found.at;
        if (found.key < selection.least(i)) zero(decision.layers[i], companions[i], at);
        else if (found.key == selection.threshold && selection.has_surplus(i))
            tied[i].emplace_back(number_of(decision.layers[i], at), at);
    });
    for (size_t i = 0; i < tied.size(); i++) {
        std::sort(tied[i].begin(), tied[i].end());
        for (size_t j = static_cast<size_t>(selection.taken[i]); j < tied[i].size(); j++)
            zero(decision.layers[i], companions[i], tied[i][j].second);
    }
}

// Keeps what is not 0, and lets zeros come back, by their numbers.
void reopen(const Decision& decision, int threads) {
    const std::vector<Piece> work = pieces(decision.layers);
    parallel(team(decision.layers, threads), static_cast<int64_t>(work.size()), [&](int, int64_t item) {
        const auto [i, begin, size] = work[item];
        const Layer& layer = decision.layers[i];
        kernels().mark[static_cast<int>(layer.type)][true](element(layer, begin), nullptr, size, 1, layer.mask + begin);
    });
    for (size_t i = 0; i < decision.layers.size(); i++) {
        int64_t places = decision.selection.taken[i];
        in_order(decision.layers[i], [&](int64_t at) {
            if (!places) return false;
            uint8_t& kept = decision.layers[i].mask[at];
            places -= !kept;
            kept = 1;
            return true;
        });
    }
}

// Keeps what is at least the threshold, and zeroes the rest.
void cut(const Decision& decision, const Companions& companions, int threads) {
    const Selection& selection = decision.selection;
    const std::vector<Piece> work = pieces(decision.layers);
    parallel(team(decision.layers, threads), static_cast<int64_t>(work.size()), [&](int, int64_t item) {
        const auto [i, begin, size] = work[item];
        const Layer& layer = decision.layers[i];
        kernels().cut[static_cast<int>(layer.type)](element(layer, begin), size, selection.least(i),
                                                    layer.mask + begin);
        for (const Companion& companion : companions[i])
            clear_piece(layer.mask + begin, size, companion, begin);
    });
    for (size_t i = 0; i < decision.layers.size(); i++)
        if (selection.has_surplus(i))
            each_surplus(decision.layers[i], true, selection.threshold, selection.taken[i], selection.equal[i], threads,
                         [&](int64_t at) { zero(decision.layers[i], companions[i], at); });
}

}  // namespace

void clear(const uint8_t* mask, int64_t size, const Companion& companion, int threads) {
    const int64_t items = (size + piece - 1) / piece;
    parallel(size < worth_a_team ? 1 : threads, items, [&](int, int64_t item) {
        const int64_t begin = (items - 1 - item) * piece;  // what was written last is still in the cache
        clear_piece(mask + begin, std::min(piece, size - begin), companion, begin);
    });
}

bool enforce(const std::vector<Layer>& layers, const Companions& companions, int threads) {
    const std::vector<Piece> work = pieces(layers);
    std::atomic<bool> stray{false};
    parallel(team(layers, threads), static_cast<int64_t>(work.size()), [&](int, int64_t item) {
        const auto [i, begin, size] = work[item];
        const Layer& layer = layers[i];
        const uint8_t* mask = layer.mask + begin;
        const int word = log2_of(bytes_of(layer.type));
        if (kernels().strays[word](mask, size, element(layer, begin))) {
            kernels().clear[word](mask, size, element(layer, begin));
            stray.store(true, std::memory_order_relaxed);
        }
        for (const Companion& companion : companions[i]) clear_piece(mask, size, companion, begin);
    });
    return stray;
}

std::vector<std::optional<int32_t>> prune(const std::vector<Layer>& layers, const Companions& companions,
                                          const std::vector<Share>& shares, bool returns, int64_t floor, int threads) {
    std::vector<Decision> decisions;
    std::vector<std::optional<int32_t>> thresholds;
    for (const Share& share : shares) thresholds.push_back(decide_all(layers, share, returns, floor, threads, decisions));
    for (const Decision& decision : decisions) {
        Companions theirs;
        for (int i : decision.indices) theirs.push_back(companions[i]);
        // What moved pruned weights may have left something behind, and what comes back must find nothing of its past.
        if (decision.reopens || decision.selection.stray) enforce(decision.layers, theirs, threads);
        if (decision.listed) {
            drop_listed(decision, theirs);
        } else if (decision.reopens) {
            reopen(decision, threads);
            enforce(decision.layers, theirs, threads);  // kept zeros may have lost their places
        } else {
            cut(decision, theirs, threads);
        }
    }
    return thresholds;
}

}  // namespace sparsecycle
