#include "program.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <map>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>

#include "../threads.h"
#include "../int8/convolution.h"
#include "../int8/gather.h"
#include "../int8/moves.h"
#include "../int8/scale.h"
#include "../int8/steps.h"
#include "convolution.h"
#include "gather.h"
#include "kernels.h"
#include "steps.h"

namespace sparsecycle {

namespace {

constexpr int64_t line = 64;  // memory is aligned to it, and has as much before and after that may be read

int64_t aligned(int64_t bytes) { return (bytes + line - 1) / line * line; }

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

Layout of_array(const Array& array) {
    Layout layout;
    layout.channels = array.channels;
    layout.height = layout.rows = array.height;
    layout.width = layout.columns = array.width;
    return layout;
}

// Threads that wait for each other after every step do so too often and too shortly to be put to sleep.
class Barrier {
public:
    void wait(int workers) {
        const int turn = turn_.load(std::memory_order_relaxed);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == workers) {
            arrived_.store(0, std::memory_order_relaxed);
            turn_.store(turn + 1, std::memory_order_release);
            return;
        }
        for (int spins = 0; turn_.load(std::memory_order_acquire) == turn; spins++) {
            if (spins > 10000) {
                std::this_thread::yield();  // more threads than processors
            } else {
#if defined(__x86_64__)
                __builtin_ia32_pause();
#endif
            }
        }
    }

private:
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> turn_{0};
};

}  // namespace

const RuntimeKernels& runtime_kernels() {
    switch (current()) {
#ifdef SPARSECYCLE_HAS_AVX512
        case Isa::avx512vnni:
        case Isa::avx512: return avx512::runtime_kernels;
#endif
#ifdef SPARSECYCLE_HAS_AVX2
        case Isa::avx2: return avx2::runtime_kernels;
#endif
        default: return baseline::runtime_kernels;
    }
}

Tensor::Tensor(const Layout& of) : layout(of), border(of), parent(-1), first_byte(0) {
    if (!of.ragged()) return;
    const int lanes = of.lanes.count();
    for (int y = 0; y < of.rows; y++) {
        for (int x = 0; x < of.columns; x++) {
            for (int group = 0; group < of.groups; group++) {
                for (int lane = 0; lane < lanes; lane++) {
                    inside.push_back(std::bit_cast<float>(of.inside(lane, y, x) ? -1 : 0));
                }
            }
        }
    }
}

char* Frame::address(int number) const {
    const Tensor& tensor = program.tensor_at(number);
    const Tensor& root = program.tensor_at(tensor.parent);
    char* memory = root.connects ? shared : own;
    const int64_t slot = root.slots == 1 ? 0 : image / root.layout.images() % root.slots;
    return memory + root.offset + slot * root.slot_bytes + tensor.first_byte;
}

Program::Program(int64_t images, int threads) : images_(images), threads_(threads) {
    demand(images > 0, "images=" + std::to_string(images) + " must be positive");
    demand(threads > 0, "threads=" + std::to_string(threads) + " must be positive");
}

Program::~Program() = default;

void Program::check(int number) const {
    demand(number >= 0 && number < static_cast<int>(tensors_.size()), "there is no tensor " + std::to_string(number));
}

int Program::tensor(const Layout& layout) {
    demand(!finished_, "the program is finished");
    layout.check();
    // Floats that 8-bit kernels make are in as many lanes as their bytes.
    const int bytes = layout.halo == Halo{} ? layout.lanes.count() : layout.vector_bytes();
    demand(bytes <= 4 * runtime_kernels().lanes || bytes == 4,
           std::to_string(bytes) + " bytes are more than a vector has here");
    tensors_.emplace_back(layout);
    if (layout.element == Element::uint8) {
        int8::check(layout.scale);
        tensors_.back() = Tensor(int8::as_stored(layout));
    }
    tensors_.back().parent = static_cast<int>(tensors_.size()) - 1;
    return tensors_.back().parent;
}

