// The Python face of the runtime: programs are put together from plain numbers and the addresses of arrays.
#include "bindings.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <limits>
#include <stdexcept>

#include "../int8/kernels.h"
#include "../tensors.h"
#include "convolution.h"
#include "kernels.h"
#include "program.h"

namespace sparsecycle {

namespace {

namespace nb = nanobind;
using nb::literals::operator""_a;
using Address = std::uintptr_t;

Activation activation(const std::string& name) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    if (name == "none") return {-infinity, infinity, false};
    if (name == "relu") return {0, infinity, false};
    if (name == "relu6") return {0, 6, false};
    if (name == "silu") return {-infinity, infinity, true};
    throw std::invalid_argument("activation='" + name + "' must be none, relu, relu6 or silu");
}

const float* floats(Address address) { return reinterpret_cast<const float*>(address); }

std::vector<Range> ranges(const std::vector<std::pair<int, int>>& pairs) {
    std::vector<Range> made;
    for (const auto& [start, stop] : pairs) made.push_back({start, stop});
    return made;
}

Geometry geometry(std::tuple<int, int, int, int> weight, std::pair<int, int> stride, std::pair<int, int> padding,
                  std::pair<int, int> dilation, int groups) {
    const auto [out, in, height, width] = weight;
    return {out,           in * groups,    height,          width,          stride.first,    stride.second,
            padding.first, padding.second, dilation.first,  dilation.second, groups};
}

template <class T>
std::vector<T*> pointers(const std::vector<Address>& addresses, int count, const char* what) {
    if (addresses.size() < static_cast<size_t>(count)) {
        throw std::invalid_argument(std::to_string(count) + what + " are needed, not " + std::to_string(addresses.size()));
    }
    std::vector<T*> made;
    for (Address address : addresses) {
        if (!address) throw std::invalid_argument("an array has no address");
        made.push_back(reinterpret_cast<T*>(address));
    }
    return made;
}

}  // namespace

