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

// e^x to one or two units in the last place, for x where it is a normal number; 0 below, infinity above.
template <int L>
SPARSECYCLE_INLINE Vector<L> exponential(Vector<L> x) {
    using Ints = typename Of<L>::Ints;
    const Vector<L> bounded = limit<L>(x, all<L>(-87.3f), all<L>(88.3f));
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
