#include "threads.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <thread>
#include <vector>

namespace sparsecycle {

namespace {

// The entry that compilers call for `#pragma omp parallel`; GNU's runtime and LLVM's both have it. Calling the one
// that torch has loaded, instead of linking one, makes torch's threads do the work: a second runtime would have
// threads of its own, and each pool would spin while the other works.
using GompParallel = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

GompParallel find_torchs_runtime() {
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    void* symbol = dlsym(torch ? torch : RTLD_DEFAULT, "GOMP_parallel");
    return reinterpret_cast<GompParallel>(symbol);
}

GompParallel torchs_runtime() {
    static const GompParallel found = find_torchs_runtime();
    return found;
}

struct Loop {
    const std::function<void(int, int64_t)>& work;
    const int64_t items;
    std::atomic<int> workers{0};
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    std::exception_ptr failure = nullptr;

    void take_part() {
        const int worker = workers.fetch_add(1, std::memory_order_relaxed);
        for (int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;) {
            try {
                work(worker, item);
            } catch (...) {
                next.store(items, std::memory_order_relaxed);
                if (!failed.exchange(true)) failure = std::current_exception();
            }
        }
    }
};

void take_part(void* loop) { static_cast<Loop*>(loop)->take_part(); }

}  // namespace

void parallel(int threads, int64_t items, const std::function<void(int, int64_t)>& work) {
    Loop loop{work, items};
    const int team = static_cast<int>(std::min<int64_t>(threads, items));
    if (team <= 1) {
        loop.take_part();
    } else if (GompParallel run = torchs_runtime()) {
        run(take_part, &loop, static_cast<unsigned>(team), 0);  // may give fewer threads: the loop does not mind
    } else {
        std::vector<std::thread> others;
        for (int i = 1; i < team; i++) others.emplace_back(take_part, &loop);
        loop.take_part();
        for (std::thread& other : others) other.join();
    }
    if (loop.failure) std::rethrow_exception(loop.failure);
}

const char* pool() { return torchs_runtime() ? "torch" : "own"; }

}  // namespace sparsecycle