void bind_runtime(nb::module_& m) {
    m.def("widest", [] { return runtime_kernels().lanes; });

    m.def("int8_windows", [] {
        std::vector<int> windows;
        for (const int8::Gatherers* g = int8::kernels().gatherers; g && g->window; g++) windows.push_back(g->window);
        return windows;
    });

    m.def("int8_forms", [] {
        std::vector<std::tuple<int, int, int, bool>> forms;
        for (const int8::Convolution* k = int8::kernels().convolutions; k->run; k++) {
            forms.emplace_back(k->form.lanes, k->form.vectors, k->form.bundle, k->form.dense);
        }
        return forms;
    });

    m.def("forms", [] {
        std::vector<std::tuple<int, int, int, int, int, bool, bool>> forms;
        for (const Convolution* k = runtime_kernels().convolutions; k->run; k++) {
            const Form& f = k->form;
            forms.emplace_back(f.lanes, f.rows, f.columns, f.step, f.bundle, f.dense, f.bfloat16);
        }
        return forms;
    });

    nb::class_<Cost>(m, "Cost")
        .def_ro("bytes", &Cost::bytes)
        .def_ro("multiply_adds", &Cost::multiply_adds)
        .def_ro("loads", &Cost::loads)
        .def_ro("visits", &Cost::visits)
        .def_ro("stored", &Cost::stored);

    nb::class_<Program>(m, "Program")
        .def(nb::init<int64_t, int>(), "images"_a, "threads"_a)
        .def(
            "tensor",
            [](Program& program, int channels, std::pair<int, int> map, std::tuple<int, int, int> lanes, int groups,
               std::pair<int, int> block, std::tuple<int, int, int, int> halo, float fill, int lane_channels,
               std::optional<std::pair<float, int>> scale) {
                const auto [top, bottom, left, right] = halo;
                const auto [images, rows, columns] = lanes;
                Layout layout;
                layout.channels = channels;
                layout.height = map.first;
                layout.width = map.second;
                layout.lanes = {images, rows, columns, lane_channels};
                layout.groups = groups;
                layout.rows = block.first;
                layout.columns = block.second;
                layout.halo = {top, bottom, left, right};
                layout.fill = fill;
                if (scale) {
                    layout.element = Element::uint8;
                    layout.scale = {scale->first, scale->second};
                }
                return program.tensor(layout);
            },
            "channels"_a, "map"_a, "lanes"_a, "groups"_a, "block"_a, "halo"_a, "fill"_a = 0.0f,
            "lane_channels"_a = 1, "scale"_a = nb::none())
        .def("view", &Program::view, "tensor"_a, "channel"_a, "channels"_a)
        .def(
            "load",
            [](Program& program, int input, std::tuple<int, int, int> array, int to) {
                return program.load(input, {std::get<0>(array), std::get<1>(array), std::get<2>(array)}, to);
            },
            "input"_a, "array"_a, "to"_a)
        .def(
            "store",
            [](Program& program, int from, int output, std::tuple<int, int, int> array) {
                return program.store(from, output, {std::get<0>(array), std::get<1>(array), std::get<2>(array)});
            },
            "source"_a, "output"_a, "array"_a)
        .def("move", &Program::move, "source"_a, "to"_a, "flatten"_a = false)
        .def(
            "convolution",
            [](Program& program, int from, int to, std::optional<int> residual, std::tuple<int, int, int, int> weight,
               std::pair<int, int> stride, std::pair<int, int> padding, std::pair<int, int> dilation, int groups,
               Address weights, Address bias, const std::string& curve) {
                return program.convolution(from, to, residual.value_or(-1),
                                           geometry(weight, stride, padding, dilation, groups), floats(weights),
                                           floats(bias), activation(curve));
            },
            "source"_a, "to"_a, "residual"_a.none(), "weight"_a, "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
            "weights"_a, "bias"_a, "activation"_a)
        .def(
            "int8_convolution",
            [](Program& program, int from, int to, std::optional<int> residual, std::tuple<int, int, int, int> weight,
               std::pair<int, int> stride, std::pair<int, int> padding, std::pair<int, int> dilation, int groups,
               Address weights, Address scales, Address bias, const std::string& curve) {
                return program.convolution(from, to, residual.value_or(-1),
                                           geometry(weight, stride, padding, dilation, groups),
                                           reinterpret_cast<const int8_t*>(weights), floats(scales), floats(bias),
                                           activation(curve));
            },
            "source"_a, "to"_a, "residual"_a.none(), "weight"_a, "stride"_a, "padding"_a, "dilation"_a, "groups"_a,
            "weights"_a, "scales"_a, "bias"_a, "activation"_a)
        .def(
            "pool",
            [](Program& program, int from, int to, bool average, const std::vector<std::pair<int, int>>& rows,
               const std::vector<std::pair<int, int>>& columns, const std::vector<float>& scale) {
                return program.pool(from, to, average, ranges(rows), ranges(columns), scale);
            },
            "source"_a, "to"_a, "average"_a, "rows"_a, "columns"_a, "scale"_a)
        .def(
            "combine",
            [](Program& program, int left, std::optional<int> right, int to, const std::string& curve) {
                return program.combine(left, right.value_or(-1), to, activation(curve));
            },
            "left"_a, "right"_a.none(), "to"_a, "activation"_a)
        .def("finish", &Program::finish)
        .def("forms", [](Program& program, int step) { return program.convolution_at(step).forms(); }, "step"_a)
        .def(
            "candidate",
            [](Program& program, int step, int form, int blocks) {
                return program.convolution_at(step).candidate(form, blocks);
            },
            "step"_a, "form"_a, "blocks"_a, nb::call_guard<nb::gil_scoped_release>())
        .def("choose", [](Program& program, int step, int way) { program.convolution_at(step).choose(way); }, "step"_a,
             "candidate"_a)
        .def("keep_chosen", [](Program& program, int step) { program.convolution_at(step).keep_chosen(); }, "step"_a)
        .def("cost", [](Program& program, int step, int way) { return program.convolution_at(step).cost(way); }, "step"_a,
             "candidate"_a)
        .def(
            "run",
            [](const Program& program, const std::vector<Address>& inputs, const std::vector<Address>& outputs) {
                const std::vector<const float*> in = pointers<const float>(inputs, program.inputs(), " inputs");
                const std::vector<float*> out = pointers<float>(outputs, program.outputs(), " outputs");
                const nb::gil_scoped_release release;
                program.run(in.data(), out.data());
            },
            "inputs"_a, "outputs"_a)
        .def(
            "profile",
            [](const Program& program, const std::vector<Address>& inputs, const std::vector<Address>& outputs) {
                const std::vector<const float*> in = pointers<const float>(inputs, program.inputs(), " inputs");
                const std::vector<float*> out = pointers<float>(outputs, program.outputs(), " outputs");
                std::vector<double> seconds(program.step_count());
                const nb::gil_scoped_release release;
                program.run(in.data(), out.data(), seconds.data());
                return seconds;
            },
            "inputs"_a, "outputs"_a)
        .def_prop_ro("memory", &Program::memory);

    nb::class_<Call>(m, "Call")
        .def(
            "__init__",
            [](Call* self, const Program& program, std::vector<nb::object> shapes, nb::object output) {
                if (program.inputs() > static_cast<int>(shapes.size()) || program.outputs() > 1) {
                    throw std::invalid_argument("a call has one output, and a shape for each input");
                }
                const auto run = [&program](const float* const* in, float* const* out) { program.run(in, out); };
                new (self) Call(run, std::move(shapes), std::move(output));
            },
            "program"_a, "shapes"_a, "output"_a, nb::keep_alive<1, 2>())
        .def("__call__", &Call::operator(), "inputs"_a);
}

}  // namespace sparsecycle
