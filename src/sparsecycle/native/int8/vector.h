// Registers of bytes, and two ways of multiplying four of them by four weights and adding it all to sums of 32 bits, both
// exact. Included by kernels only: everything has internal linkage, for these functions are compiled once per
// instruction set.
//
//   Quads  the four bytes of a place become neighbours. With VNNI, vpdpbusd multiplies them, without a sign, by weights
//          with one. vpmaddubsw does too, but adds two products in 16 bits, which 2 * 255 * 127 does not fit into;
//          2 * 128 * 127 does. So without VNNI activations have the sign, and weights are magnitudes, with a factor of
//          1 or -1 for each two, which must not differ in sign.
//   Pairs  two bytes of a place become neighbours of 16 bits. That is more work for sparse kernels, but asks nothing of
//          the weights; dense kernels do it once for all output channels.
#pragma once

#include <cstdint>
#include <cstring>

#include "../runtime/vector.h"

namespace sparsecycle {
namespace SPARSECYCLE_ISA {
namespace {

#if defined(__AVX512VNNI__)
constexpr bool vnni = true;
constexpr uint8_t flip = 0;
constexpr int weight_words = 1;
#else
constexpr bool vnni = false;
constexpr uint8_t flip = 128;
constexpr int weight_words = 2;
#endif

template <int N>
struct Bytes {
    typedef uint8_t Of __attribute__((vector_size(N), may_alias));
};
template <int N>
using Octets = typename Bytes<N>::Of;

// Operations on registers of N bytes. Those on two of them work within 16 bytes.
template <int N>
struct Wide;

#if defined(__SSE2__)
#define SPARSECYCLE_WIDE(BITS, PREFIX)                                                                         \
    template <>                                                                                                \
    struct Wide<BITS / 8> {                                                                                    \
        using Register = __m##BITS##i;                                                                         \
        static SPARSECYCLE_INLINE Register all(uint32_t x) { return PREFIX##_set1_epi32((int32_t)x); }         \
        static SPARSECYCLE_INLINE Register add(Register a, Register b) { return PREFIX##_add_epi32(a, b); }    \
        static SPARSECYCLE_INLINE Register low8(Register a, Register b) { return PREFIX##_unpacklo_epi8(a, b); } \
        static SPARSECYCLE_INLINE Register high8(Register a, Register b) { return PREFIX##_unpackhi_epi8(a, b); } \
        static SPARSECYCLE_INLINE Register low16(Register a, Register b) { return PREFIX##_unpacklo_epi16(a, b); } \
        static SPARSECYCLE_INLINE Register high16(Register a, Register b) { return PREFIX##_unpackhi_epi16(a, b); } \
        static SPARSECYCLE_INLINE Register upper(Register x) { return PREFIX##_srai_epi16(x, 8); }             \
        static SPARSECYCLE_INLINE Register dot(Register a, Register b) { return PREFIX##_madd_epi16(a, b); }   \
        static SPARSECYCLE_INLINE Register narrow(Register a, Register b, Register c, Register d) {            \
            return PREFIX##_packus_epi16(PREFIX##_packs_epi32(a, b), PREFIX##_packs_epi32(c, d));              \
        }                                                                                                      \
    };
SPARSECYCLE_WIDE(128, _mm)
SPARSECYCLE_INLINE __m128i nearest(Vector<4> x) { return _mm_cvtps_epi32((__m128)x); }
#if defined(__AVX2__)
SPARSECYCLE_WIDE(256, _mm256)
SPARSECYCLE_INLINE __m256i nearest(Vector<8> x) { return _mm256_cvtps_epi32((__m256)x); }
#endif
#if defined(__AVX512BW__)
SPARSECYCLE_WIDE(512, _mm512)
SPARSECYCLE_INLINE __m512i nearest(Vector<16> x) { return _mm512_maskz_cvtps_epi32((__mmask16)-1, (__m512)x); }
#endif
#undef SPARSECYCLE_WIDE
#else
template <>
struct Wide<16> {
    typedef uint8_t Register __attribute__((vector_size(16), may_alias));
    typedef int16_t Shorts __attribute__((vector_size(16)));
    typedef Of<4>::Ints Ints;

    static SPARSECYCLE_INLINE Register all(uint32_t x) { return (Register)(Ints{} + (int32_t)x); }
    static SPARSECYCLE_INLINE Register add(Register a, Register b) { return (Register)((Ints)a + (Ints)b); }
    // The elements from the given one on of a and b in turns.
    template <class Elements>
    static SPARSECYCLE_INLINE Register zip(Elements a, Elements b, int from) {
        Elements zipped{};
        for (size_t i = 0; i < 8 / sizeof a[0]; i++) {
            zipped[2 * i] = a[from + i];
            zipped[2 * i + 1] = b[from + i];
        }
        return (Register)zipped;
    }
    static SPARSECYCLE_INLINE Register low8(Register a, Register b) { return zip(a, b, 0); }
    static SPARSECYCLE_INLINE Register high8(Register a, Register b) { return zip(a, b, 8); }
    static SPARSECYCLE_INLINE Register low16(Register a, Register b) { return zip((Shorts)a, (Shorts)b, 0); }
    static SPARSECYCLE_INLINE Register high16(Register a, Register b) { return zip((Shorts)a, (Shorts)b, 4); }
    static SPARSECYCLE_INLINE Register upper(Register x) { return (Register)((Shorts)x >> 8); }
    static SPARSECYCLE_INLINE Register dot(Register a, Register b) {
        const Ints products = (Ints)((Shorts)a * (Shorts)b);  // of bytes with a sign: they fit, and so do two
        return (Register)((Ints)(products << 16 >> 16) + (products >> 16));
    }
    static SPARSECYCLE_INLINE Register narrow(Register a, Register b, Register c, Register d) {
        const Ints from[4] = {(Ints)a, (Ints)b, (Ints)c, (Ints)d};
        Register made{};
        for (int i = 0; i < 16; i++) {
            const int32_t x = from[i / 4][i % 4];
            made[i] = static_cast<uint8_t>(x < 0 ? 0 : x > 255 ? 255 : x);
        }
        return made;
    }
};
SPARSECYCLE_INLINE Wide<16>::Register nearest(Vector<4> x) {
    const float magic = 12582912.0f;  // see in_order; what is far from a byte need not be near
    x = limit<4>(x, all<4>(-1.0f), all<4>(256.0f)) + magic;
    return (Wide<16>::Register)((Of<4>::Ints)x - (Of<4>::Ints)all<4>(magic));
}
#endif

template <int N>
using Register = typename Wide<N>::Register;

// A number of 32 bits for each of N places, in the order in which interleaving leaves them: of each 16 bytes the first
// four places are in of[0], and so on.
template <int N>
struct Sums {
    Register<N> of[4];
};

#if defined(__SSSE3__)
template <int N>
struct Quads {
    Sums<N> x;

    SPARSECYCLE_INLINE explicit Quads(const Register<N> (&from)[4]) {
        using W = Wide<N>;
        const Register<N> low = W::low8(from[0], from[1]), high = W::high8(from[0], from[1]);
        const Register<N> low2 = W::low8(from[2], from[3]), high2 = W::high8(from[2], from[3]);
        x = {{W::low16(low, low2), W::high16(low, low2), W::low16(high, high2), W::high16(high, high2)}};
    }

    SPARSECYCLE_INLINE void multiply(const Register<N> (&weight)[2], Sums<N>& sums) const {
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) sums.of[k] = dot(sums.of[k], x.of[k], weight[0], weight[1]);
    }

#if defined(__AVX512VNNI__)
    static SPARSECYCLE_INLINE __m128i dot(__m128i sums, __m128i x, __m128i weights, __m128i) {
        return _mm_dpbusd_epi32(sums, x, weights);
    }
    static SPARSECYCLE_INLINE __m256i dot(__m256i sums, __m256i x, __m256i weights, __m256i) {
        return _mm256_dpbusd_epi32(sums, x, weights);
    }
    static SPARSECYCLE_INLINE __m512i dot(__m512i sums, __m512i x, __m512i weights, __m512i) {
        return _mm512_dpbusd_epi32(sums, x, weights);
    }

    static void encode(const int8_t* weights, uint32_t* words) { std::memcpy(words, weights, 4); }
    static constexpr bool alike = false;  // whether the first and the second two weights must not differ in sign

    // The same of q and weights.
    static SPARSECYCLE_INLINE Register<N> add_products(Register<N> sums, Register<N> q, Register<N> weights) {
        return dot(sums, q, weights, weights);
    }
#else
    static SPARSECYCLE_INLINE Register<N> dot(Register<N> sums, Register<N> x, Register<N> sizes, Register<N> signs) {
        return Wide<N>::add(sums, Wide<N>::dot(products(sizes, x), signs));
    }
    static SPARSECYCLE_INLINE __m128i products(__m128i a, __m128i b) { return _mm_maddubs_epi16(a, b); }
#if defined(__AVX2__)
    static SPARSECYCLE_INLINE __m256i products(__m256i a, __m256i b) { return _mm256_maddubs_epi16(a, b); }
#endif
#if defined(__AVX512BW__)
    static SPARSECYCLE_INLINE __m512i products(__m512i a, __m512i b) { return _mm512_maddubs_epi16(a, b); }
#endif

    static void encode(const int8_t* weights, uint32_t* words) {
        uint8_t sizes[4];
        for (int i = 0; i < 4; i++) sizes[i] = static_cast<uint8_t>(weights[i] < 0 ? -weights[i] : weights[i]);
        int16_t signs[2];
        for (int i = 0; i < 2; i++) signs[i] = weights[2 * i] < 0 || weights[2 * i + 1] < 0 ? -1 : 1;
        std::memcpy(words, sizes, 4);
        std::memcpy(words + 1, signs, 4);
    }
    static constexpr bool alike = true;

    static SPARSECYCLE_INLINE Register<N> add_products(Register<N> sums, Register<N> q, Register<N> weights) {
        return Wide<N>::add(sums, Wide<N>::dot(products(q, weights), Wide<N>::all(0x10001)));
    }
#endif
};
#endif

#if !defined(__AVX512VNNI__)
template <int N>
struct Pairs {
    Sums<N> x[2];

    SPARSECYCLE_INLINE explicit Pairs(const Register<N> (&from)[4]) {
        using W = Wide<N>;
        const auto widened = [](Register<N> low, Register<N> high) {
            return Sums<N>{{W::upper(W::low8(low, low)), W::upper(W::high8(low, low)), W::upper(W::low8(high, high)),
                            W::upper(W::high8(high, high))}};
        };
        SPARSECYCLE_UNROLL
        for (int i = 0; i < 2; i++) {
            x[i] = widened(W::low8(from[2 * i], from[2 * i + 1]), W::high8(from[2 * i], from[2 * i + 1]));
        }
    }

    SPARSECYCLE_INLINE void multiply(const Register<N> (&weight)[2], Sums<N>& sums) const {
        using W = Wide<N>;
        SPARSECYCLE_UNROLL
        for (int i = 0; i < 2; i++) {
            SPARSECYCLE_UNROLL
            for (int k = 0; k < 4; k++) sums.of[k] = W::add(sums.of[k], W::dot(x[i].of[k], weight[i]));
        }
    }

    static void encode(const int8_t* weights, uint32_t* words) {
        const int16_t wide[4] = {weights[0], weights[1], weights[2], weights[3]};
        std::memcpy(words, wide, 8);
    }
    static constexpr bool alike = false;
};
#endif

template <int N>
#if defined(__SSSE3__)
using Sparse = Quads<N>;
#else
using Sparse = Pairs<N>;
#endif

template <int N>
#if defined(__AVX512VNNI__)
using Dense = Quads<N>;
#else
using Dense = Pairs<N>;
#endif

// A word for each of a register's B equal parts.
template <int N, int B>
SPARSECYCLE_INLINE Register<N> spread(const uint32_t (&words)[B]) {
    Register<N> made = Wide<N>::all(words[0]);
#if defined(__AVX2__)
    if constexpr (N == 32 && B == 2) made = _mm256_blend_epi32(made, Wide<N>::all(words[1]), 0xf0);
#endif
#if defined(__AVX512F__)
    if constexpr (N == 64) {
        SPARSECYCLE_UNROLL
        for (int b = 1; b < B; b++) {
            made = _mm512_mask_mov_epi32(made, static_cast<__mmask16>(0xffff << (16 / B * b)), Wide<N>::all(words[b]));
        }
    }
#endif
    return made;
}

// As many bytes from each of B places, `apart` bytes on.
template <int N, int B>
SPARSECYCLE_INLINE Register<N> join(const uint8_t* const (&places)[B], ptrdiff_t apart) {
    if constexpr (B == 1) {
        return *reinterpret_cast<const Register<N>*>(places[0] + apart);
    } else {
#if defined(__AVX2__)
        const auto part = [&](int b) { return reinterpret_cast<const Register<N / B>*>(places[b] + apart); };
        if constexpr (N == 32) return _mm256_inserti128_si256(_mm256_castsi128_si256(*part(0)), *part(1), 1);
#endif
#if defined(__AVX512F__)
        constexpr __mmask16 every = 0xffff;
        if constexpr (N == 64 && B == 2) {
            return _mm512_maskz_inserti64x4(every & 0xff, _mm512_castsi256_si512(*part(0)), *part(1), 1);
        }
        if constexpr (N == 64 && B == 4) {
            __m512i made = _mm512_castsi128_si512(*part(0));
            made = _mm512_maskz_inserti32x4(every, made, *part(1), 1);
            made = _mm512_maskz_inserti32x4(every, made, *part(2), 2);
            return _mm512_maskz_inserti32x4(every, made, *part(3), 3);
        }
#endif
    }
}

// Picks a byte for each of a register's out of a window of channels, whose two halves need not follow each other.
#if defined(__AVX512VBMI__)
template <int Channels>
struct Window {
    static_assert(Channels == 128);
    static constexpr int next = 16;
    __m512i choice;

    SPARSECYCLE_INLINE __m512i operator()(const uint8_t* first, const uint8_t* second) const {
        return _mm512_permutex2var_epi8(_mm512_load_si512(first), choice, _mm512_load_si512(second));
    }
};
#elif defined(__AVX2__)
#if defined(__AVX512BW__)
SPARSECYCLE_INLINE __m512i of_16(const uint8_t* table, __m512i choice) {
    const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm512_shuffle_epi8(_mm512_maskz_broadcast_i32x4((__mmask16)-1, bytes), choice);
}
#else
SPARSECYCLE_INLINE __m256i of_16(const uint8_t* table, __m256i choice) {
    const __m128i bytes = _mm_load_si128(reinterpret_cast<const __m128i*>(table));
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), choice);
}
#endif

// Tables of 16. The shuffle looks at the lowest four bits of a choice, and gives 0 where the highest is set. Of two
// tables that one tells them apart; of more, the bits from the fifth on do, and 0x70 carries into it what is another's.
template <int Channels>
struct Window {
    static constexpr int N = 4 * lanes, tables = Channels / 16;
    static constexpr int next = tables == 2 ? 128 : 16;
    Octets<N> choices[tables];

    SPARSECYCLE_INLINE explicit Window(Register<N> choice) {
        SPARSECYCLE_UNROLL
        for (int t = 0; t < tables; t++) {
            choices[t] = (Octets<N>)choice ^ (uint8_t)(next * t);
            if (tables > 2) choices[t] += (uint8_t)0x70;
        }
    }

    SPARSECYCLE_INLINE Register<N> operator()(const uint8_t* first, const uint8_t* second) const {
        Octets<N> found{};
        SPARSECYCLE_UNROLL
        for (int t = 0; t < tables; t++) {
            const uint8_t* table = t < 2 ? first + 16 * t : second + 16 * (t - 2);
            found |= (Octets<N>)of_16(table, (Register<N>)choices[t]);
        }
        return (Register<N>)found;
    }
};
#endif

template <int N>
SPARSECYCLE_INLINE Vector<N / 4> floats(Register<N> integers) {
    return __builtin_convertvector((typename Of<N / 4>::Ints)integers, Vector<N / 4>);
}

// N stored activations as numbers q, in the order of sums.
template <int N>
SPARSECYCLE_INLINE Sums<N> widen(Register<N> stored) {
    using W = Wide<N>;
    const Register<N> q = (Register<N>)((Octets<N>)stored ^ flip), zero = W::all(0);
    const Register<N> low = W::low8(q, zero), high = W::high8(q, zero);
    return {{W::low16(low, zero), W::high16(low, zero), W::low16(high, zero), W::high16(high, zero)}};
}

// From numbers in that order: the nearest integers, limited to low ... high, as stored.
template <int N>
SPARSECYCLE_INLINE Octets<N> activations(const Vector<N / 4> (&t)[4], uint8_t low, uint8_t high) {
    Octets<N> q = (Octets<N>)Wide<N>::narrow(nearest(t[0]), nearest(t[1]), nearest(t[2]), nearest(t[3]));
    q = q < low ? Octets<N>{} + low : q;
    q = q > high ? Octets<N>{} + high : q;
    return q ^ flip;
}

// L activations as numbers, in their order; flipped, they are q.
template <int L>
SPARSECYCLE_INLINE Vector<L> in_order(const uint8_t* place, uint8_t flipped) {
    Octets<L> stored;
    std::memcpy(&stored, place, L);
    return __builtin_convertvector(__builtin_convertvector(stored ^ flipped, typename Of<L>::Ints), Vector<L>);
}

// The lowest byte of each integer. Where compilers would take vectors apart for it, they are told how.
template <int L>
SPARSECYCLE_INLINE Octets<L> lowest(typename Of<L>::Ints x) {
    return __builtin_convertvector(x, Octets<L>);
}
#if defined(__AVX2__)
template <>
SPARSECYCLE_INLINE Octets<8> lowest<8>(Of<8>::Ints x) {
    const __m256i fours = _mm256_shuffle_epi8((__m256i)x, _mm256_set1_epi32(0x0c080400));
    const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    return (Octets<8>)_mm_cvtsi128_si64(eight);
}
#endif
#if defined(__AVX512BW__)
template <>
SPARSECYCLE_INLINE Octets<16> lowest<16>(Of<16>::Ints x) {
    return (Octets<16>)_mm512_maskz_cvtepi32_epi8((__mmask16)-1, (__m512i)x);
}
#endif

// The other way round: the nearest integers.
template <int L>
SPARSECYCLE_INLINE void put_in_order(Vector<L> t, float low, float high, uint8_t flipped, uint8_t* place) {
    const float magic = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer, in its lowest bits
    const auto bits = (typename Of<L>::Ints)(limit<L>(t, all<L>(low), all<L>(high)) + magic);
    const Octets<L> made = lowest<L>(bits) ^ flipped;
    std::memcpy(place, &made, L);
}

}  // namespace
}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
