from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.selection import _keep_by_bits, keep_largest

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def by_sorting(
    scores: list[Tensor], k: int, absolute: bool, among: list[Tensor] | None = None, floor: int = 0
) -> list[Tensor]:
    """The same by one stable sort of all scores in float64: forced ones first, then candidates, then the others."""
    rows = [score.double().abs() if absolute else score.double() for score in scores]
    flat = torch.cat([row.reshape(-1) for row in rows]).numpy()
    inside = np.ones(len(flat), bool) if among is None else torch.cat([m.reshape(-1) for m in among]).numpy()
    forced, first = np.zeros(len(flat), bool), 0
    for row in rows:
        here = slice(first, first + row.numel())
        own = np.lexsort((-flat[here], ~inside[here]))
        forced[first + own[:floor]] = True
        first += row.numel()
    order = np.lexsort((-flat, ~inside, ~forced))  # the last key sorts first; equals stay in index order
    keep = np.zeros(len(flat), bool)
    keep[order[:k]] = True
    parts = torch.from_numpy(keep).split([score.numel() for score in scores])
    return [part.view(score.shape) for part, score in zip(parts, scores, strict=True)]


def laid_out(score: Tensor, layout: str) -> Tensor:
    """Equal scores that lie differently in memory."""
    if layout == "transposed":
        return score.transpose(0, -1).contiguous().transpose(0, -1) if score.dim() else score
    if layout == "strided":
        return torch.stack([score, torch.full_like(score, 99)], -1)[..., 0]
    if layout == "channels_last" and score.dim() == 4:
        return score.contiguous(memory_format=torch.channels_last)
    if layout == "offset":
        return torch.cat([torch.full((3,), 99, dtype=score.dtype), score.reshape(-1)])[3:].view(score.shape)
    return score


shapes = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 6), min_size=1, max_size=3),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
)
kinds = st.sampled_from(["normal", "ties", "constant", "zeros", "mixed magnitudes", "signed zeros", "infinite"])
layouts = st.sampled_from(["contiguous", "transposed", "strided", "channels_last", "offset"])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], int, bool]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    dtypes = draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=2))  # mostly one type, now and then two
    scores: list[Tensor] = []
    for shape in draw(st.lists(shapes, min_size=1, max_size=5)):
        kind = draw(kinds)
        score = torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        if kind == "ties":
            score = (2 * score).round() / 2
        elif kind == "constant":
            score = torch.full_like(score, draw(st.sampled_from([-0.5, 0.5, 3.0])))
        elif kind == "zeros":
            score = torch.where(score > 0.5, score, 0)
        elif kind == "mixed magnitudes":
            score = score * 10 ** (6 * torch.randn(score.shape, generator=generator, dtype=torch.float64)).clamp(-4, 4)
        elif kind == "signed zeros":
            score = torch.copysign(torch.zeros_like(score), score)
        elif kind == "infinite":
            score = torch.where(score.abs() > 1, score * torch.inf, score)
        scores.append(laid_out(score.to(dtypes[len(scores) % len(dtypes)]), draw(layouts)))
    k = draw(st.integers(0, sum(score.numel() for score in scores)))
    return scores, k, draw(st.booleans())


both = pytest.mark.usefixtures("path")  # by the native core, and without it
nears = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 0.5, -0.5, 1.0, 3.0])


def same(masks: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(mask, other) for mask, other in zip(masks, others, strict=True))


@both
@given(problems(), nears)
def test_keeps_what_a_stable_sort_keeps(problem: tuple[list[Tensor], int, bool], near: float | None) -> None:
    scores, k, absolute = problem
    kept = keep_largest(scores, k, absolute=absolute, near=near)
    expected = by_sorting(scores, k, absolute)
    assert same(kept.masks, expected)
    assert all(mask.dtype == torch.bool for mask in kept.masks)
    if k:
        assert same(_keep_by_bits(scores, k, absolute, None, [0] * len(scores)), expected)
        ranked = torch.cat([(s.double().abs() if absolute else s.double()).reshape(-1) for s in scores])
        assert kept.threshold == ranked.sort(descending=True).values[k - 1]


@both
@given(problems(), nears, st.integers(1, 9), st.data())
def test_every_tensor_keeps_its_floor(
    problem: tuple[list[Tensor], int, bool], near: float | None, floor: int, data: st.DataObject
) -> None:
    scores, _, absolute = problem
    floors = [min(floor, score.numel()) for score in scores]
    k = data.draw(st.integers(sum(floors), sum(score.numel() for score in scores)))
    expected = by_sorting(scores, k, absolute, floor=floor)
    assert all(int(mask.sum()) >= least for mask, least in zip(expected, floors, strict=True))
    assert same(keep_largest(scores, k, absolute=absolute, floor=floor, near=near).masks, expected)
    if k:
        assert same(_keep_by_bits(scores, k, absolute, None, floors), expected)


