"""The core's selection on each of its paths: a stable sort's answer, and the one that is found without the core."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_selection import by_sorting, laid_out, same
from torch import Tensor

from sparsecycle.selection import WITHIN, _keep_by_bracket, _keep_natively, keep_largest

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Around the borders of vectors, of blocks, of runs, and of none of them.
SMALL = [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 193, 1000]
LARGE = [16383, 16384, 16385, 40000]
SUBNORMAL = 1e-42  # of float32 and of bfloat16; float16 has its own, from 6e-8 to 6e-5

sizes = st.sampled_from([*SMALL, *SMALL, *SMALL, *LARGE])
kinds = st.sampled_from(["normal", "ties", "constant", "zeros", "signed zeros", "wide", "subnormal", "infinite"])
layouts = st.sampled_from(["contiguous", "transposed", "strided", "channels_last", "offset", "permuted", "expanded"])


def numbers(kind: str, n: int, generator: torch.Generator) -> Tensor:
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    if kind == "ties":
        return (2 * x).round() / 2
    if kind == "constant":
        return torch.full_like(x, -0.75)
    if kind == "zeros":
        return torch.where(x > 0.5, x, torch.copysign(torch.zeros_like(x), x))
    if kind == "signed zeros":
        return torch.copysign(torch.zeros_like(x), x)
    if kind == "wide":
        return x * 10 ** (8 * torch.randn(n, generator=generator, dtype=torch.float64)).clamp(-40, 4)
    if kind == "subnormal":
        return torch.where(x > 0, SUBNORMAL * x, 3e-6 * x)
    if kind == "infinite":
        return torch.where(x.abs() > 1, x * torch.inf, x)
    return x


def shaped(flat: Tensor, layout: str) -> Tensor:
    """The numbers, or as many of them as fit, in a tensor that lies in this way."""
    n = len(flat)
    if layout == "expanded":
        return flat[: min(n, 50)].unsqueeze(-1).expand(-1, 3)
    if layout == "permuted":
        return flat[: n // 6 * 6].view(-1, 2, 3).permute(2, 0, 1)
    if layout == "channels_last":
        return laid_out(flat[: n // 18 * 18].view(-1, 2, 3, 3), layout)
    if layout in ("transposed", "strided") and n % 3 == 0:
        return laid_out(flat.view(n // 3, 3), layout)
    return laid_out(flat, layout)


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = []
    for n in draw(st.lists(sizes, min_size=1, max_size=5)):
        flat = numbers(draw(kinds), n, generator).to(draw(st.sampled_from(DTYPES)))
        scores.append(shaped(flat, draw(layouts)))
    return scores


def any_masks(scores: list[Tensor], seed: int, density: float) -> list[Tensor]:
    """Masks of any content, some of which lie as the scores do and some not."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(score.shape, generator=generator) < density for score in scores]
    dense = [torch.empty_like(s, dtype=torch.bool).copy_(m) for s, m in zip(scores, drawn, strict=True)]
    return [dense[i] if i % 2 else drawn[i] for i in range(len(scores))]


def total(tensors: list[Tensor]) -> int:
    return sum(t.numel() for t in tensors)


def ranked(scores: list[Tensor], absolute: bool, among: list[Tensor] | None = None) -> Tensor:
    """All that take part, the largest first, in float64."""
    rows = [s.double().abs() if absolute else s.double() for s in scores]
    if among is not None:
        return torch.cat([r[m] for r, m in zip(rows, among, strict=True)]).sort(descending=True).values
    return torch.cat([r.reshape(-1) for r in rows]).sort(descending=True).values


def bits(tensors: list[Tensor]) -> list[bytes]:
    """All that lies in the memory under these tensors."""
    return [torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage()).numpy().tobytes() for t in tensors]


guesses = st.one_of(
    st.none(),
    st.sampled_from(["exact", "close", "far"]),
    st.sampled_from([0.0, -0.0, 0.5, 1e-42, -1e-42, math.nan, math.inf, -math.inf, 1e300, 3.4e38, -3.4e38]),
)
widths = st.sampled_from([WITHIN, WITHIN / 32, 0.0, 0.3, 50.0, math.nan])


def guess_at(threshold: float, guess: str | float | None) -> float | None:
    factors = {"exact": 1.0, "close": 1.003, "far": 7.0}
    return threshold * factors[guess] if isinstance(guess, str) else guess


