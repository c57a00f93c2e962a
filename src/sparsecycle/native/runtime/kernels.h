// What a program needs done to vectors of activations; one table of functions for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../isa.h"
#include "layout.h"

namespace sparsecycle {

// What happens to a sum last: it is limited to low ... high, or goes through x * sigmoid(x).
struct Activation {
    float low, high;
    bool silu;
};

// One tile of a convolution: some rows and columns of vectors, for some output channels. Distances are in floats.
struct Tile {
    const float* input;       // the first vector's place, of the first channel of the block, at the first tap
    ptrdiff_t input_row;      // from one row of the tile to the next
    float* output;            // the first vector's place, of channel 0
    ptrdiff_t output_row, output_channel;
    const float* residual;    // added before the activation, or null
    ptrdiff_t residual_row, residual_channel;
    const float* inside;      // bits set where a lane is inside the map; null where all are
    ptrdiff_t inside_row;
    const float* bias;        // of channel 0
    Activation activation;
    bool first, last;         // of the blocks of input channels that one after the other add to the sums
};

// The weights of a block, by bundles of output channels that are computed in lockstep. `channels` names a bundle's
// channels; `counts` says how many weights each of them has; offsets and weights follow in the order of their use. An
// offset is the distance to the input's vector, in units of 8 bytes.
struct Weights {
    const uint16_t* channels;
    int bundles;
    const uint32_t* counts;
    const uint16_t* offsets;
    const void* weights;
};
using Convolve = void (*)(const Tile&, const Weights&);

// How a kernel goes about it. `step`: vectors from an output's input to the next one's.
struct Form {
    int lanes, rows, columns, step;
    int bundle;   // output channels in lockstep
    bool dense;   // one list of offsets for all channels, in units of 8 bytes too
    bool bfloat16;
};

struct Convolution {
    Form form;
    Convolve run;
};

// A convolution of a tiny map, with output channels in the lanes: the inputs of two planes stay in registers, and each lane
// takes the one it needs. Distances are in floats.
struct Gather {
    const float* input;
    ptrdiff_t input_row, input_column, input_plane;
    int input_planes;
    float* output;
    ptrdiff_t output_row, output_column, output_plane;
    const float* residual;  // laid out as the output, but for the distances; or null
    ptrdiff_t residual_row, residual_column, residual_plane;
    const float* bias;      // of the output's planes, whole ones
    Activation activation;
    int begin, end;         // planes of the output
    // For each two planes of the input and each tap: of how many output planes something is computed, which, and with how
    // many steps. A step has, for each lane, a weight, and the number of its input among those of the two planes.
    const uint16_t* sizes;
    const uint16_t* planes;
    const uint16_t* counts;
    const uint8_t* inputs;
    const float* weights;
};
using Gatherer = void (*)(const Gather&);

// A channel's pool: for each output row and column the input's rows and columns, from `start` to before `stop`; distances
// in floats. A place has `groups` vectors.
struct Range {
    int32_t start, stop;
};
struct Pooling {
    const Range* rows;
    const Range* columns;
    int row_count, column_count, groups;
    ptrdiff_t input_row, input_column, output_row;
    bool average;
    const float* scale;   // of an average: what the sum is multiplied with, for each lane of a place; no groups
    const float* inside;  // as in Tile, but rows follow each other; null where all are
};
using Pool = void (*)(const Pooling&, const float* input, float* output);

// output = activation(left + right), or activation(left) where right is null
using Combine = void (*)(const float* left, const float* right, float* output, int64_t n, const Activation&);

// Fills a channel's halo; see layout.h.
using Surround = void (*)(char* channel, const BorderMove* moves, int64_t count, const uint8_t* masks,
                          const uint8_t* fill);

// to[i * apart ...] = {streams[0][i], streams[1][i], ...} for i < n: a vector of one element of each stream; and back.
using Interleave = void (*)(const float* const* streams, int64_t n, float* to, ptrdiff_t apart);
using Separate = void (*)(const float* from, ptrdiff_t apart, int64_t n, float* const* streams);

struct RuntimeKernels {
    const Convolution* convolutions;  // ended by one without a function
    int lanes;                        // of the widest vectors of floats
    Pool pool[5];                     // by the logarithm of the lanes, up to 16
    Combine combine;
    Gatherer gather[2];               // of maps of 1 x 1, and of 2 x 2 with a kernel of 3 x 3; of the widest vectors
    Interleave interleave[5];         // by the logarithm of the lanes
    Separate separate[5];
    Surround surround[7];             // by the logarithm of a vector's bytes, up to 64
};

const RuntimeKernels& runtime_kernels();

namespace baseline {
extern const RuntimeKernels runtime_kernels;
}
namespace avx2 {
extern const RuntimeKernels runtime_kernels;
}
namespace avx512 {
extern const RuntimeKernels runtime_kernels;
}

}  // namespace sparsecycle
