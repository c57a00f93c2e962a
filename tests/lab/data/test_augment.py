from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sparsecycle.lab.data import Augment, transforms

EVERYTHING = Augment(
    crop=2, flip=True, rotate=15, shift=0.1, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1, erase=0.5
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int = 16, c: int = 3, h: int = 12, w: int = 10) -> Tensor:
    return torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=seeded(9))


def numbered(n: int, h: int, w: int) -> Tensor:
    """n copies of one image whose pixels are all different and none of them black."""
    return torch.arange(1, h * w + 1, dtype=torch.uint8).view(1, 1, h, w).expand(n, 1, h, w)


def test_nothing_is_only_scaling() -> None:
    images = batch()
    assert torch.equal(Augment()(images, seeded()), images.float() / 255)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 4),
    c=st.sampled_from([1, 3]),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    crop=st.integers(0, 10),
    flip=st.booleans(),
    rotate=st.floats(0, 180),
    shift=st.floats(0, 1),
    colour=st.floats(0, 3),
    hue=st.floats(0, 0.5),
    erase=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_type_shape_range_and_reproducibility(
    n: int, c: int, h: int, w: int, crop: int, flip: bool, rotate: float, shift: float, colour: float,
    hue: float, erase: float, seed: int,
) -> None:  # fmt: skip
    images = torch.randint(0, 256, (n, c, h, w), dtype=torch.uint8, generator=seeded(seed))
    before = images.clone()
    augment = Augment(crop, flip, rotate, shift, colour, colour, colour, hue, erase)
    out = augment(images, seeded(seed))
    assert out.dtype == torch.float32
    assert out.shape == images.shape
    assert torch.equal(images, before)
    assert bool(((out >= 0) & (out <= 1)).all())  # false for NaN too
    assert torch.equal(augment(images, seeded(seed)), out)


@pytest.mark.parametrize("augment", [Augment(), Augment(crop=4), Augment(hue=0.1), EVERYTHING])
def test_every_call_takes_the_same_numbers_from_the_generator(augment: Augment) -> None:
    generator, other = seeded(), seeded()
    augment(batch(), generator)
    Augment(flip=True)(255 - batch(), other)
    assert torch.equal(generator.get_state(), other.get_state())


def test_a_change_is_the_same_whether_or_not_others_are_on() -> None:
    images = batch()
    both = Augment(flip=True, brightness=0.5)(images, seeded())
    flipped = (Augment(flip=True)(images, seeded()) * 255).round().byte()
    assert torch.equal(both, Augment(brightness=0.5)(flipped, seeded()))


def test_all_crops_come_up_equally_often() -> None:
    n, h, w = 9000, 3, 4
    out = Augment(crop=1)(numbered(n, h, w), seeded())
    windows: dict[tuple[float, ...], int] = {}
    for image in (out * 255).round().flatten(1).tolist():
        windows[tuple(image)] = windows.get(tuple(image), 0) + 1
    padded = torch.nn.functional.pad(numbered(1, h, w)[0, 0], (1,) * 4)
    expected = {
        tuple(padded[top : top + h, left : left + w].flatten().tolist()) for top in range(3) for left in range(3)
    }
    assert set(windows) == expected
    # A share of 1/9 has a standard deviation of 30 in 9000.
    assert all(abs(count - 1000) < 150 for count in windows.values())


def test_half_of_the_images_are_mirrored() -> None:
    images = numbered(4000, 3, 4)
    out = Augment(flip=True)(images, seeded())
    mirrored = (out == images.flip(-1).float() / 255).flatten(1).all(1)
    same = (out == images.float() / 255).flatten(1).all(1)
    assert bool((mirrored ^ same).all())
    assert abs(int(mirrored.sum()) - 2000) < 160


def parameters(monkeypatch: pytest.MonkeyPatch, change: str, augment: Augment, n: int = 20_000) -> list[Tensor]:
    """What ``augment`` hands to the transform ``change`` for n images."""
    seen: list[Tensor] = []

    def record(images: Tensor, *values: Tensor) -> Tensor:
        seen.extend(values)
        return images

    monkeypatch.setattr(transforms, change, record)
    augment(torch.zeros(n, 3, 10, 20, dtype=torch.uint8), seeded())
    return seen


def is_uniform(values: Tensor, low: float, high: float) -> bool:
    """Within the bounds, and by Kolmogorov and Smirnov's distance (p = 1e-6) uniform on them."""
    share = (values.double().sort().values - low) / (high - low)
    distance = (share - (torch.arange(len(values)) + 0.5) / len(values)).abs().max()
    inside = low - 1e-6 <= float(values.min()) and float(values.max()) <= high + 1e-6
    return inside and float(distance) < 2.7 / math.sqrt(len(values))


def test_angles_and_shifts_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    angle, right, down = parameters(monkeypatch, "rotate_shift", Augment(rotate=15, shift=0.1))
    assert is_uniform(angle, -15, 15)
    assert is_uniform(right, -0.1, 0.1)
    assert is_uniform(down, -0.1, 0.1)
    assert abs(float(torch.corrcoef(torch.stack((angle, right, down))).triu(1).abs().max())) < 0.04


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize(("spread", "low", "high"), [(0.2, 0.8, 1.2), (1.5, 0.0, 2.5)])
def test_colour_factors_are_uniform(
    monkeypatch: pytest.MonkeyPatch, name: str, spread: float, low: float, high: float
) -> None:
    settings: dict[str, Any] = {name: spread}
    (factor,) = parameters(monkeypatch, name, Augment(**settings))
    assert is_uniform(factor, low, high)


