"""What a network asks of the images it is built for."""

from __future__ import annotations

Shape = tuple[int, int, int]
"""Channels, height and width of one image."""


def check(model: str, shape: Shape, classes: int, smallest: int = 1) -> Shape:
    """Return ``shape`` as it came, if ``model`` can be built for it.

    Args:
        model: the model's name, for the message.
        shape: (channels, height, width) of one image.
        classes: number of classes.
        smallest: least height and width, in pixels, that the model's pooling or strides leave anything of.

    Raises:
        ValueError: if the shape is not three positive integers, the image is smaller than ``smallest``, or
            there is no class.
    """
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise ValueError(
            f"model {model!r}: shape is {shape!r}; it needs (channels, height, width), three positive integers"
        )
    if min(shape[1:]) < smallest:
        raise ValueError(
            f"model {model!r}: shape is {shape!r}; it needs a height and a width of at least {smallest} pixels"
        )
    if not isinstance(classes, int) or classes < 1:
        raise ValueError(f"model {model!r}: classes is {classes!r}; it needs a positive integer")
    return shape
