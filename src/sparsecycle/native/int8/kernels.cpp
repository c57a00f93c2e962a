// Convolutions as sums of shifted vectors of bytes.
//
// A sparse kernel takes four weights of an output channel at a time, and interleaves the four vectors that they multiply:
// four loads, eight unpacks, and one to three operations for each four registers of sums. That is bound by arithmetic,
// not by loads as with floats, so tiles are small. A dense kernel interleaves once for all output channels.
#include "kernels.h"

#include "vector.h"

namespace sparsecycle {
namespace SPARSECYCLE_ISA {
namespace {

using int8::Combining;
using int8::Finish;
using int8::Gather;
using int8::Pooling;
using int8::Settling;
using int8::Tile;
using int8::Weights;

// A number for each of B channels, in its part of a register.
template <int N, int B, class Number>
SPARSECYCLE_INLINE Register<N> each(const Number* numbers, const uint16_t* channels) {
    uint32_t words[B];
    for (int b = 0; b < B; b++) std::memcpy(words + b, numbers + channels[b], 4);
    return spread<N, B>(words);
}

// Calls copy(four numbers of `sums`, the channel and the lane that they are of).
template <int L, int B, class Number, class Copy>
SPARSECYCLE_INLINE void unravel(Number* sums, Copy&& copy) {
    for (int i = 0; i < L * B; i += 4) copy(sums + i % 16 / 4 * (L * B / 4) + i / 16 * 4, i / L, i % L);
}

// What L places of B output channels sum up to before a block, for the v-th vector of a tile.
template <int L, int B>
SPARSECYCLE_INLINE void begin(Sums<L * B>& sums, const Tile& tile, const uint16_t* channels, int v, int vectors) {
    if (tile.first) {
        const Register<L * B> start = each<L * B, B>(tile.start, channels);
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) sums.of[k] = start;
    } else if constexpr (B == 1) {
        const Register<L>* kept = reinterpret_cast<const Register<L>*>(tile.sums + (channels[0] * vectors + v) * L);
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) sums.of[k] = kept[k];
    } else {
        alignas(L * B) int32_t numbers[L * B];
        unravel<L, B>(numbers, [&](int32_t* four, int b, int lane) {
            std::memcpy(four, tile.sums + (channels[b] * vectors + v) * L + lane, 16);
        });
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) sums.of[k] = reinterpret_cast<const Register<L * B>*>(numbers)[k];
    }
}

// Keeps the sums for the next block.
template <int L, int B>
SPARSECYCLE_INLINE void keep(const Sums<L * B>& sums, const Tile& tile, const uint16_t* channels, int v, int vectors) {
    if constexpr (B == 1) {
        Register<L>* kept = reinterpret_cast<Register<L>*>(tile.sums + (channels[0] * vectors + v) * L);
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) kept[k] = sums.of[k];
    } else {
        alignas(L * B) int32_t numbers[L * B];
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) reinterpret_cast<Register<L * B>*>(numbers)[k] = sums.of[k];
        unravel<L, B>(numbers, [&](const int32_t* four, int b, int lane) {
            std::memcpy(tile.sums + (channels[b] * vectors + v) * L + lane, four, 16);
        });
    }
}

template <int L, int B>
SPARSECYCLE_INLINE void write_floats(const Vector<L * B / 4> (&t)[4], const Tile& tile, const Activation& activation,
                                     const uint16_t* channels, int v) {
    constexpr int F = L * B / 4;
    alignas(L * B) float numbers[L * B];
    for (int k = 0; k < 4; k++) {
        put<F>(limit<F>(t[k], all<F>(activation.low), all<F>(activation.high)), numbers + k * F);
    }
    unravel<L, B>(numbers, [&](float* four, int b, int lane) {
        for (int i = 0; tile.inside && i < 4; i++) four[i] = tile.inside[v * L + lane + i] ? four[i] : 0.0f;
        float* output = static_cast<float*>(tile.output) + channels[b] * tile.output_channel + v * tile.output_apart;
        std::memcpy(output + lane, four, 16);
    });
}

template <int L, int B>
SPARSECYCLE_INLINE void write_bytes(Octets<L * B> bytes, const Tile& tile, uint8_t outside, const uint16_t* channels,
                                    int v) {
    for (int b = 0; b < B; b++) {
        Octets<L> part;
        std::memcpy(&part, reinterpret_cast<const char*>(&bytes) + b * L, L);
        if (tile.inside) {
            const Octets<L> inside = *reinterpret_cast<const Octets<L>*>(tile.inside + v * L);
            part = (part & inside) | (outside & ~inside);
        }
        uint8_t* first = static_cast<uint8_t*>(tile.output) + channels[b] * tile.output_channel;
        *reinterpret_cast<Octets<L>*>(first + v * tile.output_apart) = part;
    }
}