int Program::view(int number, int channel, int channels) {
    check(number);
    const Tensor& whole = tensors_[number];
    demand(whole.layout.lanes.channels == 1, "a tensor with channels in its lanes has no views");
    demand(channel >= 0 && channels > 0 && channel + channels <= whole.layout.channels,
           "channels " + std::to_string(channel) + " to " + std::to_string(channel + channels) + " are not in a tensor of " +
               std::to_string(whole.layout.channels));
    Layout layout = whole.layout;
    layout.channels = channels;
    const int parent = whole.parent;
    const int64_t first = whole.first_byte + channel * layout.channel() * layout.vector_bytes();
    tensors_.emplace_back(layout);
    tensors_.back().parent = parent;
    tensors_.back().first_byte = first;
    return static_cast<int>(tensors_.size()) - 1;
}

int Program::add(std::unique_ptr<Step> step, int64_t images) {
    demand(!finished_, "the program is finished");
    steps_.push_back(std::move(step));
    step_images_.push_back(images);
    return static_cast<int>(steps_.size()) - 1;
}

int Program::load(int input, const Array& array, int to) {
    demand(input >= 0, "input=" + std::to_string(input) + " must not be negative");
    check(to);
    inputs_ = std::max(inputs_, input + 1);
    return add_move({of_array(array), -1, input}, {tensors_[to].layout, to, -1}, false);
}

int Program::store(int from, int output, const Array& array) {
    demand(output >= 0, "output=" + std::to_string(output) + " must not be negative");
    check(from);
    outputs_ = std::max(outputs_, output + 1);
    return add_move({tensors_[from].layout, from, -1}, {of_array(array), -1, output}, false);
}

int Program::move(int from, int to, bool flatten) {
    check(from);
    check(to);
    return add_move({tensors_[from].layout, from, -1}, {tensors_[to].layout, to, -1}, flatten);
}

int Program::add_move(const Place& from, const Place& to, bool flatten) {
    const auto added = [&](auto step) {
        const int64_t images = step->images();
        return add(std::move(step), images);
    };
    if (from.layout.element == Element::uint8 || to.layout.element == Element::uint8) {
        return added(std::make_unique<int8::MoveStep>(*this, from, to, flatten));
    }
    return added(std::make_unique<MoveStep>(*this, from, to, flatten));
}

int Program::convolution(int from, int to, int residual, const Geometry& geometry, const float* weights,
                         const float* bias, const Activation& activation) {
    check(from);
    check(to);
    if (residual >= 0) check(residual);
    if (tensors_[to].layout.lanes.channels > 1) {
        return add(std::make_unique<GatherStep>(*this, from, to, residual, geometry, weights, bias, activation),
                   tensors_[to].layout.images());
    }
    return add(std::make_unique<ConvolutionStep>(*this, from, to, residual, geometry, weights, bias, activation),
               tensors_[to].layout.images());
}

int Program::convolution(int from, int to, int residual, const Geometry& geometry, const int8_t* weights,
                         const float* scales, const float* bias, const Activation& activation) {
    check(from);
    check(to);
    if (residual >= 0) check(residual);
    if (tensors_[to].layout.lanes.channels > 1) {
        return add(std::make_unique<int8::GatherStep>(*this, from, to, residual, geometry, weights, scales, bias,
                                                      activation),
                   tensors_[to].layout.images());
    }
    return add(std::make_unique<int8::ConvolutionStep>(*this, from, to, residual, geometry, weights, scales, bias,
                                                       activation),
               tensors_[to].layout.images());
}

int Program::pool(int from, int to, bool average, const std::vector<Range>& rows, const std::vector<Range>& columns,
                  const std::vector<float>& scale) {
    check(from);
    check(to);
    if (tensors_[from].layout.element == Element::uint8) {
        return add(std::make_unique<int8::PoolStep>(*this, from, to, average, rows, columns, scale),
                   tensors_[to].layout.images());
    }
    return add(std::make_unique<PoolStep>(*this, from, to, average, rows, columns, scale), tensors_[to].layout.images());
}

