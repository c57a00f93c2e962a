// The core without Python: every path's kernels, and what is built of them, against the plainest loops there are.
//
// Built of isa.cpp, threads.cpp, selection/*.cpp and the kernels of each path. Prints what it checked, and returns 0
// only if all was right. `check 0.1` does a tenth of the work, for machines that are emulated.

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../src/sparsecycle/native/isa.h"
#include "../../src/sparsecycle/native/selection/prune.h"
#include "../../src/sparsecycle/native/selection/select.h"
#include "../../src/sparsecycle/native/threads.h"
#include "check.h"

using namespace sparsecycle;

namespace {

std::atomic<int> startable{INT_MAX};  // how many more threads the system has to give

}  // namespace

// The standard library starts its threads by this one, since a program's own functions come before a library's.
[[gnu::visibility("default")]] int pthread_create(pthread_t* thread, const pthread_attr_t* how, void* (*run)(void*),
                                                  void* argument) noexcept {
    static const auto start = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
    return startable-- > 0 ? start(thread, how, run, argument) : EAGAIN;
}

namespace sparsecycle {

int64_t checks = 0;
std::string doing;
Random draw{0x9e3779b97f4a7c15u};

void expect(bool right, const char* what) {
    checks++;
    if (right) return;
    std::printf("WRONG on %s: %s: %s\n", name(current()), doing.c_str(), what);
    std::exit(1);
}

}  // namespace sparsecycle

namespace {

// --- Numbers, as bits in memory and as what they stand for ---------------------------------------------------------

float half(uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float size = exponent == 31  ? (fraction ? NAN : INFINITY)
                       : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                       : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    return bits >> 15 ? -size : size;
}

float value(Type type, const void* data, int64_t at) {
    float number;
    if (type == Type::float32) {
        std::memcpy(&number, static_cast<const char*>(data) + 4 * at, 4);
        return number;
    }
    uint16_t bits;
    std::memcpy(&bits, static_cast<const char*>(data) + 2 * at, 2);
    if (type == Type::float16) return half(bits);
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    std::memcpy(&number, &wide, 4);
    return number;
}

// The key, from the number itself; all that are NaN have the same one here.
int32_t key_of(Type type, const void* data, int64_t at, bool absolute) {
    const float number = value(type, data, at), size = std::fabs(number);
    if (std::isnan(number)) return absolute || !std::signbit(number) ? INT32_MAX : -INT32_MAX;
    int32_t key;
    std::memcpy(&key, &size, 4);
    return absolute || !std::signbit(number) ? key : -key;
}

bool is_nan(Type type, const void* data, int64_t at) { return std::isnan(value(type, data, at)); }

bool has_bits(Type type, const void* data, int64_t at) {
    const int bytes = bytes_of(type);
    const char* place = static_cast<const char*>(data) + at * bytes;
    return std::any_of(place, place + bytes, [](char byte) { return byte != 0; });
}

enum class Kind { any, plain, ties, zeros, equal, small };
constexpr Kind kinds[] = {Kind::any, Kind::plain, Kind::ties, Kind::zeros, Kind::equal, Kind::small};

uint32_t drawn(Kind kind, Type type) {
    const uint32_t sign = draw.bits() & 0x80000000u;
    uint32_t bits = 0;  // of a float32 number that half precision can hold, but for its last bits
    switch (kind) {
        case Kind::any: bits = draw.bits() << 1 ^ draw.bits(); break;
        case Kind::plain: bits = 0x3c000000u + (draw.bits() & 0x03ffffffu); break;
        case Kind::ties: bits = 0x3f000000u + (static_cast<uint32_t>(draw.below(4)) << 22); break;
        case Kind::zeros: bits = draw.one_in(4) ? 0x3f800000u + (static_cast<uint32_t>(draw.below(8)) << 20) : 0; break;
        case Kind::equal: bits = 0x3f400000u; break;
        case Kind::small: bits = draw.one_in(3) ? 0 : static_cast<uint32_t>(draw.below(1 << 12)); break;
    }
    if (type == Type::float32) return bits ^ (kind == Kind::any ? 0 : sign);
    if (kind == Kind::any || kind == Kind::small) return (bits ^ sign >> 16) & 0xffff;
    if (type == Type::bfloat16) return (bits | sign) >> 16;
    const uint32_t small = bits ? ((bits >> 23) - 112) << 10 | (bits >> 13 & 1023) : 0;
    return small | sign >> 16;
}

constexpr int guard = 64;  // bytes before and after everything that is written

struct Memory {
    std::vector<unsigned char> bytes;