@settings(max_examples=60)
@given(tensors(), st.data())
def test_keeps_what_a_stable_sort_keeps(isa: str, scores: list[Tensor], data: st.DataObject) -> None:
    k, absolute = data.draw(st.integers(0, total(scores))), data.draw(st.booleans())
    expected = by_sorting(scores, k, absolute)
    threshold = ranked(scores, absolute)[k - 1].item() if k else None
    near = guess_at(threshold or 0.0, data.draw(guesses))
    before = bits(scores)
    kept = keep_largest(scores, k, absolute=absolute, near=near, within=data.draw(widths))
    assert same(kept.masks, expected)
    assert kept.threshold == threshold
    assert bits(scores) == before


@settings(max_examples=40)
@given(tensors(), st.integers(0, 2**31), st.sampled_from([0.02, 0.5, 0.97]), st.data())
def test_keeps_those_that_may_be_kept_whatever_the_others_are(
    isa: str, scores: list[Tensor], seed: int, density: float, data: st.DataObject
) -> None:
    among = any_masks(scores, seed, density)
    able = sum(int(mask.sum()) for mask in among)
    k, absolute = data.draw(st.integers(0, able)), data.draw(st.booleans())
    threshold = ranked(scores, absolute, among)[k - 1].item() if k else None
    near, within = guess_at(threshold or 0.0, data.draw(guesses)), data.draw(widths)
    before = bits([*scores, *among])
    kept = keep_largest(scores, k, absolute=absolute, among=among, near=near, within=within)
    assert same(kept.masks, by_sorting(scores, k, absolute, among))
    assert kept.threshold == threshold
    assert bits([*scores, *among]) == before
    if able < total(scores):
        with pytest.raises(ValueError, match=f"k={able + 1} must be from 1 to {able}, the number of scores that may"):
            keep_largest(scores, able + 1, absolute=absolute, among=among, near=near)


@settings(max_examples=40)
@given(tensors(), st.integers(1, 40), st.data())
def test_every_tensor_keeps_its_floor(isa: str, scores: list[Tensor], floor: int, data: st.DataObject) -> None:
    least, absolute = sum(min(floor, s.numel()) for s in scores), data.draw(st.booleans())
    k = data.draw(st.integers(least, total(scores)))
    among = None
    if data.draw(st.booleans()):
        among = any_masks(scores, k, 0.8)
        for mask in among:
            mask.logical_or_(torch.arange(mask.numel()).view(mask.shape) < floor)
        k = data.draw(st.integers(least, sum(int(mask.sum()) for mask in among)))
    near = guess_at(1.0, data.draw(guesses))
    kept = keep_largest(scores, k, absolute=absolute, among=among, floor=floor, near=near)
    assert same(kept.masks, by_sorting(scores, k, absolute, among, floor))


@settings(max_examples=40)
@given(tensors(), st.data())
def test_finds_what_is_found_without_the_core(isa: str, scores: list[Tensor], data: st.DataObject) -> None:
    # As the sparsifier does it: what is pruned scores lowest, and the next mask is a part of the last one.
    if not total(scores):
        return
    most, absolute = data.draw(st.integers(1, total(scores))), data.draw(st.booleans())
    among = None
    if data.draw(st.booleans()):
        among = keep_largest(scores, most, absolute=absolute).masks
        lowest = 0 if absolute else -torch.inf
        scores = [s.masked_fill(~mask, lowest) for s, mask in zip(scores, among, strict=True)]
    k, near, within = data.draw(st.integers(1, most)), guess_at(1.0, data.draw(guesses)), data.draw(widths)
    mine, starved = _keep_natively(scores, k, absolute, among, [0] * len(scores), near, within)
    other = _keep_by_bracket(scores, k, absolute, among, near, within)
    assert starved == []
    assert same(mine.masks, other.masks)
    assert mine.threshold == other.threshold


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
def test_large_tensors_on_one_thread_and_on_two(isa: str, threads: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = [
        numbers(kind, 70_017, generator).float(),
        laid_out(numbers(kind, 33 * 20 * 9, generator).bfloat16().view(33, 20, 3, 3), "channels_last"),
        numbers("normal", 1, generator).half(),
        numbers(kind, 20_000, generator).half().view(200, 100).t(),
    ]
    for absolute, among in ((False, None), (True, None), (True, any_masks(scores, 1, 0.6))):
        in_order = ranked(scores, absolute, among)
        for k, close in ((1, 1.01), (len(in_order) // 20, 1.0), (len(in_order) - 100, 0.99)):
            threshold = in_order[k - 1].item()
            expected = by_sorting(scores, k, absolute, among)
            for near in (None, close * threshold):
                kept = keep_largest(scores, k, absolute=absolute, among=among, near=near)
                assert same(kept.masks, expected)
                assert kept.threshold == threshold


def test_more_than_fits_into_the_lists(isa: str, threads: int) -> None:
    """A bad bracket, or one value that most have: the threshold is found digit by digit."""
    generator = torch.Generator().manual_seed(0)
    scores = [torch.randn(150_000, generator=generator), torch.full((100_000,), 0.25, dtype=torch.bfloat16)]
    scores[0][50_000:] = -0.25
    flat = ranked(scores, True)
    for k in (1, 90_000, 249_000, 250_000):
        for near, within in ((None, WITHIN), (0.25, WITHIN), (1.0, 50.0)):
            kept = keep_largest(scores, k, absolute=True, near=near, within=within)
            assert same(kept.masks, by_sorting(scores, k, True))
            assert kept.threshold == flat[k - 1]
    for k in (70_000, 170_000, 249_000):
        assert same(keep_largest(scores, k).masks, by_sorting(scores, k, False))


def test_every_number_of_a_half_precision_type_is_ranked(isa: str) -> None:
    every = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.bfloat16, torch.float16):
        scores = every.view(dtype)
        scores = scores[~scores.isnan()]
        for absolute in (False, True):
            in_order = ranked([scores], absolute)
            for k in range(1, len(scores), 1013):
                kept = keep_largest([scores], k, absolute=absolute)
                assert same(kept.masks, by_sorting([scores], k, absolute))
                assert kept.threshold == in_order[k - 1]


def test_masks_lie_in_memory_as_the_scores_do(isa: str) -> None:
    convolution = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    transposed = torch.randn(5, 7).t()
    masks = keep_largest([convolution, transposed], 200).masks
    assert [mask.stride() for mask in masks] == [convolution.stride(), transposed.stride()]
    assert all(mask.dtype == torch.bool and not mask.requires_grad for mask in masks)


def test_parameters_are_ranked_as_they_are(isa: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, -4.0, 1.0]))
    kept = keep_largest([weight], 1, absolute=True)
    assert kept.masks[0].tolist() == [False, True, False]
    assert not kept.masks[0].requires_grad
    assert weight._version == 0