def test_hues_are_uniform(monkeypatch: pytest.MonkeyPatch) -> None:
    (turns,) = parameters(monkeypatch, "hue", Augment(hue=0.1))
    assert is_uniform(turns, -0.1, 0.1)


def test_the_changes_come_in_the_order_of_the_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    for name in ("crop_flip", "rotate_shift", "brightness", "contrast", "saturation", "hue", "erase"):

        def record(images: Tensor, *_: object, name: str = name) -> Tensor:
            order.append(name)
            return images

        monkeypatch.setattr(transforms, name, record)
    EVERYTHING(batch(), seeded())
    assert order == ["crop_flip", "rotate_shift", "brightness", "contrast", "saturation", "hue", "erase"]


def test_erasing_has_its_probability_area_and_ratio() -> None:
    n, side = 4000, 40
    out = Augment(erase=0.3)(torch.full((n, 1, side, side), 255, dtype=torch.uint8), seeded())
    black = out[:, 0] == 0
    hit = black.flatten(1).any(1)
    assert abs(int(hit.sum()) - 0.3 * n) < 5 * math.sqrt(n * 0.3 * 0.7)
    heights, widths = black.any(2).sum(1)[hit], black.any(1).sum(1)[hit]
    areas = black.flatten(1).sum(1)[hit]
    assert torch.equal(areas, heights * widths)  # a full rectangle, inside the image
    share = areas / side**2
    # Both sides are rounded by up to half a pixel, and the longest is cut from 41.7 to 40.
    assert 0.012 < float(share.min()) < 0.04
    assert 0.30 < float(share.max()) < 0.345
    assert float(share.mean()) == pytest.approx(0.175, abs=0.01)
    ratio = (heights / widths).log()
    assert float(ratio.mean()) == pytest.approx((math.log(0.3) + math.log(3.3)) / 2, abs=0.06)
    assert float(ratio.std()) == pytest.approx(math.log(11) / math.sqrt(12), abs=0.05)
    assert float(ratio.exp().max()) < 3.3 * 1.15
    rows, columns = black.any(2).sum(0), black.any(1).sum(0)
    assert min(int(side[end]) for side in (rows, columns) for end in (0, -1)) > 10  # up to every border


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_never_and_always_erase(probability: float, share: float) -> None:
    out = Augment(erase=probability)(torch.full((500, 1, 20, 20), 255, dtype=torch.uint8), seeded())
    assert float((out == 0).flatten(1).any(1).float().mean()) == share


def test_grey_images_ignore_saturation_and_hue() -> None:
    images = batch(c=1)
    assert torch.equal(Augment(saturation=0.5, hue=0.2)(images, seeded()), images.float() / 255)


class NoReading(TorchDispatchMode):
    """Fails on every operation that hands a tensor's values to the host, or has a shape that depends on them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert torch.Tag.data_dependent_output not in func.tags, func
        assert torch.Tag.dynamic_output_shape not in func.tags, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("channels", [1, 3])
def test_no_value_is_read_back_to_the_host(channels: int) -> None:
    images = batch(c=channels)
    with NoReading():
        EVERYTHING(images, seeded())
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoReading():
        images.sum().item()
    with pytest.raises(AssertionError, match="nonzero"), NoReading():
        images.nonzero()


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("crop", -1, "a whole number of pixels from 0"),
        ("crop", 1.5, "a whole number of pixels from 0"),
        ("crop", True, "a whole number of pixels from 0"),
        ("flip", 0.5, "True or False"),
        ("rotate", -1, "a number from 0 to 180"),
        ("rotate", 181.0, "a number from 0 to 180"),
        ("rotate", "15", "a number from 0 to 180"),
        ("shift", 1.1, "a number from 0 to 1"),
        ("brightness", -0.1, "a number of 0 or more"),
        ("contrast", math.inf, "a number of 0 or more"),
        ("saturation", math.nan, "a number of 0 or more"),
        ("hue", 0.6, "a number from 0 to 0.5"),
        ("erase", 2, "a number from 0 to 1"),
    ],
)
def test_a_wrong_field_is_refused(field: str, value: Any, allowed: str) -> None:
    with pytest.raises(ValueError, match="allowed") as error:
        Augment(**{field: value})
    assert str(error.value) == f"{field}={value!r}; allowed is {allowed}"


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"images are torch.float32 of shape \(2, 3, 4, 4\)"):
        Augment()(torch.zeros(2, 3, 4, 4), seeded())
    with pytest.raises(ValueError, match=r"of shape \(3, 4, 4\)"):
        Augment()(torch.zeros(3, 4, 4, dtype=torch.uint8), seeded())
    with pytest.raises(ValueError, match="images have 4 channels"):
        Augment(hue=0.1)(torch.zeros(2, 4, 4, 4, dtype=torch.uint8), seeded())
    with pytest.raises(ValueError, match="the generator is on cpu, the images on meta"):
        Augment()(torch.zeros(2, 3, 4, 4, dtype=torch.uint8, device="meta"), seeded())


def test_says_what_is_on() -> None:
    assert str(Augment(crop=4, flip=True)) == "crop=4 flip=True"
    assert str(Augment()) == "none"
    assert [field.name for field in fields(Augment)][:4] == ["crop", "flip", "rotate", "shift"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_is_never_waited_for() -> None:
    images = batch().cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    EVERYTHING(images, generator)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = EVERYTHING(images, generator)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.device == images.device
    assert 0 <= float(out.min()) <= float(out.max()) <= 1