    explicit Memory(int64_t n) : bytes(n + 2 * guard, 0xa5) {}
    char* data() { return reinterpret_cast<char*>(bytes.data() + guard); }
    bool is_whole() const {
        const auto good = [](unsigned char byte) { return byte == 0xa5; };
        return std::all_of(bytes.begin(), bytes.begin() + guard, good) &&
               std::all_of(bytes.end() - guard, bytes.end(), good);
    }
};

Memory numbers(Type type, int64_t n, Kind kind) {
    Memory memory(n * bytes_of(type));
    for (int64_t i = 0; i < n; i++) {
        const uint32_t bits = drawn(kind, type);
        if (type == Type::float32) std::memcpy(memory.data() + 4 * i, &bits, 4);
        const uint16_t low = static_cast<uint16_t>(bits);
        if (type != Type::float32) std::memcpy(memory.data() + 2 * i, &low, 2);
    }
    return memory;
}

Memory mask_of(int64_t n, int64_t one_in) {
    Memory memory(n);
    for (int64_t i = 0; i < n; i++) memory.data()[i] = one_in == 0 ? draw.one_in(2) : !draw.one_in(one_in);
    return memory;
}

uint8_t* bytes(Memory& memory) { return reinterpret_cast<uint8_t*>(memory.data()); }

int32_t some_key(const std::vector<int32_t>& keys) {
    switch (draw.below(6)) {
        case 0: return lowest_key;
        case 1: return 0;
        case 2: return infinite_key;
        default: break;
    }
    if (keys.empty()) return 5;
    return keys[draw.below(static_cast<int64_t>(keys.size()))] + 1 - static_cast<int32_t>(draw.below(3));
}

// --- Kernels --------------------------------------------------------------------------------------------------------

void check_ranking(const Kernels& table, Type type, bool absolute, int64_t n, Kind kind) {
    const int t = static_cast<int>(type);
    Memory scores = numbers(type, n, kind), among = mask_of(n, draw.one_in(5) ? n + 1 : draw.below(5));
    const Memory before = scores;
    std::vector<int32_t> keys(n);
    for (int64_t i = 0; i < n; i++) keys[i] = key_of(type, scores.data(), i, absolute);
    // The key of a NaN is beyond that of infinity, on its side; here one key stands for all of them.
    const auto clamped = [](int32_t key) { return std::min(std::max(key, -infinite_key - 1), infinite_key + 1); };
    for (int32_t& key : keys) key = clamped(key);

    for (int turn = 0; turn < 3; turn++) {
        const uint8_t* allowed = turn ? bytes(among) : nullptr;
        int32_t below = clamped(some_key(keys)), high = clamped(some_key(keys));
        if (below > high) std::swap(below, high);
        if (high == infinite_key + 1) high = INT32_MAX;
        below = turn == 2 ? lowest_key : std::min(below, infinite_key);
        const int64_t room = draw.one_in(3) ? draw.below(4) : n;
        int64_t above = 0, inside = 0;
        int32_t top = 0;
        bool stray = false, nan = false;
        std::vector<Found> expected;
        for (int64_t i = 0; i < n; i++) {
            nan |= is_nan(type, scores.data(), i);
            top = std::max(top, clamped(key_of(type, scores.data(), i, true)));
            if (allowed && !allowed[i]) {
                stray |= has_bits(type, scores.data(), i);
                continue;
            }
            above += keys[i] > high;
            if (keys[i] <= below || keys[i] > high) continue;
            if (inside < room) expected.push_back({keys[i], static_cast<uint32_t>(i)});
            inside++;
        }
        std::vector<Found> found(n + 1, Found{77, 77});
        const Tally tally = table.collect[t][absolute](scores.data(), allowed, n, below, high, found.data(), room);
        expect(tally.above == above && tally.inside == inside, "collect: counts");
        expect(clamped(tally.top) == top && (tally.top > infinite_key) == nan, "collect: the greatest magnitude");
        expect(tally.stray == stray, "collect: what is not 0 where it takes no part");
        for (size_t i = 0; i < expected.size(); i++)
            expect(found[i].at == expected[i].at && clamped(found[i].key) == expected[i].key, "collect: the list");
        for (size_t i = expected.size(); i < found.size(); i++)
            expect(found[i].key == 77 && found[i].at == 77, "collect: nothing beyond the room");

        int32_t least = clamped(some_key(keys));
        if (least == -infinite_key - 1) least = lowest_key;
        Memory mask(n);
        table.mark[t][absolute](scores.data(), allowed, n, least, bytes(mask));
        for (int64_t i = 0; i < n; i++)
            expect(mask.data()[i] == ((!allowed || allowed[i]) && keys[i] >= least), "mark");
        expect(mask.is_whole(), "mark: what lies around");
        if (allowed) {  // into the very mask that it reads
            Memory same = among;
            table.mark[t][absolute](scores.data(), bytes(same), n, least, bytes(same));
            expect(std::equal(same.bytes.begin(), same.bytes.end(), mask.bytes.begin()), "mark: in place");
        }

        constexpr int digits[][2] = {{20, 1 << 12}, {10, 1 << 10}, {0, 1 << 10}, {28, 16}, {0, 1}};
        const auto& [shift, bins] = digits[draw.below(5)];
        const int width = static_cast<int>(std::lround(std::log2(bins)));
        const auto digit = [](int32_t key, int from) {
            return uint64_t{static_cast<uint32_t>(key) ^ 0x80000000u} >> from;
        };
        const uint32_t prefix =
            static_cast<uint32_t>(n && !draw.one_in(4) ? digit(keys[draw.below(n)], shift + width) : 0);
        std::vector<int64_t> counts(bins + 2, 3), wanted(bins + 2, 3);
        int64_t unknown = 0;
        for (int64_t i = 0; i < n; i++) {
            if (allowed && !allowed[i]) continue;
            unknown += is_nan(type, scores.data(), i);
            if (digit(keys[i], shift + width) == prefix) wanted[digit(keys[i], shift) % bins]++;
        }
        table.histogram[t][absolute](scores.data(), allowed, n, prefix, shift, bins, counts.data());
        if (!unknown) expect(counts == wanted, "histogram");
        expect(counts[bins] == 3 && counts[bins + 1] == 3, "histogram: nothing beyond the bins");
        expect(clamped(table.top[t](scores.data(), n)) == top, "top");
    }
    expect(scores.bytes == before.bytes, "ranking changes nothing");
}

void check_zeroing(const Kernels& table, int64_t n) {
    for (int word = 1; word < 4; word++) {
        const int64_t each = 1 << word;
        Memory data(n * each), mask = mask_of(n, draw.below(5));
        for (int64_t i = 0; i < n * each; i++) data.data()[i] = static_cast<char>(draw.one_in(2) ? draw.bits() : 0);
        Memory expected = data;
        bool stray = false;
        for (int64_t i = 0; i < n; i++)
            for (int64_t b = 0; b < each && !mask.data()[i]; b++) {
                stray |= data.data()[i * each + b] != 0;
                expected.data()[i * each + b] = 0;
            }
        expect(table.strays[word](bytes(mask), n, data.data()) == stray, "strays");
        table.clear[word](bytes(mask), n, data.data());
        expect(data.bytes == expected.bytes, "clear");
        expect(!table.strays[word](bytes(mask), n, data.data()), "strays after clear");
        if (n == 0) continue;
        // A single bit, anywhere.
        const int64_t at = draw.below(n);
        bytes(mask)[at] = 0;
        data.data()[at * each + draw.below(each)] = static_cast<char>(1 << draw.below(8));
        expect(table.strays[word](bytes(mask), n, data.data()), "strays: one bit");
    }
    for (int t = 0; t < types; t++) {
        const Type type = static_cast<Type>(t);
        const int64_t each = bytes_of(type);
        Memory weights = numbers(type, n, kinds[1 + draw.below(5)]), mask = mask_of(n, draw.below(5));
        std::vector<int32_t> keys(n);
        for (int64_t i = 0; i < n; i++) keys[i] = key_of(type, weights.data(), i, true);
        const int32_t least = some_key(keys);
        Memory expected = weights, kept = mask;
        for (int64_t i = 0; i < n; i++) {
            kept.data()[i] = mask.data()[i] && keys[i] >= least;
            if (!kept.data()[i]) std::memset(expected.data() + i * each, 0, each);
        }
        table.cut[t](weights.data(), n, least, bytes(mask));
        expect(weights.bytes == expected.bytes && mask.bytes == kept.bytes, "cut");
    }
}

// Each of half precision's numbers, in blocks and one by one.
void check_every_half(const Kernels& table) {
    for (Type type : {Type::bfloat16, Type::float16}) {
        Memory every(2 << 16);
        for (int32_t i = 0; i < 1 << 16; i++) {
            const uint16_t bits = static_cast<uint16_t>(i);
            std::memcpy(every.data() + 2 * i, &bits, 2);
        }
        for (bool absolute : {false, true}) {
            const Collect collect = table.collect[static_cast<int>(type)][absolute];
            std::vector<Found> found(1 << 16);
            collect(every.data(), nullptr, 1 << 16, lowest_key, INT32_MAX, found.data(), 1 << 16);
            bool right = true;
            for (int32_t i = 0; i < 1 << 16; i++) {
                Found alone;
                collect(every.data() + 2 * i, nullptr, 1, lowest_key, INT32_MAX, &alone, 1);
                right &= alone.key == found[i].key && found[i].at == static_cast<uint32_t>(i);
                const int32_t key = key_of(type, every.data(), i, absolute);
                right &= std::abs(key) == INT32_MAX ? std::abs(found[i].key) > infinite_key : found[i].key == key;
            }
            expect(right, "keys of half-precision numbers");
        }
    }
}

void check_kernels(const Kernels& table, double share) {
    const int64_t borders[] = {0, 1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 192, 200, 449};
    const int64_t last = std::lround(share) + 1;
    for (int64_t round = 0; round < last; round++)
        for (int64_t n : borders) {
            doing = "kernels on " + std::to_string(n) + " elements";
            for (Kind kind : kinds)
                for (int t = 0; t < types; t++)
                    for (bool absolute : {false, true}) check_ranking(table, static_cast<Type>(t), absolute, n, kind);
            check_zeroing(table, n);
        }
    if (share < 0.5) return;
    doing = "every number of half precision";
    check_every_half(table);
}

// --- Selection ------------------------------------------------------------------------------------------------------

struct Net {
    std::vector<Memory> weights, masks;
    std::vector<Layer> layers;

