// What a program needs done to vectors of 8-bit activations; one table of functions for each instruction set.
//
// An activation q, from 0 to 255, stands for scale * (q - zero), with a scale and a zero of its tensor's. It is stored as
// the byte q ^ flip, where flip is 0, or 128 for q - 128: instructions that multiply bytes want one factor signed and the
// other not, and which of the two is the activation depends on the instruction set, and on whether the tensor has
// channels in its lanes: then it is 0. What is outside of kernels sees q.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../isa.h"
#include "../runtime/kernels.h"

namespace sparsecycle::int8 {

// How sums become activations. With t = float(sum) * scale[channel] + bias[channel], to which float(residual) *
// residual_scale is added, in this order and each operation rounded to float32:
//   bytes   q = rint(t), limited to low ... high; after silu, t is silu(t) * inverse + zero
//   floats  t, limited to activation.low ... activation.high, or silu(t)
struct Finish {
    const float *scale, *bias;
    float residual_scale;
    Activation activation;
    float inverse, zero;
    uint8_t low, high;
    uint8_t outside;  // as stored: what lanes outside the map hold
};

// One tile of a convolution: some vectors, for some output channels. Distances are in bytes; those of the output are in
// floats where it has such.
struct Tile {
    const uint8_t* input;    // the first vector's place, of the first channel of the block, at the first tap
    ptrdiff_t input_apart;   // from one vector of the tile to the next
    void* output;            // the first vector's place, of channel 0
    ptrdiff_t output_apart, output_channel;
    const uint8_t* residual;  // added before the activation, or null
    ptrdiff_t residual_apart, residual_channel;
    const uint8_t* inside;    // bits set where a lane is inside the map, vector after vector; null where all are
    const int32_t* start;     // of channel 0: what its sums start with
    int32_t* sums;            // room for the sums of all channels, between blocks
    uint8_t* interleaved;     // room for a block's inputs, of dense kernels
    bool first, last;         // of the blocks of input channels that one after the other add to the sums
    bool floats;              // whether the output has such
};

// The weights of a block, four by four. `channels` are the output channels, a bundle after the other; `counts` says how
// many fours each bundle has. An offset is the distance to the input's vector, in units of 8 bytes: there are four for
// each channel of a bundle, and then come the next four. Weights are in the same order, as `encode` made them.
struct Weights {
    const uint16_t* channels;
    int bundles;
    const uint32_t* counts;
    const uint16_t* offsets;
    const uint32_t* weights;
};
using Convolve = void (*)(const Tile&, const Weights&, const Finish&);

// How a kernel goes about it.
struct Form {
    int lanes;    // of its vectors of activations
    int vectors;  // of a tile
    int bundle;   // output channels: side by side in the lanes of a register, or, of a dense kernel, one after the other
    bool dense;   // one list of offsets for all channels
};

struct Convolution {
    Form form;
    Convolve run;
};

// Some weights of a convolution of a tiny map, with output channels in the lanes: a register has a quarter as many of
// them as it has bytes, and up to four weights of each. For each step and register there is a vector of bytes that says
// which inputs are taken, out of a window of channels, and one of weights; the steps are applied to several places.
struct Gather {
    const uint8_t* const* inputs;  // for each place: what is multiplied, its first channel
    int32_t* const* sums;          // for each place: what it is added to
    const uint16_t* windows;       // two for each step: where the window's halves are, in units of 16 bytes
    const uint8_t* steps;          // inputs and weights
    int count;                     // of steps
};
struct Gatherers {
    int window;                     // channels; those of a half follow each other
    int next;                       // from the choice of a channel to that of the one 16 channels on
    void (*run[9])(const Gather&);  // by the number of places, from 1 on
};

// Sums of a register's channels in `places` places, one after the other, become activations: as in Finish.
struct Settling {
    const int32_t* sums;
    int places;
    void* output;              // each place's, of the first channel
    const int32_t* to;         // where they are from there, in elements
    const uint8_t* residual;   // or null
    const int32_t* from;       // the same of the residual
    int first;                 // channel, in scales and biases
    bool floats;
};
using Settle = void (*)(const Settling&, const Finish&);

// A channel's pool, as sparsecycle::Pooling; distances are in elements. An average's sum s of n places gives
// t = float(s - n * zero) * scale[lane of a place] + to_zero, and an activation as in Finish, or the float.
struct Pooling {
    const Range* rows;
    const Range* columns;
    int row_count, column_count, groups;
    ptrdiff_t input_row, input_column, output_row;
    bool average, floats;
    const float* scale;     // for each lane of a place; no groups
    float to_zero;
    int zero;
    const uint8_t* inside;  // as in Tile
    uint8_t outside;        // as in Finish
    uint8_t flip;
};
using Pool = void (*)(const Pooling&, const uint8_t* input, void* output);

// With t = float(left) * left_scale + (float(right) * right_scale + bias), an activation as in Finish; what is stored
// outside the map is of no matter.
struct Combining {
    float left_scale, right_scale, bias;
    Activation activation;
    float inverse, zero;
    uint8_t low, high;
    uint8_t flip;
};
using Combine = void (*)(const uint8_t* left, const uint8_t* right, uint8_t* output, int64_t n, const Combining&);

// to[i] = the q for from[i]: rint(x * inverse + zero), limited to 0 ... 255; 0 for NaN.
using Quantize = void (*)(const float* from, int64_t n, float inverse, float zero, uint8_t* to);

struct Kernels {
    const Convolution* convolutions;  // ended by one without a function
    int widest;                       // bytes of a vector
    uint8_t flip;                     // of tensors without channels in their lanes
    int weight_words;                 // that four weights take
    bool alike;                       // whether a sparse kernel's two and two weights must not differ in sign
    void (*encode_sparse)(const int8_t* weights, uint32_t* words);
    void (*encode_dense)(const int8_t* weights, uint32_t* words);
    int interleaved;                  // bytes that a dense kernel takes for a lane of four vectors
    const Gatherers* gatherers;       // ended by one without a window; null if there are none
    bool adds_in_16_bits;             // then a gatherer's first and second two weights must not add up to over 128
    Settle settle;
    Pool pool[7];                     // by the logarithm of the lanes, up to 64
    Combine combine;
    Quantize quantize;
};

const Kernels& kernels();

}  // namespace sparsecycle::int8

namespace sparsecycle {

namespace baseline {
extern const int8::Kernels int8_kernels;
}
namespace avx2 {
extern const int8::Kernels int8_kernels;
}
namespace avx512 {
extern const int8::Kernels int8_kernels;
}
namespace avx512vnni {
extern const int8::Kernels int8_kernels;
}

}  // namespace sparsecycle
