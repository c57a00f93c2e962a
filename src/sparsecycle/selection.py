"""Exactly the k largest of many tensors, without concatenating them; ties fall by index.

On the CPU a threshold is bracketed (by the last one, or by a sample), one pass counts what lies above the bracket
and collects what lies in it, and the k-th largest is found among those few; the native core does it where it can. On
an accelerator the same answer comes from the bits of the numbers, digit by digit, in a fixed number of kernels that
the host never waits for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from sparsecycle import native

__all__ = ["WITHIN", "Selection", "keep_largest", "kth_largest"]

_Array: TypeAlias = "np.ndarray[Any, np.dtype[np.floating[Any]]]"

WITHIN = 1 / 64  # how far a threshold is looked for from where it is thought to be, relative to it

_CHUNK = 1 << 17  # elements looked at together: 512 KiB of float32, so that a pass stays in the second-level cache


@dataclass(frozen=True)
class Selection:
    """What was kept.

    Args:
        masks: One bool tensor a score tensor, in its shape and memory layout.
        threshold: The k-th largest score, if the host knows it; the next selection can start ``near`` it.
    """

    masks: list[Tensor]
    threshold: float | None


def keep_largest(
    scores: Sequence[Tensor],
    k: int,
    *,
    absolute: bool = False,
    among: Sequence[Tensor] | None = None,
    floor: int = 0,
    near: float | None = None,
    within: float = WITHIN,
) -> Selection:
    """Mark the ``k`` largest scores of all tensors together.

    Of equal scores those of the earlier tensor, and in a tensor those with the lower index, are kept.

    Args:
        scores: Floating-point tensors of any shapes, on one device.
        k: How many to keep, from 0 to the number of scores.
        absolute: Rank by absolute value.
        among: Bool masks of the scores that may be kept at all; at least ``k`` of them. No score outside may
            exceed one inside (a pruned weight is 0), so they only ever decide between equals.
        floor: Every tensor keeps at least this many of its own largest (or all it has).
        near: A guess at the k-th largest score, which saves a pass and changes nothing else.
        within: How good the guess is, relative to it: the less there is to look at, the faster.

    Raises:
        ValueError: If ``k`` is out of range or smaller than the floors ask for, or a score on the CPU is NaN.
            Infinity is larger than every number.
    """
    sizes = [score.numel() for score in scores]
    floors = [min(floor, size) for size in sizes]
    if not sum(floors) <= k <= sum(sizes):
        raise ValueError(f"k={k} must be from {sum(floors)}, the floors' sum, to {sum(sizes)}, the number of scores")
    if k == 0:
        return Selection([torch.zeros_like(score, dtype=torch.bool) for score in scores], None)
    if scores[0].device.type != "cpu":
        return Selection(_keep_by_bits(scores, k, absolute, among, floors), None)
    if native.fits(scores):
        selection, starved = _keep_natively(scores, k, absolute, among, floors, near, within)
    else:
        selection = _keep_by_bracket(scores, k, absolute, among, near, within)
        starved = [i for i, mask in enumerate(selection.masks) if np.count_nonzero(mask.numpy()) < floors[i]]
    if not starved:
        return selection
    # A starved tensor keeps its own largest. What it gains the others lose; that may starve another one.
    masks = list(selection.masks)
    for i in starved:
        masks[i] = keep_largest([scores[i]], floors[i], absolute=absolute, among=among and [among[i]]).masks[0]
    fed = [i for i in range(len(scores)) if i not in starved]
    rest = keep_largest(
        [scores[i] for i in fed],
        k - sum(floors[i] for i in starved),
        absolute=absolute,
        among=among and [among[i] for i in fed],
        floor=floor,
        near=selection.threshold,
        within=within,
    )
    for i, mask in zip(fed, rest.masks, strict=True):
        masks[i] = mask
    return Selection(masks, rest.threshold)


def kth_largest(
    scores: Sequence[Tensor], k: int, reduce: Callable[[Tensor], object], *, absolute: bool = False
) -> tuple[float, int]:
    """The k-th largest of scores that are spread over processes, none of which sees another's.

    The processes count the digits of their scores' bits and add up the counts, three times: what they exchange does not
    grow with the scores.

    Args:
        scores: This process's float32, bfloat16 or float16 tensors, if it has any; without NaN.
        k: From 1 to the number of all processes' scores.
        reduce: Adds up a tensor of int64 over the processes, in place, such as ``torch.distributed.all_reduce``.
        absolute: Rank by absolute value.

    Returns:
        The k-th largest score, and how many that equal it belong to the k largest: the same in every process.

    Raises:
        ValueError: If ``k`` is out of range.
    """
    wanted, prefix = k, 0
    for shift, values in _DIGITS[torch.int32]:
        counts = _count_digits(scores, absolute, prefix, shift, values)
        reduce(counts)
        at_least = counts.flip(0).cumsum(0).flip(0)  # scores whose digit is this one or a larger one
        if not 1 <= wanted <= int(at_least[0]):
            raise ValueError(f"k={k} must be from 1 to {int(at_least[0])}, the number of scores")
        digit = int((at_least >= wanted).sum()) - 1
        wanted -= int(at_least[digit] - counts[digit])
        prefix = prefix * values + digit
    key = prefix - (1 << 31)
    if abs(key) < 1 << 23:  # below the normal numbers, which a thread may have been told to flush to 0
        return key * 2.0**-149, wanted
    bits = np.array(key if key >= 0 else -key | 1 << 31, dtype=np.uint32)
    return float(bits.view(np.float32)), wanted


def _count_digits(scores: Sequence[Tensor], absolute: bool, prefix: int, shift: int, values: int) -> Tensor:
    """How often each value of a digit occurs in the scores' keys, of those that begin with the prefix."""
    if native.fits(scores):
        dense = [score if native.is_dense(score) else score.contiguous() for score in scores]
        threads = torch.get_num_threads()
        return torch.tensor(native.layers(dense).histogram(absolute, prefix, shift, values, threads))
    counts = torch.zeros(values, dtype=torch.int64, device=scores[0].device if scores else None)
    for score in scores:
        bits = score.detach().resolve_neg().reshape(-1).float().view(torch.int32).long()
        magnitudes = bits & 0x7FFFFFFF
        keys = (magnitudes if absolute else torch.where(bits < 0, -magnitudes, magnitudes)) + (1 << 31)
        here = keys[keys >> shift + values.bit_length() - 1 == prefix]
        counts += torch.bincount(here >> shift & values - 1, minlength=values)
    return counts