@settings(max_examples=25)
@given(tensors(), st.data())
def test_numbers_too_small_to_be_normal_count_where_torch_flushes_them(
    isa: str, scores: list[Tensor], data: st.DataObject
) -> None:
    tiny = torch.linspace(-40, 40, 161, dtype=torch.float64)
    scores = [*scores, (tiny * 1e-45).float(), (tiny * 6e-8).half(), (tiny * 1e-40).bfloat16()]
    k, absolute = data.draw(st.integers(1, total(scores))), data.draw(st.booleans())
    expected, near = by_sorting(scores, k, absolute), guess_at(SUBNORMAL, data.draw(guesses))
    threshold = ranked(scores, absolute)[k - 1].item()
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush numbers too small to be normal")
    try:
        kept = keep_largest(scores, k, absolute=absolute, near=near)
    finally:
        torch.set_flush_denormal(False)
    assert same(kept.masks, expected)
    assert kept.threshold == threshold


# What is refused.


@settings(max_examples=40)
@given(tensors(), st.data())
def test_nan_is_an_error_wherever_it_is(isa: str, scores: list[Tensor], data: st.DataObject) -> None:
    scores = [score.clone() for score in scores]  # an expanded one has too few places
    if not total(scores):
        return
    i = data.draw(st.sampled_from([i for i, score in enumerate(scores) if score.numel()]))
    at = data.draw(st.sampled_from([0, -1]) | st.integers(0, scores[i].numel() - 1))
    scores[i][torch.unravel_index(torch.tensor(at % scores[i].numel()), scores[i].shape)] = data.draw(
        st.sampled_from([math.nan, -math.nan])
    )
    among = any_masks(scores, at + 1, data.draw(st.sampled_from([0.1, 0.9]))) if data.draw(st.booleans()) else None
    able = total(scores) if among is None else sum(int(mask.sum()) for mask in among)
    if not able:
        return
    k, absolute, near = data.draw(st.integers(1, able)), data.draw(st.booleans()), guess_at(1.0, data.draw(guesses))
    with pytest.raises(ValueError, match="a score is NaN"):
        keep_largest(scores, k, absolute=absolute, among=among, near=near)


@pytest.mark.parametrize("at", [1, 65_535, 99_999])
def test_a_nan_that_the_sample_misses_is_an_error(isa: str, threads: int, at: int) -> None:
    scores = [torch.randn(100_000)]
    threshold = keep_largest(scores, 1000, absolute=True).threshold
    scores[0][at] = -torch.nan
    for near in (None, threshold):
        with pytest.raises(ValueError, match="a score is NaN"):
            keep_largest(scores, 1000, absolute=True, near=near)