template <int L, int B>
SPARSECYCLE_INLINE void end(const Sums<L * B>& sums, const Tile& tile, const Finish& finish, const uint16_t* channels,
                            int v, int vectors) {
    constexpr int N = L * B, F = N / 4;
    if (!tile.last) {
        keep<L, B>(sums, tile, channels, v, vectors);
        return;
    }
    const Vector<F> scale = (Vector<F>)each<N, B>(finish.scale, channels);
    const Vector<F> bias = (Vector<F>)each<N, B>(finish.bias, channels);
    Vector<F> t[4];
    SPARSECYCLE_UNROLL
    for (int k = 0; k < 4; k++) t[k] = floats<N>(sums.of[k]) * scale + bias;
    if (tile.residual) {
        const uint8_t* places[B];
        for (int b = 0; b < B; b++) places[b] = tile.residual + channels[b] * tile.residual_channel;
        const Sums<N> residual = widen<N>(join<N, B>(places, v * tile.residual_apart));
        SPARSECYCLE_UNROLL
        for (int k = 0; k < 4; k++) t[k] += floats<N>(residual.of[k]) * finish.residual_scale;
    }
    if (finish.activation.silu) {
        for (int k = 0; k < 4; k++) t[k] = silu<F>(t[k]);
    }
    if (tile.floats) {
        write_floats<L, B>(t, tile, finish.activation, channels, v);
        return;
    }
    if (finish.activation.silu) {
        for (int k = 0; k < 4; k++) t[k] = t[k] * finish.inverse + finish.zero;
    }
    write_bytes<L, B>(activations<N>(t, finish.low, finish.high), tile, finish.outside, channels, v);
}

// B channels side by side in a register, V vectors of each.
template <int L, int B, int V>
void sparse(const Tile& tile, const Weights& weights, const Finish& finish) {
    constexpr int N = L * B;
    const uint16_t* channels = weights.channels;
    const uint16_t* offset = weights.offsets;
    const uint32_t* weight = weights.weights;
    for (int bundle = 0; bundle < weights.bundles; bundle++, channels += B) {
        Sums<N> sums[V];
        SPARSECYCLE_UNROLL
        for (int v = 0; v < V; v++) begin<L, B>(sums[v], tile, channels, v, V);
        for (uint32_t left = weights.counts[bundle]; left > 0; left--, offset += 4 * B, weight += weight_words * B) {
            uint32_t words[2][B];
            const uint8_t* places[4][B];
            SPARSECYCLE_UNROLL
            for (int b = 0; b < B; b++) {
                words[0][b] = weight[b * weight_words];
                words[1][b] = weight[b * weight_words + weight_words - 1];
                SPARSECYCLE_UNROLL
                for (int i = 0; i < 4; i++) places[i][b] = tile.input + offset[4 * b + i] * ptrdiff_t{8};
            }
            const Register<N> four_weights[2] = {spread<N, B>(words[0]), spread<N, B>(words[1])};
            SPARSECYCLE_UNROLL
            for (int v = 0; v < V; v++) {
                Register<N> x[4];
                SPARSECYCLE_UNROLL
                for (int i = 0; i < 4; i++) x[i] = join<N, B>(places[i], v * tile.input_apart);
                Sparse<N>(x).multiply(four_weights, sums[v]);
            }
        }
        SPARSECYCLE_UNROLL
        for (int v = 0; v < V; v++) end<L, B>(sums[v], tile, finish, channels, v, V);
    }
}

// B channels one after the other, one vector of each.
template <int L, int B>
void dense(const Tile& tile, const Weights& weights, const Finish& finish) {
    const uint32_t fours = *weights.counts;
    Dense<L>* inputs = reinterpret_cast<Dense<L>*>(tile.interleaved);
    for (uint32_t i = 0; i < fours; i++) {
        Register<L> x[4];
        SPARSECYCLE_UNROLL
        for (int j = 0; j < 4; j++) {
            const uint8_t* const place[1] = {tile.input + weights.offsets[4 * i + j] * 8};
            x[j] = join<L, 1>(place, 0);
        }
        inputs[i] = Dense<L>(x);
    }
    const uint16_t* channels = weights.channels;
    const uint32_t* weight = weights.weights;
    for (int bundle = 0; bundle < weights.bundles; bundle++, channels += B) {
        Sums<L> sums[B];
        SPARSECYCLE_UNROLL
        for (int b = 0; b < B; b++) begin<L, 1>(sums[b], tile, channels + b, 0, 1);
        for (uint32_t i = 0; i < fours; i++) {
            SPARSECYCLE_UNROLL
            for (int b = 0; b < B; b++, weight += weight_words) {
                const Register<L> four_weights[2] = {Wide<L>::all(weight[0]), Wide<L>::all(weight[weight_words - 1])};
                inputs[i].multiply(four_weights, sums[b]);
            }
        }
        SPARSECYCLE_UNROLL
        for (int b = 0; b < B; b++) end<L, 1>(sums[b], tile, finish, channels + b, 0, 1);
    }
}