# By the native core.


def _keep_natively(
    scores: Sequence[Tensor],
    k: int,
    absolute: bool,
    among: Sequence[Tensor] | None,
    floors: Sequence[int],
    near: float | None,
    within: float,
) -> tuple[Selection, list[int]]:
    """The selection, or no masks and which tensors fall below their floors."""
    dense = [score if native.is_dense(score) else score.contiguous() for score in scores]
    masks = [torch.empty_like(score, dtype=torch.bool, requires_grad=False) for score in dense]
    if among is not None:
        among = [a if native.lies_alike(a, s) else m.copy_(a) for a, s, m in zip(among, dense, masks, strict=True)]
    threshold, starved = native.layers(dense, among).keep_largest(
        [mask.data_ptr() for mask in masks], k, absolute, near, within, floors, torch.get_num_threads()
    )
    return Selection(masks, threshold), starved


# On the CPU by numpy: bracket, count, collect. numpy, because its comparisons write into place and its partition is the
# fastest selection there is.


def _keep_by_bracket(
    scores: Sequence[Tensor],
    k: int,
    absolute: bool,
    among: Sequence[Tensor] | None,
    near: float | None,
    within: float,
) -> Selection:
    flats = [_in_memory_order(score) for score in scores]
    for low, high in _brackets(flats, k, absolute, near, within):
        above, inside, at_low = _scan(flats, low, high, absolute)
        if np.isnan(inside).any():
            raise ValueError("a score is NaN")
        if above < k <= above + len(inside) + at_low:
            break
    rank = len(inside) - (k - above)
    if rank >= 0:
        threshold = np.partition(inside, rank)[rank]
        greater, equal = above + int(np.count_nonzero(inside > threshold)), int(np.count_nonzero(inside == threshold))
    else:
        threshold = inside.dtype.type(low)
        greater, equal = above + len(inside), at_low
    masks = [_where(np.greater_equal, score, threshold, absolute) for score in scores]
    if greater + equal > k:
        _drop_surplus_equals(scores, masks, threshold, k - greater, absolute, among)
    return Selection(masks, float(threshold))


