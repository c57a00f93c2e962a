"""Images and labels held as tensors in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Args:
        images: uint8, (n, channels, height, width), values 0 to 255.
        labels: int64, (n,), on the images' device.

    Raises:
        ValueError: where a type, a shape or a device is another.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.dim() != 4:
            raise ValueError(
                f"images are {self.images.dtype} of shape {tuple(self.images.shape)}; "
                "allowed is torch.uint8 of shape (n, channels, height, width)"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)}; "
                f"allowed is torch.int64 of shape ({len(self.images)},), one for each image"
            )
        if self.labels.device != self.images.device:
            raise ValueError(f"labels are on {self.labels.device}, the images on {self.images.device}")

    def __len__(self) -> int:
        """The number of images."""
        return len(self.images)

    def to(self, device: torch.device | str) -> Split:
        """The same split on ``device`` (itself where it is there already)."""
        images, labels = self.images.to(device), self.labels.to(device)
        return self if images is self.images and labels is self.labels else Split(images, labels)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A train part, a test part, and what is known about them.

    Args:
        name: what :func:`sparsecycle.lab.data.load` calls it.
        train: the images to train on.
        test: the images to report on.
        classes: the name of each label, 0 first.
        mean: each channel's mean over the train part, of values scaled to [0, 1].
        std: each channel's standard deviation, likewise.

    Raises:
        ValueError: where the parts' image shapes differ, a label has no class, or ``mean`` or ``std``
            do not have one (positive) value for each channel.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.train.images.shape[1:] != self.test.images.shape[1:]:
            raise ValueError(
                f"{self.name}: train images have shape {tuple(self.train.images.shape[1:])}, "
                f"test images {tuple(self.test.images.shape[1:])}; they must be the same"
            )
        for part, split in (("train", self.train), ("test", self.test)):
            if len(split) and not 0 <= int(split.labels.min()) <= int(split.labels.max()) < len(self.classes):
                raise ValueError(
                    f"{self.name}: {part} labels run from {int(split.labels.min())} to "
                    f"{int(split.labels.max())}; allowed is 0 to {len(self.classes) - 1}"
                )
        channels = self.shape[0]
        if len(self.mean) != channels or len(self.std) != channels or min(self.std) <= 0:
            raise ValueError(
                f"{self.name}: mean={self.mean} and std={self.std}; allowed is one value for each of "
                f"{channels} channels, std above 0"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def normalised_by(self, mean: Sequence[float], std: Sequence[float]) -> Dataset:
        """The same data set with this ``mean`` and ``std``, for a network that wants them; an empty one stays as it is.

        Raises:
            ValueError: where one has not one (positive) value for each channel.
        """
        return replace(self, mean=tuple(mean) or self.mean, std=tuple(std) or self.std)

    def to(self, device: torch.device | str) -> Dataset:
        """The same data set with all its images and labels on ``device``."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def split_validation(self, share: float, seed: int) -> tuple[Dataset, Split]:
        """Hold out a random part of the train images; the test part stays as it is.

        Of ``torch.randperm(n)`` under ``seed`` the last ``round(share * n)`` go to validation and the others
        stay, in that order: the partition of ``torch.utils.data.random_split`` after ``torch.manual_seed``.

        Args:
            share: the validation images' share of the train images, between 0 and 1.
            seed: of the permutation.

        Returns:
            The data set with its train part shrunk, and the validation split.

        Raises:
            ValueError: where one of the two parts would be empty.
        """
        n = len(self.train)
        held = round(share * n) if 0 < share < 1 else 0
        if not 0 < held < n:
            raise ValueError(
                f"share={share!r} of {n} train images; allowed is a share between 0 and 1 "
                "that leaves at least one image on either side"
            )
        device = self.train.images.device
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(device)
        kept, validation = order[: n - held], order[n - held :]
        return (
            replace(self, train=Split(self.train.images[kept], self.train.labels[kept])),
            Split(self.train.images[validation], self.train.labels[validation]),
        )