int Program::combine(int left, int right, int to, const Activation& activation) {
    check(left);
    check(to);
    if (right >= 0) check(right);
    if (tensors_[left].layout.element == Element::uint8) {
        return add(std::make_unique<int8::CombineStep>(*this, left, right, to, activation), tensors_[to].layout.images());
    }
    return add(std::make_unique<CombineStep>(*this, left, right, to, activation), tensors_[to].layout.images());
}

void Program::finish() {
    demand(!finished_, "the program is finished");
    demand(!steps_.empty(), "the program has no steps");
    // Steps see what steps of as many images, or of fewer, have made: so those of fewer can all run before.
    const int count = step_count();
    order_.resize(count);
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(), [&](int a, int b) { return step_images_[a] < step_images_[b]; });
    for (int i = 0; i < count; i++) {
        const int64_t images = step_images_[order_[i]];
        if (segments_.empty() || segments_.back().images != images) {
            const int64_t before = segments_.empty() ? 1 : segments_.back().images;
            demand(images % before == 0, "groups of " + std::to_string(images) + " images cannot be made of groups of " +
                                             std::to_string(before));
            segments_.push_back({images, i, i, false});
        }
        segments_.back().end = i + 1;
    }
    finished_ = true;
    chunk_ = segments_.back().images;
    by_chunks_ = threads_ == 1 || (images_ + chunk_ - 1) / chunk_ >= threads_;
    for (Segment& segment : segments_) {
        // The halo of what several groups make is filled by the last one, when the others' work must be done.
        bool joins = false;
        for (int i = segment.begin; i < segment.end; i++) {
            for (int number : steps_[order_[i]]->writes) {
                const Tensor& tensor = tensors_[number];
                joins |= tensor.layout.images() > segment.images && !tensor.border.moves.empty();
            }
        }
        segment.alone = by_chunks_ || (chunk_ / segment.images >= threads_ && !joins);
        for (int i = segment.begin; i < segment.end; i++) steps_[order_[i]]->prepare(segment.alone ? 1 : threads_);
    }
    for (const std::unique_ptr<Step>& step : steps_) scratch_bytes_ = std::max(scratch_bytes_, aligned(step->scratch()));

    // When each tensor is first written and last read; those that several segments see last for ever.
    struct Life {
        int first = -1, last = -1, segment = -1;
        bool connects = false;
    };
    std::vector<Life> lives(tensors_.size());
    for (size_t s = 0; s < segments_.size(); s++) {
        for (int i = segments_[s].begin; i < segments_[s].end; i++) {
            const auto see = [&](int number) {
                Life& life = lives[tensors_[number].parent];
                if (life.first < 0) {
                    life.first = i;
                    life.segment = static_cast<int>(s);
                }
                life.connects |= life.segment != static_cast<int>(s);
                life.last = i;
            };
            for (int number : steps_[order_[i]]->writes) see(number);
            for (int number : steps_[order_[i]]->reads) see(number);
        }
    }
    // Places outside the map hold `fill` from the beginning and are never written, so that memory is used again only
    // where these are the same, or where there are none. What was used last is likeliest to be in a cache.
    using Shape = std::tuple<Element, std::tuple<int, int, int, int>, int, int, int, int, int,
                             std::tuple<int, int, int, int>, float>;
    struct Room {
        int free_after;
        int64_t bytes;
        std::vector<int> tensors;
    };
    std::map<Shape, std::vector<Room>> rooms;
    own_bytes_ = shared_bytes_ = line;
    std::vector<int> order;
    for (size_t number = 0; number < tensors_.size(); number++) {
        if (tensors_[number].parent == static_cast<int>(number) && lives[number].first >= 0) {
            order.push_back(static_cast<int>(number));
        }
    }
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return lives[a].first < lives[b].first; });
    for (int number : order) {
        Tensor& tensor = tensors_[number];
        const Layout& layout = tensor.layout;
        const int64_t bytes = aligned(layout.vectors() * layout.vector_bytes());
        if (lives[number].connects) {
            tensor.connects = true;
            tensor.slot_bytes = bytes;
            tensor.slots = by_chunks_ ? 1 : static_cast<int>(std::max<int64_t>(1, chunk_ / layout.images()));
            tensor.offset = shared_bytes_;
            shared_bytes_ += tensor.slots * bytes;
            continue;
        }
        const Lanes& lanes = layout.lanes;
        const bool whole = layout.halo == Halo{} && !layout.ragged() && lanes.channels == 1;
        const Shape bordered{layout.element, {lanes.images, lanes.rows, lanes.columns, lanes.channels}, layout.groups,
                             layout.rows, layout.columns, layout.height, layout.width,
                             {layout.halo.top, layout.halo.bottom, layout.halo.left, layout.halo.right}, layout.fill};
        const Shape shape = whole ? Shape{} : bordered;
        std::vector<Room>& alike = rooms[shape];
        auto room = alike.end();
        for (auto r = alike.begin(); r != alike.end(); ++r) {
            const bool is_free = r->free_after < lives[number].first;
            if (is_free && (room == alike.end() || r->free_after > room->free_after)) room = r;
        }
        if (room == alike.end()) {
            alike.push_back({lives[number].last, bytes, {number}});
        } else {
            room->free_after = lives[number].last;
            room->bytes = std::max(room->bytes, bytes);
            room->tensors.push_back(number);
        }
    }
    for (auto& [shape, alike] : rooms) {
        for (Room& room : alike) {
            for (int number : room.tensors) {
                tensors_[number].offset = own_bytes_;
                tensors_[number].slot_bytes = room.bytes;
            }
            own_bytes_ += room.bytes;
        }
    }
    own_bytes_ += line;
    shared_bytes_ += line;
    workers_ = threads_;
    arenas_ = by_chunks_ ? threads_ : 1;
}

