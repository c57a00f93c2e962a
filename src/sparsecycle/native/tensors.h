// What happens to torch's tensors at every training step and every call of a compiled network, read off them through
// Python's own interface.
//
// A few lines of Python would do, and did; but in between everything has been driven out of the processor's caches, and
// then they take several times as long as in a loop of their own: in small networks, longer than the kernels.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <functional>
#include <tuple>
#include <utility>
#include <vector>

namespace sparsecycle {

namespace nb = nanobind;

// Weights and their masks, and where they were when this was made.
class Tensors {
   public:
    Tensors(std::vector<nb::object> weights, std::vector<nb::object> masks);

    // Whether one of them lies elsewhere by now, or otherwise.
    bool moved() const;

    // For each the addresses of what an optimizer holds of it element by element, and of its gradient, with the bytes of
    // an element; all these tensors; and whether there is nothing else of its shape, such as what lies in another order.
    std::tuple<std::vector<std::vector<std::pair<std::uintptr_t, int>>>, std::vector<nb::object>, bool> belongings(
        nb::handle state) const;

   private:
    struct Place {
        std::uintptr_t address;
        nb::object dtype, shape, strides;
    };
    std::vector<nb::object> weights_, masks_;
    std::vector<Place> places_;
    std::vector<std::uintptr_t> mask_addresses_;
};

// A hook that zeroes a weight's gradient where its mask is 0, unless `flow.dense` is true.
class Gate {
   public:
    // `otherwise(mask, gradient)` is called for a gradient that does not lie as the mask does, or has a graph.
    Gate(nb::object mask, nb::object flow, nb::object otherwise);

    void operator()(nb::handle weight) const;

   private:
    nb::object mask_, flow_, otherwise_, shape_, strides_;
    int64_t size_;
};

// A network of one output that takes the usual inputs: contiguous tensors of float32 in the processor's memory.
class Call {
   public:
    using Run = std::function<void(const float* const* inputs, float* const* outputs)>;

    // shapes: of the inputs. output: one that is like it is made for each call.
    Call(Run run, std::vector<nb::object> shapes, nb::object output);

    // The output, or None for inputs that are not the usual ones.
    nb::object operator()(const nb::tuple& inputs) const;

   private:
    Run run_;
    std::vector<nb::object> shapes_;
    nb::object output_;
};

}  // namespace sparsecycle