    void add(Type type, int64_t n, Kind kind, bool masked, bool turned) {
        weights.push_back(numbers(type, n, kind));
        masks.push_back(mask_of(n, masked ? draw.below(6) : 0));
        if (!masked) std::memset(masks.back().data(), 1, n);
        Layer layer{nullptr, type, n, nullptr, {}, {}};
        if (turned) {  // two dimensions by turns, such as a transposed matrix
            const int64_t wide = n % 7 == 0 ? 7 : n % 4 == 0 ? 4 : 1;
            layer.shape = {wide, n / wide};
            layer.strides = {1, wide};
        }
        layers.push_back(layer);
    }
    void place(bool masked) {  // when nothing moves any more
        for (size_t i = 0; i < layers.size(); i++) {
            layers[i].data = weights[i].data();
            layers[i].mask = masked ? bytes(masks[i]) : nullptr;
        }
    }
    // Where the elements of a layer are, by their numbers.
    static std::vector<int64_t> places(const Layer& layer) {
        std::vector<int64_t> all(layer.size);
        std::iota(all.begin(), all.end(), 0);
        if (layer.shape.empty()) return all;
        int64_t number = 0;
        for (int64_t i = 0; i < layer.shape[0]; i++)
            for (int64_t j = 0; j < layer.shape[1]; j++) all[number++] = i * layer.strides[0] + j * layer.strides[1];
        return all;
    }
    bool is_whole() const {
        return std::all_of(weights.begin(), weights.end(), [](const Memory& m) { return m.is_whole(); }) &&
               std::all_of(masks.begin(), masks.end(), [](const Memory& m) { return m.is_whole(); });
    }
};

struct Candidate {
    int32_t key;
    int layer;
    int64_t number, at;
};

// All that take part, the first to be kept first.
std::vector<Candidate> in_order_of_rank(const std::vector<Layer>& layers, bool absolute, bool all) {
    std::vector<Candidate> found;
    for (size_t i = 0; i < layers.size(); i++) {
        const std::vector<int64_t> places = Net::places(layers[i]);
        for (int64_t number = 0; number < layers[i].size; number++) {
            const int64_t at = places[number];
            const bool takes_part = !layers[i].mask || layers[i].mask[at];
            if (!all && !takes_part) continue;
            const int32_t key = takes_part ? key_of(layers[i].type, layers[i].data, at, absolute) : 0;
            found.push_back({key, static_cast<int>(i), number, at});
        }
    }
    std::stable_sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) { return a.key > b.key; });
    return found;
}

