// Vectors of floats of a given number of lanes. Included by kernels only: everything has internal linkage, for these
// functions are compiled once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "../simd.h"

#define SPARSECYCLE_INLINE inline __attribute__((always_inline))

namespace sparsecycle {
namespace SPARSECYCLE_ISA {
namespace {

template <int L>
struct Of {
    typedef float Floats __attribute__((vector_size(4 * L), may_alias));
    typedef int32_t Ints __attribute__((vector_size(4 * L), may_alias));
};
template <int L>
using Vector = typename Of<L>::Floats;

// Vectors of activations are aligned to their size.
template <int L>
SPARSECYCLE_INLINE Vector<L> at(const float* place) {
    return *reinterpret_cast<const Vector<L>*>(place);
}

template <int L>
SPARSECYCLE_INLINE void put(Vector<L> vector, float* place) {
    *reinterpret_cast<Vector<L>*>(place) = vector;
}

template <int L>
SPARSECYCLE_INLINE Vector<L> all(float value) {
    return value - Vector<L>{};
}

template <int L>
SPARSECYCLE_INLINE Vector<L> greatest(Vector<L> a, Vector<L> b) {
    return a > b ? a : b;
}

// NaN stays, as in torch.
template <int L>
SPARSECYCLE_INLINE Vector<L> limit(Vector<L> x, Vector<L> low, Vector<L> high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

#if defined(__SSE2__)
// The instructions' second operand is what they give for NaN; compilers do not see that this is the same.
template <>
SPARSECYCLE_INLINE Vector<4> limit<4>(Vector<4> x, Vector<4> low, Vector<4> high) {
    return (Vector<4>)_mm_min_ps((__m128)high, _mm_max_ps((__m128)low, (__m128)x));
}
#endif
#if defined(__AVX2__)
template <>
SPARSECYCLE_INLINE Vector<8> limit<8>(Vector<8> x, Vector<8> low, Vector<8> high) {
    return (Vector<8>)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
}
#endif
#if defined(__AVX512F__)
template <>
SPARSECYCLE_INLINE Vector<16> limit<16>(Vector<16> x, Vector<16> low, Vector<16> high) {
    constexpr __mmask16 every = 0xffff;
    return (Vector<16>)_mm512_maskz_min_ps(every, (__m512)high, _mm512_maskz_max_ps(every, (__m512)low, (__m512)x));
}
#endif

// Weights are kept as float32 or as bfloat16, the upper half of that.
SPARSECYCLE_INLINE float one(const float* value) { return *value; }

SPARSECYCLE_INLINE float one(const uint16_t* value) {
    const uint32_t bits = static_cast<uint32_t>(*value) << 16;
    float number;
    std::memcpy(&number, &bits, sizeof number);
    return number;
}

// Four weights in a register, each of which can be spread over a vector without another load: load slots are what
// sparse kernels have least of.
template <int L>
struct Four {
    Vector<4> weights;
};

template <int I, int L>
SPARSECYCLE_INLINE Vector<L> spread(const Four<L>& four) {
    return all<L>(four.weights[I]);
}

template <int L>
SPARSECYCLE_INLINE void take(Four<L>& four, const float* weights) {
    std::memcpy(&four, weights, sizeof four);
}

template <int L>
SPARSECYCLE_INLINE void take(Four<L>& four, const uint16_t* weights) {
    for (int i = 0; i < 4; i++) four.weights[i] = one(weights + i);
}

#if defined(__SSE2__)
SPARSECYCLE_INLINE __m128 widen(const uint16_t* weights) {
    const __m128i halves = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights));
    return _mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), halves));
}

template <int I>
SPARSECYCLE_INLINE Vector<4> spread(const Four<4>& four) {
    return (Vector<4>)_mm_shuffle_ps((__m128)four.weights, (__m128)four.weights, I * 0x55);
}
SPARSECYCLE_INLINE void take(Four<4>& four, const uint16_t* weights) { four.weights = (Vector<4>)widen(weights); }
#endif

#if defined(__AVX2__)
template <>
struct Four<8> {
    __m256 weights;
};
template <int I>
SPARSECYCLE_INLINE Vector<8> spread(const Four<8>& four) {
    return (Vector<8>)_mm256_permute_ps(four.weights, I * 0x55);
}
SPARSECYCLE_INLINE void take(Four<8>& four, const float* weights) {
    four.weights = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(weights));
}
SPARSECYCLE_INLINE void take(Four<8>& four, const uint16_t* weights) {
    const __m128 four_ = widen(weights);
    four.weights = _mm256_set_m128(four_, four_);
}
#endif