// The activations of one run.
struct Program::Memory {
    struct Free {
        void operator()(char* memory) const { ::operator delete(memory, std::align_val_t(line)); }
    };
    using Block = std::unique_ptr<char, Free>;
    std::vector<Block> own, shared, scratch;

    explicit Memory(const Program& program) {
        for (int64_t i = 0; i < program.workers_; i++) scratch.push_back(reserve(program.scratch_bytes_));
        for (int64_t i = 0; i < program.workers_; i++) own.push_back(block(program, program.own_bytes_, false));
        for (int64_t i = 0; i < program.arenas_; i++) shared.push_back(block(program, program.shared_bytes_, true));
    }

    static Block reserve(int64_t bytes) {
        return Block(static_cast<char*>(::operator new(bytes, std::align_val_t(line))));
    }

    static Block block(const Program& program, int64_t bytes, bool connects) {
        Block memory = reserve(bytes);
        std::memset(memory.get(), 0, bytes);
        for (const Tensor& tensor : program.tensors_) {
            const Layout& layout = tensor.layout;
            if (tensor.connects != connects || layout.fill == 0 || tensor.offset == 0) continue;
            char* start = memory.get() + tensor.offset;
            const int64_t size = tensor.slots * tensor.slot_bytes;
            if (layout.element == Element::float32) {
                std::fill_n(reinterpret_cast<float*>(start), size / 4, layout.fill);
            } else {
                std::memset(start, static_cast<int>(layout.fill), size);
            }
        }
        return memory;
    }
};

// One forward of the whole batch.
class Program::Run {
public:
    Run(const Program& program, Memory& memory, const float* const* inputs, float* const* outputs, double* seconds)
        : program_(program), memory_(memory), inputs_(inputs), outputs_(outputs), seconds_(seconds) {}

    void by_chunks(int worker, int64_t chunk) {
        const int64_t begin = chunk * program_.chunk_, end = std::min(begin + program_.chunk_, program_.images_);
        Frame frame{program_, memory_.own[worker].get(), memory_.shared[worker].get(), memory_.scratch[worker].get(),
                    begin, inputs_, outputs_};
        const std::vector<Segment>& segments = program_.segments_;
        for (int64_t image = begin; image < end;) {
            image += segments[0].images;
            for (const Segment& segment : segments) {
                // A segment runs when its group is complete, or the batch ends within it.
                if ((image - begin) % segment.images != 0 && image < end) break;
                frame.image = (image - 1 - begin) / segment.images * segment.images + begin;
                steps(segment, frame, 0, 1, worker == 0);
            }
        }
    }