def _brackets(
    flats: Sequence[Tensor], k: int, absolute: bool, near: float | None, within: float
) -> Iterator[tuple[float, float]]:
    """Ranges in which the k-th largest score may lie: a guess, a better one, all there is."""
    if near is not None and abs(near) < 1e38:  # neither NaN nor beyond float32
        # In float32, so that it is the same number to tensors of every type.
        yield float(np.float32(near - abs(near) * within)), float(np.float32(near + abs(near) * within))
    size = sum(len(flat) for flat in flats)
    # n^(2/3) of n: a larger sample takes longer to sort, a smaller one leaves more to collect. A step that shares no
    # factor with the usual widths and kernels does not keep hitting the same column.
    step = max(1, round(size ** (1 / 3)))
    while math.gcd(step, 2 * 3 * 5 * 7) > 1:
        step += 1
    sample = np.sort(np.concatenate([_ranked(flat[::step], absolute) for flat in flats]))
    rank, deviation = len(sample) * (1 - k / size), 0.5 * len(sample) ** 0.5
    low, high = int(rank - 6 * deviation), int(rank + 6 * deviation)
    yield (sample[low] if low >= 0 else -np.inf), (sample[high] if high < len(sample) else np.inf)
    yield -np.inf, np.inf


def _scan(flats: Sequence[Tensor], low: float, high: float, absolute: bool) -> tuple[int, _Array, int]:
    """How many scores exceed ``high``, those from there down to ``low`` and all that are NaN, how many equal ``low``.

    The last are only counted because they can be most of all: weights that come back at 0.
    """
    above, inside, at_low = 0, [], 0
    for flat in flats:
        for chunk in flat.split(_CHUNK):
            ranked = _ranked(chunk, absolute)
            over = ranked > high
            above += int(np.count_nonzero(over))
            inside.append(ranked[(ranked <= low) == over])  # neither below nor above
            at_low += int(np.count_nonzero(ranked == low))
    return above, np.concatenate(inside), at_low


def _where(compare: np.ufunc, score: Tensor, threshold: np.floating[Any], absolute: bool) -> Tensor:
    """Where ``compare(score, threshold)`` holds: a mask that lies in memory as the scores do."""
    flat = _in_memory_order(score)
    mask = torch.empty(flat.shape, dtype=torch.bool)
    for chunk, out in zip(flat.split(_CHUNK), mask.split(_CHUNK), strict=True):
        compare(_ranked(chunk, absolute), threshold, out=out.numpy())
    order = native.memory_order(score)
    back = sorted(range(score.dim()), key=order.__getitem__)
    return mask.view([score.shape[d] for d in order]).permute(back)


def _drop_surplus_equals(
    scores: Sequence[Tensor],
    masks: Sequence[Tensor],
    threshold: np.floating[Any],
    wanted: int,
    absolute: bool,
    among: Sequence[Tensor] | None,
) -> None:
    """Of the scores that equal the threshold, leave the first ``wanted`` in the masks."""
    for i, (score, mask) in enumerate(zip(scores, masks, strict=True)):
        surplus = _where(np.equal, score, threshold, absolute).contiguous()
        candidates = (surplus if among is None else surplus & among[i]).reshape(-1)
        for chunk, out in zip(candidates.split(_CHUNK), surplus.view(-1).split(_CHUNK), strict=True):
            kept = np.flatnonzero(chunk.numpy())[:wanted]
            out[kept] = False
            wanted -= len(kept)
        mask.logical_and_(surplus.logical_not_())


