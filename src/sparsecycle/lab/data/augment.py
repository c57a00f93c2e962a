"""Random augmentation of a batch on its device."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from sparsecycle.lab.data import transforms

_ERASED_AREA = (0.02, 0.33)  # shares of the image
_ERASED_RATIO = (0.3, 3.3)  # height / width

# What each field may be, beside what is checked for all: lowest, highest.
_RANGES: dict[str, tuple[float, float]] = {
    "rotate": (0, 180),
    "shift": (0, 1),
    "brightness": (0, math.inf),
    "contrast": (0, math.inf),
    "saturation": (0, math.inf),
    "hue": (0, 0.5),
    "erase": (0, 1),
}


@dataclass(frozen=True)
class Augment:
    """Random changes of images, each image with its own; the order is that of the fields.

    Every call draws one table of uniform numbers, always of the same size: with one generator state, a change
    has the same parameters whether or not the others are on. ``Augment()`` only scales to [0, 1].

    Args:
        crop: pad by this many black pixels on every side and cut out a window of the image's own size.
        flip: mirror left to right, one image in two.
        rotate: about the centre by an angle uniform in +-rotate degrees, 0 to 180; bilinear, black outside.
        shift: along both axes by shares of width and height uniform in +-shift, 0 to 1; in the same sampling
            as the rotation, after it, and not rounded to whole pixels.
        brightness: multiply by a factor uniform in [max(0, 1 - brightness), 1 + brightness].
        contrast: blend with the mean of the grey image, by a factor drawn likewise.
        saturation: blend with the grey image, by a factor drawn likewise; nothing on grey images.
        hue: turn by a share of the colour circle uniform in +-hue, 0 to 0.5; nothing on grey images.
        erase: the probability, 0 to 1, of setting one rectangle to 0: its area is uniform in 2 to 33 % of the
            image, its ratio of height to width log-uniform in 0.3 to 3.3 (Zhong et al. 2020, "Random Erasing
            Data Augmentation"). A side that would be longer than the image's is cut to it, not drawn again.

    The colour changes are torchvision's, but always in the order of the fields.

    Raises:
        ValueError: where a field is outside its range; it names the field, the value and what is allowed.
    """

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0
    shift: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.crop, int) or isinstance(self.crop, bool) or self.crop < 0:
            raise ValueError(f"crop={self.crop!r}; allowed is a whole number of pixels from 0")
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip={self.flip!r}; allowed is True or False")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (number and low <= value <= high and math.isfinite(value)):
                allowed = f"from {low} to {high:g}" if math.isfinite(high) else f"of {low} or more"
                raise ValueError(f"{name}={value!r}; allowed is a number {allowed}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augment a batch without bringing any value back to the host.

        Args:
            images: uint8, (n, channels, height, width); 1 or 3 channels where colours change.
            generator: on the images' device.

        Returns:
            float32 in [0, 1], of the same shape, on the same device.

        Raises:
            ValueError: where ``images`` have another type or shape, or the generator is on another device.
        """
        self._check(images, generator)
        n, _, h, w = images.shape
        table = torch.rand(15, n, generator=generator, device=images.device, dtype=torch.float32)
        top, left, flip, angle, right, down, *colours, erased, area, ratio, y, x = table.unbind()

        if self.crop or self.flip:
            images = transforms.crop_flip(
                images, self.crop, _below(top, 2 * self.crop + 1), _below(left, 2 * self.crop + 1),
                flip < (0.5 if self.flip else 0.0),
            )  # fmt: skip
        batch = images.float().div_(255)
        if self.rotate or self.shift:
            batch = transforms.rotate_shift(
                batch, _around(angle, self.rotate), _around(right, self.shift), _around(down, self.shift)
            )
        if self.brightness:
            batch = transforms.brightness(batch, _factor(colours[0], self.brightness))
        if self.contrast:
            batch = transforms.contrast(batch, _factor(colours[1], self.contrast))
        if self.saturation:
            batch = transforms.saturation(batch, _factor(colours[2], self.saturation))
        if self.hue:
            batch = transforms.hue(batch, _around(colours[3], self.hue))
        if self.erase:
            height, width = _rectangle(area, ratio, h, w)
            height = height * (erased < self.erase)
            top, left = _below(y, h - height + 1), _below(x, w - width + 1)
            batch = transforms.erase(batch, top, left, height, width)
        return batch

    def _check(self, images: Tensor, generator: torch.Generator) -> None:
        if images.dtype != torch.uint8 or images.dim() != 4:
            raise ValueError(
                f"images are {images.dtype} of shape {tuple(images.shape)}; "
                "allowed is torch.uint8 of shape (n, channels, height, width)"
            )
        if generator.device.type != images.device.type:
            raise ValueError(f"the generator is on {generator.device}, the images on {images.device}")
        if (self.contrast or self.saturation or self.hue) and images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; colours change with 1 or 3")

    def __str__(self) -> str:
        """What is on, as in ``crop=4 flip=True``; ``none`` where nothing is."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={value}" for name, value in values if value) or "none"


def _below(uniform: Tensor, count: Tensor | int) -> Tensor:
    """Whole numbers 0 to count - 1. The product may round up to ``count`` itself, hence the minimum."""
    drawn = (uniform * count).long()
    return torch.minimum(drawn, count - 1) if isinstance(count, Tensor) else drawn.clamp_(max=count - 1)


def _around(uniform: Tensor, limit: float) -> Tensor:
    """[-limit, limit)."""
    return (2 * uniform - 1) * limit


def _factor(uniform: Tensor, spread: float) -> Tensor:
    """[max(0, 1 - spread), 1 + spread)."""
    low = max(0.0, 1 - spread)
    return low + uniform * (1 + spread - low)


def _rectangle(area: Tensor, ratio: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """Heights and widths, int64, of the rectangles to erase; both at least 0 and at most the image's."""
    pixels = h * w * (_ERASED_AREA[0] + area * (_ERASED_AREA[1] - _ERASED_AREA[0]))
    low, high = (math.log(limit) for limit in _ERASED_RATIO)
    stretch = torch.exp(low + ratio * (high - low))
    height, width = (pixels * stretch).sqrt().round(), (pixels / stretch).sqrt().round()
    return height.long().clamp_(max=h), width.long().clamp_(max=w)