Kind some_number() {  // no NaN, and no infinity
    return kinds[1 + draw.below(5)];
}

Net some_net(int64_t size, bool masked) {
    Net net;
    const int64_t count = 1 + draw.below(4);
    for (int64_t i = 0; i < count; i++) {
        const int64_t n = draw.one_in(8) ? draw.below(3) : 1 + draw.below(size);
        net.add(static_cast<Type>(draw.below(types)), n, some_number(), masked, draw.one_in(3));
    }
    net.place(masked);
    return net;
}

std::optional<Bracket> some_bracket(int32_t threshold) {
    const int32_t far = draw.one_in(2) ? 1 : 1 << 18;
    switch (draw.below(4)) {
        case 0: return std::nullopt;
        case 1: return Bracket{-1, 0};
        case 2: return Bracket{lowest_key, INT32_MAX};
        default: return Bracket{threshold - far, std::min(threshold, INT32_MAX - far) + far};
    }
}

void check_largest(int64_t size, int threads) {
    const bool masked = draw.one_in(2), absolute = draw.one_in(2);
    Net net = some_net(size, masked);
    const std::vector<Candidate> ranked = in_order_of_rank(net.layers, absolute, false);
    const int64_t n = static_cast<int64_t>(ranked.size());
    if (n == 0) return;
    const int64_t k = draw.one_in(4) ? n : 1 + draw.below(n);
    const int32_t threshold = ranked[k - 1].key;
    const Selection selection =
        largest(net.layers, absolute, k, some_bracket(threshold), infinite_key, threads);
    std::vector<std::vector<uint8_t>> expected;
    std::vector<Memory> marked;
    std::vector<uint8_t*> written;
    for (const Layer& layer : net.layers) {
        expected.emplace_back(layer.size);
        marked.emplace_back(layer.size);
    }
    for (Memory& mask : marked) written.push_back(bytes(mask));
    for (int64_t i = 0; i < k; i++) expected[ranked[i].layer][ranked[i].at] = 1;
    mark(net.layers, absolute, selection, written, threads);
    expect(selection.threshold == threshold, "largest: the threshold");
    for (size_t i = 0; i < net.layers.size(); i++) {
        expect(std::equal(expected[i].begin(), expected[i].end(), written[i]), "mark: the k largest");
        expect(marked[i].is_whole(), "mark: what lies around");
        const int64_t count = std::count(expected[i].begin(), expected[i].end(), 1);
        expect(selection.kept(i) == count, "largest: how many by layer");
    }
    bool refused = false;
    try {
        largest(net.layers, absolute, n + 1, some_bracket(threshold), infinite_key, threads);
    } catch (const std::invalid_argument&) {
        refused = true;
    }
    expect(refused, "largest: more than there are");
    // One that is NaN, wherever it is.
    Layer& layer = net.layers[ranked[0].layer];
    std::memset(element(layer, draw.below(layer.size)), 0xff, bytes_of(layer.type));
    refused = false;
    try {
        largest(net.layers, absolute, k, some_bracket(threshold), infinite_key, threads);
    } catch (const std::domain_error&) {
        refused = true;
    }
    expect(refused, "largest: NaN");
    expect(net.is_whole(), "largest: what lies around");
}