def _ranked(flat: Tensor, absolute: bool) -> _Array:
    """What the scores are ranked by, in a type that numpy has."""
    if flat.dtype in (torch.bfloat16, torch.float16):
        flat = flat.float()
    return np.abs(flat.numpy()) if absolute else flat.numpy()


def _in_memory_order(tensor: Tensor) -> Tensor:
    """The elements in the order in which they lie, as one row: a view, unless the tensor has gaps or lies negated."""
    return tensor.detach().resolve_neg().permute(native.memory_order(tensor)).reshape(-1)


# On an accelerator: digits of the numbers' bits, most significant first, with fixed shapes.

_DIGITS = {  # (shift, values) of 12 + 10 + 10 bits, and of 12 + 4 · 13
    torch.int32: ((20, 1 << 12), (10, 1 << 10), (0, 1 << 10)),
    torch.int64: ((52, 1 << 12), (39, 1 << 13), (26, 1 << 13), (13, 1 << 13), (0, 1 << 13)),
}
_EXACT = 1 << 24  # histc counts in float32


def _keep_by_bits(
    scores: Sequence[Tensor], k: int, absolute: bool, among: Sequence[Tensor] | None, floors: Sequence[int]
) -> list[Tensor]:
    sizes = [score.numel() for score in scores]
    wide = any(score.dtype == torch.float64 for score in scores)
    rows = [score.detach().reshape(-1).to(torch.float64 if wide else torch.float32) for score in scores]
    flat = torch.cat([row.abs() for row in rows] if absolute else rows)
    keys = (flat + 0.0).view(torch.int64 if wide else torch.int32)  # -0 becomes 0
    of = torch.iinfo(keys.dtype)
    keys = keys ^ ((keys >> (of.bits - 1)) & of.max)  # negative numbers: more negative, smaller
    if among is not None:
        keys = keys.masked_fill_(~torch.cat([mask.reshape(-1) for mask in among]), of.min)
    for row, floor in zip(keys.split(sizes), floors, strict=True):
        if floor:
            # A tensor's own largest are kept in any case, so they rank before everything else.
            largest = row.argmax()[None] if floor == 1 else row.argsort(descending=True, stable=True)[:floor]
            row.index_fill_(0, largest, of.max)
    threshold, equals = _kth_largest(keys, k)
    equal = keys == threshold
    mask = (keys > threshold) | (equal & (equal.cumsum(0, dtype=torch.int32) <= equals))
    return [part.view(score.shape) for part, score in zip(mask.split(sizes), scores, strict=True)]


def _kth_largest(keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k-th largest of the keys, and how many that equal it belong to the k largest; both stay on the device."""
    prefix = torch.zeros((), dtype=keys.dtype, device=keys.device)
    wanted = torch.full((), k, dtype=torch.int64, device=keys.device)
    for i, (shift, values) in enumerate(_DIGITS[keys.dtype]):
        digits = keys >> shift
        if i == 0:
            digits = digits + values // 2
        else:
            here = keys >> (shift + values.bit_length() - 1) == prefix
            digits = torch.where(here, digits & (values - 1), -1)
        counts = torch.zeros(values, dtype=torch.int64, device=keys.device)
        for part in digits.split(_EXACT):
            counts += torch.histc(part.float(), bins=values, min=0, max=values).long()
        at_least = counts.flip(0).cumsum(0).flip(0)  # keys whose digit is this one or a larger one
        digit = (at_least >= wanted).sum() - 1
        wanted = wanted - (at_least.gather(0, digit[None])[0] - counts.gather(0, digit[None])[0])
        digit = digit.to(keys.dtype)
        prefix = digit - values // 2 if i == 0 else prefix * values + digit
    return prefix, wanted
