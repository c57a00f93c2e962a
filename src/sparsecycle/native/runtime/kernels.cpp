// Convolutions as sums of shifted vectors: sums[channel][place] += weight * input[place + offset].
//
// A sparse kernel reads, for each weight, the offset of its input and multiplies a tile of vectors with it. It is bound
// by loads, two a cycle, so weights and offsets come four at a time, and a tile is as large as the registers allow;
// where tiles are small, several output channels advance in lockstep, for a multiply-add takes four cycles and two can
// start in each. A dense kernel shares every vector it loads between as many output channels as the registers hold.
#include "kernels.h"

#include "vector.h"

namespace sparsecycle {
namespace SPARSECYCLE_ISA {
namespace {

constexpr int widest = lanes;

template <int L, int H, int W, int B>
struct Sums {
    Vector<L> of[B][H * W];
};

template <int L, int H, int W, int B>
SPARSECYCLE_INLINE void start(Sums<L, H, W, B>& sums, const Tile& tile, const uint16_t* channels) {
    SPARSECYCLE_UNROLL
    for (int b = 0; b < B; b++) {
        const float* output = tile.output + channels[b] * tile.output_channel;
        const Vector<L> bias = all<L>(tile.bias[channels[b]]);
        SPARSECYCLE_UNROLL
        for (int i = 0; i < H * W; i++) {
            sums.of[b][i] = tile.first ? bias : at<L>(output + i / W * tile.output_row + i % W * L);
        }
    }
}

// In memory, for it takes the registers. A bundle that is not full ends with one channel again and again.
template <int L, int H, int W, int B>
void silu_outputs(const Tile& tile, const uint16_t* channels) {
    for (int b = 0; b < B; b++) {
        if (b && channels[b] == channels[b - 1]) continue;
        for (int i = 0; i < H * W; i++) {
            float* output = tile.output + channels[b] * tile.output_channel + i / W * tile.output_row + i % W * L;
            put<L>(silu<L>(at<L>(output)), output);
        }
    }
}

template <int L, int H, int W, int B>
SPARSECYCLE_INLINE void finish(Sums<L, H, W, B>& sums, const Tile& tile, const uint16_t* channels) {
    if (tile.last && tile.residual) {
        SPARSECYCLE_UNROLL
        for (int b = 0; b < B; b++) {
            const float* residual = tile.residual + channels[b] * tile.residual_channel;
            SPARSECYCLE_UNROLL
            for (int i = 0; i < H * W; i++) sums.of[b][i] += at<L>(residual + i / W * tile.residual_row + i % W * L);
        }
    }
    if (tile.last) {
        const Vector<L> low = all<L>(tile.activation.low), high = all<L>(tile.activation.high);
        SPARSECYCLE_UNROLL
        for (int b = 0; b < B; b++) {
            SPARSECYCLE_UNROLL
            for (int i = 0; i < H * W; i++) sums.of[b][i] = limit<L>(sums.of[b][i], low, high);
        }
        if (tile.inside) {
            using Ints = typename Of<L>::Ints;
            SPARSECYCLE_UNROLL
            for (int i = 0; i < H * W; i++) {
                const Ints inside = (Ints)at<L>(tile.inside + i / W * tile.inside_row + i % W * L);
                SPARSECYCLE_UNROLL
                for (int b = 0; b < B; b++) sums.of[b][i] = (Vector<L>)((Ints)sums.of[b][i] & inside);
            }
        }
    }
    SPARSECYCLE_UNROLL
    for (int b = 0; b < B; b++) {
        float* output = tile.output + channels[b] * tile.output_channel;
        SPARSECYCLE_UNROLL
        for (int i = 0; i < H * W; i++) put<L>(sums.of[b][i], output + i / W * tile.output_row + i % W * L);
    }
    if (tile.last && tile.activation.silu) silu_outputs<L, H, W, B>(tile, channels);
}

SPARSECYCLE_INLINE const float* place(const char* base, uint64_t offset) {
    return reinterpret_cast<const float*>(base + offset * 8);
}

// Adds weight * (the tile at `offset`) to a channel's sums.
template <int L, int H, int W, int S>
SPARSECYCLE_INLINE void add(Vector<L> (&sums)[H * W], Vector<L> weight, const char* const (&rows)[H], uint64_t offset) {
    SPARSECYCLE_UNROLL
    for (int i = 0; i < H * W; i++) sums[i] += weight * at<L>(place(rows[i / W], offset) + i % W * S * L);
}

template <int L, int H, int W, int S, int B, class Weight>
void sparse(const Tile& tile, const Weights& weights) {
    const char* rows[H];
    for (int h = 0; h < H; h++) rows[h] = reinterpret_cast<const char*>(tile.input + h * tile.input_row);
    const uint16_t* channels = weights.channels;
    const uint16_t* offset = weights.offsets;
    const Weight* weight = static_cast<const Weight*>(weights.weights);
    for (int bundle = 0; bundle < weights.bundles; bundle++, channels += B) {
        Sums<L, H, W, B> sums;
        start(sums, tile, channels);
        int64_t left = static_cast<int64_t>(weights.counts[bundle]) * B;
        constexpr int turn = B > 4 ? B : 4;
        for (; left >= turn; left -= turn) {
            SPARSECYCLE_UNROLL
            for (int i = 0; i < turn; i += 4, offset += 4, weight += 4) {
                Four<L> four;
                take(four, weight);
                uint64_t at4;
                std::memcpy(&at4, offset, sizeof at4);
                add<L, H, W, S>(sums.of[i % B], spread<0>(four), rows, static_cast<uint16_t>(at4));
                add<L, H, W, S>(sums.of[(i + 1) % B], spread<1>(four), rows, static_cast<uint16_t>(at4 >> 16));
                add<L, H, W, S>(sums.of[(i + 2) % B], spread<2>(four), rows, static_cast<uint16_t>(at4 >> 32));
                add<L, H, W, S>(sums.of[(i + 3) % B], spread<3>(four), rows, at4 >> 48);
            }
        }
        if constexpr (B < 4) {
            for (; left > 0; left -= B) {
                SPARSECYCLE_UNROLL
                for (int b = 0; b < B; b++, offset++, weight++) {
                    add<L, H, W, S>(sums.of[b], all<L>(one(weight)), rows, *offset);
                }
            }
        }
        finish(sums, tile, channels);
    }
}

template <int L, int W, int S, int B>
void dense(const Tile& tile, const Weights& weights) {
    const char* row = reinterpret_cast<const char*>(tile.input);
    const uint16_t* channels = weights.channels;
    const float* weight = static_cast<const float*>(weights.weights);
    const uint32_t entries = *weights.counts;
    for (int bundle = 0; bundle < weights.bundles; bundle++, channels += B) {
        Sums<L, 1, W, B> sums;
        start(sums, tile, channels);
        for (uint32_t entry = 0; entry < entries; entry++, weight += B) {
            const float* from = place(row, weights.offsets[entry]);
            Vector<L> input[W];
            SPARSECYCLE_UNROLL
            for (int w = 0; w < W; w++) input[w] = at<L>(from + w * S * L);
            SPARSECYCLE_UNROLL
            for (int b = 0; b < B; b++) {
                const Vector<L> all_weight = all<L>(weight[b]);
                SPARSECYCLE_UNROLL
                for (int w = 0; w < W; w++) sums.of[b][w] += all_weight * input[w];
            }
        }
        finish(sums, tile, channels);
    }
}

#define SPARSE(L, H, W, S, B) \
    {{L, H, W, S, B, false, false}, sparse<L, H, W, S, B, float>}, \
    {{L, H, W, S, B, false, true}, sparse<L, H, W, S, B, uint16_t>}
#define DENSE(L, W, S, B) {{L, 1, W, S, B, true, false}, dense<L, W, S, B>}

// Eight to twelve sums are what hides the multiply-adds' latency and fits into sixteen registers; where there are 32,
// larger tiles save loads of weights.
#define SPARSE_SMALL(L) \
    SPARSE(L, 1, 1, 1, 8), SPARSE(L, 1, 2, 1, 4), SPARSE(L, 1, 3, 1, 4), SPARSE(L, 1, 4, 1, 2), SPARSE(L, 2, 1, 1, 4), \
    SPARSE(L, 2, 2, 1, 2), SPARSE(L, 1, 1, 2, 8), SPARSE(L, 1, 2, 2, 4), SPARSE(L, 1, 4, 2, 2), SPARSE(L, 2, 1, 2, 4)
#define SPARSE_MEDIUM(L) \
    SPARSE_SMALL(L), SPARSE(L, 1, 5, 1, 2), SPARSE(L, 1, 6, 1, 2), SPARSE(L, 1, 7, 1, 1), SPARSE(L, 1, 8, 1, 1), \
    SPARSE(L, 1, 10, 1, 1), SPARSE(L, 1, 12, 1, 1), SPARSE(L, 2, 3, 1, 2), SPARSE(L, 2, 4, 1, 1), SPARSE(L, 2, 5, 1, 1), \
    SPARSE(L, 2, 6, 1, 1), SPARSE(L, 4, 1, 1, 2), SPARSE(L, 4, 2, 1, 1), SPARSE(L, 4, 3, 1, 1), SPARSE(L, 1, 3, 2, 4), \
    SPARSE(L, 1, 7, 2, 1), SPARSE(L, 1, 8, 2, 1), SPARSE(L, 2, 2, 2, 2), SPARSE(L, 2, 4, 2, 1)
#define SPARSE_LARGE(L) \
    SPARSE_MEDIUM(L), SPARSE(L, 1, 1, 1, 16), SPARSE(L, 1, 2, 1, 8), SPARSE(L, 1, 4, 1, 4), SPARSE(L, 1, 7, 1, 2), \
    SPARSE(L, 1, 8, 1, 2), SPARSE(L, 1, 14, 1, 1), SPARSE(L, 1, 16, 1, 1), SPARSE(L, 2, 2, 1, 4), SPARSE(L, 2, 4, 1, 2), \
    SPARSE(L, 2, 7, 1, 1), SPARSE(L, 2, 8, 1, 1), SPARSE(L, 4, 2, 1, 2), SPARSE(L, 4, 4, 1, 1), SPARSE(L, 1, 7, 2, 2), \
    SPARSE(L, 1, 14, 2, 1), SPARSE(L, 2, 7, 2, 1)
#define DENSE_MEDIUM(L) \
    DENSE(L, 1, 1, 8), DENSE(L, 2, 1, 6), DENSE(L, 3, 1, 4), DENSE(L, 1, 2, 8), DENSE(L, 2, 2, 6), DENSE(L, 3, 2, 4)
#define DENSE_LARGE(L) \
    DENSE(L, 1, 1, 16), DENSE(L, 2, 1, 12), DENSE(L, 3, 1, 8), DENSE(L, 4, 1, 6), DENSE(L, 6, 1, 4), DENSE(L, 7, 1, 3), \
    DENSE(L, 8, 1, 3), DENSE(L, 1, 2, 16), DENSE(L, 2, 2, 12), DENSE(L, 4, 2, 6), DENSE(L, 7, 2, 3)

const Convolution convolutions[] = {
#if defined(__AVX512F__)
    SPARSE_LARGE(16), DENSE_LARGE(16), SPARSE_SMALL(8), DENSE_MEDIUM(8), SPARSE_SMALL(4), DENSE_MEDIUM(4),
#elif defined(__AVX2__)
    SPARSE_MEDIUM(8), DENSE_MEDIUM(8), SPARSE_SMALL(4), DENSE_MEDIUM(4),
#else
    SPARSE_MEDIUM(4), DENSE_MEDIUM(4),
#endif
    {{}, nullptr}};

// The taps of a kernel of 3 x 3 that join two places of a map of 2 x 2: which input each output takes, if it is inside.
constexpr int joined(int tap, int output, int side) {
    if (side == 1) return 0;
    const int y = output / 2 + tap / 3 - 1, x = output % 2 + tap % 3 - 1;
    return y >= 0 && y < 2 && x >= 0 && x < 2 ? 2 * y + x : -1;
}

template <int Side, int Tap>
SPARSECYCLE_INLINE void gather_tap(Gather& g, const Pair (&input)[Side * Side]) {
    constexpr int L = widest;
    const int groups = *g.sizes++;
    for (int group = 0; group < groups; group++) {
        float* output = g.output + *g.planes++ * g.output_plane;
        Vector<L> sums[Side * Side];
        SPARSECYCLE_UNROLL
        for (int q = 0; q < Side * Side; q++) {
            if (joined(Tap, q, Side) >= 0) sums[q] = at<L>(output + q / Side * g.output_row + q % Side * g.output_column);
        }
        for (int left = *g.counts++; left > 0; left--, g.inputs += L, g.weights += L) {
            const Ints which = spread(g.inputs);
            const Vector<L> weight = at<L>(g.weights);
            SPARSECYCLE_UNROLL
            for (int q = 0; q < Side * Side; q++) {
                const int p = joined(Tap, q, Side);
                if (p >= 0) sums[q] += weight * pick(input[p < 0 ? 0 : p], which);
            }
        }
        SPARSECYCLE_UNROLL
        for (int q = 0; q < Side * Side; q++) {
            if (joined(Tap, q, Side) >= 0) put<L>(sums[q], output + q / Side * g.output_row + q % Side * g.output_column);
        }
    }
}

template <int Side>
void gather(const Gather& call) {
    constexpr int L = widest, places = Side * Side;
    Gather g = call;
    const auto place = [](int q, ptrdiff_t row, ptrdiff_t column) { return q / Side * row + q % Side * column; };
    for (int plane = g.begin; plane < g.end; plane++) {
        for (int q = 0; q < places; q++) {
            put<L>(at<L>(g.bias + plane * L), g.output + plane * g.output_plane + place(q, g.output_row, g.output_column));
        }
    }
    for (int plane = 0; plane < g.input_planes; plane += 2) {
        Pair input[places];
        const float* first = g.input + plane * g.input_plane;
        const float* second = plane + 1 < g.input_planes ? first + g.input_plane : first;
        for (int p = 0; p < places; p++) {
            const ptrdiff_t at_p = place(p, g.input_row, g.input_column);
            input[p] = {at<L>(first + at_p), at<L>(second + at_p)};
        }
        if constexpr (Side == 1) {
            gather_tap<1, 0>(g, input);
        } else {
            gather_tap<2, 0>(g, input);
            gather_tap<2, 1>(g, input);
            gather_tap<2, 2>(g, input);
            gather_tap<2, 3>(g, input);
            gather_tap<2, 4>(g, input);
            gather_tap<2, 5>(g, input);
            gather_tap<2, 6>(g, input);
            gather_tap<2, 7>(g, input);
            gather_tap<2, 8>(g, input);
        }
    }
    const Vector<L> low = all<L>(g.activation.low), high = all<L>(g.activation.high);
    for (int plane = g.begin; plane < g.end; plane++) {
        for (int q = 0; q < places; q++) {
            float* output = g.output + plane * g.output_plane + place(q, g.output_row, g.output_column);
            Vector<L> sum = at<L>(output);
            if (g.residual) {
                sum += at<L>(g.residual + plane * g.residual_plane + place(q, g.residual_row, g.residual_column));
            }
            if (g.activation.silu) sum = silu<L>(sum);
            put<L>(limit<L>(sum, low, high), output);
        }
    }
}

// The greater one; NaN if either is, as in torch. The processor's maximum gives its second operand for NaN.
template <int L>
SPARSECYCLE_INLINE Vector<L> maximum(Vector<L> a, Vector<L> b) {
    const Vector<L> greater = a > b ? a : b;
    return a != a ? a : greater;
}

template <int L, bool Average>
SPARSECYCLE_INLINE Vector<L> gather(const Pooling& p, const float* from, Range rows, Range columns) {
    from += rows.start * p.input_row + columns.start * p.input_column;
    if (rows.stop - rows.start == 2 && columns.stop - columns.start == 2) {
        const Vector<L> a = at<L>(from), b = at<L>(from + p.input_column);
        const Vector<L> c = at<L>(from + p.input_row), d = at<L>(from + p.input_row + p.input_column);
        return Average ? (a + b) + (c + d) : maximum<L>(maximum<L>(a, b), maximum<L>(c, d));
    }
    Vector<L> sum = Average ? Vector<L>{} : at<L>(from);
    for (int r = rows.start; r < rows.stop; r++, from += p.input_row) {
        const float* place = from;
        for (int c = columns.start; c < columns.stop; c++, place += p.input_column) {
            sum = Average ? sum + at<L>(place) : maximum<L>(sum, at<L>(place));
        }
    }
    return sum;
}

template <int L, bool Average>
void pool(const Pooling& p, const float* input, float* output) {
    using Ints = typename Of<L>::Ints;
    for (int y = 0, place = 0; y < p.row_count; y++) {
        float* to = output + y * p.output_row;
        for (int x = 0; x < p.column_count; x++, place++) {
            for (int group = 0; group < p.groups; group++, to += L) {
                Vector<L> sum = gather<L, Average>(p, input + group * L, p.rows[y], p.columns[x]);
                if (Average) sum *= at<L>(p.scale + place * L);
                if (p.inside) sum = (Vector<L>)((Ints)sum & (Ints)at<L>(p.inside + (place * p.groups + group) * L));
                put<L>(sum, to);
            }
        }
    }
}

template <int L>
void pool(const Pooling& p, const float* input, float* output) {
    p.average ? pool<L, true>(p, input, output) : pool<L, false>(p, input, output);
}

void combine(const float* left, const float* right, float* output, int64_t n, const Activation& activation) {
    constexpr int L = widest;
    const Vector<L> low = all<L>(activation.low), high = all<L>(activation.high);
    const auto turn = [&](Vector<L> sum) {
        if (activation.silu) sum = silu<L>(sum);
        return limit<L>(sum, low, high);
    };
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        Vector<L> sum, other;
        std::memcpy(&sum, left + i, sizeof sum);
        if (right) {
            std::memcpy(&other, right + i, sizeof other);
            sum += other;
        }
        sum = turn(sum);
        std::memcpy(output + i, &sum, sizeof sum);
    }
    for (; i < n; i++) output[i] = turn(all<L>(right ? left[i] + right[i] : left[i]))[0];
}

template <int L>
void interleave(const float* const* streams, int64_t n, float* to, ptrdiff_t apart) {
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        Vector<L> square[L];
        SPARSECYCLE_UNROLL
        for (int lane = 0; lane < L; lane++) std::memcpy(&square[lane], streams[lane] + i, sizeof square[lane]);
        transpose<L>(square);
        SPARSECYCLE_UNROLL
        for (int lane = 0; lane < L; lane++) put<L>(square[lane], to + (i + lane) * apart);
    }
    for (; i < n; i++) {
        for (int lane = 0; lane < L; lane++) to[i * apart + lane] = streams[lane][i];
    }
}

template <int L>
void separate(const float* from, ptrdiff_t apart, int64_t n, float* const* streams) {
    int64_t i = 0;
    for (; i + L <= n; i += L) {
        Vector<L> square[L];
        SPARSECYCLE_UNROLL
        for (int lane = 0; lane < L; lane++) square[lane] = at<L>(from + (i + lane) * apart);
        transpose<L>(square);
        SPARSECYCLE_UNROLL
        for (int lane = 0; lane < L; lane++) std::memcpy(streams[lane] + i, &square[lane], sizeof square[lane]);
    }
    for (; i < n; i++) {
        for (int lane = 0; lane < L; lane++) streams[lane][i] = from[i * apart + lane];
    }
}

// Reads a vector that starts between two; what the mask leaves of it is inside the channel.
template <int Bytes>
void surround(char* channel, const BorderMove* moves, int64_t count, const uint8_t* masks, const uint8_t* fill) {
    typedef uint8_t Octets __attribute__((vector_size(Bytes)));
    Octets outside;
    std::memcpy(&outside, fill, Bytes);
    for (int64_t i = 0; i < count; i++) {
        Octets mask, inside;
        std::memcpy(&mask, masks + static_cast<int64_t>(moves[i].mask) * Bytes, Bytes);
        std::memcpy(&inside, channel + moves[i].from, Bytes);
        inside = (inside & mask) | (outside & ~mask);
        std::memcpy(channel + moves[i].to, &inside, Bytes);
    }
}

#if defined(__AVX512F__)
#define UP_TO_WIDEST(kernel) kernel<1>, kernel<2>, kernel<4>, kernel<8>, kernel<16>
#elif defined(__AVX2__)
#define UP_TO_WIDEST(kernel) kernel<1>, kernel<2>, kernel<4>, kernel<8>
#else
#define UP_TO_WIDEST(kernel) kernel<1>, kernel<2>, kernel<4>
#endif

}  // namespace

extern const RuntimeKernels runtime_kernels = {
    convolutions,
    widest,
    {UP_TO_WIDEST(pool)},
    combine,
    {gather<1>, gather<2>},
    {UP_TO_WIDEST(interleave)},
    {UP_TO_WIDEST(separate)},
    {surround<1>, surround<2>, surround<4>, surround<8>, surround<16>, surround<32>, surround<64>},
};

}  // namespace SPARSECYCLE_ISA
}  // namespace sparsecycle
