"""Data sets by name, as uint8 tensors in memory, and augmentation on their device."""

from __future__ import annotations

from pathlib import Path

from sparsecycle.lab.data.augment import Augment
from sparsecycle.lab.data.dataset import Dataset, Split
from sparsecycle.lab.data.files import DataError, data_root
from sparsecycle.lab.data.sources import SOURCES, digits, fetch
from sparsecycle.names import nearest

__all__ = ["NAMES", "Augment", "DataError", "Dataset", "Split", "data_root", "load"]

NAMES: tuple[str, ...] = ("digits", *SOURCES)


def load(name: str, root: Path | None = None) -> Dataset:
    """The data set called ``name``, on the CPU.

    ``digits`` comes with scikit-learn. The others are read from their publishers' files below ``root``
    (``MNIST/raw``, ``FashionMNIST/raw``, ``cifar-10-batches-py``, ``cifar-100-python``), checked against the
    published MD5s, and downloaded there first where they are missing.

    Args:
        name: one of :data:`NAMES`.
        root: the folder of all data sets; by default :func:`data_root`, that is ``$SPARSECYCLE_DATA`` or the
            user's cache.

    Raises:
        ValueError: where no data set has that name.
        DataError: where a file is wrong or cannot be had; the message names it and says what to do. A wrong
            file is left where it is, a failed download leaves nothing.
        ImportError: where the extra ``[lab]`` is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"no data set {name!r}{nearest(name, NAMES, cutoff=0.0)} There are {', '.join(NAMES)}")
    if name == "digits":
        return digits()
    return fetch(name, SOURCES[name], data_root() if root is None else Path(root))
