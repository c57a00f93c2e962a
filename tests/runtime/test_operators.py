from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.runtime.reference import run
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Flatten, Graph, Map
from sparsecycle.runtime.operators import OPERATORS, Call, Native, Operand, Unsupported, seen

sizes = st.integers(1, 9)
small = st.integers(1, 3)


def pairs(numbers: st.SearchStrategy[int]) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(numbers, numbers)


def native(operator: str, *args: Any, made: tuple[int, ...], images: int | None = None, **kwargs: Any) -> Native:
    """The native form, with a value's number for each tensor of type float64, and constants of type float32."""
    numbers = iter(range(9))

    def operand(argument: Any) -> Any:
        if isinstance(argument, list):
            return [operand(inner) for inner in argument]
        if isinstance(argument, Tensor) and argument.dtype == torch.float64:
            return Operand(next(numbers), tuple(argument.shape), images)
        return argument

    return OPERATORS[operator](Call("here", made), *map(operand, args), **kwargs)


def check(operator: str, want: Callable[..., Tensor], *args: Any, **kwargs: Any) -> None:
    """The operator as a step gives what PyTorch gives."""
    values = [a for arg in args for a in (arg if isinstance(arg, list) else [arg]) if isinstance(a, Tensor)]
    values = [a for a in values if a.dtype == torch.float64]
    expected = want(*(a.double() if isinstance(a, Tensor) else a for a in args), **kwargs)
    found = native(operator, *args, made=tuple(expected.shape), **kwargs)
    maps = [seen(tuple(value.shape), found.images) for value in [*values, expected]]
    shapes = [(found.images, m.channels, m.height, m.width) for m in maps if m is not None]
    graph = Graph(found.images, list(range(len(values))), [len(values)], [m for m in maps if m], [])
    if isinstance(found.step, int):
        graph.maps.pop()
        graph.outputs[0] = found.step
    else:
        graph.steps.append(found.step)
    (got,) = run(graph, *(v.reshape(shape) for v, shape in zip(values, shapes, strict=False)))
    torch.testing.assert_close(got.reshape(expected.shape), expected, rtol=1e-12, atol=1e-12)


def test_how_tensors_are_seen() -> None:
    assert seen((2, 3, 5, 7), 2) == Map(3, 5, 7)
    assert seen((2, 3, 5, 7), 30) == Map(7, 1, 1)
    assert seen((2, 3, 5, 7), 6) is None
    assert seen((2, 3), 2) == seen((2, 3, 1), 2) == seen((2, 3, 1, 1, 1), 2) == Map(3, 1, 1)
    assert seen((2, 5, 3), 10) == Map(3, 1, 1)
    assert seen((2, 5, 3), 2) is None
    assert seen((3,), 1) == Map(3, 1, 1)
    assert seen((), 1) == Map(1, 1, 1)


@given(
    images=small,
    groups=small,
    channels=pairs(small),
    kernel=pairs(st.integers(1, 4)),
    size=pairs(sizes),
    stride=pairs(small),
    padding=st.one_of(pairs(st.integers(0, 3)), st.sampled_from(["same", "valid"])),
    dilation=pairs(small),
    biased=st.booleans(),
)
@settings(max_examples=50)
def test_convolution(
    images: int,
    groups: int,
    channels: tuple[int, int],
    kernel: tuple[int, int],
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int] | str,
    dilation: tuple[int, int],
    biased: bool,
) -> None:
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    around = (0, 0) if isinstance(padding, str) else padding
    if padding == "same":
        stride = (1, 1)
        assume(not any(r % 2 for r in reach))
    else:
        assume(all(n + 2 * p > r for n, p, r in zip(size, around, reach, strict=True)))
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, groups * channels[0], *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(groups * channels[1], channels[0], *kernel, generator=generator)
    bias = torch.randn(len(weight), generator=generator) if biased else None
    overload = "padding" if isinstance(padding, str) else "default"
    check(f"aten.conv2d.{overload}", F.conv2d, x, weight, bias, stride, padding, dilation, groups)


def test_uneven_padding_has_no_native_form() -> None:
    x, weight = torch.randn(1, 1, 5, 5).double(), torch.randn(1, 1, 3, 2)
    with pytest.raises(Unsupported, match=r"pads unevenly: padding='same', kernel \(3, 2\)"):
        native("aten.conv2d.padding", x, weight, None, [1, 1], "same", made=(1, 1, 5, 5))


@given(size=pairs(sizes), kernel=pairs(st.integers(1, 4)), data=st.data())
@settings(max_examples=50)
def test_sliding_windows(size: tuple[int, int], kernel: tuple[int, int], data: st.DataObject) -> None:
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    stride = data.draw(st.one_of(st.just([]), pairs(st.integers(1, 4))))
    ceil_mode = data.draw(st.booleans())
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check("aten.max_pool2d.default", F.max_pool2d, x, kernel, stride, padding, [1, 1], ceil_mode)
    divisor = data.draw(st.one_of(st.none(), st.integers(1, 9)))
    count_padding = data.draw(st.booleans())
    check("aten.avg_pool2d.default", F.avg_pool2d, x, kernel, stride, padding, ceil_mode, count_padding, divisor)


