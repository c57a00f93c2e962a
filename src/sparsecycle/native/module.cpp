// The Python face of the core: plain addresses and numbers, which sparsecycle.native takes from tensors.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "isa.h"
#include "runtime/bindings.h"
#include "selection/prune.h"
#include "selection/select.h"
#include "tensors.h"
#include "threads.h"

namespace sparsecycle {

namespace {

using Address = std::uintptr_t;
using Order = std::pair<std::vector<int64_t>, std::vector<int64_t>>;  // shape, strides
using Belongings = std::vector<std::vector<std::pair<Address, int>>>;

// Python's numbers are double precision, in which all of float32 are normal. Those that are not in float32 are not
// converted as such: a thread may have been told to flush them to 0.
constexpr double smallest = 0x1p-149;         // above 0
constexpr int32_t smallest_normal = 1 << 23;  // its key

int32_t key_of(double score, bool absolute) {
    const double magnitude = std::abs(score);
    int32_t key = static_cast<int32_t>(std::min(double{smallest_normal}, magnitude / smallest));
    if (key == smallest_normal) {
        const float rounded = static_cast<float>(magnitude);
        std::memcpy(&key, &rounded, sizeof key);
    }
    return absolute || !std::signbit(score) ? key : -key;
}

double score_of(int32_t key) {
    const int32_t magnitude = std::abs(key);
    if (magnitude < smallest_normal) return key * smallest;
    float score;
    std::memcpy(&score, &magnitude, sizeof score);
    return key < 0 ? -score : score;
}

// The scores that differ from `near` by `within` times its magnitude, at most.
std::optional<Bracket> around(std::optional<double> near, double within, bool absolute) {
    if (!near || !std::isfinite(*near)) return std::nullopt;
    const double reach = std::abs(*near) * within;
    const double low = absolute ? std::max(std::abs(*near) - reach, 0.0) : *near - reach;
    const double high = absolute ? std::abs(*near) + reach : *near + reach;
    return Bracket{key_of(low, absolute) - 1, key_of(high, absolute)};
}

void demand(bool holds, const std::string& what) {
    if (!holds) throw std::invalid_argument(what);
}

void demand_threads(int threads) { demand(threads > 0, "threads=" + std::to_string(threads) + " must be positive"); }

Companion companion(Address address, int bytes) {
    demand(address, "a companion has no address");
    demand(bytes == 2 || bytes == 4 || bytes == 8,
           "bytes=" + std::to_string(bytes) + " of a companion's element must be 2, 4 or 8");
    return {reinterpret_cast<void*>(address), bytes};
}

struct Layers {
    std::vector<Layer> layers;

    Layers(const std::vector<Address>& data, const std::vector<int>& kinds, const std::vector<int64_t>& sizes,
           const std::vector<Address>& masks, const std::vector<std::optional<Order>>& orders) {
        demand(kinds.size() == data.size() && sizes.size() == data.size() && masks.size() == data.size() &&
                   orders.size() == data.size(),
               "there must be as many types, sizes, masks and orders as addresses");
        for (size_t i = 0; i < data.size(); i++) {
            demand(kinds[i] >= 0 && kinds[i] < types, "type " + std::to_string(kinds[i]) + " is not known");
            demand(sizes[i] >= 0, "size " + std::to_string(sizes[i]) + " must not be negative");
            demand(data[i] || !sizes[i], "a layer has no address");
            layers.push_back({reinterpret_cast<void*>(data[i]), static_cast<Type>(kinds[i]), sizes[i],
                              reinterpret_cast<uint8_t*>(masks[i]), {}, {}});
            if (orders[i]) set_order(layers.back(), *orders[i]);
        }
    }

    static void set_order(Layer& layer, const Order& order) {
        const auto& [shape, strides] = order;
        demand(shape.size() == strides.size(), "there must be as many strides as dimensions");
        int64_t size = 1, last = 0;
        for (size_t d = 0; d < shape.size(); d++) {
            demand(shape[d] >= 0 && strides[d] >= 0, "shapes and strides must not be negative");
            size *= shape[d];
            last += std::max<int64_t>(shape[d] - 1, 0) * strides[d];
        }
        demand(size == layer.size && (!size || last < size), "shape and strides must be those of a tensor without gaps");
        layer.shape = shape;
        layer.strides = strides;
    }

    Companions companions(const Belongings& belongings) const {
        demand(belongings.empty() || belongings.size() == layers.size(),
               "there must be a list of companions for each layer, or none at all");
        Companions all(layers.size());
        for (size_t i = 0; i < belongings.size(); i++)
            for (const auto& [address, bytes] : belongings[i]) all[i].push_back(companion(address, bytes));
        return all;
    }

    void demand_masks() const {
        for (const Layer& layer : layers) demand(layer.mask || !layer.size, "every layer must have a mask");
    }

