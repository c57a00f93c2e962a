from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.lab.distillation import distillation_loss

BATCHES = st.builds(
    lambda n, classes, scale, seed: torch.randn(2, n, classes, generator=torch.Generator().manual_seed(seed)) * scale,
    n=st.integers(1, 9),
    classes=st.integers(1, 12),
    scale=st.floats(0.1, 30),
    seed=st.integers(0, 2**32),
)
TEMPERATURES = st.floats(0.5, 20)


def softmax(row: list[float], temperature: float) -> list[float]:
    powers = [math.exp((x - max(row)) / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def by_hand(logits: Tensor, teacher_logits: Tensor, t: float) -> tuple[float, list[list[float]]]:
    """Loss and gradient in float64, from the definitions."""
    total, gradient = 0.0, []
    for z, v in zip(logits.tolist(), teacher_logits.tolist(), strict=True):
        q, p = softmax(z, t), softmax(v, t)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        gradient.append([t * (b - a) / len(logits) for a, b in zip(p, q, strict=True)])
    return t * t * total / len(logits), gradient


def test_two_classes_by_hand() -> None:
    # Both halves at T = 2 against (3/4, 1/4): KL = ln(4/3) / 2 from 1/2 ln(2/3) and 1/2 ln 2.
    student = torch.tensor([[2 * math.log(3.0), 0.0]])
    loss = distillation_loss(student, torch.zeros(1, 2), 2.0)
    assert loss.item() == pytest.approx(4 * math.log(4 / 3) / 2, rel=1e-6)
    # The other way about it is another number: 3/4 ln(3/2) + 1/4 ln(1/2).
    other = distillation_loss(torch.zeros(1, 2), student, 2.0)
    assert other.item() == pytest.approx(4 * (0.75 * math.log(1.5) - 0.25 * math.log(2)), rel=1e-6)


@settings(deadline=None)
@given(batch=BATCHES, temperature=TEMPERATURES)
def test_loss_and_gradient_are_the_definitions(batch: Tensor, temperature: float) -> None:
    logits, taught = batch[0].clone().requires_grad_(), batch[1].clone().requires_grad_()
    loss = distillation_loss(logits, taught, temperature)
    loss.backward()
    value, gradient = by_hand(logits, taught, temperature)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    # A rounding in a logarithm, near 1e-7 of the largest logit, comes out times T².
    assert loss.item() == pytest.approx(value, rel=1e-5, abs=1e-6 * temperature**2 * (1 + value))
    torch.testing.assert_close(logits.grad, torch.tensor(gradient), rtol=1e-4, atol=1e-5)
    assert taught.grad is None


@settings(deadline=None)
@given(batch=BATCHES, temperature=TEMPERATURES, shift=st.floats(-10, 10))
def test_it_is_zero_where_both_say_the_same_and_never_below(batch: Tensor, temperature: float, shift: float) -> None:
    tolerance = 2e-6 * temperature**2
    assert distillation_loss(batch[0], batch[0], temperature).item() == 0.0
    assert distillation_loss(batch[0] + shift, batch[0], temperature).item() == pytest.approx(0, abs=tolerance)
    assert distillation_loss(batch[0], batch[1], temperature).item() >= -tolerance


def test_hot_it_matches_logits() -> None:
    """Hinton et al., section 2.1: with logits of mean 0 the gradient goes to (z - v) / classes."""
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 5, 4, generator=generator)
    z, v = (z - z.mean(1, keepdim=True)).requires_grad_(), v - v.mean(1, keepdim=True)
    distillation_loss(z, v, 100.0).backward()
    torch.testing.assert_close(z.grad, (z.detach() - v) / 4 / 5, rtol=0.05, atol=1e-3)


def test_the_gradient_is_that_of_the_cross_entropy_with_soft_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    z, v = torch.randn(2, 6, 5, generator=generator)
    mine, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    distillation_loss(mine, v, 3.0).backward()
    (9 * torch.nn.functional.cross_entropy(theirs / 3, (v / 3).softmax(1))).backward()
    torch.testing.assert_close(mine.grad, theirs.grad)


def test_bf16_logits_are_computed_with_in_fp32() -> None:
    logits, taught = (torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    loss = distillation_loss(logits, taught, 4.0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, distillation_loss(logits.float(), taught.float(), 4.0))


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3), (4, 5)), ((4, 3), (3,)), ((3,), (3,)), ((0, 3), (0, 3)), ((1, 3), (4, 3))]
)
def test_shapes_that_do_not_fit(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(.*\) and teacher_logits \(.*allowed is one shape"):
        distillation_loss(torch.zeros(student), torch.zeros(teacher), 4.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range(temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature={temperature!r}; allowed is a finite number above 0"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
