"""What the publishers offer, where, under which checksums, and how it becomes tensors."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sparsecycle.lab.data.dataset import Dataset, Split
from sparsecycle.lab.data.download import download, download_archive
from sparsecycle.lab.data.files import DataError, read_verified
from sparsecycle.lab.data.idx import parse_idx
from sparsecycle.lab.data.pickles import read_pickle

_DIGITS = tuple("0123456789")
_DIGITS_TEST = 360
_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One published data set.

    Args:
        folder: of the files, below the root of all data.
        url: of the folder whose files have the same names, or of one ``.tar.gz`` that holds the folder.
        files: each file's name and MD5.
        read: makes the data set of its name, its constants and the files' verified bytes.
        classes: the labels' names, where the files do not say them.
        mean: of each channel.
        std: of each channel.
        archive_md5: of the ``.tar.gz``; None where the files come one by one.
    """

    folder: str
    url: str
    files: dict[str, str]
    read: Callable[[str, Source, Callable[[str], bytes]], Dataset]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    archive_md5: str | None = None


def fetch(name: str, source: Source, root: Path) -> Dataset:
    """The data set below ``root``; files that are not there are downloaded first.

    Every file's MD5 is checked each time, before anything looks into it.

    Raises:
        DataError: where a file is wrong or cannot be had; the message names it.
    """
    folder = root / source.folder
    missing = [file for file in source.files if not (folder / file).exists()]
    if missing and source.archive_md5:
        download_archive(source.url, source.archive_md5, folder, tuple(source.files))
    else:
        for file in missing:
            download(source.url + file, folder / file, source.files[file])
    return source.read(name, source, lambda file: read_verified(folder / file, source.files[file]))


def _read_idx(name: str, source: Source, read: Callable[[str], bytes]) -> Dataset:
    """Both parts from four idx files, in the order of ``source.files``: images, labels, images, labels."""

    def array(item: tuple[int, str]) -> npt.NDArray[np.uint8]:
        position, file = item
        return parse_idx(read(file), 1 if position % 2 else 3, file)

    files = tuple(source.files)
    with ThreadPoolExecutor() as pool:
        arrays = list(pool.map(array, enumerate(files)))

    def split(position: int) -> Split:
        images, labels = arrays[position], arrays[position + 1]
        if len(images) != len(labels):
            raise DataError(f"{files[position]} has {len(images)} images, {files[position + 1]} {len(labels)} labels")
        return Split(torch.from_numpy(images.copy()).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))

    return _dataset(name, source, split(0), split(2), source.classes)


def _read_cifar(name: str, source: Source, read: Callable[[str], bytes], labels: str, names: str) -> Dataset:
    """Both parts from CIFAR's pickles; ``labels`` and ``names`` are the keys of the labels and their names.

    The file of the names comes first in ``source.files``, that of the test part last.
    """

    def batch(file: str) -> tuple[Tensor, Tensor]:
        content = read_pickle(read(file), file)
        rows, of_rows = content.get("data"), content.get(labels)
        if not isinstance(rows, np.ndarray) or rows.shape[1:] != (3 * 32 * 32,):
            raise DataError(f"{file} has no images of 3 x 32 x 32 bytes under 'data'")
        if not isinstance(of_rows, list) or len(of_rows) != len(rows) or {type(x) for x in of_rows} != {int}:
            raise DataError(f"{file} has no {len(rows)} whole numbers under {labels!r}")
        images = torch.empty((len(rows), 3, 32, 32), dtype=torch.uint8)
        images.view(len(rows), -1).numpy()[:] = rows
        return images, torch.tensor(of_rows, dtype=torch.int64)

    meta, *parts = source.files
    classes = read_pickle(read(meta), meta).get(names)
    if not isinstance(classes, list) or not all(isinstance(text, bytes) for text in classes):
        raise DataError(f"{meta} has no list of names under {names!r}")
    with ThreadPoolExecutor() as pool:
        batches = list(pool.map(batch, parts))
    train = batches[:-1]
    return _dataset(
        name,
        source,
        Split(torch.cat([images for images, _ in train]), torch.cat([of for _, of in train])),
        Split(*batches[-1]),
        tuple(text.decode("latin-1") for text in classes),
    )


def _read_cifar10(name: str, source: Source, read: Callable[[str], bytes]) -> Dataset:
    return _read_cifar(name, source, read, "labels", "label_names")


def _read_cifar100(name: str, source: Source, read: Callable[[str], bytes]) -> Dataset:
    return _read_cifar(name, source, read, "fine_labels", "fine_label_names")


def _dataset(name: str, source: Source, train: Split, test: Split, classes: tuple[str, ...]) -> Dataset:
    try:
        return Dataset(name, train, test, classes, source.mean, source.std)
    except ValueError as error:
        raise DataError(f"the files in {source.folder} do not agree: {error}") from error


def digits() -> Dataset:
    """scikit-learn's 1,797 digits of 8 x 8 pixels, their 17 grey levels spread over 0 to 255.

    360 images are test, of each class its share of them (largest remainders). Which ones is drawn once and
    for all, from NumPy's frozen legacy generator under seed 0.

    Raises:
        ImportError: where scikit-learn is not installed.
    """
    try:
        from importlib import import_module

        bunch: Any = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise ImportError('the digits come with scikit-learn: pip install "sparsecycle[lab]"') from error
    levels, labels = torch.from_numpy(bunch.images), torch.from_numpy(bunch.target).long()
    images = (levels * (255 / 16)).round().to(torch.uint8).unsqueeze(1)
    shares = np.bincount(bunch.target) * _DIGITS_TEST / len(labels)
    counts = np.floor(shares).astype(int)
    short = _DIGITS_TEST - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:short]] += 1
    # The one generator whose numbers NumPy promises never to change.
    draw = np.random.RandomState(0)
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts):
        held[torch.from_numpy(draw.permutation(np.flatnonzero(bunch.target == label))[:count])] = True
    train, test = Split(images[~held], labels[~held]), Split(images[held], labels[held])
    scaled = train.images.double() / 255
    return Dataset("digits", train, test, _DIGITS, (float(scaled.mean()),), (float(scaled.std()),))


SOURCES: dict[str, Source] = {
    "mnist": Source(
        folder="MNIST/raw",
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        files={
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        read=_read_idx,
        classes=_DIGITS,
        mean=(0.1307,),
        std=(0.3081,),
    ),
    "fashion-mnist": Source(
        folder="FashionMNIST/raw",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        files={
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        read=_read_idx,
        classes=_CLOTHES,
        mean=(0.2860,),
        std=(0.3530,),
    ),
    "cifar10": Source(
        folder="cifar-10-batches-py",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        files={
            "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
        read=_read_cifar10,
        classes=(),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        archive_md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Source(
        folder="cifar-100-python",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        files={
            "meta": "7973b15100ade9c7d40fb424638fde48",
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        },
        read=_read_cifar100,
        classes=(),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}