    Share share(const std::vector<int>& indices, int64_t keep, int64_t before, std::optional<double> near, double within,
                bool returns, int64_t floor) const {
        int64_t size = 0, least = 0;
        for (int i : indices) {
            demand(i >= 0 && i < static_cast<int>(layers.size()), "there is no layer " + std::to_string(i));
            size += layers[i].size;
            if (indices.size() > 1) least += std::min(floor, layers[i].size);
        }
        demand(0 <= before && before <= size, "before=" + std::to_string(before) + " must be from 0 to " +
                                                  std::to_string(size) + ", the share's size");
        const int64_t most = returns ? size : before;
        demand(least <= keep && keep <= most, "keep=" + std::to_string(keep) + " must be from " +
                                                  std::to_string(least) + " to " + std::to_string(most));
        return {indices, keep, before, around(near, within, true)};
    }
};

using Chosen = std::tuple<double, std::vector<size_t>>;

}  // namespace

NB_MODULE(_core, m) {
    nb::set_leak_warnings(false);  // at exit Python may leave objects behind, which is no leak
    m.def("isa", [] { return name(current()); });
    m.def("isas", [] {
        std::vector<std::string> names;
        for (Isa isa : available()) names.emplace_back(name(isa));
        return names;
    });
    m.def("use", &use, nb::arg("isa"));
    m.def("pool", &pool);

    m.def("clear", [](Address mask, int64_t size, Address data, int bytes, int threads) {
        demand(size >= 0, "size " + std::to_string(size) + " must not be negative");
        if (!size) return;
        demand(mask, "there is no mask");
        demand_threads(threads);
        const Companion cleared = companion(data, bytes);
        nb::gil_scoped_release release;
        clear(reinterpret_cast<const uint8_t*>(mask), size, cleared, threads);
    });

    nb::class_<Gate>(m, "Gate")
        .def(nb::init<nb::object, nb::object, nb::object>())
        .def("__call__", [](const Gate& self, nb::handle weight) { self(weight); });

    nb::class_<Tensors>(m, "Tensors")
        .def(nb::init<std::vector<nb::object>, std::vector<nb::object>>())
        .def("moved", &Tensors::moved)
        .def("belongings", &Tensors::belongings);

    nb::class_<Layers>(m, "Layers")
        .def(nb::init<const std::vector<Address>&, const std::vector<int>&, const std::vector<int64_t>&,
                      const std::vector<Address>&, const std::vector<std::optional<Order>>&>())
        .def(
            "enforce",
            [](const Layers& self, const Belongings& belongings, int threads) {
                self.demand_masks();
                demand_threads(threads);
                const Companions companions = self.companions(belongings);
                nb::gil_scoped_release release;
                return enforce(self.layers, companions, threads);
            },
            nb::arg("companions"), nb::arg("threads"))
        .def(
            "prune",
            [](const Layers& self, const Belongings& belongings,
               const std::vector<std::tuple<std::vector<int>, int64_t, int64_t, std::optional<double>, double>>& asked,
               bool returns, int64_t floor, int threads) {
                self.demand_masks();
                demand_threads(threads);
                demand(floor >= 0, "floor=" + std::to_string(floor) + " must not be negative");
                const Companions companions = self.companions(belongings);
                std::vector<Share> shares;
                for (const auto& [indices, keep, before, near, within] : asked)
                    shares.push_back(self.share(indices, keep, before, near, within, returns, floor));
                nb::gil_scoped_release release;
                std::vector<std::optional<double>> thresholds;
                for (std::optional<int32_t> key : prune(self.layers, companions, shares, returns, floor, threads))
                    thresholds.push_back(key ? std::optional(score_of(*key)) : std::nullopt);
                return thresholds;
            },
            nb::arg("companions"), nb::arg("shares"), nb::arg("returns"), nb::arg("floor"), nb::arg("threads"))
        .def(
            "keep_largest",
            [](const Layers& self, const std::vector<Address>& masks, int64_t k, bool absolute,
               std::optional<double> near, double within, const std::vector<int64_t>& floors, int threads) -> Chosen {
                demand(masks.size() == self.layers.size() && floors.size() == masks.size(),
                       "there must be a mask and a floor for each layer");
                for (size_t i = 0; i < masks.size(); i++)
                    demand(masks[i] || !self.layers[i].size, "there is no mask to write");
                demand_threads(threads);
                nb::gil_scoped_release release;
                const Selection selection =
                    largest(self.layers, absolute, k, around(near, within, absolute), infinite_key, threads);
                std::vector<size_t> starved;
                std::vector<uint8_t*> written;
                for (size_t i = 0; i < masks.size(); i++) {
                    if (selection.kept(i) < floors[i]) starved.push_back(i);
                    written.push_back(reinterpret_cast<uint8_t*>(masks[i]));
                }
                if (starved.empty()) mark(self.layers, absolute, selection, written, threads);
                return {score_of(selection.threshold), starved};
            },
            nb::arg("masks"), nb::arg("k"), nb::arg("absolute"), nb::arg("near").none(), nb::arg("within"),
            nb::arg("floors"), nb::arg("threads"))
        .def(
            "histogram",
            [](const Layers& self, bool absolute, uint32_t prefix, int shift, int bins, int threads) {
                demand(bins > 0 && std::has_single_bit(static_cast<unsigned>(bins)) && shift >= 0 &&
                           shift + std::countr_zero(static_cast<unsigned>(bins)) <= 32,
                       "shift=" + std::to_string(shift) + " and bins=" + std::to_string(bins) +
                           " must be those of a digit of 32 bits");
                demand_threads(threads);
                nb::gil_scoped_release release;
                return histogram(self.layers, absolute, prefix, shift, bins, threads);
            },
            nb::arg("absolute"), nb::arg("prefix"), nb::arg("shift"), nb::arg("bins"), nb::arg("threads"))
        .def(
            "top",
            [](const Layers& self, int threads) {
                demand_threads(threads);
                nb::gil_scoped_release release;
                return score_of(top(self.layers, threads));
            },
            nb::arg("threads"));

    bind_runtime(m);
}

}  // namespace sparsecycle