void check_counting(int64_t size, int threads) {
    Net net = some_net(size, draw.one_in(2));
    const bool absolute = draw.one_in(2);
    const std::vector<Candidate> ranked = in_order_of_rank(net.layers, absolute, false);
    if (ranked.empty()) return;
    const int64_t k = 1 + draw.below(static_cast<int64_t>(ranked.size()));
    uint32_t prefix = 0;
    int64_t wanted = k;
    constexpr int digits[][2] = {{20, 1 << 12}, {10, 1 << 10}, {0, 1 << 10}};
    for (const auto& [shift, bins] : digits) {
        const std::vector<int64_t> counts = histogram(net.layers, absolute, prefix, shift, bins, threads);
        int digit = bins - 1;
        for (; digit > 0 && wanted > counts[digit]; digit--) wanted -= counts[digit];
        prefix = prefix * static_cast<uint32_t>(bins) + static_cast<uint32_t>(digit);
    }
    expect(static_cast<int32_t>(prefix ^ 0x80000000u) == ranked[k - 1].key, "histogram: the k-th largest");
    int32_t most = 0;
    for (const Layer& layer : net.layers)
        for (int64_t i = 0; i < layer.size; i++) most = std::max(most, key_of(layer.type, layer.data, i, true));
    expect(top(net.layers, threads) == most, "top of all");
}

