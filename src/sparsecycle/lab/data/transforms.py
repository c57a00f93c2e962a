"""Image transforms on a batch, every image with parameters of its own.

All of them take parameters as tensors of shape (n,), on the images' device, and never bring a value back
to the host, so that a GPU is not made to wait. Float images have shape (n, channels, height, width) and
values in [0, 1]; the colour transforms follow torchvision's definitions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def crop_flip(images: Tensor, padding: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Pad by zeros on all sides, cut out windows of the images' own size, and mirror some left to right.

    Args:
        images: (n, c, h, w), of any type.
        padding: in pixels.
        top: int64, the window's first row in the padded image, 0 to 2 * padding.
        left: int64, its first column.
        flip: bool, which windows to mirror.
    """
    n, c, h, w = images.shape
    padded = F.pad(images, (padding,) * 4) if padding else images
    rows = top[:, None] + torch.arange(h, device=images.device)
    columns = torch.arange(w, device=images.device).expand(n, w)
    columns = left[:, None] + torch.where(flip[:, None], w - 1 - columns, columns)
    index = rows[:, :, None] * (w + 2 * padding) + columns[:, None, :]
    # One gather for both, while a pixel is still one byte.
    return padded.flatten(2).gather(2, index.view(n, 1, h * w).expand(n, c, h * w)).view(n, c, h, w)


def rotate_shift(images: Tensor, degrees: Tensor, right: Tensor, down: Tensor) -> Tensor:
    """Rotate about the centre, counter-clockwise, then shift; bilinear, with zeros from outside.

    Args:
        images: float, (n, c, h, w).
        degrees: the angle.
        right: the shift as a share of the width (not rounded to whole pixels).
        down: the shift as a share of the height.
    """
    _, _, h, w = images.shape
    # Where each output pixel comes from, in pixels from the centre. No matrix product: under autocast or TF32
    # it would round the coordinates.
    x = torch.arange(w, dtype=images.dtype, device=images.device) - (w - 1) / 2 - right[:, None] * w
    y = torch.arange(h, dtype=images.dtype, device=images.device) - (h - 1) / 2 - down[:, None] * h
    angle = degrees * (math.pi / 180)
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    source_x = (cos * x)[:, None, :] - (sin * y)[:, :, None]
    source_y = (sin * x)[:, None, :] + (cos * y)[:, :, None]
    grid = torch.stack((source_x * (2 / w), source_y * (2 / h)), dim=-1)
    # Bilinear weights that sum to 1 + 1e-7 must not leave [0, 1].
    return F.grid_sample(images, grid, align_corners=False).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """The image times ``factor``, cut to [0, 1]."""
    return (images * _per_image(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """The image times ``factor`` plus the mean of its grey version times ``1 - factor``, cut to [0, 1]."""
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """The image times ``factor`` plus its grey version times ``1 - factor``, cut to [0, 1].

    Grey images stay as they are.
    """
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn each pixel's hue by a share of the colour circle, at constant HSV saturation and value.

    Grey images stay as they are.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    value, chroma = images.amax(1), images.amax(1) - images.amin(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    # The hue in sixths of the circle, as in colorsys; where two channels share the maximum, either will do.
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = sixths + 6 * turns[:, None, None]
    # HSV back to RGB without cases: a channel falls below the value by chroma * clamp(min(k, 4 - k), 0, 1).
    channels = []
    for offset in (5, 3, 1):
        k = (offset + sixths) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, 1).clamp_(0, 1)


def erase(images: Tensor, top: Tensor, left: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Set a rectangle of each image to 0; one of height or width 0 erases nothing.

    Args:
        images: (n, c, h, w).
        top: the rectangle's first row.
        left: its first column.
        height: in pixels.
        width: in pixels.
    """
    _, _, h, w = images.shape
    row, column = torch.arange(h, device=images.device), torch.arange(w, device=images.device)
    rows = (row >= top[:, None]) & (row < (top + height)[:, None])
    columns = (column >= left[:, None]) & (column < (left + width)[:, None])
    kept = ~(rows[:, :, None] & columns[:, None, :])[:, None]
    # Four times faster than masked_fill on a CPU.
    return images * kept


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(other.expand_as(images), images, _per_image(factor)).clamp_(0, 1)


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601-2 luma, (n, 1, h, w)."""
    if images.shape[1] == 1:
        return images
    return 0.2989 * images[:, 0:1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:3]
