// Exactly the k largest of many tensors.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "kernels.h"

namespace sparsecycle {

// A tensor without gaps, its elements in the order in which they lie.
struct Layer {
    void* data;
    Type type;
    int64_t size;
    uint8_t* mask;  // 1 for those that take part; null: all do
    // How the elements are numbered, from the outermost dimension to the innermost; empty where they lie in that order.
    std::vector<int64_t> shape, strides;
};

// Keys greater than `below`, up to `high`.
struct Bracket {
    int32_t below, high;
};

// What one pass over the layers finds: how many keys lie above a bracket, and those inside it.
struct Census {
    struct Run {  // a piece of a layer, looked at by one worker
        int layer, worker;
        int64_t begin, size;
        Tally tally;
        int64_t first;  // where the list of its worker has what was found in it
    };
    std::vector<Run> runs;
    std::vector<std::unique_ptr<Found[]>> lists;  // of every worker
    int64_t above = 0, inside = 0;
    bool complete = false;  // all that is inside is in the lists
    bool stray = false;     // an element that takes no part is not 0
    int32_t top = 0;        // the greatest magnitude's key

    // Calls see(run, found) for all that is in the lists.
    template <class See>
    void each(const See& see) const {
        for (const Run& run : runs) {
            const Found* found = lists[run.worker].get() + run.first;
            for (int64_t i = 0; i < run.tally.inside; i++) see(run, found[i]);
        }
    }
};

// Lists so many keys at most. The lists of a large network then take a thirtieth of what its float32 weights take.
int64_t room_for(const std::vector<Layer>& layers);

Census census(const std::vector<Layer>& layers, bool absolute, Bracket bracket, int64_t room, int threads);

// The k largest: all keys above the threshold, and of those that equal it as many as belong to them in each layer.
struct Selection {
    int32_t threshold;
    bool stray;
    std::vector<int64_t> greater, equal, taken;  // by layer; of `equal` the first `taken` belong to the k largest

    Selection(int32_t threshold, bool stray, int64_t k, std::vector<int64_t> greater, std::vector<int64_t> equal);

    int64_t kept(size_t layer) const { return greater[layer] + taken[layer]; }

    // The least key that is kept, but for surplus ones that equal the threshold.
    int32_t least(size_t layer) const { return taken[layer] ? threshold : threshold + 1; }
    bool has_surplus(size_t layer) const { return taken[layer] && taken[layer] < equal[layer]; }
};

// The k largest of what a complete census found, where above < k ≤ above + inside.
Selection of_census(const Census& census, size_t layers, int64_t k);

// The k largest, 1 ≤ k ≤ how many take part; first looked for in the bracket. Takes two passes if the bracket is good
// or the sample that is drawn otherwise, five if neither is.
//
// Throws std::domain_error where a key exceeds `limit`: infinite_key lets everything pass but NaN.
Selection largest(const std::vector<Layer>& layers, bool absolute, int64_t k, std::optional<Bracket> bracket,
                  int32_t limit, int threads);

// Throws std::domain_error where the greatest magnitude's key exceeds `limit`.
void check(int32_t top, int32_t limit);

// Writes where the k largest are into each layer's mask.
void mark(const std::vector<Layer>& layers, bool absolute, const Selection& selection,
          const std::vector<uint8_t*>& masks, int threads);

// Keys counted by a digit; see Histogram in kernels.h.
std::vector<int64_t> histogram(const std::vector<Layer>& layers, bool absolute, uint32_t prefix, int shift, int bins,
                               int threads);

// The greatest magnitude's key, by reading everything once.
int32_t top(const std::vector<Layer>& layers, int threads);

// Calls see(index in memory) for the elements in the order of their numbers, until it returns false.
template <class See>
void in_order(const Layer& layer, const See& see) {
    if (layer.shape.empty()) {
        for (int64_t i = 0; i < layer.size && see(i); i++) {}
        return;
    }
    std::vector<int64_t> index(layer.shape.size());
    for (int64_t number = 0, at = 0; number < layer.size && see(at); number++)
        for (size_t d = index.size(); d-- > 0;) {
            at += layer.strides[d];
            if (++index[d] < layer.shape[d]) break;
            at -= layer.strides[d] * index[d];
            index[d] = 0;
        }
}

// The number of an element, by its index in memory.
int64_t number_of(const Layer& layer, int64_t at);

// Calls drop(index in memory) for the elements of a layer that equal the threshold and have a mask, but for the first
// `taken` of them by their numbers; there are `equal` of them, and none below the threshold has a mask. Where they are
// many it takes a byte of memory for each element.
void each_surplus(const Layer& layer, bool absolute, int32_t threshold, int64_t taken, int64_t equal, int threads,
                  const std::function<void(int64_t)>& drop);

// A piece of a layer that fits into a core's second-level cache with all that belongs to it.
constexpr int64_t piece = 1 << 14;

struct Piece {
    int layer;
    int64_t begin, size;
};

std::vector<Piece> pieces(const std::vector<Layer>& layers);

// A team costs a few microseconds: as much as one thread takes for this many elements.
constexpr int64_t worth_a_team = 1 << 16;

int64_t size_of(const std::vector<Layer>& layers);

// How many elements take part.
int64_t participants(const std::vector<Layer>& layers, int threads);

// How many of the threads are worth their start.
int team(const std::vector<Layer>& layers, int threads);

inline int bytes_of(Type type) { return type == Type::float32 ? 4 : 2; }

inline void* element(const Layer& layer, int64_t at) { return static_cast<char*>(layer.data) + at * bytes_of(layer.type); }

}  // namespace sparsecycle
