#pragma once

#include <nanobind/nanobind.h>

namespace sparsecycle {

void bind_runtime(nanobind::module_& m);

}  // namespace sparsecycle