// --- Pruning --------------------------------------------------------------------------------------------------

// Marks what is kept of layers that compete, and returns their threshold if there is one: a layer that would fall below
// the floor keeps its own largest, and the others compete for the rest.
std::optional<int32_t> keep_naively(const Net& net, const std::vector<int>& indices, int64_t keep, int64_t floor,
                                    bool returns, std::vector<std::vector<uint8_t>>& kept) {
    std::vector<Layer> theirs;
    for (int i : indices) theirs.push_back(net.layers[i]);
    const std::vector<Candidate> ranked = in_order_of_rank(theirs, true, returns);
    std::vector<std::vector<int64_t>> winners(theirs.size());
    for (int64_t i = 0; i < keep; i++) winners[ranked[i].layer].push_back(ranked[i].at);
    std::vector<int> fed;
    for (size_t i = 0; i < theirs.size(); i++) {
        const std::vector<Candidate> own = in_order_of_rank({theirs[i]}, true, returns);
        const int64_t least = std::min<int64_t>(floor, own.size());
        if (theirs.size() > 1 && static_cast<int64_t>(winners[i].size()) < least) {
            for (int64_t j = 0; j < least; j++) kept[indices[i]][own[j].at] = 1;
            keep -= least;
        } else {
            fed.push_back(indices[i]);
        }
    }
    if (fed.size() < theirs.size()) return keep_naively(net, fed, keep, floor, returns, kept);
    for (size_t i = 0; i < theirs.size(); i++)
        for (int64_t at : winners[i]) kept[indices[i]][at] = 1;
    if (!keep) return std::nullopt;
    return ranked[keep - 1].key;
}

