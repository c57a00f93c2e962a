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

void* torchs_library() {
    void* torch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    return torch ? torch : RTLD_DEFAULT;
}

GompParallel find_torchs_runtime() {
    return reinterpret_cast<GompParallel>(dlsym(torchs_library(), "GOMP_parallel"));
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

// So many threads that do this, or as many as the system gives.
template <class Work>
std::vector<std::thread> started(int number, const Work& work) {
    std::vector<std::thread> threads;
    threads.reserve(number);
    try {
        for (int i = 0; i < number; i++) threads.emplace_back(work);
    } catch (const std::exception&) {  // must not pass: a thread that nobody joins ends the program
    }
    return threads;
}

}  // namespace

void parallel(int threads, int64_t items, const std::function<void(int, int64_t)>& work) {
    Loop loop{work, items};
    const int team = static_cast<int>(std::min<int64_t>(threads, items));
    if (team <= 1) {
        loop.take_part();
    } else if (GompParallel run = torchs_runtime()) {
        run(take_part, &loop, static_cast<unsigned>(team), 0);  // may give fewer threads: the loop does not mind
    } else {
        std::vector<std::thread> others = started(team - 1, [&] { loop.take_part(); });
        loop.take_part();
        for (std::thread& other : others) other.join();
    }
    if (loop.failure) std::rethrow_exception(loop.failure);
}

namespace {

using GetNumber = int (*)();

struct Team {
    const std::function<void(int, int)>& work;
    std::atomic<int> workers{0};  // 0 until it is known
    std::atomic<int> next{0};

    void join() {
        int known;
        while (!(known = workers.load(std::memory_order_acquire))) std::this_thread::yield();
        work(next.fetch_add(1, std::memory_order_relaxed), known);
    }
};

void join_team(void* team) {
    static const GetNumber size = reinterpret_cast<GetNumber>(dlsym(torchs_library(), "omp_get_num_threads"));
    Team& of = *static_cast<Team*>(team);
    of.workers.store(size(), std::memory_order_release);
    of.join();
}

}  // namespace

void team(int threads, const std::function<void(int, int)>& work) {
    Team all{work};
    if (threads == 1) {
        work(0, 1);
    } else if (GompParallel run = torchs_runtime()) {
        run(join_team, &all, static_cast<unsigned>(threads), 0);
    } else {
        std::vector<std::thread> others = started(threads - 1, [&] { all.join(); });
        all.workers.store(static_cast<int>(others.size()) + 1, std::memory_order_release);
        all.join();
        for (std::thread& other : others) other.join();
    }
}

const char* pool() { return torchs_runtime() ? "torch" : "own"; }

}  // namespace sparsecycle
