// Parallel loops on the threads that torch already has.
#pragma once

#include <cstdint>
#include <functional>

namespace sparsecycle {

// Calls work(worker, item) once for every item from 0 to items - 1, on at most `threads` threads. Items are handed out
// as threads become free; worker numbers run from 0 to threads - 1 and say whose scratch space to use. What work
// throws is thrown here, after the other threads have stopped.
void parallel(int threads, int64_t items, const std::function<void(int worker, int64_t item)>& work);

// Calls work(worker, workers) on `workers` threads at the same time, at most `threads`; they may wait for each other.
// work must not throw.
void team(int threads, const std::function<void(int worker, int workers)>& work);

// Where the threads come from: "torch" (its OpenMP runtime) or "own" (started for each loop).
const char* pool();

}  // namespace sparsecycle
