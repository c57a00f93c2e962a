// Compiled once per instruction set, into the namespace SPARSECYCLE_ISA. Nothing here may be shared between them:
// everything but the table has internal linkage, and the standard library's templates are left out.
#include "kernels.h"

#include "../simd.h"

namespace sparsecycle {
namespace SPARSECYCLE_ISA {

namespace {

constexpr int32_t magnitude_bits = 0x7fffffff;

// The types of numbers, and their bits as those of the same number in float32: of one, and of a vector of them.

struct Float32 {
    int32_t x;
};
struct Bfloat16 {
    uint16_t x;
};
struct Float16 : Bfloat16 {};

inline int32_t bits_of(Float32 number) { return number.x; }

inline int32_t bits_of(Bfloat16 number) { return (int32_t)((uint32_t)number.x << 16); }

constexpr int32_t half_infinity = 0x0f800000;  // its exponent and fraction where float32 has its own

// The float32 number 2^-14 · (1 + fraction), less 2^-14, is what a half-precision number too small to be normal stands
// for. The detour keeps clear of float32's own subnormals, which a thread may have been told to flush to 0.
constexpr int32_t half_smallest = 113 << 23;

inline int32_t bits_of(Float16 number) {
    const int32_t sign = (int32_t)((uint32_t)(number.x & 0x8000) << 16), x = (int32_t)(number.x & 0x7fff) << 13;
    if (x >= half_infinity) return sign | (x + (infinite_key - half_infinity));
    if (x >= 1 << 23) return sign | (x + (112 << 23));
    int32_t sum = x + half_smallest;
    float value, unit;
    std::memcpy(&value, &sum, sizeof value);
    std::memcpy(&unit, &half_smallest, sizeof unit);
    value -= unit;
    std::memcpy(&sum, &value, sizeof sum);
    return sign | sum;
}

inline Ints bits_of(const Float32* numbers) { return load<Ints>(numbers); }

inline Ints bits_of(const Bfloat16* numbers) { return widen(load<Shorts>(numbers)) << 16; }

inline Ints bits_of(const Float16* numbers) {
    const Ints number = widen(load<Shorts>(numbers)), sign = (number & 0x8000) << 16, x = (number & 0x7fff) << 13;
    const Ints unit = Ints{} + half_smallest, small = (Ints)((Floats)(x + half_smallest) - (Floats)unit);
    const Ints large = x + (x >= half_infinity ? Ints{} + (infinite_key - half_infinity) : Ints{} + (112 << 23));
    return sign | (x >= 1 << 23 ? large : small);
}

// Keys.

template <bool Absolute, class Integer>
inline Integer key_of(Integer bits) {
    const Integer magnitude = bits & magnitude_bits;
    if (Absolute) return magnitude;
    const Integer negative = bits >> 31;  // 0 or -1
    return (magnitude ^ negative) - negative;
}

// What is set to 0 or found where a mask is 0, whatever the words of memory stand for. Written out for words of four
// bytes alone, by far the most frequent.

template <class Word>
void clear(const uint8_t* mask, int64_t n, void* data) {
    Word* words = static_cast<Word*>(data);
    int64_t i = 0;
    if constexpr (sizeof(Word) == 4) {
        for (; i + part <= n; i += part) {
            SPARSECYCLE_UNROLL
            for (int p = 0; p < part; p += lanes) store(load<Ints>(words + i + p) & -spread(mask + i + p), words + i + p);
        }
    }
    SPARSECYCLE_INDEPENDENT
    for (int64_t j = i; j < n; j++) words[j] &= -(Word)mask[j];
}

template <class Word>
bool strays(const uint8_t* mask, int64_t n, const void* data) {
    const Word* words = static_cast<const Word*>(data);
    Word found = 0;
    int64_t i = 0;
    if constexpr (sizeof(Word) == 4) {
        Ints each[vectors]{};
        for (; i + part <= n; i += part) {
            SPARSECYCLE_UNROLL
            for (int v = 0; v < vectors; v++)
                each[v] |= load<Ints>(words + i + v * lanes) & (spread(mask + i + v * lanes) - 1);
        }
        for (const Ints& vector : each)
            for (int lane = 0; lane < lanes; lane++) found |= (Word)vector[lane];
    }
    for (; i < n; i++) found |= words[i] & ((Word)mask[i] - 1);
    return found != 0;
}

// `Among`: there is a mask; `Below`: the bracket has a lower end.
template <class Number, bool Absolute, bool Among, bool Below>
Tally collect_if(const Number* scores, const uint8_t* among, int64_t n, int32_t below, int32_t high, Found* found,
                    int64_t room) {
    Tally tally;
    Ints top{};
    int64_t i = 0;
    for (; i + block <= n; i += block) {
        uint64_t above = 0, inside = Below ? 0 : ~uint64_t{0}, zero = 0;
        SPARSECYCLE_UNROLL
        for (int p = 0; p < block; p += part) {
            Ints over[vectors], least[vectors], zeros[vectors];
            SPARSECYCLE_UNROLL
            for (int v = 0; v < vectors; v++) {
                const Ints number = bits_of(scores + i + p + v * lanes), key = key_of<Absolute>(number);
                top = max(top, number & magnitude_bits);
                over[v] = key > high;
                if (Below) least[v] = key > below;
                if (Among) zeros[v] = number == 0;
            }
            above |= bits(over) << p;
            if (Below) inside |= bits(least) << p;
            if (Among) zero |= bits(zeros) << p;
        }
        if (Among) {
            const uint64_t kept = bits(among + i);
            tally.stray |= ~(zero | kept) != 0;
            above &= kept;
            inside &= kept;
        }
        tally.above += __builtin_popcountll(above);
        for (inside &= ~above; inside; inside &= inside - 1) {
            const int64_t at = i + __builtin_ctzll(inside);
            if (tally.inside < room) found[tally.inside] = {key_of<Absolute>(bits_of(scores[at])), (uint32_t)at};
            tally.inside++;
        }
    }
    tally.top = largest(top);
    for (; i < n; i++) {
        const int32_t bits = bits_of(scores[i]), key = key_of<Absolute>(bits), magnitude = bits & magnitude_bits;
        tally.top = magnitude > tally.top ? magnitude : tally.top;
        if (Among && !among[i]) {
            tally.stray |= bits != 0;
        } else if (key > high) {
            tally.above++;
        } else if (key > below) {
            if (tally.inside < room) found[tally.inside] = {key, (uint32_t)i};
            tally.inside++;
        }
    }
    return tally;
}

template <class Number, bool Absolute>
Tally collect(const void* scores, const uint8_t* among, int64_t n, int32_t below, int32_t high, Found* found,
              int64_t room) {
    const Number* numbers = static_cast<const Number*>(scores);
    if (!among) return collect_if<Number, Absolute, false, true>(numbers, among, n, below, high, found, room);
    if (below > lowest_key) return collect_if<Number, Absolute, true, true>(numbers, among, n, below, high, found, room);
    return collect_if<Number, Absolute, true, false>(numbers, among, n, below, high, found, room);
}

template <class Number, bool Absolute>
void mark(const void* scores, const uint8_t* among, int64_t n, int32_t least, uint8_t* mask) {
    const Number* numbers = static_cast<const Number*>(scores);
    int64_t i = 0;
    for (; i + part <= n; i += part) {
        Ints stays[vectors];
        SPARSECYCLE_UNROLL
        for (int v = 0; v < vectors; v++) {
            stays[v] = key_of<Absolute>(bits_of(numbers + i + v * lanes)) >= least;
            if (among) stays[v] &= -spread(among + i + v * lanes);
        }
        store(stays, mask + i);
    }
    for (; i < n; i++) mask[i] = (!among || among[i]) && key_of<Absolute>(bits_of(numbers[i])) >= least;
}

inline void keep(Ints stays, Float32* numbers) { store(load<Ints>(numbers) & stays, numbers); }

inline void keep(Ints stays, Bfloat16* numbers) {
    const Shorts kept = load<Shorts>(numbers) & (Shorts)__builtin_convertvector(stays, Shorts);
    std::memcpy(numbers, &kept, sizeof kept);
}

template <class Number>
void cut(void* weights, int64_t n, int32_t least, uint8_t* mask) {
    Number* numbers = static_cast<Number*>(weights);
    int64_t i = 0;
    for (; i + part <= n; i += part) {
        Ints stays[vectors];
        SPARSECYCLE_UNROLL
        for (int v = 0; v < vectors; v++) {
            stays[v] = (key_of<true>(bits_of(numbers + i + v * lanes)) >= least) & -spread(mask + i + v * lanes);
            keep(stays[v], numbers + i + v * lanes);
        }
        store(stays, mask + i);
    }
    for (; i < n; i++) {
        mask[i] &= key_of<true>(bits_of(numbers[i])) >= least;
        numbers[i].x &= -(decltype(numbers->x))mask[i];
    }
}

template <class Number, bool Absolute>
void histogram(const void* scores, const uint8_t* among, int64_t n, uint32_t prefix, int shift, int bins,
               int64_t* counts) {
    const Number* numbers = static_cast<const Number*>(scores);
    const int width = __builtin_ctz((unsigned)bins);
    for (int64_t i = 0; i < n; i++) {
        const uint64_t key = (uint32_t)key_of<Absolute>(bits_of(numbers[i])) ^ 0x80000000u;
        if (key >> (shift + width) == prefix && (!among || among[i])) counts[(key >> shift) & (uint64_t)(bins - 1)]++;
    }
}

template <class Number>
int32_t top(const void* scores, int64_t n) {
    const Number* numbers = static_cast<const Number*>(scores);
    Ints tops[4]{};
    int64_t i = 0;
    for (; i + 4 * lanes <= n; i += 4 * lanes)
        for (int v = 0; v < 4; v++) tops[v] = max(tops[v], bits_of(numbers + i + v * lanes) & magnitude_bits);
    int32_t found = largest(max(max(tops[0], tops[1]), max(tops[2], tops[3])));
    for (; i < n; i++) {
        const int32_t magnitude = bits_of(numbers[i]) & magnitude_bits;
        found = magnitude > found ? magnitude : found;
    }
    return found;
}

}  // namespace

extern const Kernels selection_kernels;
const Kernels selection_kernels = {
    {{collect<Float32, false>, collect<Float32, true>},
     {collect<Bfloat16, false>, collect<Bfloat16, true>},
     {collect<Float16, false>, collect<Float16, true>}},
    {{mark<Float32, false>, mark<Float32, true>},
     {mark<Bfloat16, false>, mark<Bfloat16, true>},
     {mark<Float16, false>, mark<Float16, true>}},
    {{histogram<Float32, false>, histogram<Float32, true>},
     {histogram<Bfloat16, false>, histogram<Bfloat16, true>},
     {histogram<Float16, false>, histogram<Float16, true>}},
    {cut<Float32>, cut<Bfloat16>, cut<Float16>},
    {top<Float32>, top<Bfloat16>, top<Float16>},
    {nullptr, clear<uint16_t>, clear<uint32_t>, clear<uint64_t>},
    {nullptr, strays<uint16_t>, strays<uint32_t>, strays<uint64_t>},
};

}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