#if defined(__AVX512F__)
template <>
struct Four<16> {
    __m512 weights;
};
template <int I>
SPARSECYCLE_INLINE Vector<16> spread(const Four<16>& four) {
    return (Vector<16>)_mm512_maskz_permute_ps((__mmask16)-1, four.weights, I * 0x55);
}
SPARSECYCLE_INLINE void take(Four<16>& four, const float* weights) {
    four.weights = _mm512_maskz_broadcast_f32x4((__mmask16)-1, _mm_loadu_ps(weights));
}
SPARSECYCLE_INLINE void take(Four<16>& four, const uint16_t* weights) {
    four.weights = _mm512_maskz_broadcast_f32x4((__mmask16)-1, widen(weights));
}
#endif

// Rows become columns: element j of vector i goes to element i of vector j.
template <int L>
SPARSECYCLE_INLINE void transpose(Vector<L> (&square)[L]) {
    for (int i = 0; i < L; i++) {
        for (int j = 0; j < i; j++) {
            const float kept = square[i][j];
            square[i][j] = square[j][i];
            square[j][i] = kept;
        }
    }
}

#if defined(__AVX2__)
template <>
SPARSECYCLE_INLINE void transpose<8>(Vector<8> (&square)[8]) {
    __m256 pairs[8], fours[8];
    SPARSECYCLE_UNROLL
    for (int i = 0; i < 4; i++) {
        pairs[2 * i] = _mm256_unpacklo_ps((__m256)square[2 * i], (__m256)square[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps((__m256)square[2 * i], (__m256)square[2 * i + 1]);
    }
    SPARSECYCLE_UNROLL
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    SPARSECYCLE_UNROLL
    for (int i = 0; i < 4; i++) {
        square[i] = (Vector<8>)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        square[i + 4] = (Vector<8>)_mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}
#endif

#if defined(__AVX512F__)
// Of two vectors, the elements in turn: those of their lower halves, and of their upper ones. Doing this four times with
// rows i and i + 8 transposes.
template <>
SPARSECYCLE_INLINE void transpose<16>(Vector<16> (&square)[16]) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    for (int round = 0; round < 4; round++) {
        Vector<16> merged[16];
        SPARSECYCLE_UNROLL
        for (int i = 0; i < 8; i++) {
            const __m512 a = (__m512)square[i], b = (__m512)square[i + 8];
            merged[2 * i] = (Vector<16>)_mm512_permutex2var_ps(a, low, b);
            merged[2 * i + 1] = (Vector<16>)_mm512_permutex2var_ps(a, high, b);
        }
        std::memcpy(&square, &merged, sizeof merged);
    }
}
#endif

// Two vectors of the widest kind, and of the elements of both those with the given numbers.
struct Pair {
    Vector<lanes> first, second;
};

SPARSECYCLE_INLINE Vector<lanes> pick(const Pair& pair, Ints which) {
#if defined(__AVX512F__)
    return (Vector<lanes>)_mm512_permutex2var_ps((__m512)pair.first, (__m512i)which, (__m512)pair.second);
#elif defined(__AVX2__)
    const __m256i index = (__m256i)which;
    const __m256 first = _mm256_permutevar8x32_ps((__m256)pair.first, index);
    const __m256 second = _mm256_permutevar8x32_ps((__m256)pair.second, index);
    return (Vector<lanes>)_mm256_blendv_ps(first, second, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
#else
    float both[2 * lanes];
    std::memcpy(both, &pair, sizeof both);
    Vector<lanes> picked;
    for (int i = 0; i < lanes; i++) picked[i] = both[which[i]];
    return picked;
#endif
}

// e^x to one or two units in the last place, for x where it is a normal number; 0 below, infinity above.
template <int L>
SPARSECYCLE_INLINE Vector<L> exponential(Vector<L> x) {
    using Ints = typename Of<L>::Ints;
    const Vector<L> bounded = limit<L>(x, all<L>(-88.0f), all<L>(89.0f));  // n is -127 there, or 128
    // x = n ln 2 + r, with ln 2 in two parts so that r is exact; rounded by adding and taking away 1.5 * 2^23
    const float magic = 12582912.0f;
    const Vector<L> shifted = bounded * 1.44269504f + magic;
    const Vector<L> n = shifted - magic;
    const Vector<L> r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    Vector<L> p = all<L>(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const Ints power = ((Ints)shifted << 23) + (127 << 23);  // the lowest bits of `shifted` are n
    return p * (Vector<L>)power;
}

template <int L>
SPARSECYCLE_INLINE Vector<L> silu(Vector<L> x) {
    return x / (1.0f + exponential<L>(-x));
}

}  // namespace
}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
