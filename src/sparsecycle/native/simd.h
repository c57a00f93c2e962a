// Vectors of 32-bit integers, and the few operations on them that the portable vector types do not have.
//
// Included by kernels only. Everything has internal linkage: these functions are compiled once per instruction set,
// and the linker must never take one path's copy for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// Before a short loop over vectors, which are to stay in registers.
#if defined(__clang__)
#define SPARSECYCLE_UNROLL _Pragma("unroll")
#else
#define SPARSECYCLE_UNROLL _Pragma("GCC unroll 16")
#endif

// Before a loop whose turns do not depend on each other, which a compiler cannot know of bytes.
#if defined(__clang__)
#define SPARSECYCLE_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define SPARSECYCLE_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace sparsecycle {
namespace SPARSECYCLE_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int lanes = 16, part = 16;
#elif defined(__AVX2__)
constexpr int lanes = 8, part = 32;
#else
constexpr int lanes = 4, part = 16;
#endif

// Elements are looked at in blocks of 64: a word of bits says which of them something holds for. Comparisons become
// bits in parts that fit into registers.
constexpr int block = 64;
constexpr int vectors = part / lanes;

typedef int32_t Ints __attribute__((vector_size(4 * lanes)));
typedef float Floats __attribute__((vector_size(4 * lanes)));
typedef uint16_t Shorts __attribute__((vector_size(2 * lanes)));

template <class Vector, class Element>
inline Vector load(const Element* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <class Element>
inline void store(Ints vector, Element* to) {
    std::memcpy(to, &vector, sizeof vector);
}

inline Ints widen(Shorts x) { return __builtin_convertvector(x, Ints); }

inline Ints max(Ints a, Ints b) { return a > b ? a : b; }

inline int32_t largest(Ints x) {
    int32_t found = x[0];
    for (int i = 1; i < lanes; i++) found = x[i] > found ? x[i] : found;
    return found;
}

// A part's comparisons, whose lanes are 0 or -1, as one bit an element, and as bytes, 0 or 1, written to `bytes`.
#if defined(__AVX512F__)
inline uint64_t bits(const Ints (&m)[vectors]) { return _mm512_movepi32_mask((__m512i)m[0]); }

inline void store(const Ints (&m)[vectors], uint8_t* bytes) {
    _mm_storeu_si128((__m128i*)bytes, _mm_maskz_set1_epi8((__mmask16)bits(m), 1));
}
#elif defined(__AVX2__)
inline __m256i narrow(const Ints (&m)[vectors]) {
    const __m256i low = _mm256_packs_epi32((__m256i)m[0], (__m256i)m[1]);
    const __m256i high = _mm256_packs_epi32((__m256i)m[2], (__m256i)m[3]);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // packs work within halves
    return _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
}

inline uint64_t bits(const Ints (&m)[vectors]) { return (uint32_t)_mm256_movemask_epi8(narrow(m)); }

inline void store(const Ints (&m)[vectors], uint8_t* bytes) {
    _mm256_storeu_si256((__m256i*)bytes, _mm256_and_si256(narrow(m), _mm256_set1_epi8(1)));
}
#elif defined(__SSE2__)
inline __m128i narrow(const Ints (&m)[vectors]) {
    const __m128i low = _mm_packs_epi32((__m128i)m[0], (__m128i)m[1]);
    const __m128i high = _mm_packs_epi32((__m128i)m[2], (__m128i)m[3]);
    return _mm_packs_epi16(low, high);
}

inline uint64_t bits(const Ints (&m)[vectors]) { return (uint32_t)_mm_movemask_epi8(narrow(m)); }

inline void store(const Ints (&m)[vectors], uint8_t* bytes) {
    _mm_storeu_si128((__m128i*)bytes, _mm_and_si128(narrow(m), _mm_set1_epi8(1)));
}
#elif defined(__ARM_NEON)
inline uint8x16_t narrow(const Ints (&m)[vectors]) {
    const int16x8_t low = vcombine_s16(vmovn_s32((int32x4_t)m[0]), vmovn_s32((int32x4_t)m[1]));
    const int16x8_t high = vcombine_s16(vmovn_s32((int32x4_t)m[2]), vmovn_s32((int32x4_t)m[3]));
    return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}

inline uint64_t bits(const Ints (&m)[vectors]) {
    const uint8x16_t weights = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    const uint8x16_t bytes = vandq_u8(narrow(m), weights);
    return vaddv_u8(vget_low_u8(bytes)) | (uint64_t)vaddv_u8(vget_high_u8(bytes)) << 8;
}

inline void store(const Ints (&m)[vectors], uint8_t* bytes) { vst1q_u8(bytes, vandq_u8(narrow(m), vdupq_n_u8(1))); }
#else
inline uint64_t bits(const Ints (&m)[vectors]) {
    uint64_t word = 0;
    for (int i = 0; i < part; i++) word |= (uint64_t)(m[i / lanes][i % lanes] & 1) << i;
    return word;
}

inline void store(const Ints (&m)[vectors], uint8_t* bytes) {
    for (int i = 0; i < part; i++) bytes[i] = m[i / lanes][i % lanes] & 1;
}
#endif

// As many bytes as there are lanes, as numbers.
inline Ints spread(const uint8_t* bytes) {
#if defined(__AVX512F__)
    return (Ints)_mm512_maskz_cvtepu8_epi32((__mmask16)-1, _mm_loadu_si128((const __m128i*)bytes));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)bytes));
#elif defined(__SSE2__)
    const __m128i word = _mm_cvtsi32_si128(load<int32_t>(bytes)), zero = _mm_setzero_si128();
    return (Ints)_mm_unpacklo_epi16(_mm_unpacklo_epi8(word, zero), zero);
#else
    Ints numbers;
    for (int i = 0; i < lanes; i++) numbers[i] = bytes[i];
    return numbers;
#endif
}

// One bit a byte, out of a block of mask bytes, which are 0 or 1.
inline uint64_t bits(const uint8_t* mask) {
    uint64_t word = 0;
#if defined(__AVX512BW__)
    const __m512i bytes = _mm512_loadu_si512(mask);
    word = _mm512_test_epi8_mask(bytes, bytes);
#elif defined(__AVX2__)
    for (int i = 0; i < 2; i++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i*)(mask + 32 * i));
        word |= (uint64_t)(uint32_t)_mm256_movemask_epi8(_mm256_cmpgt_epi8(bytes, _mm256_setzero_si256())) << (32 * i);
    }
#elif defined(__SSE2__)
    for (int i = 0; i < 4; i++) {
        __m128i bytes = _mm_loadu_si128((const __m128i*)(mask + 16 * i));
        word |= (uint64_t)_mm_movemask_epi8(_mm_cmpgt_epi8(bytes, _mm_setzero_si128())) << (16 * i);
    }
#else
    for (int i = 0; i < 8; i++) {
        uint64_t bytes = load<uint64_t>(mask + 8 * i);
        word |= (bytes * 0x0102040810204080u >> 56) << (8 * i);  // gathers the lowest bit of each byte
    }
#endif
    return word;
}

}  // namespace
}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