void check_prune(int64_t size, int threads) {
    Net net = some_net(size, true);
    const size_t count = net.layers.size();
    const bool returns = draw.one_in(2);
    // Some of the layers compete with each other, the rest each on its own.
    std::vector<Share> shares;
    const size_t together = 1 + static_cast<size_t>(draw.below(static_cast<int64_t>(count)));
    for (size_t i = 0; i < count; i++) {
        if (i >= 1 && i < together) shares[0].layers.push_back(static_cast<int>(i));
        else shares.push_back({{static_cast<int>(i)}, 0, 0, std::nullopt});
    }
    // A gradient and an optimizer's state, of every size of element, which are 0 where a weight is pruned, unless
    // something went by.
    std::vector<std::vector<Memory>> held(count);
    Companions companions(count);
    for (size_t i = 0; i < count; i++) {
        std::vector<int> sizes{2, 4, 8};
        sizes.resize(draw.below(4));
        for (int each : sizes) held[i].emplace_back(net.layers[i].size * each);
        for (size_t j = 0; j < sizes.size(); j++) {
            std::fill(held[i][j].bytes.begin() + guard, held[i][j].bytes.end() - guard, 0x11);
            companions[i].push_back({held[i][j].data(), sizes[j]});
        }
    }
    const auto zero_all = [&](int i, int64_t at) {
        for (const Companion& c : companions[i]) std::memset(static_cast<char*>(c.data) + at * c.bytes, 0, c.bytes);
    };
    std::vector<std::optional<int32_t>> thresholds;
    std::vector<std::vector<uint8_t>> kept;
    for (const Layer& layer : net.layers) kept.emplace_back(layer.size);
    int64_t floor = draw.one_in(2) ? 0 : draw.below(4);
    for (Share& share : shares) {
        std::vector<Layer> theirs;
        int64_t all = 0;
        const bool strays = draw.one_in(3);  // something moved pruned weights
        bool seen = false;                   // and there it shows
        for (int i : share.layers) {
            const Layer& layer = net.layers[i];
            for (int64_t at = 0; at < layer.size; at++) {
                if (layer.mask[at]) continue;
                if (!strays) std::memset(element(layer, at), 0, bytes_of(layer.type));
                seen |= has_bits(layer.type, layer.data, at);
            }
            theirs.push_back(layer);
            all += layer.size;
        }
        for (int i : share.layers)
            for (int64_t at = 0; at < net.layers[i].size && !seen; at++)
                if (!net.layers[i].mask[at]) zero_all(i, at);
        const std::vector<Candidate> ranked = in_order_of_rank(theirs, true, returns);
        const std::vector<Candidate> alive = in_order_of_rank(theirs, true, false);
        share.before = static_cast<int64_t>(alive.size());
        const int64_t most = returns ? all : share.before;
        share.keep = draw.one_in(3) ? std::max<int64_t>(most - draw.below(20), 0) : draw.below(most + 1);
        if (draw.one_in(12)) share.keep = 0;
        share.bracket = some_bracket(share.keep ? ranked[share.keep - 1].key : INT32_MAX - 1);
        int64_t least = 0;
        for (const Layer& layer : theirs) least += std::min(floor, layer.size);
        if (share.layers.size() > 1 && least > share.keep) floor = 0;  // there are not places enough
    }
    for (const Share& share : shares)
        thresholds.push_back(keep_naively(net, share.layers, share.keep, floor, returns, kept));
    const std::vector<Memory> weights = net.weights, masks = net.masks;
    const std::vector<std::vector<Memory>> belongings = held;
    const auto unchanged = [&] {
        for (size_t i = 0; i < count; i++) {
            if (net.weights[i].bytes != weights[i].bytes || net.masks[i].bytes != masks[i].bytes) return false;
            for (size_t j = 0; j < held[i].size(); j++)
                if (held[i][j].bytes != belongings[i][j].bytes) return false;
        }
        return true;
    };
    // One that is no number is refused, and nothing is changed, not even by the shares before it.
    const size_t bad = static_cast<size_t>(draw.below(static_cast<int64_t>(count)));
    if (Layer& layer = net.layers[bad]; layer.size > 0) {
        const int64_t at = draw.below(layer.size);
        constexpr uint32_t infinity[types] = {0x7f800000, 0x7f80, 0xfc00};
        std::memcpy(element(layer, at), &infinity[static_cast<int>(layer.type)], bytes_of(layer.type));
        bool refused = false;
        try {
            prune(net.layers, companions, shares, returns, 0, threads);
        } catch (const std::domain_error&) {
            refused = true;
        }
        expect(refused, "prune: infinity");
        Memory good = weights[bad];
        std::memcpy(element(layer, at), good.data() + at * bytes_of(layer.type), bytes_of(layer.type));
        expect(unchanged(), "prune: changes nothing where it refuses");
    }
    expect(prune(net.layers, companions, shares, returns, floor, threads) == thresholds, "prune: the thresholds");
    for (size_t i = 0; i < count; i++) {
        const Layer& layer = net.layers[i];
        Memory was = weights[i], before = masks[i];
        const int each = bytes_of(layer.type);
        for (int64_t at = 0; at < layer.size; at++) {
            expect(layer.mask[at] == kept[i][at], "prune: the masks");
            const bool stays = layer.mask[at] && before.data()[at];
            if (stays) expect(!std::memcmp(was.data() + at * each, element(layer, at), each), "prune: kept weights");
            else expect(!has_bits(layer.type, layer.data, at), "prune: pruned weights");
            for (const Companion& c : companions[i]) {
                const char* place = static_cast<char*>(c.data) + at * c.bytes;
                const char wanted = stays ? 0x11 : 0;
                expect(std::count(place, place + c.bytes, wanted) == c.bytes, "prune: companions");
            }
        }
        for (const Memory& memory : held[i]) expect(memory.is_whole(), "prune: what lies around companions");
    }
    expect(net.is_whole(), "prune: what lies around");
    expect(!enforce(net.layers, companions, threads), "enforce: nothing left to do");
}

void check_enforce(int64_t size, int threads) {
    Net net = some_net(size, true);
    Companions companions(net.layers.size());
    std::vector<Memory> states;
    states.reserve(net.layers.size());
    bool stray = false;
    std::vector<Memory> expected = net.weights;
    for (size_t i = 0; i < net.layers.size(); i++) {
        const Layer& layer = net.layers[i];
        states.emplace_back(8 * layer.size);
        companions[i].push_back({states.back().data(), 8});
        for (int64_t at = 0; at < layer.size; at++) {
            if (layer.mask[at]) continue;
            stray |= has_bits(layer.type, layer.data, at);
            std::memset(expected[i].data() + at * bytes_of(layer.type), 0, bytes_of(layer.type));
        }
    }
    expect(enforce(net.layers, companions, threads) == stray, "enforce: strays");
    for (size_t i = 0; i < net.layers.size(); i++) {
        expect(net.weights[i].bytes == expected[i].bytes, "enforce: weights");
        for (int64_t at = 0; at < net.layers[i].size; at++)
            expect((states[i].data()[8 * at] != 0) == (net.layers[i].mask[at] != 0), "enforce: companions");
        Memory again(8 * net.layers[i].size);
        clear(net.layers[i].mask, net.layers[i].size, {again.data(), 8}, threads);
        expect(again.bytes == states[i].bytes, "clear: as enforce does it");
    }
}

