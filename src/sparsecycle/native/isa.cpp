#include "isa.h"

#include <atomic>
#include <stdexcept>

#ifdef SPARSECYCLE_HAS_AVX2
#include <cpuid.h>
#endif

namespace sparsecycle {

namespace {

#ifdef SPARSECYCLE_HAS_AVX2
bool has_avx2() {
    // What -march=x86-64-v3 lets the compiler use. Clang before 18 cannot be asked for the last three by their names.
    unsigned a, b, basic, extended, d;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt") &&
           __get_cpuid(1, &a, &b, &basic, &d) && (basic & bit_F16C) && (basic & bit_MOVBE) &&
           __get_cpuid(0x80000001, &a, &b, &extended, &d) && (extended & bit_LZCNT);
}
#endif

#ifdef SPARSECYCLE_HAS_AVX512
bool has_avx512() {
    // What -march=x86-64-v4 adds to that.
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef SPARSECYCLE_HAS_AVX512VNNI
bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"); }
#endif

std::atomic<Isa>& chosen() {
    static std::atomic<Isa> isa{available().back()};
    return isa;
}

}  // namespace

const char* name(Isa isa) {
    switch (isa) {
        case Isa::avx512vnni: return "avx512vnni";
        case Isa::avx512: return "avx512";
        case Isa::avx2: return "avx2";
        default: return "baseline";
    }
}

std::vector<Isa> available() {
    std::vector<Isa> isas{Isa::baseline};
#ifdef SPARSECYCLE_HAS_AVX2
    if (has_avx2()) isas.push_back(Isa::avx2);
#endif
#ifdef SPARSECYCLE_HAS_AVX512
    if (has_avx512()) isas.push_back(Isa::avx512);
#endif
#ifdef SPARSECYCLE_HAS_AVX512VNNI
    if (has_avx512vnni()) isas.push_back(Isa::avx512vnni);
#endif
    return isas;
}

Isa current() { return chosen().load(std::memory_order_relaxed); }

void use(const std::string& isa) {
    std::string allowed;
    for (Isa candidate : available()) {
        if (isa == name(candidate)) {
            chosen().store(candidate, std::memory_order_relaxed);
            return;
        }
        allowed += std::string(allowed.empty() ? "" : ", ") + name(candidate);
    }
    throw std::invalid_argument("isa='" + isa + "' must be one of what this machine has: " + allowed);
}

}  // namespace sparsecycle
