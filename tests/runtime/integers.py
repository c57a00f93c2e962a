"""What the core computes with numbers of 8 bits, operation by operation: in integers, and then in float32."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sparsecycle.runtime.graph import Activation, Convolution
from sparsecycle.runtime.interpret import activated
from sparsecycle.runtime.layouts import Scale
from sparsecycle.runtime.quantize import Weights

ZEROS = st.sampled_from([0, 1, 128, 200, 255])


def single(x: float) -> Tensor:
    return torch.tensor(x, dtype=torch.float32)


def codes(x: Tensor, scale: Scale) -> Tensor:
    """The numbers from 0 to 255 that float32 becomes; 0 for NaN."""
    return (x * (1 / single(scale.step)) + single(scale.zero)).nan_to_num(0).round().clamp(0, 255)


def decoded(q: Tensor, scale: Scale) -> Tensor:
    """What numbers stand for, in float32."""
    return (q - scale.zero).float() * single(scale.step)


def some_codes(size: tuple[int, ...], seed: int) -> Tensor:
    """Numbers from 0 to 255, more of the extreme ones than of others."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 320, size, generator=generator).clamp_(0, 255).float()


def some_weights(size: tuple[int, ...], seed: int) -> Tensor:
    """Numbers from -127 to 127, more of the extreme ones than of others."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-160, 161, size, generator=generator).clamp_(-127, 127).to(torch.int8)


def sums(step: Convolution, weights: Weights, source: Tensor, scale: Scale) -> Tensor:
    """Of products of integers, which float64 has exactly."""
    return F.conv2d(
        source.double() - scale.zero,
        weights.numbers.double(),
        None,
        step.stride,
        step.padding,
        step.dilation,
        step.groups,
    )


def settled(
    total: Tensor,
    step: Convolution,
    weights: Weights,
    scale: Scale,
    out: Scale | None,
    residual: tuple[Tensor, Scale] | None = None,
) -> Tensor:
    """What a convolution makes of sums before its activation: float32, in units of ``out`` if that is what is kept."""
    kept = out if out is not None and step.activation != "silu" else Scale(1.0, 0)
    unit = single(kept.step)
    factors = single(scale.step) * weights.steps / unit
    constants = torch.zeros(len(factors)) if step.bias is None else step.bias
    constants = constants / unit
    if residual is not None:
        added = single(residual[1].step) / unit
        constants = constants - residual[1].zero * added
    constants = constants + kept.zero
    found = total.float() * factors[:, None, None] + constants[:, None, None]
    return found if residual is None else found + residual[0] * added


def summed(activation: Activation, left: tuple[Tensor, Scale], right: tuple[Tensor, Scale], out: Scale) -> Tensor:
    """The same of the sum of two values."""
    kept = out if activation != "silu" else Scale(1.0, 0)
    a, b = (single(scale.step) / single(kept.step) for _, scale in (left, right))
    constant = kept.zero - (left[1].zero * a + right[1].zero * b)
    return left[0] * a + (right[0] * b + constant)


def agrees(found: Tensor, made: Tensor, activation: Activation, out: Scale | None) -> bool:
    """Whether a step's result is what comes of its sums: bit for bit, but after SiLU, which is approximated."""
    if activation == "silu":
        expected = F.silu(made.double())
        if out is None:
            return torch.allclose(found.double(), expected, rtol=3e-6, atol=1e-30)
        expected = expected.clamp(-out.zero * out.step, (255 - out.zero) * out.step)
        return bool(((found - expected).abs() <= 0.501 * out.step).all())
    if out is None:
        return torch.equal(found, activated(made, activation))
    q = made.round().clamp(0, 255)
    if activation != "none":
        q = q.clamp(min=out.zero)
    if activation == "relu6":
        q = q.clamp(max=min(255, round(float(6 / single(out.step))) + out.zero))
    return torch.equal(found, decoded(q, out))
