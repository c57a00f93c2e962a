#include "scale.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace sparsecycle::int8 {

const Kernels& kernels() {
    switch (current()) {
#ifdef SPARSECYCLE_HAS_AVX512VNNI
        case Isa::avx512vnni: return avx512vnni::int8_kernels;
#endif
#ifdef SPARSECYCLE_HAS_AVX512
        case Isa::avx512: return avx512::int8_kernels;
#endif
#ifdef SPARSECYCLE_HAS_AVX2
        case Isa::avx2: return avx2::int8_kernels;
#endif
        default: return baseline::int8_kernels;
    }
}

void check(const Scale& scale) {
    if (!(scale.scale > 0 && std::isfinite(scale.scale) && std::isfinite(1 / scale.scale))) {
        throw std::invalid_argument("a scale=" + std::to_string(scale.scale) + " must be positive and finite");
    }
    if (scale.zero < 0 || scale.zero > 255) {
        throw std::invalid_argument("a zero=" + std::to_string(scale.zero) + " must be 0 to 255");
    }
}

uint8_t flip(const Layout& layout) { return layout.lanes.channels > 1 ? 0 : kernels().flip; }

Layout as_stored(Layout layout) {
    if (!(layout.fill >= 0 && layout.fill <= 255)) {
        throw std::invalid_argument("a fill=" + std::to_string(layout.fill) + " of 8 bits must be 0 to 255");
    }
    layout.fill = static_cast<float>(static_cast<uint8_t>(layout.fill) ^ flip(layout));
    return layout;
}

std::pair<uint8_t, uint8_t> limits(const Activation& activation, const Scale& scale) {
    if (activation.silu) return {0, 255};
    const auto limit = [&](float value) {  // of infinity too
        const float q = std::nearbyint(value / scale.scale) + static_cast<float>(scale.zero);
        return static_cast<uint8_t>(std::clamp(q, 0.0f, 255.0f));
    };
    return {limit(activation.low), limit(activation.high)};
}

AlignedVector<uint8_t> inside(const Layout& layout) {
    AlignedVector<uint8_t> bits;
    if (!layout.ragged()) return bits;
    const int lanes = layout.lanes.count();
    for (int y = 0; y < layout.rows; y++) {
        for (int x = 0; x < layout.columns; x++) {
            for (int i = 0; i < lanes * layout.groups; i++) bits.push_back(layout.inside(i % lanes, y, x) ? 255 : 0);
        }
    }
    return bits;
}

}  // namespace sparsecycle::int8