@both
@given(problems(), nears, st.data())
def test_among_equals_only_those_that_may_be_kept_are(
    problem: tuple[list[Tensor], int, bool], near: float | None, data: st.DataObject
) -> None:
    # As the sparsifier does it: a first selection prunes, what is pruned scores lowest, a second one keeps fewer.
    scores, most, absolute = problem
    among = keep_largest(scores, most, absolute=absolute).masks
    lowest = 0 if absolute else -torch.inf
    scores = [score.masked_fill(~mask, lowest) for score, mask in zip(scores, among, strict=True)]
    floor = data.draw(st.integers(0, 2))
    floors = [min(floor, score.numel()) for score in scores]
    if any(int(mask.sum()) < least for mask, least in zip(among, floors, strict=True)):
        floor, floors = 0, [0] * len(scores)
    k = data.draw(st.integers(sum(floors), most))
    expected = by_sorting(scores, k, absolute, among, floor)
    assert not any((mask & ~old).any() for mask, old in zip(expected, among, strict=True))
    assert same(keep_largest(scores, k, absolute=absolute, among=among, floor=floor, near=near).masks, expected)
    if k:
        assert same(_keep_by_bits(scores, k, absolute, among, floors), expected)


@both
def test_zeros_that_were_pruned_do_not_come_back_before_zeros_that_were_not() -> None:
    scores, among = [torch.tensor([0.0, 0.0, 5.0, 0.0, 0.0])], [torch.tensor([False, True, True, False, True])]
    assert keep_largest(scores, 2, absolute=True, among=among).masks[0].tolist() == [False, True, True, False, False]
    assert keep_largest(scores, 3, absolute=True, among=among).masks[0].tolist() == [False, True, True, False, True]
    assert keep_largest(scores, 3, absolute=True).masks[0].tolist() == [True, True, True, False, False]


@both
def test_ties_fall_by_tensor_then_by_index() -> None:
    ones = [torch.ones(3), torch.ones(2, 2), torch.ones(())]
    assert [mask.flatten().tolist() for mask in keep_largest(ones, 5).masks] == [
        [True] * 3,
        [True, True, False, False],
        [False],
    ]
    # By index, not by place in memory: the transpose's first row is the first to stay.
    column_major = torch.ones(3, 2).t()
    assert keep_largest([column_major], 3).masks[0].tolist() == [[True] * 3, [False] * 3]


