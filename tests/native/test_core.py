"""The extension module itself: its kernels against numpy, what it refuses, and where its threads come from."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle import native

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
DIGITS = ((20, 1 << 12), (10, 1 << 10), (0, 1 << 10))


def core() -> Any:
    extension = native.core()
    assert extension is not None
    return extension


def layers(tensors: list[Tensor], masks: list[Tensor] | None = None) -> Any:
    return native.layers(tensors, masks)


def keys(tensor: Tensor, absolute: bool) -> np.ndarray:
    """What numbers are ranked by: their bits, from the least number's on."""
    bits = tensor.float().numpy().view(np.int32).astype(np.int64).reshape(-1)
    magnitudes = bits & 0x7FFFFFFF
    return magnitudes if absolute else np.where(bits < 0, -magnitudes, magnitudes)


def drawn(n: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x[::7] = 0
    x[3::7] = -0.0
    x[5::11] *= 1e-39
    x[6::11] *= 1e4
    return x.to(dtype)


# Zeros where a mask is False.


@pytest.mark.parametrize("bytes_each", [2, 4, 8])
def test_clear_of_every_length(isa: str, bytes_each: int) -> None:
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[bytes_each]
    random = np.random.default_rng(0)
    for n in range(201):
        data = random.integers(1, np.iinfo(kind).max, n + 16, dtype=kind)
        mask = random.random(n) < random.random()
        expected = data.copy()
        expected[8 : 8 + n][~mask] = 0
        core().clear(mask.ctypes.data, n, data[8:].ctypes.data, bytes_each, 1)
        assert np.array_equal(data, expected), n  # and nothing before it or after it


@pytest.mark.parametrize("bytes_each", [2, 4, 8])
def test_clear_of_many_on_several_threads(isa: str, bytes_each: int) -> None:
    kind = {2: np.uint16, 4: np.uint32, 8: np.uint64}[bytes_each]
    random = np.random.default_rng(0)
    data, mask = random.integers(1, 1 << 16, 200_003, dtype=kind), random.random(200_003) < 0.3
    core().clear(mask.ctypes.data, len(mask), data.ctypes.data, bytes_each, 4)
    assert np.array_equal(data != 0, mask)


@pytest.mark.parametrize("dtype", KINDS)
def test_enforce_of_every_length(isa: str, dtype: torch.dtype) -> None:
    for n in range(1, 201):
        weight, mask = drawn(n + 8, dtype, n), torch.rand(n + 8, generator=torch.Generator().manual_seed(n)) < 0.6
        weight[:4], weight[n + 4 :], mask[:4], mask[n + 4 :] = 5, 5, False, False
        momentum, wide = torch.ones(n + 8), torch.ones(n + 8, dtype=torch.float64)
        inside = slice(4, n + 4)
        dead = ~mask[inside]
        expected = weight.clone()
        expected[inside][dead] = 0
        stray = bool((weight[inside][dead] != 0).any() or torch.signbit(weight[inside][dead]).any())
        view = layers([weight[inside]], [mask[inside]])
        belongings = [[(t[inside].data_ptr(), t.element_size()) for t in (momentum, wide)]]
        assert view.enforce(belongings, 1) == stray
        assert not view.enforce(belongings, 1)
        assert torch.equal(weight, expected)
        assert not torch.signbit(weight[inside][dead]).any()
        for tensor in (momentum, wide):
            assert torch.equal(tensor[inside] != 0, mask[inside])
            assert tensor[:4].all()
            assert tensor[n + 4 :].all()


# Counts by digits, and the greatest magnitude.


@settings(max_examples=40)
@given(st.lists(st.integers(0, 300), max_size=4), st.booleans(), st.booleans(), st.integers(0, 2**31), st.data())
def test_histogram(isa: str, sizes: list[int], absolute: bool, masked: bool, seed: int, data: st.DataObject) -> None:
    tensors = [drawn(n, data.draw(st.sampled_from(sorted(KINDS, key=str))), seed + i) for i, n in enumerate(sizes)]
    masks = [torch.rand(t.shape) < 0.5 for t in tensors] if masked else None
    every = [keys(t, absolute) for t in tensors]
    if masks is not None:
        every = [k[m.numpy()] for k, m in zip(every, masks, strict=True)]
    unsigned = np.concatenate([*every, np.zeros(0, np.int64)]) + (1 << 31)
    for shift, bins in (*DIGITS, (24, 256), (31, 2), (0, 1)):
        above = shift + bins.bit_length() - 1
        known = [0] if above == 32 else sorted({int(key) >> above for key in unsigned[:5]} | {0, 1})
        for prefix in known:
            counts = layers(tensors, masks).histogram(absolute, prefix, shift, bins, 2)
            digits = (unsigned[unsigned >> above == prefix] >> shift) & (bins - 1)
            assert counts == np.bincount(digits, minlength=bins).tolist()


@pytest.mark.parametrize("absolute", [False, True])
def test_histograms_of_shards_find_the_threshold_of_the_whole(isa: str, absolute: bool) -> None:
    shards = [[drawn(70_001, torch.float32, 1)], [drawn(5000, torch.bfloat16, 2), drawn(40_000, torch.float16, 3)]]
    in_order = np.sort(np.concatenate([keys(t, absolute) for shard in shards for t in shard]))[::-1]
    for k in (1, 17, 11_500, 60_000, 115_000, 115_001):
        wanted, prefix = k, 0
        for shift, bins in DIGITS:
            counts = sum(np.array(layers(shard).histogram(absolute, prefix, shift, bins, 2)) for shard in shards)
            at_least = np.cumsum(counts[::-1])[::-1]
            digit = int(np.flatnonzero(at_least >= wanted)[-1])
            wanted -= int(at_least[digit] - counts[digit])
            prefix = prefix * bins + digit
        assert prefix - (1 << 31) == in_order[k - 1]


@pytest.mark.parametrize("dtype", KINDS)
def test_top(isa: str, threads: int, dtype: torch.dtype) -> None:
    for n in (*range(1, 140), 100_000):
        tensor = drawn(n, dtype, n)
        assert layers([tensor]).top(threads) == tensor.double().abs().max()
        tensor[n * 2 // 3] = -torch.inf
        assert layers([torch.zeros(0), tensor]).top(threads) == torch.inf
    assert layers([]).top(threads) == 0
    assert layers([torch.zeros(5)]).top(threads) == 0


# Which path, and whose threads.


def test_a_path_is_chosen_by_its_name(isa: str) -> None:
    assert core().isa() == isa
    assert core().isas()[0] == "baseline"
    assert isa in core().isas()


def test_the_best_path_is_in_use() -> None:
    assert core().isa() == core().isas()[-1]


def test_a_path_that_is_not_there_is_refused() -> None:
    before = core().isa()
    with pytest.raises(ValueError, match="isa='sse9' must be one of what this machine has: baseline"):
        core().use("sse9")
    assert core().isa() == before


V3 = {"avx2", "fma", "bmi1", "bmi2", "popcnt", "abm", "f16c", "movbe"}  # Linux counts lzcnt as abm
V4 = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the processors of other machines have no such flags")
@pytest.mark.skipif(not os.path.isfile("/proc/cpuinfo"), reason="the processor's flags are looked up as Linux has them")
def test_paths_are_those_that_the_processor_can_run() -> None:
    (flags, *_) = re.findall(r"^flags\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    paths = {"baseline": set(), "avx2": V3, "avx512": V3 | V4}
    assert core().isas() == [path for path, needed in paths.items() if needed <= set(flags.split())]


def test_threads_are_torchs() -> None:
    assert core().pool() == "torch"


COUNTING = """
import os, sys, torch
from sparsecycle import native
from sparsecycle.selection import keep_largest
torch.set_num_threads(2)
x = torch.randn(1 << 20)
def by_torch():
    for _ in range(3):
        x.add_(x.abs().sum() * 1e-30)
def by_core():
    for k in (1, 1 << 10, 1 << 19):
        keep_largest([x], k, absolute=True)
        native.clear(x != 0, x)
counts = [len(os.listdir("/proc/self/task"))]
for work in sys.argv[1:]:
    {"torch": by_torch, "core": by_core}[work]()
    counts.append(len(os.listdir("/proc/self/task")))
print(*(b - a for a, b in zip(counts, counts[1:])))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are counted as Linux lists them")
@pytest.mark.parametrize("order", [("torch", "core", "torch"), ("core", "torch", "core")])
def test_no_second_pool_of_threads(order: tuple[str, ...]) -> None:
    run = subprocess.run([sys.executable, "-c", COUNTING, *order], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "0", "0"]


# What is refused.

MISTAKES = {
    "fewer types": "Layers([at], [], [8], [0], [None])",
    "fewer sizes": "Layers([at], [0], [], [0], [None])",
    "fewer masks": "Layers([at], [0], [8], [], [None])",
    "fewer orders": "Layers([at], [0], [8], [0], [])",
    "an unknown type": "Layers([at], [3], [8], [0], [None])",
    "a negative type": "Layers([at], [-1], [8], [0], [None])",
    "a negative size": "Layers([at], [0], [-8], [0], [None])",
    "no address": "Layers([0], [0], [8], [0], [None])",
    "fewer strides": "Layers([at], [0], [8], [0], [([2, 4], [1])])",
    "a shape of another size": "Layers([at], [0], [8], [0], [([2, 5], [1, 2])])",
    "strides beyond the end": "Layers([at], [0], [8], [0], [([2, 4], [1, 9])])",
    "no threads": "one.keep_largest([mask], 1, True, None, 0.1, [0], 0)",
    "negative threads": "one.top(-1)",
    "no threads for a histogram": "one.histogram(True, 0, 20, 4096, 0)",
    "no bins": "one.histogram(True, 0, 20, 0, 1)",
    "bins that are no power of two": "one.histogram(True, 0, 20, 1000, 1)",
    "negative bins": "one.histogram(True, 0, 20, -1, 1)",
    "a negative shift": "one.histogram(True, 0, -1, 16, 1)",
    "a large shift": "one.histogram(True, 0, 32, 2, 1)",
    "no masks to write": "one.keep_largest([], 1, True, None, 0.1, [0], 1)",
    "a mask that is nowhere": "one.keep_largest([0], 1, True, None, 0.1, [0], 1)",
    "no floors": "one.keep_largest([mask], 1, True, None, 0.1, [], 1)",
    "nothing to keep": "one.keep_largest([mask], 0, True, None, 0.1, [0], 1)",
    "more to keep than there is": "one.keep_largest([mask], 100001, True, None, 0.1, [0], 1)",
    "nothing at all": "Layers([], [], [], [], []).keep_largest([], 1, True, None, 0.1, [], 1)",
    "masks to enforce": "Layers([at], [0], [8], [0], [None]).enforce([], 1)",
    "masks to prune by": "Layers([at], [0], [8], [0], [None]).prune([], [([0], 1, 8, None, 0.1)], False, 0, 1)",
    "another layer": "one.prune([], [([1], 1, 100000, None, 0.1)], False, 0, 1)",
    "a layer before the first": "one.prune([], [([-1], 1, 100000, None, 0.1)], False, 0, 1)",
    "a negative number to keep": "one.prune([], [([0], -1, 100000, None, 0.1)], False, 0, 1)",
    "more to keep than until now": "one.prune([], [([0], 9, 8, None, 0.1)], False, 0, 1)",
    "more until now than there is": "one.prune([], [([0], 9, 100001, None, 0.1)], True, 0, 1)",
    "no threads to prune with": "one.prune([], [([0], 9, 100000, None, 0.1)], True, 0, 0)",
    "companions of another number": "one.enforce([[], []], 1)",
    "companions of three bytes": "one.enforce([[(at, 3)]], 1)",
    "companions of one byte": "one.enforce([[(at, 1)]], 1)",
    "companions that are nowhere": "one.enforce([[(0, 4)]], 1)",
    "one byte to clear": "core.clear(mask, 8, at, 1, 1)",
    "sixteen bytes to clear": "core.clear(mask, 8, at, 16, 1)",
    "nothing to clear": "core.clear(mask, 8, 0, 4, 1)",
    "no mask to clear by": "core.clear(0, 8, at, 4, 1)",
    "a negative size to clear": "core.clear(mask, -8, at, 4, 1)",
}
# The extension alone, without torch, so that a crash is this test's and starting takes no time.
REFUSING = """
import array, importlib.util, sys
spec = importlib.util.spec_from_file_location("_core", sys.argv[1])
core = importlib.util.module_from_spec(spec)
spec.loader.exec_module(core)
Layers = core.Layers
numbers, bools = array.array("f", [1.0, -2.0] * 50000), array.array("b", [1] * 100000)
at, mask = numbers.buffer_info()[0], bools.buffer_info()[0]
one = Layers([at], [0], [100000], [mask], [None])
for name, mistake in eval(sys.argv[2]).items():
    try:
        print("->", name, flush=True)
        eval(mistake)
        print("was allowed")
    except Exception as error:
        print(type(error).__name__)
assert set(bools) == {1}
assert set(numbers) == {1.0, -2.0}
"""


@pytest.mark.parametrize("mistake", MISTAKES)
def test_wrong_arguments_are_refused(mistake: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", REFUSING, core().__file__, repr({mistake: MISTAKES[mistake]})],
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout.splitlines()) == (0, [f"-> {mistake}", "ValueError"]), run.stderr


# Where it was not built.

WITHOUT = """
import sys, warnings
sys.modules["sparsecycle.native._core"] = None
warnings.simplefilter("always")
import torch
import sparsecycle as sc
from sparsecycle import native
from sparsecycle.selection import keep_largest
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert keep_largest([torch.tensor([1.0, -3.0, 2.0])], 2, absolute=True).masks[0].tolist() == [False, True, True]
    model = torch.nn.Linear(20, 10)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    sparsifier = sc.Sparsifier(model, optimizer, 0.9, total_steps=5)
    for _ in range(5):
        model(torch.randn(4, 20)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        sparsifier.step()
    assert sparsifier.finalize().kept == 20
    assert native.core() is None
for warning in caught:
    print(warning.category.__name__, warning.message)
"""


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_without_the_core_all_works_and_says_so_once() -> None:
    (line,) = python(WITHOUT).splitlines()
    assert line.startswith("RuntimeWarning sparsecycle's native core is not here (")
    assert "installing sparsecycle where there is a C++ compiler builds the core" in line


def test_the_core_is_loaded_when_it_is_needed_and_not_before() -> None:
    code = """
import sys
import torch, numpy
before = set(sys.modules)
import sparsecycle
from sparsecycle import native
print("sparsecycle.native._core" in sys.modules)
print(sorted({name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)))
native.core()
print("sparsecycle.native._core" in sys.modules)
"""
    loaded, new, then = python(code).splitlines()
    assert (loaded, then) == ("False", "True")
    assert set(eval(new)) <= {"sparsecycle", "safetensors", "torch", "numpy"}