@given(size=pairs(sizes), results=pairs(st.integers(1, 12)))
def test_adaptive_windows(size: tuple[int, int], results: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    check("aten.adaptive_avg_pool2d.default", F.adaptive_avg_pool2d, x, results)
    check("aten.adaptive_max_pool2d.default", F.adaptive_max_pool2d, x, results)


X = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
V = X[:, :, 0, 0]  # (2, 3)
ROWS = X[0]  # (3, 5, 7)
W = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
ONE_EACH = torch.tensor([0.5, -2.0, 1.5])
BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"


def batch_norm(x: Tensor, *args: Any) -> Tensor:
    return torch.ops.aten._native_batch_norm_legit_no_training.default(x, *args)[0]


@pytest.mark.parametrize(
    ("operator", "want", "args"),
    [
        ("aten.relu.default", F.relu, (X,)),
        ("aten.relu6.default", F.relu6, (V,)),
        ("aten.silu.default", F.silu, (ROWS,)),
        ("aten.silu.default", F.silu, (X[0, 0, 0, 0],)),
        ("aten.hardtanh.default", F.hardtanh, (X, 0, 6.0)),
        ("aten.clamp.default", torch.clamp, (X, 0)),
        ("aten.clamp.default", torch.clamp, (X, 0.0, 6)),
        ("aten.clamp_min.default", torch.clamp_min, (X, 0)),
        ("aten.linear.default", F.linear, (X, W)),
        ("aten.linear.default", F.linear, (ROWS, W, W[:, 0])),
        ("aten.linear.default", F.linear, (ROWS[0], W)),
        ("aten.linear.default", F.linear, (ROWS[0, 0], W, W[:, 0])),
        ("aten.mm.default", torch.mm, (ROWS[0], W.T)),
        ("aten.matmul.default", torch.matmul, (ROWS, W.T)),
        ("aten.addmm.default", lambda b, x, w: x @ w + b, (W[:, 0], ROWS[0], W.T)),
        ("aten.add.Tensor", torch.add, (X, X + 1)),
        ("aten.add.Tensor", torch.add, (V, V + 1)),
        ("aten.cat.default", torch.cat, ([X, X[:, :1], X], 1)),
        ("aten.cat.default", torch.cat, ([X, X], -3)),
        ("aten.cat.default", torch.cat, ([V, V[:, :2]], 1)),
        ("aten.cat.default", torch.cat, ([ROWS, ROWS[:, :, :2]], -1)),
        ("aten.mean.dim", torch.mean, (X, [2, 3])),
        ("aten.mean.dim", torch.mean, (X, [-1, -2], True)),
        ("aten.slice.Tensor", lambda x, *_: x[:, :, 1::2], (X, 2, 1, 2**63 - 1, 2)),
        ("aten.slice.Tensor", lambda x, *_: x[..., -4:6], (X, -1, -4, 6)),
        ("aten.slice.Tensor", lambda x, *_: x, (X, 0, 0, 2**63 - 1)),
        ("aten.slice.Tensor", lambda x, *_: x, (ROWS,)),
        ("aten.pad.default", F.pad, (X, [0, 0, 0, 0, 2, 1])),
        ("aten.pad.default", F.pad, (X, [2, 2, 1, 1], "constant", 0.0)),
        ("aten.constant_pad_nd.default", F.pad, (X, [3, 3])),
        ("aten.flatten.using_ints", torch.flatten, (X, 1)),
        ("aten.view.default", torch.reshape, (X, [2, -1])),
        ("aten.reshape.default", torch.reshape, (V, [2, 3, 1, 1])),
        ("aten.view.default", torch.reshape, (ROWS, [15, 7])),
        ("aten.view.default", torch.reshape, (ROWS[0], [5, 1, 7])),
        ("aten.squeeze.dims", torch.squeeze, (X[:, :, :1, :1], [2, 3])),
        ("aten.squeeze.dim", torch.squeeze, (X[:, :, :1, :1], 3)),
        ("aten.unsqueeze.default", torch.unsqueeze, (V, 2)),
        ("aten.clone.default", torch.clone, (X,)),
        (BATCH_NORM, batch_norm, (X, ONE_EACH, -ONE_EACH, ONE_EACH + 3, ONE_EACH.square(), 0.1, 0.0)),
        (BATCH_NORM, batch_norm, (V, None, None, torch.zeros(3), torch.full((3,), 0.25), 0.1, 0.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operators(operator: str, want: Callable[..., Tensor], args: tuple[Any, ...]) -> None:
    check(operator, want, *args)


@pytest.mark.parametrize(
    ("operator", "args", "made", "why"),
    [
        (
            "aten.conv2d.default",
            (X[0], W[:, :3, None, None]),
            (4, 5, 7),
            r"reads \(3, 5, 7\), not images \(n, c, h, w\)",
        ),
        ("aten.conv2d.default", (X, X), (2, 2, 1, 1), "has weights that depend on the input"),
        ("aten.conv2d.default", (W, X), (2, 2, 1, 1), "reads a constant"),
        ("aten.convolution.default", (X, W, None, [1], [0], [1], True, [0], 1), (2, 3, 5, 7), "is transposed"),
        ("aten.linear.default", (X, W.half()), (2, 3, 5, 4), "has weights of torch.float16"),
        (
            "aten.linear.default",
            (X[:, :1, :1], W),
            (2, 1, 1, 4),
            r"\(2, 1, 1, 7\), which could be images as well as vectors",
        ),
        ("aten.matmul.default", (X, W[0]), (2, 3, 5), r"multiplies by a tensor \(7,\), not a matrix"),
        ("aten.addmm.default", (W, ROWS[0], W), (5, 7), "is not a matrix product plus a vector"),
        (BATCH_NORM, (ROWS, None, None, ONE_EACH, ONE_EACH, 0.1, 0.0), (3, 5, 7), r"reads \(3, 5, 7\), not images"),
        ("aten.hardtanh.default", (X,), (2, 3, 5, 7), "has the bounds -1 and 1, not those of ReLU or ReLU6"),
        ("aten.clamp.default", (X, None, 6), (2, 3, 5, 7), "has the bounds None and 6"),
        ("aten.add.Tensor", (X, X[:1]), (2, 3, 5, 7), r"adds \(1, 3, 5, 7\) to \(2, 3, 5, 7\)"),
        ("aten.add.Tensor", (X, 1.0), (2, 3, 5, 7), "reads a constant"),
        ("aten.max_pool2d.default", (X, [2], [], [0], [1, 2]), (2, 3, 2, 2), r"has a dilation of \(1, 2\)"),
        ("aten.mean.dim", (X, [1, 2]), (2, 7), r"is over the dimensions \[1, 2\], not rows and columns"),
        ("aten.mean.dim", (X, None), (), "is over the dimensions None"),
        ("aten.slice.Tensor", (X, 1, 0, 2), (2, 2, 5, 7), "is along dimension 1, not rows or columns"),
        ("aten.pad.default", (X, [0, 1]), (2, 3, 5, 8), r"by \[0, 1\] with 0, not evenly with zeros"),
        ("aten.pad.default", (X, [1, 1], "constant", 2.0), (2, 3, 5, 9), r"by \[1, 1\] with 2.0"),
        ("aten.pad.default", (X, [-1, -1]), (2, 3, 5, 5), r"by \[-1, -1\] with 0"),
        ("aten.pad.default", (X, [0, 0, 0, 0, 0, 0, 1, 1]), (4, 3, 5, 7), "not evenly with zeros"),
        ("aten.pad.default", (X, [1, 1], "reflect"), (2, 3, 5, 9), "has the mode 'reflect'"),
        ("aten.cat.default", ([X, X], 0), (4, 3, 5, 7), "is along dimension 0, not the channels"),
        ("aten.cat.default", ([X, X], 2), (2, 3, 10, 7), "is along dimension 2, not the channels"),
        ("aten.cat.default", ([ROWS, ROWS], 1), (3, 10, 7), "is along dimension 1, not the channels"),
        ("aten.view.default", (X, [6, 35]), (6, 35), r"makes \(6, 35\) of \(2, 3, 5, 7\)"),
        ("aten.view.default", (V, [6]), (6,), r"makes \(6,\) of \(2, 3\)"),
        ("aten.view.default", (V, [2, 1, 3, 1]), (2, 1, 3, 1), r"makes \(2, 1, 3, 1\) of \(2, 3\)"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("aten") else "",
)
def test_what_has_no_native_form(operator: str, args: tuple[Any, ...], made: tuple[int, ...], why: str) -> None:
    with pytest.raises(Unsupported, match=why):
        native(operator, *args, made=made)


def test_mean_of_another_type() -> None:
    with pytest.raises(Unsupported, match="or of torch.float64"):
        native("aten.mean.dim", X, [2, 3], made=(2, 3), dtype=torch.float64)


def test_sum_with_a_factor() -> None:
    with pytest.raises(Unsupported, match="adds 2 times a tensor"):
        native("aten.add.Tensor", X, X, made=(2, 3, 5, 7), alpha=2)


def test_what_does_not_mind_sees_images_as_the_step_before() -> None:
    assert native("aten.relu.default", X, made=X.shape).images == 2
    assert native("aten.relu.default", X, made=X.shape, images=30).images == 30
    assert native("aten.relu.default", ROWS, made=ROWS.shape).images == 15
    assert native("aten.cat.default", [X, X], -1, made=(2, 3, 5, 14), images=30).images == 30


def test_flattening_is_a_step_only_where_there_are_pixels() -> None:
    assert isinstance(native("aten.flatten.using_ints", X, 1, made=(2, 105)).step, Flatten)
    assert native("aten.flatten.using_ints", X[:, :, :1, :1], 1, made=(2, 3)).step == 0
    assert native("aten.view.default", X, [-1, 7], made=(30, 7)) == Native(30, 0)
