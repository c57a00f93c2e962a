#include "tensors.h"

#include "selection/prune.h"

namespace sparsecycle {

namespace {

// The names are made once, so that looking one up costs no more than it does Python.
struct Names {
    PyObject* grad = PyUnicode_InternFromString("grad");
    PyObject* data_ptr = PyUnicode_InternFromString("data_ptr");
    PyObject* dtype = PyUnicode_InternFromString("dtype");
    PyObject* shape = PyUnicode_InternFromString("shape");
    PyObject* stride = PyUnicode_InternFromString("stride");
    PyObject* is_cpu = PyUnicode_InternFromString("is_cpu");
    PyObject* layout = PyUnicode_InternFromString("layout");
    PyObject* requires_grad = PyUnicode_InternFromString("requires_grad");
    PyObject* element_size = PyUnicode_InternFromString("element_size");
    PyObject* dense = PyUnicode_InternFromString("dense");
    PyObject* get_num_threads = PyUnicode_InternFromString("get_num_threads");
    PyObject* is_contiguous = PyUnicode_InternFromString("is_contiguous");
};

struct Torch {
    Names names;
    // Never given back: the interpreter may be gone when this is destroyed.
    PyObject* module = nb::module_::import_("torch").release().ptr();
    PyObject* tensor = nb::getattr(module, "Tensor").release().ptr();
    PyObject* strided = nb::getattr(module, "strided").release().ptr();
    PyObject* float32 = nb::getattr(module, "float32").release().ptr();
    PyObject* empty_like = nb::getattr(module, "empty_like").release().ptr();
};

const Torch& torch() {
    static const Torch* known = new Torch;
    return *known;
}

nb::object get(nb::handle object, PyObject* name) {
    PyObject* found = PyObject_GetAttr(object.ptr(), name);
    if (!found) nb::raise_python_error();
    return nb::steal(found);
}

nb::object call(nb::handle object, PyObject* name) {
    PyObject* found = PyObject_CallMethodNoArgs(object.ptr(), name);
    if (!found) nb::raise_python_error();
    return nb::steal(found);
}

template <class Number>
Number number(const nb::object& object) {
    const long long found = PyLong_AsLongLong(object.ptr());
    if (found == -1 && PyErr_Occurred()) nb::raise_python_error();
    return static_cast<Number>(found);
}

bool equal(nb::handle one, nb::handle other) {
    const int same = PyObject_RichCompareBool(one.ptr(), other.ptr(), Py_EQ);
    if (same < 0) nb::raise_python_error();
    return same;
}

std::uintptr_t address(nb::handle tensor) { return number<std::uintptr_t>(call(tensor, torch().names.data_ptr)); }

// Whether it is torch's own kind of tensor, in the processor's memory.
bool is_plain(nb::handle tensor) {
    return reinterpret_cast<PyObject*>(Py_TYPE(tensor.ptr())) == torch().tensor &&
           get(tensor, torch().names.is_cpu).ptr() == Py_True &&
           get(tensor, torch().names.layout).ptr() == torch().strided;
}

int bytes_of(nb::handle tensor) {
    const int bytes = number<int>(call(tensor, torch().names.element_size));
    return bytes == 2 || bytes == 4 || bytes == 8 ? bytes : 0;
}

}  // namespace

Tensors::Tensors(std::vector<nb::object> weights, std::vector<nb::object> masks)
    : weights_(std::move(weights)), masks_(std::move(masks)) {
    const Names& names = torch().names;
    for (const nb::object& weight : weights_)
        places_.push_back({address(weight), get(weight, names.dtype), get(weight, names.shape),
                           call(weight, names.stride)});
    for (const nb::object& mask : masks_) mask_addresses_.push_back(address(mask));
}

bool Tensors::moved() const {
    const Names& names = torch().names;
    for (size_t i = 0; i < weights_.size(); i++) {
        const nb::object& tensor = weights_[i];
        const Place& place = places_[i];
        if (address(tensor) != place.address || !get(tensor, names.dtype).is(place.dtype) ||
            !equal(call(tensor, names.stride), place.strides) || !equal(get(tensor, names.shape), place.shape))
            return true;
    }
    for (size_t i = 0; i < masks_.size(); i++)
        if (address(masks_[i]) != mask_addresses_[i]) return true;
    return false;
}

std::tuple<std::vector<std::vector<std::pair<std::uintptr_t, int>>>, std::vector<nb::object>, bool> Tensors::belongings(
    nb::handle state) const {
    const Names& names = torch().names;
    std::vector<std::vector<std::pair<std::uintptr_t, int>>> found(weights_.size());
    std::vector<nb::object> tensors;
    const bool known = PyDict_Check(state.ptr());
    bool complete = known;
    for (size_t i = 0; i < weights_.size(); i++) {
        const auto add = [&](nb::handle tensor) {
            const int bytes = is_plain(tensor) ? bytes_of(tensor) : 0;
            if (!bytes || !equal(call(tensor, names.stride), places_[i].strides) ||
                !equal(get(tensor, names.shape), places_[i].shape))
                complete = false;
            else if (const std::uintptr_t at = address(tensor)) {  // what is empty has none
                found[i].push_back({at, bytes});
                tensors.push_back(nb::borrow(tensor));
            }
        };
        PyObject* held = known ? PyDict_GetItemWithError(state.ptr(), weights_[i].ptr()) : nullptr;
        if (!held && PyErr_Occurred()) nb::raise_python_error();
        if (held && !PyDict_Check(held)) complete = false;
        PyObject *key, *value;
        for (Py_ssize_t at = 0; held && PyDict_Check(held) && PyDict_Next(held, &at, &key, &value);)
            if (PyObject_TypeCheck(value, reinterpret_cast<PyTypeObject*>(torch().tensor)) &&
                equal(get(value, names.shape), places_[i].shape))
                add(value);
        const nb::object gradient = get(weights_[i], names.grad);
        if (!gradient.is_none()) add(gradient);
    }
    return {std::move(found), std::move(tensors), complete};
}

Gate::Gate(nb::object mask, nb::object flow, nb::object otherwise)
    : mask_(std::move(mask)),
      flow_(std::move(flow)),
      otherwise_(std::move(otherwise)),
      shape_(get(mask_, torch().names.shape)),
      strides_(call(mask_, torch().names.stride)),
      size_(number<int64_t>(nb::getattr(mask_, "numel")())) {}

void Gate::operator()(nb::handle weight) const {
    const Names& names = torch().names;
    const nb::object gradient = get(weight, names.grad);
    if (gradient.is_none() || get(flow_, names.dense).ptr() == Py_True) return;
    const int bytes = is_plain(gradient) ? bytes_of(gradient) : 0;
    // One that has a graph of its own is autograd's to change; of any other, no graph knows yet.
    if (!bytes || get(gradient, names.requires_grad).ptr() == Py_True ||
        !equal(call(gradient, names.stride), strides_) || !equal(get(gradient, names.shape), shape_)) {
        otherwise_(mask_, gradient);
        return;
    }
    const Companion companion{reinterpret_cast<void*>(address(gradient)), bytes};
    const int threads = size_ < worth_a_team ? 1 : number<int>(call(torch().module, names.get_num_threads));
    const uint8_t* mask = reinterpret_cast<const uint8_t*>(address(mask_));  // moves if it is shared with a process
    nb::gil_scoped_release release;
    clear(mask, size_, companion, threads);
}

Call::Call(Run run, std::vector<nb::object> shapes, nb::object output)
    : run_(std::move(run)), shapes_(std::move(shapes)), output_(std::move(output)) {}

nb::object Call::operator()(const nb::tuple& inputs) const {
    const Names& names = torch().names;
    if (inputs.size() != shapes_.size()) return nb::none();
    std::vector<const float*> in;
    for (size_t i = 0; i < shapes_.size(); i++) {
        const nb::handle tensor = inputs[i];
        if (!is_plain(tensor) || get(tensor, names.dtype).ptr() != torch().float32 ||
            !equal(get(tensor, names.shape), shapes_[i]) || call(tensor, names.is_contiguous).ptr() != Py_True)
            return nb::none();
        in.push_back(reinterpret_cast<const float*>(address(tensor)));
    }
    nb::object output = nb::steal(PyObject_CallOneArg(torch().empty_like, output_.ptr()));
    if (!output) nb::raise_python_error();
    float* const out = reinterpret_cast<float*>(address(output));
    const nb::gil_scoped_release release;
    run_(in.data(), &out);
    return output;
}

}  // namespace sparsecycle