void check_selection(double share) {
    const int64_t rounds = std::max<int64_t>(1, std::lround(25 * share));
    for (int64_t i = 0; i < rounds; i++) {
        const int64_t size = i % 5 ? 150 : 4000;
        doing = "selection of " + std::to_string(size) + ", round " + std::to_string(i);
        check_largest(size, 1);
        check_counting(size, 1);
        check_prune(size, 1);
        check_enforce(size, 1);
    }
    // More than one piece, more than fits into the lists, and more than one thread.
    const int64_t large = std::lround(2 * share);
    for (int64_t i = 0; i < large; i++) {
        doing = "selection of many, round " + std::to_string(i);
        for (int threads : {1, 3}) {
            check_largest(60'000, threads);
            check_prune(60'000, threads);
        }
        check_counting(60'000, 2);
        check_enforce(60'000, 2);
    }
}

void check_threads() {
    doing = "threads";
    for (int threads : {1, 2, 5}) {
        std::vector<int> done(1000);
        std::vector<int> workers(1000);
        parallel(threads, 1000, [&](int worker, int64_t item) {
            done[item]++;
            workers[item] = worker;
        });
        expect(std::all_of(done.begin(), done.end(), [](int times) { return times == 1; }), "each item once");
        expect(std::all_of(workers.begin(), workers.end(), [&](int w) { return w >= 0 && w < threads; }), "workers");
        std::string said;
        try {
            parallel(threads, 1000, [](int, int64_t item) {
                if (item >= 500) throw std::runtime_error("item 500");
            });
        } catch (const std::runtime_error& error) {
            said = error.what();
        }
        expect(said == "item 500", "what is thrown arrives");
        parallel(threads, 0, [](int, int64_t) { expect(false, "no items, no work"); });
    }
    for (int others : {0, 1, 3}) {
        startable = others;
        std::vector<int> done(1000);
        std::atomic<int> most{0};
        parallel(5, 1000, [&](int worker, int64_t item) {
            done[item]++;
            if (worker > most) most = worker;
        });
        expect(std::all_of(done.begin(), done.end(), [](int times) { return times == 1; }), "each item once, by few");
        expect(most <= others, "no more threads than there are");
        startable = others;
        std::vector<int> joined(5);
        team(5, [&](int worker, int workers) { joined[worker] = workers; });
        startable = INT_MAX;
        std::vector<int> expected(5);
        std::fill_n(expected.begin(), others + 1, others + 1);
        expect(joined == expected, "a team of as many as there are");
    }
    bool refused = false;
    try {
        use("sse9");
    } catch (const std::invalid_argument& error) {
        refused = std::strstr(error.what(), "sse9") && std::strstr(error.what(), "baseline");
    }
    expect(refused, "a path that is not there");
}

const Kernels& table_of(Isa isa) {
    use(name(isa));
    return kernels();
}

}  // namespace

int main(int arguments, char** words) {
    const double share = arguments > 1 ? std::atof(words[1]) : 1.0;
    if (!(share > 0)) {
        std::printf("usage: check [share of the work, such as 0.1]\n");
        return 2;
    }
    std::printf("paths:");
    for (Isa isa : available()) std::printf(" %s", name(isa));
    std::printf("; in use: %s; threads: %s\n", name(current()), pool());
    if (current() != available().back()) return 1;
    check_threads();
    for (Isa isa : available()) {
        const int64_t before = checks;
        const Kernels& table = table_of(isa);
        check_kernels(table, share);
        const int64_t kernels_checked = checks - before;
        check_selection(share);
        const int64_t selection_checked = checks - before - kernels_checked;
        check_runtime(share);
        const int64_t runtime_checked = checks - before - kernels_checked - selection_checked;
        check_int8(share);
        const int64_t int8_checked = checks - before - kernels_checked - selection_checked - runtime_checked;
        std::printf("%s: %lld checks of kernels, %lld of selection, updates and enforcement, %lld of the runtime, "
                    "%lld of its 8 bits\n",
                    name(isa), static_cast<long long>(kernels_checked), static_cast<long long>(selection_checked),
                    static_cast<long long>(runtime_checked), static_cast<long long>(int8_checked));
        std::fflush(stdout);
    }
    std::printf("all right\n");
    return 0;
}