#define SPARSE(L, B, V) {{L, V, B, false}, sparse<L, B, V>}
#define DENSE(L, B) {{L, 1, B, true}, dense<L, B>}

const int8::Convolution convolutions[] = {
#if defined(__AVX512BW__)
    SPARSE(64, 1, 1), SPARSE(64, 1, 2), SPARSE(32, 2, 1), SPARSE(32, 2, 2), SPARSE(16, 4, 1), SPARSE(16, 4, 2),
    DENSE(64, 4), DENSE(32, 4), DENSE(16, 4),
#elif defined(__AVX2__)
    SPARSE(32, 1, 1), SPARSE(32, 1, 2), SPARSE(16, 2, 1), SPARSE(16, 2, 2), DENSE(32, 2), DENSE(16, 2),
#else
    SPARSE(16, 1, 1), SPARSE(16, 1, 2), DENSE(16, 2),
#endif
    {{}, nullptr}};

#if defined(__AVX2__)
template <int Channels, int P>
void gather(const Gather& p) {
    constexpr int N = 4 * lanes;
    Register<N> sums[P];
    const uint8_t* inputs[P];
    SPARSECYCLE_UNROLL
    for (int i = 0; i < P; i++) {
        sums[i] = *reinterpret_cast<const Register<N>*>(p.sums[i]);
        inputs[i] = p.inputs[i];
    }
    const uint8_t* step = p.steps;
    const uint16_t* windows = p.windows;
    for (int left = p.count; left > 0; left--, step += 2 * N, windows += 2) {
        Register<N> choice = *reinterpret_cast<const Register<N>*>(step);
        Register<N> weights = *reinterpret_cast<const Register<N>*>(step + N);
        asm("" : "+x"(choice), "+x"(weights));  // compilers would load them again for each place
        const Window<Channels> picked{choice};
        const ptrdiff_t first = windows[0] * ptrdiff_t{16}, second = windows[1] * ptrdiff_t{16};
        SPARSECYCLE_UNROLL
        for (int i = 0; i < P; i++) {
            sums[i] = Quads<N>::add_products(sums[i], picked(inputs[i] + first, inputs[i] + second), weights);
        }
    }
    SPARSECYCLE_UNROLL
    for (int i = 0; i < P; i++) *reinterpret_cast<Register<N>*>(p.sums[i]) = sums[i];
}

#define GATHER(CHANNELS)                                                                                    \
    {CHANNELS,                                                                                              \
     Window<CHANNELS>::next,                                                                                \
     {nullptr, gather<CHANNELS, 1>, gather<CHANNELS, 2>, gather<CHANNELS, 3>, gather<CHANNELS, 4>,          \
      gather<CHANNELS, 5>, gather<CHANNELS, 6>, gather<CHANNELS, 7>, gather<CHANNELS, 8>}}

const int8::Gatherers gatherers[] = {
#if defined(__AVX512VBMI__)
    GATHER(128),
#else
    GATHER(16), GATHER(32), GATHER(64),
#endif
    {0, 0, {}}};

void settle(const Settling& s, const Finish& finish) {
    constexpr int F = lanes;
    const Vector<F> scale = at<F>(finish.scale + s.first), bias = at<F>(finish.bias + s.first);
    for (int place = 0; place < s.places; place++) {
        const auto sums = *reinterpret_cast<const typename Of<F>::Ints*>(s.sums + place * F);
        Vector<F> t = __builtin_convertvector(sums, Vector<F>) * scale + bias;
        if (s.residual) t += in_order<F>(s.residual + s.from[place], 0) * finish.residual_scale;
        if (finish.activation.silu) t = silu<F>(t);
        if (s.floats) {
            float* output = static_cast<float*>(s.output) + s.to[place];
            put<F>(limit<F>(t, all<F>(finish.activation.low), all<F>(finish.activation.high)), output);
        } else {
            if (finish.activation.silu) t = t * finish.inverse + finish.zero;
            put_in_order<F>(t, finish.low, finish.high, 0, static_cast<uint8_t*>(s.output) + s.to[place]);
        }
    }
}
#endif

// Calls use(place) for each vector of a window.
template <class Use>
SPARSECYCLE_INLINE void each_place(const Pooling& p, Range rows, Range columns, const uint8_t* from, Use&& use) {
    for (int r = rows.start; r < rows.stop; r++) {
        for (int c = columns.start; c < columns.stop; c++) use(from + r * p.input_row + c * p.input_column);
    }
}

