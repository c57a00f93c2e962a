from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from sparsecycle.lab.data import DataError
from sparsecycle.lab.data.pickles import read_pickle


def array_pickle(shape: tuple[int, ...], data: bytes, kind: bytes = b"u1", fortran: bool = False) -> bytes:
    """An array as Python 2 pickled it, protocol 2: numpy's _reconstruct, then a state."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little", signed=True)

    dtype = b"cnumpy\ndtype\n(" + text(kind) + number(0) + number(1) + b"tR"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"tR"
    state = b"(" + number(1) + b"(" + b"".join(map(number, shape)) + b"t" + dtype
    state += (b"\x88" if fortran else b"\x89") + text(data) + b"tb"
    return made + state


def cifar_pickle(rows: np.ndarray, labels: list[int], key: bytes = b"labels") -> bytes:
    """A CIFAR batch, byte for byte of the published structure."""
    array = array_pickle(rows.shape, rows.astype(np.uint8).tobytes())
    plain = pickle.dumps(labels, protocol=2)[2:-1]
    name = b"U" + bytes((len(key),)) + key
    return b"\x80\x02}(U\x04data" + array + name + plain + b"u."


def test_reads_arrays_lists_and_names() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    content = read_pickle(cifar_pickle(rows, [5, 0, 300]), "batch")
    assert content["labels"] == [5, 0, 300]
    assert content["data"].dtype == np.uint8
    assert np.array_equal(content["data"], rows)


def test_the_fixture_is_what_numpy_reads() -> None:
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    made = pickle.loads(b"\x80\x02" + array_pickle((3, 4), rows.tobytes()) + b".", encoding="bytes")
    assert np.array_equal(made, rows)


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_in_it_is_run(tmp_path: Path, protocol: int) -> None:
    attack = pickle.dumps({"data": Evil(tmp_path / "ran")}, protocol)
    with pytest.raises(DataError, match=r"batch was not read: it asks for \w+\.system; allowed are plain values"):
        read_pickle(attack, "batch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("builtins", "eval"),
        ("numpy", "load"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy", "dtype.__init__"),
    ],
)
def test_other_names_are_refused(module: str, name: str) -> None:
    with pytest.raises(DataError, match=f"it asks for {module}.{name}; allowed"):
        read_pickle(f"c{module}\n{name}\n.".encode(), "batch")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (array_pickle((2, 3), b"12345"), r"an array of shape \(2, 3\) with 5 bytes"),
        (array_pickle((-1, -5), b"12345"), r"an array of shape \(-1, -5\) with 5 bytes"),
        (array_pickle((1,), b"12345678", kind=b"O8"), "an array of type b'O8'; allowed is u1"),
        (
            array_pickle((1, 5), b"12345", fortran=True),
            "an array that is not plain unsigned bytes, rows first",
        ),
        (b"cnumpy\nndarray\n)\x81Nb", "an array that is not plain unsigned bytes"),
    ],
)
def test_arrays_that_do_not_add_up_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_pickle(b"\x80\x02}(U\x04data" + content + b"u.", "batch")


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"not a pickle", pickle.dumps({"a": [1]})[:-3]])
def test_broken_pickles_are_named(content: bytes) -> None:
    with pytest.raises(DataError, match="batch was not read"):
        read_pickle(content, "batch")


def test_only_a_dictionary_will_do() -> None:
    with pytest.raises(DataError, match="batch holds a list, expected a dictionary"):
        read_pickle(pickle.dumps([1, 2]), "batch")
