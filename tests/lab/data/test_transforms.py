from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsecycle.lab.data import transforms


def images(n: int, c: int, h: int, w: int, seed: int = 0) -> Tensor:
    return torch.rand(n, c, h, w, generator=torch.Generator().manual_seed(seed))


def many(value: float, n: int) -> Tensor:
    return torch.full((n,), value)


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7), st.integers(0, 5), st.data())
def test_crop_flip_is_a_slice_of_the_padded_image(
    n: int, c: int, h: int, w: int, padding: int, data: st.DataObject
) -> None:
    batch = (images(n, c, h, w) * 256).byte()
    offsets = st.lists(st.integers(0, 2 * padding), min_size=n, max_size=n)
    top, left = data.draw(offsets), data.draw(offsets)
    flip = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    out = transforms.crop_flip(
        batch, padding, torch.tensor(top).long(), torch.tensor(left).long(), torch.tensor(flip).bool()
    )
    assert out.shape == batch.shape
    assert out.dtype == torch.uint8
    for k in range(n):
        padded = np.pad(batch[k].numpy(), ((0, 0), (padding, padding), (padding, padding)))
        window = padded[:, top[k] : top[k] + h, left[k] : left[k] + w]
        assert np.array_equal(out[k].numpy(), window[:, :, ::-1] if flip[k] else window)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_rotating_by_nothing_is_the_identity(n: int, h: int, w: int) -> None:
    batch = images(n, 2, h, w)
    torch.testing.assert_close(
        transforms.rotate_shift(batch, many(0, n), many(0, n), many(0, n)), batch, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_are_exact_and_counter_clockwise(size: int) -> None:
    batch = images(4, 3, size, size)
    degrees = torch.tensor([0.0, 90.0, 180.0, -90.0])
    out = transforms.rotate_shift(batch, degrees, many(0, 4), many(0, 4))
    for k in range(4):
        torch.testing.assert_close(out[k], torch.rot90(batch[k], k, (1, 2)), atol=1e-5, rtol=0)


def test_a_half_turn_of_an_oblong_image() -> None:
    batch = images(1, 1, 4, 7)
    out = transforms.rotate_shift(batch, many(180, 1), many(0, 1), many(0, 1))
    torch.testing.assert_close(out, batch.flip(2, 3), atol=1e-5, rtol=0)


def test_a_quarter_turn_keeps_the_shape_of_things_in_an_oblong_image() -> None:
    batch = torch.zeros(1, 1, 5, 9)
    batch[0, 0, 2, 3:6] = 1  # a bar of three pixels about the centre
    out = transforms.rotate_shift(batch, many(90, 1), many(0, 1), many(0, 1))
    expected = torch.zeros(1, 1, 5, 9)
    expected[0, 0, 1:4, 4] = 1
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_shifts_are_shares_and_leave_black_behind() -> None:
    batch = images(2, 1, 4, 8)
    out = transforms.rotate_shift(batch, many(0, 2), torch.tensor([0.25, -0.125]), torch.tensor([0.25, 0.0]))
    expected = torch.zeros_like(batch)
    expected[0, :, 1:, 2:] = batch[0, :, :-1, :-2]
    expected[1, :, :, :-1] = batch[1, :, :, 1:]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_half_a_pixel_is_the_mean_of_two() -> None:
    batch = images(1, 1, 1, 8)
    out = transforms.rotate_shift(batch, many(0, 1), many(0.5 / 8, 1), many(0, 1))
    torch.testing.assert_close(out[..., 1:], (batch[..., 1:] + batch[..., :-1]) / 2, atol=1e-5, rtol=0)
    torch.testing.assert_close(out[..., 0], batch[..., 0] / 2, atol=1e-5, rtol=0)


def test_the_shift_comes_after_the_rotation() -> None:
    batch = images(1, 1, 8, 8)
    out = transforms.rotate_shift(batch, many(90, 1), many(0.25, 1), many(0, 1))
    expected = torch.zeros_like(batch)
    expected[..., 2:] = torch.rot90(batch, 1, (2, 3))[..., :-2]
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=0)


def test_coordinates_are_not_rounded_under_autocast() -> None:
    batch, zero = images(2, 1, 28, 28), many(0, 2)
    exact = transforms.rotate_shift(batch, many(15, 2), zero, zero)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transforms.rotate_shift(batch, many(15, 2), zero, zero), exact)


FACTORS = torch.tensor([0.0, 0.4, 1.0, 1.7])


def grey(image: Tensor) -> Tensor:
    return image if len(image) == 1 else 0.2989 * image[:1] + 0.587 * image[1:2] + 0.114 * image[2:]


@pytest.mark.parametrize("channels", [1, 3])
def test_brightness_contrast_saturation(channels: int) -> None:
    batch = images(4, channels, 5, 6)
    bright, contrasted, saturated = (
        change(batch, FACTORS) for change in (transforms.brightness, transforms.contrast, transforms.saturation)
    )
    for k, factor in enumerate(FACTORS.tolist()):
        image = batch[k]
        torch.testing.assert_close(bright[k], (image * factor).clamp(0, 1))
        torch.testing.assert_close(contrasted[k], (image * factor + (1 - factor) * grey(image).mean()).clamp(0, 1))
        expected = (image * factor + (1 - factor) * grey(image)).clamp(0, 1)
        torch.testing.assert_close(saturated[k], image if channels == 1 else expected)
    assert torch.equal(bright[2], batch[2])
    assert torch.equal(contrasted[2], batch[2])
    assert torch.equal(saturated[2], batch[2])


def test_hue_is_that_of_colorsys() -> None:
    batch = images(5, 3, 6, 6)
    # Corners of the cube and greys, where the hue is ambiguous or has none.
    batch[:, :, 0] = torch.tensor(
        [[0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0.5, 0.5, 0.5]], dtype=torch.float32
    ).T
    turns = torch.tensor([0.0, 0.5, -0.5, 0.13, -0.07])
    out = transforms.hue(batch, turns)
    for k, turn in enumerate(turns.tolist()):
        for row in range(6):
            for column in range(6):
                h, s, v = colorsys.rgb_to_hsv(*batch[k, :, row, column].tolist())
                expected = colorsys.hsv_to_rgb((h + turn) % 1, s, v)
                assert out[k, :, row, column].tolist() == pytest.approx(expected, abs=2e-6)


def test_grey_images_have_no_hue() -> None:
    batch = images(2, 1, 3, 3)
    assert torch.equal(transforms.hue(batch, many(0.3, 2)), batch)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_erasing_blackens_the_rectangle_and_nothing_else(h: int, w: int, data: st.DataObject) -> None:
    batch = images(3, 2, h, w) + 0.1
    heights = data.draw(st.lists(st.integers(0, h), min_size=3, max_size=3))
    widths = data.draw(st.lists(st.integers(0, w), min_size=3, max_size=3))
    tops = [data.draw(st.integers(0, h - height)) for height in heights]
    lefts = [data.draw(st.integers(0, w - width)) for width in widths]
    out = transforms.erase(batch, *(torch.tensor(x) for x in (tops, lefts, heights, widths)))
    for k in range(3):
        expected = batch[k].clone()
        expected[:, tops[k] : tops[k] + heights[k], lefts[k] : lefts[k] + widths[k]] = 0
        assert torch.equal(out[k], expected)
