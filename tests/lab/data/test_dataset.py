from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import random_split

from sparsecycle.lab.data import Dataset, Split


def split(n: int, channels: int = 1, classes: int = 10) -> Split:
    """Every image holds its own position."""
    position = torch.arange(n)
    images = position.view(n, 1, 1, 1).expand(n, channels, 2, 3).to(torch.uint8)
    return Split(images, position % classes)


def dataset(n: int = 50) -> Dataset:
    return Dataset("toy", split(n), split(7), tuple("abcdefghij"), (0.5,), (0.25,))


def test_shape_and_length() -> None:
    data = dataset()
    assert data.shape == (1, 2, 3)
    assert (len(data.train), len(data.test)) == (50, 7)


def test_to_keeps_what_is_there_and_moves_the_rest() -> None:
    data = dataset()
    assert data.train.to("cpu") is data.train
    moved = data.train.to("meta")
    assert (moved.images.device.type, moved.labels.device.type) == ("meta", "meta")
    assert data.to("cpu").test is data.test


@settings(deadline=None)
@given(st.integers(2, 200), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_validation_is_a_partition(n: int, share: float, seed: int) -> None:
    data = dataset(n)
    held = round(share * n)
    if not 0 < held < n:
        with pytest.raises(ValueError, match="share"):
            data.split_validation(share, seed)
        return
    rest, validation = data.split_validation(share, seed)
    assert (len(rest.train), len(validation)) == (n - held, held)
    positions = torch.cat([rest.train.images, validation.images])[:, 0, 0, 0]
    assert torch.equal(positions.sort().values, torch.arange(n).to(torch.uint8))
    assert torch.equal(rest.train.labels, rest.train.images[:, 0, 0, 0].long() % 10)
    assert torch.equal(validation.labels, validation.images[:, 0, 0, 0].long() % 10)
    assert rest.test is data.test


def test_validation_is_random_split_of_torch() -> None:
    rest, validation = dataset(50).split_validation(0.11, seed=42)
    parts = random_split(range(50), [44, 6], generator=torch.Generator().manual_seed(42))  # type: ignore[arg-type]
    assert rest.train.images[:, 0, 0, 0].tolist() == list(parts[0].indices)
    assert validation.images[:, 0, 0, 0].tolist() == list(parts[1].indices)


def test_validation_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    dataset().split_validation(0.5, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("share", [0, 1, -0.1, 1.5, 0.001, float("nan")])
def test_a_validation_share_that_empties_a_part_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=rf"share={share!r} of 50 train images; allowed is"):
        dataset().split_validation(share, 0)


def test_a_network_may_want_another_normalisation() -> None:
    data = dataset()
    assert (data.normalised_by((), ()).mean, data.normalised_by((), ()).std) == (data.mean, data.std)
    other = data.normalised_by([0.25] * len(data.mean), ())
    assert (other.mean, other.std) == ((0.25,) * len(data.mean), data.std)
    assert other.train is data.train
    with pytest.raises(ValueError, match=r"mean=\(0.1, 0.2, 0.3, 0.4\) and std=.*; allowed is one value for each of"):
        data.normalised_by((0.1, 0.2, 0.3, 0.4), ())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2).long(), "images are torch.float32"),
        (torch.zeros(2, 4, 4).byte(), torch.zeros(2).long(), r"images are torch.uint8 of shape \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(2).int(), "labels are torch.int32"),
        (torch.zeros(2, 1, 4, 4).byte(), torch.zeros(3).long(), r"of shape \(3,\); .* shape \(2,\)"),
        (torch.zeros(1, 1, 4, 4).byte(), torch.zeros(1, device="meta").long(), "labels are on meta"),
    ],
)
def test_a_wrong_split_is_refused(images: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


def test_a_wrong_dataset_is_refused() -> None:
    good = split(4)
    with pytest.raises(ValueError, match=r"x: train images have shape \(1, 2, 3\), test images \(3, 2, 3\)"):
        Dataset("x", good, split(4, channels=3), ("a",) * 10, (0.0,), (1.0,))
    with pytest.raises(ValueError, match="x: train labels run from 0 to 3; allowed is 0 to 2"):
        Dataset("x", good, good, ("a", "b", "c"), (0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"x: test labels run from -1 to 0"):
        Dataset("x", good, Split(good.images[:2], torch.tensor([-1, 0])), ("a",) * 4, (0.0,), (1.0,))
    with pytest.raises(ValueError, match=r"x: mean=\(0.0, 0.0\) and std=\(1.0,\)"):
        Dataset("x", good, good, ("a",) * 4, (0.0, 0.0), (1.0,))
    with pytest.raises(ValueError, match="std above 0"):
        Dataset("x", good, good, ("a",) * 4, (0.0,), (0.0,))