@both
def test_a_constant_tensor_at_90_percent() -> None:
    for n in (10, 1000, 600_000):  # more than one chunk
        mask = keep_largest([torch.full((n,), 0.1)], n // 10, absolute=True).masks[0]
        assert mask[: n // 10].all()
        assert int(mask.sum()) == n // 10


def test_close_float64_scores_are_told_apart() -> None:
    close = torch.tensor([1.0, 1 + 2e-16, 1 + 9e-16, 1 - 1e-16], dtype=torch.float64)
    assert keep_largest([close], 1).masks[0].tolist() == [False, False, True, False]
    assert _keep_by_bits([close], 3, False, None, [0])[0].tolist() == [True, True, True, False]
    mixed = [torch.tensor([1.0]), close]
    assert same(keep_largest(mixed, 3).masks, by_sorting(mixed, 3, False))
    assert same(_keep_by_bits(mixed, 3, False, None, [0, 0]), by_sorting(mixed, 3, False))


def test_a_guess_is_the_same_number_to_every_type() -> None:
    # A bracket's lower end that is 0 in float32 and not in float64, or a little less.
    for near in (2.3e-308, 64 / 63 * 0.1):
        scores = [torch.tensor([1.5, 0.1, 0.0]), torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)]
        for k in range(1, 7):
            assert same(keep_largest(scores, k, near=near).masks, by_sorting(scores, k, False))


@both
def test_masks_lie_in_memory_as_the_scores_do() -> None:
    convolution = torch.randn(8, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    transposed = torch.randn(5, 7).t()
    volume = torch.randn(2, 3, 4, 5, 6).contiguous(memory_format=torch.channels_last_3d)
    masks = keep_largest([convolution, transposed, volume], 200).masks
    assert [mask.stride() for mask in masks] == [convolution.stride(), transposed.stride(), volume.stride()]


@both
@pytest.mark.parametrize("n", [3 * (1 << 18) + 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_many_chunks(n: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(n).to(dtype), torch.randn(1000, 33).to(dtype)]
    for k in (1, n // 100, n // 2, n + 32_999):
        kept = keep_largest(weights, k, absolute=True)
        assert same(kept.masks, by_sorting(weights, k, True))
        assert same(_keep_by_bits(weights, k, True, None, [0, 0]), kept.masks)


@both
def test_scores_are_neither_changed_nor_tracked() -> None:
    weight = torch.nn.Parameter(torch.randn(20, 20))
    before, version = weight.detach().clone(), weight._version
    mask = keep_largest([weight], 40, absolute=True).masks[0]
    assert torch.equal(weight, before)
    assert weight._version == version
    assert not mask.requires_grad
    kept, dropped = before.abs()[mask], before.abs()[~mask]
    assert (len(kept), len(dropped)) == (40, 360)
    assert kept.min() >= dropped.max()


@pytest.fixture
def collected(without_core: None, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of every array that numpy gathered scores in: samples, and what a pass collects."""
    concatenate, lengths = np.concatenate, []

    def counting(arrays: list[np.ndarray], **rest: object) -> np.ndarray:
        lengths.append(sum(map(len, arrays)))
        return concatenate(arrays, **rest)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(np, "concatenate", counting)
    return lengths


def test_few_scores_are_collected(collected: list[int]) -> None:
    torch.manual_seed(0)
    weights = [torch.randn(1000, 1500), torch.randn(500_000)]
    k, n = 200_000, 2_000_000
    first = keep_largest(weights, k, absolute=True)
    assert len(collected) == 2  # a sample, and what one pass found
    assert sum(collected) < 0.1 * n
    assert first.threshold == pytest.approx(1.645, abs=0.01)
    collected.clear()
    again = keep_largest(weights, k - 1000, absolute=True, near=first.threshold)
    assert len(collected) == 1  # a good guess saves the sample
    assert sum(collected) < 0.02 * n
    collected.clear()
    wrong = keep_largest(weights, k, absolute=True, near=0.3)
    assert len(collected) == 3  # a wrong one costs a pass and no more
    assert sum(collected) < 0.1 * n
    assert same(wrong.masks, first.masks)
    assert sum(int(mask.sum()) for mask in again.masks) == k - 1000


@pytest.mark.parametrize("k", [100_000, 200_000, 300_000, 1_900_000])
def test_equal_scores_are_not_collected(collected: list[int], k: int) -> None:
    torch.manual_seed(0)
    weight = torch.randn(2_000_000)
    pruned = weight * keep_largest([weight], 200_000, absolute=True).masks[0]
    collected.clear()
    mask = keep_largest([pruned], k, absolute=True).masks[0]
    assert sum(collected) < 0.1 * len(weight)
    assert int(mask.sum()) == k
    assert same([mask], by_sorting([pruned], k, True))


@both
@pytest.mark.parametrize("numbers", [1, 3])  # of a tensor: one alone has no gap after it
def test_scores_that_lie_negated(numbers: int) -> None:
    scores = [pairs.conj().imag for pairs in torch.tensor([1 + 1j, 1 - 2j, 1 + 3j]).split(numbers)]
    assert all(score.is_neg() for score in scores)
    kept = keep_largest(scores, 1)
    assert torch.cat(kept.masks).tolist() == [False, True, False]
    assert kept.threshold == 2


# What is refused.


@both
@pytest.mark.parametrize("near", [None, 1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("k", [1, 50, 99, 100])
@pytest.mark.parametrize("absolute", [False, True])
def test_nan_is_an_error(k: int, absolute: bool, near: float | None) -> None:
    scores = [torch.randn(50, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    scores[1][17] = torch.nan
    with pytest.raises(ValueError, match="a score is NaN"):
        keep_largest(scores, k, absolute=absolute, near=near)


@both
def test_a_nan_that_the_sample_misses_is_an_error() -> None:
    scores = [torch.randn(300_000)]
    scores[0][1] = torch.nan
    with pytest.raises(ValueError, match="a score is NaN"):
        keep_largest(scores, 30_000)


@both
@pytest.mark.parametrize(("k", "floor", "least"), [(-1, 0, 0), (11, 0, 0), (2, 2, 3), (0, 1, 2)])
def test_k_is_in_range(k: int, floor: int, least: int) -> None:
    message = f"k={k} must be from {least}, the floors' sum, to 10, the number of scores"
    with pytest.raises(ValueError, match=message):
        keep_largest([torch.randn(3, 3), torch.randn(1)], k, floor=floor)


@both
def test_nothing_to_keep() -> None:
    assert keep_largest([], 0).masks == []
    kept = keep_largest([torch.ones(2, 0), torch.ones(3)], 0)
    assert [mask.shape for mask in kept.masks] == [(2, 0), (3,)]
    assert not kept.masks[1].any()
    assert kept.threshold is None