    void together(int worker, int workers, Barrier& barrier) {
        for (int64_t begin = 0; begin < program_.images_; begin += program_.chunk_) {
            const int64_t end = std::min(begin + program_.chunk_, program_.images_);
            for (const Segment& segment : program_.segments_) {
                const int64_t groups = (end - begin + segment.images - 1) / segment.images;
                const bool alone = segment.alone;
                Frame frame{program_, memory_.own[alone ? worker : 0].get(), memory_.shared[0].get(),
                            memory_.scratch[worker].get(), 0, inputs_, outputs_};
                for (int64_t group = alone ? worker : 0; group < groups; group += alone ? workers : 1) {
                    frame.image = begin + group * segment.images;
                    if (alone) {
                        steps(segment, frame, 0, 1, worker == 0);
                    } else {
                        steps(segment, frame, worker, workers, worker == 0, &barrier);
                    }
                }
                if (alone) barrier.wait(workers);
            }
        }
    }

private:
    using Clock = std::chrono::steady_clock;

    void steps(const Segment& segment, const Frame& frame, int worker, int workers, bool timed,
               Barrier* barrier = nullptr) {
        timed = timed && seconds_;
        Clock::time_point begin = timed ? Clock::now() : Clock::time_point();
        for (int i = segment.begin; i < segment.end; i++) {
            const int number = program_.order_[i];
            program_.steps_[number]->run(frame, worker, workers);
            if (barrier) barrier->wait(workers);
            if (timed) {
                const Clock::time_point end = Clock::now();
                seconds_[number] += std::chrono::duration<double>(end - begin).count();
                begin = end;
            }
        }
    }

    const Program& program_;
    Memory& memory_;
    const float* const* inputs_;
    float* const* outputs_;
    double* seconds_;
};

void Program::run(const float* const* inputs, float* const* outputs, double* seconds) const {
    if (!finished_) throw std::invalid_argument("the program is not finished");
    for (const std::unique_ptr<Step>& step : steps_) {
        if (!step->ready()) throw std::invalid_argument("a convolution has no candidates");
    }
    std::unique_ptr<Memory> memory;
    {
        const std::lock_guard<std::mutex> guard(lock_);
        if (!free_.empty()) {
            memory = std::move(free_.back());
            free_.pop_back();
        }
    }
    if (!memory) memory = std::make_unique<Memory>(*this);
    Run forward(*this, *memory, inputs, outputs, seconds);
    if (by_chunks_) {
        parallel(threads_, (images_ + chunk_ - 1) / chunk_,
                 [&](int worker, int64_t chunk) { forward.by_chunks(worker, chunk); });
    } else {
        Barrier barrier;
        team(threads_, [&](int worker, int workers) { forward.together(worker, workers, barrier); });
    }
    const std::lock_guard<std::mutex> guard(lock_);
    free_.push_back(std::move(memory));
}

void Program::surround(const Frame& frame, int number, int begin, int end) const {
    const Tensor& tensor = tensors_[number];
    if (tensor.border.moves.empty()) return;
    const Layout& layout = tensor.layout;
    const Surround fill = runtime_kernels().surround[std::countr_zero(static_cast<unsigned>(layout.vector_bytes()))];
    const int64_t bytes = layout.channel() * layout.vector_bytes();
    char* channel = frame.address(number) + begin * bytes;
    for (int c = begin; c < end; c++, channel += bytes) {
        fill(channel, tensor.border.moves.data(), static_cast<int64_t>(tensor.border.moves.size()),
             tensor.border.masks.data(), tensor.border.fill.data());
    }
}

TunableStep& Program::convolution_at(int step) {
    TunableStep* convolution =
        step >= 0 && step < step_count() ? dynamic_cast<TunableStep*>(steps_[step].get()) : nullptr;
    demand(convolution, "step " + std::to_string(step) + " is no convolution");
    return *convolution;
}

}  // namespace sparsecycle
