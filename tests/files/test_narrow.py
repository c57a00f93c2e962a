from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.files.contents import DTYPES
from sparsecycle.files.narrow import Values, bits_of, narrow, tensor_of, widen

FLOATING = [dtype for dtype in DTYPES.values() if dtype.is_floating_point]


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def again(tensor: Tensor, values: Values) -> Tensor:
    """What comes back of a tensor."""
    stored, bits, scales = narrow(tensor, values)
    assert bits.shape == tuple(tensor.shape)
    rows = None if scales is None else scales.repeat_interleave(tensor[0].numel())
    return widen(bits.reshape(-1), stored, tensor.dtype, rows).reshape(tensor.shape)


@pytest.mark.parametrize("name", DTYPES)
def test_bits_are_those_of_the_tensor(name: str) -> None:
    dtype = DTYPES[name]
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (6, 8), generator=torch.Generator().manual_seed(0))
    tensor = raw.to(torch.uint8).view(dtype)
    bits = bits_of(tensor)
    assert bits.shape == tuple(tensor.shape)
    assert bits.dtype == np.dtype(f"u{dtype.itemsize}")
    assert tensor_of(bits.reshape(-1), dtype).view(torch.uint8).tolist() == raw.reshape(-1).tolist()
    assert bits_of(tensor.t()).tolist() == bits.T.tolist()
    assert bits_of(tensor[0, 0]).shape == ()
    assert bits_of(tensor[:0]).shape == (0, tensor.shape[1])


def test_bits_share_the_tensors_memory() -> None:
    for tensor in (torch.zeros(2, 3), torch.zeros(()), torch.zeros(4, dtype=torch.bfloat16)):
        bits_of(tensor).reshape(-1).fill(1)
        assert (tensor != 0).all()


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_fp32_keeps_every_bit_but_the_sign_of_zero(dtype: torch.dtype) -> None:
    special = torch.tensor([[0.0, -0.0, math.nan, 1.0], [-2.0, math.inf, -math.inf, 3e-8]]).to(dtype)
    stored, bits, scales = narrow(special, "fp32")
    assert (stored, scales) == (str(dtype).removeprefix("torch."), None)
    assert bits[0, 1] == 0
    expected = bits_of(special.clone())
    expected[0, 1] = 0
    assert bits.tolist() == expected.tolist()


@pytest.mark.parametrize(("values", "narrower"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_half_the_bits_are_rounded_as_torch_rounds(values: Values, narrower: torch.dtype, dtype: torch.dtype) -> None:
    step = float(torch.finfo(narrower).eps)
    ties = 1 + step * torch.arange(0.0, 4, 0.25, dtype=dtype)
    tensor = torch.cat([random(40, 16, dtype=dtype), ties[None], -ties[None], random(1, 16, dtype=dtype) * 1e-7])
    assert torch.equal(again(tensor, values), tensor.to(narrower).to(dtype))
    assert torch.equal(again(again(tensor, values), values), again(tensor, values))


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("values", ["fp32", "bf16", "fp16", "int8"])
def test_what_is_as_narrow_already_stays_as_it_is(dtype: torch.dtype, values: Values) -> None:
    if dtype.itemsize > {"fp32": 8, "bf16": 2, "fp16": 2, "int8": 1}[values]:
        return
    tensor = random(4, 5, dtype=dtype)
    assert again(tensor, values).view(torch.uint8).tolist() == tensor.view(torch.uint8).tolist()


@given(st.integers(1, 6), st.integers(1, 6), st.integers(-120, 30), st.integers(0, 2**31))
def test_int8_is_half_a_scale_off_at_most(rows: int, columns: int, magnitude: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    sizes = 2.0 ** (magnitude + 3 * torch.randn(rows, 1, generator=chance))
    tensor = sizes * torch.randn(rows, columns, generator=chance) * (torch.rand(rows, columns, generator=chance) < 0.5)
    stored, bits, scales = narrow(tensor, "int8")
    assert stored == "int8"
    assert scales is not None
    assert scales.shape == (rows,)
    assert scales.dtype == torch.bfloat16
    expected = (tensor.abs().amax(1) / 127).bfloat16()
    # Below the normal numbers bfloat16 has too few bits for a scale.
    used = expected >= torch.finfo(torch.bfloat16).tiny
    assert torch.equal(scales[used], expected[used])
    found = again(tensor, "int8")
    assert ((found - tensor).abs() <= 0.5 * scales.float()[:, None]).all()
    assert (np.abs((bits & 127).astype(int)) <= 127).all()
    assert not (bits == 128).any()  # no -0
    assert torch.equal(again(found, "int8"), found)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_int8_of_what_it_gave_is_that(dtype: torch.dtype) -> None:
    once = again(random(500, 9, dtype=dtype), "int8")
    assert torch.equal(again(once, "int8"), once)


def test_int8_as_written() -> None:
    tensor = torch.tensor([[1.27, -0.64, 0.004, 0.0], [0.0, 0.0, 0.0, 0.0], [-127.0, 63.6, -0.6, 0.4]])
    _, bits, scales = narrow(tensor, "int8")
    assert scales is not None
    assert scales.tolist() == [float(torch.tensor(0.01).bfloat16()), 1.0, 1.0]
    assert bits.tolist() == [[127, 128 + 64, 0, 0], [0, 0, 0, 0], [128 + 127, 64, 128 + 1, 0]]
    assert narrow(torch.zeros(2, 2), "int8")[2].tolist() == [1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("values", ["bf16", "fp16", "int8"])
@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_place(values: Values, weight: float) -> None:
    with pytest.raises(ValueError, match=f"NaN or infinite, and has no place in {values}; values='fp32' stores it"):
        narrow(torch.tensor([[1.0, weight]]), values)


@pytest.mark.parametrize(
    ("values", "largest", "fits"),
    [("fp16", -65520.0, 65519.0), ("bf16", 3.4e38, 3.38e38), ("bf16", -1e300, 1e38), ("int8", 1e39, 3e38)],
)
def test_what_is_too_large_has_no_place(values: Values, largest: float, fits: float) -> None:
    tensor = torch.tensor([[1.0, largest]], dtype=torch.float64)
    with pytest.raises(
        ValueError, match=rf"its largest magnitude is {abs(largest):g}, too much for {values}".replace("+", r"\+")
    ):
        narrow(tensor, values)
    assert again(torch.tensor([[1.0, fits]], dtype=torch.float64), values).isfinite().all()
