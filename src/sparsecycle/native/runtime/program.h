// A network as a sequence of steps on activations in fixed layouts, run by one call.
//
// Tensors hold the activations of as many images as their layout has. Steps on tensors of the same number of images
// form a segment; that number grows from segment to segment (large maps are run image by image, so that they stay in
// the cache; of small ones, many images fill a vector). A batch runs depth first: a segment runs as soon as the ones
// before have made enough images for it.
//
// Where a batch has enough of the largest groups for all threads, each thread runs its own; else threads share segments
// of few images a group by groups, and work together on the steps of the others.
#pragma once

#include <deque>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "layout.h"
#include "pack.h"

namespace sparsecycle {

class Program;

// What a step sees when it runs: where tensors are, and for which images.
struct Frame {
    const Program& program;
    char* own;                     // memory of tensors that only this segment sees
    char* shared;                  // memory of those that connect segments
    char* scratch;                 // as much as the step asks for, of this thread
    int64_t image;                 // the first of this group, in the whole batch
    const float* const* inputs;
    float* const* outputs;

    template <class T = float>
    T* at(int tensor) const { return reinterpret_cast<T*>(address(tensor)); }
    char* address(int tensor) const;
};

// `worker` of `workers` does its share; nobody reads what others write in the same step.
class Step {
public:
    virtual ~Step() = default;
    virtual void run(const Frame& frame, int worker, int workers) const = 0;
    virtual void prepare(int /*workers*/) {}  // how many will share it, before it runs
    virtual bool ready() const { return true; }
    virtual int64_t scratch() const { return 0; }  // bytes
    std::vector<int> reads, writes;           // tensors
};

struct Tensor {
    Layout layout;
    Border border;
    AlignedVector<float> inside;  // a vector for each of a block's, bits set in lanes inside the map; empty where all are
    int parent;                 // whose channels it has, or itself
    int64_t first_byte;         // of its channels in the parent
    // where the memory is
    bool connects = false;
    int64_t offset = 0, slot_bytes = 0;
    int slots = 1;

    explicit Tensor(const Layout& layout);
};

// A place to read or write: a tensor, or the user's array with that number.
struct Place {
    Layout layout;
    int tensor, array;  // the other one is -1
};

// The user's arrays: contiguous (images, channels, height, width).
struct Array {
    int channels, height, width;
};

class TunableStep;

class Program {
public:
    Program(int64_t images, int threads);
    ~Program();

    // All of these return the new tensor's or step's number, and throw std::invalid_argument for what does not fit.
    int tensor(const Layout& layout);
    int view(int tensor, int channel, int channels);
    int load(int input, const Array& array, int to);
    int store(int from, int output, const Array& array);
    int move(int from, int to, bool flatten);
    int convolution(int from, int to, int residual, const Geometry& geometry, const float* weights, const float* bias,
                    const Activation& activation);
    // Of 8 bits: weights of -127 to 127, times their output channel's scale.
    int convolution(int from, int to, int residual, const Geometry& geometry, const int8_t* weights, const float* scales,
                    const float* bias, const Activation& activation);
    int pool(int from, int to, bool average, const std::vector<Range>& rows, const std::vector<Range>& columns,
             const std::vector<float>& scale);
    int combine(int left, int right, int to, const Activation& activation);

    // Nothing can be added after this: memory is laid out.
    void finish();

    TunableStep& convolution_at(int step);

    // Adds the time of each step to `seconds` if there is such, as the first worker sees it. Safe from several threads.
    void run(const float* const* inputs, float* const* outputs, double* seconds = nullptr) const;

    int64_t images() const { return images_; }
    int threads() const { return threads_; }
    int64_t memory() const { return workers_ * (own_bytes_ + scratch_bytes_) + arenas_ * shared_bytes_; }
    int inputs() const { return inputs_; }    // arrays that it reads
    int outputs() const { return outputs_; }  // arrays that it writes
    int step_count() const { return static_cast<int>(steps_.size()); }
    const Tensor& tensor_at(int number) const { return tensors_[number]; }
    void surround(const Frame& frame, int tensor, int begin, int end) const;

private:
    struct Segment {
        int64_t images;  // a group
        int begin, end;  // of `order_`
        bool alone;      // each thread runs groups of its own; else all work together on each step
    };
    struct Memory;
    class Run;

    int add(std::unique_ptr<Step> step, int64_t images);
    int add_move(const Place& from, const Place& to, bool flatten);
    void check(int tensor) const;

    int64_t images_;
    int threads_, inputs_ = 0, outputs_ = 0;
    bool finished_ = false;
    std::deque<Tensor> tensors_;  // which steps refer to
    std::vector<std::unique_ptr<Step>> steps_;
    std::vector<int64_t> step_images_;
    std::vector<int> order_;  // in which the steps run
    std::vector<Segment> segments_;
    int64_t chunk_ = 1;        // images of the largest group
    bool by_chunks_ = true;    // each thread has its own
    int64_t own_bytes_ = 0, shared_bytes_ = 0, scratch_bytes_ = 0, workers_ = 1, arenas_ = 1;
    mutable std::mutex lock_;
    mutable std::vector<std::unique_ptr<Memory>> free_;  // of runs that have ended
};

}  // namespace sparsecycle