template <int L>
SPARSECYCLE_INLINE void largest(const Pooling& p, Range rows, Range columns, const uint8_t* from, uint8_t* to) {
    Octets<L> found{};
    each_place(p, rows, columns, from, [&](const uint8_t* place) {
        const Octets<L> q = *reinterpret_cast<const Octets<L>*>(place) ^ p.flip;
        found = q > found ? q : found;
    });
    *reinterpret_cast<Octets<L>*>(to) = found ^ p.flip;
}

// Sums of up to 2^16 activations are exact in floats too.
template <int L>
SPARSECYCLE_INLINE void average(const Pooling& p, Range rows, Range columns, const uint8_t* from, const float* scale,
                                void* output, ptrdiff_t at_element) {
    constexpr int F = L < lanes ? L : lanes;
    const float zeros = p.zero * (rows.stop - rows.start) * (columns.stop - columns.start);
    for (int lane = 0; lane < L; lane += F) {
        Vector<F> sum{};
        each_place(p, rows, columns, from + lane, [&](const uint8_t* place) { sum += in_order<F>(place, p.flip); });
        const Vector<F> mean = (sum - zeros) * at<F>(scale + lane) + p.to_zero;
        if (p.floats) {
            put<F>(mean, static_cast<float*>(output) + at_element + lane);
        } else {
            put_in_order<F>(mean, 0, 255, p.flip, static_cast<uint8_t*>(output) + at_element + lane);
        }
    }
}

template <int L>
void pool(const Pooling& p, const uint8_t* input, void* output) {
    for (int y = 0; y < p.row_count; y++) {
        ptrdiff_t to = y * p.output_row;
        for (int x = 0; x < p.column_count; x++) {
            const int place = y * p.column_count + x;
            for (int group = 0; group < p.groups; group++, to += L) {
                uint8_t* bytes = static_cast<uint8_t*>(output) + to;
                if (p.average) {
                    average<L>(p, p.rows[y], p.columns[x], input + group * L, p.scale + place * L, output, to);
                } else {
                    largest<L>(p, p.rows[y], p.columns[x], input + group * L, bytes);
                }
                if (p.inside) {
                    Octets<L>& made = *reinterpret_cast<Octets<L>*>(bytes);
                    const Octets<L> inside =
                        *reinterpret_cast<const Octets<L>*>(p.inside + (place * p.groups + group) * L);
                    made = (made & inside) | (p.outside & ~inside);
                }
            }
        }
    }
}

template <int F>
SPARSECYCLE_INLINE void combine(const uint8_t* left, const uint8_t* right, uint8_t* output, const Combining& c) {
    const Vector<F> other = right ? in_order<F>(right, c.flip) * c.right_scale + c.bias : all<F>(c.bias);
    Vector<F> t = in_order<F>(left, c.flip) * c.left_scale + other;
    if (c.activation.silu) t = silu<F>(t) * c.inverse + c.zero;
    put_in_order<F>(t, c.low, c.high, c.flip, output);
}

void combine(const uint8_t* left, const uint8_t* right, uint8_t* output, int64_t n, const Combining& combining) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) combine<lanes>(left + i, right ? right + i : nullptr, output + i, combining);
    for (; i < n; i++) combine<1>(left + i, right ? right + i : nullptr, output + i, combining);
}

template <int F>
SPARSECYCLE_INLINE void quantize(const float* from, float inverse, float zero, uint8_t* to) {
    Vector<F> x;
    std::memcpy(&x, from, sizeof x);
    x = x * inverse + zero;
    x = x > 0.0f ? x : Vector<F>{};  // NaN too
    put_in_order<F>(x, 0, 255, 0, to);
}

void quantize(const float* from, int64_t n, float inverse, float zero, uint8_t* to) {
    int64_t i = 0;
    for (; i + lanes <= n; i += lanes) quantize<lanes>(from + i, inverse, zero, to + i);
    for (; i < n; i++) quantize<1>(from + i, inverse, zero, to + i);
}

}  // namespace

extern const int8::Kernels int8_kernels = {
    convolutions,
    lanes * 4,
    flip,
    weight_words,
    Sparse<16>::alike,
    Sparse<16>::encode,
    Dense<16>::encode,
    sizeof(Dense<16>) / 16,
#if defined(__AVX2__)
    gatherers,
    !vnni,
    settle,
#else
    nullptr,
    false,
    nullptr,
#endif
    {
        pool<1>, pool<2>, pool<4>, pool<8>, pool<16>,
#if defined(__AVX2__)
        pool<32>,
#endif
#if defined(__AVX512BW__)
        pool<64>,
#endif
    },
    combine,
    quantize,
};

}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
