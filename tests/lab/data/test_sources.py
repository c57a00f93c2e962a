from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsecycle.lab.data import NAMES, DataError, data_root, load, sources
from sparsecycle.lab.data.sources import SOURCES

RANDOM = np.random.default_rng(0)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.astype(np.uint8).tobytes(), mtime=0)


def batch(rows: np.ndarray, **lists: list[Any]) -> bytes:
    """A pickle of the structure CIFAR's have, protocol 2 with Python 2's strings."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    shape = b"J" + len(rows).to_bytes(4, "little") + b"J" + rows.shape[1].to_bytes(4, "little")
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\0K\1tR(K\3" + text(b"|") + b"NNNK\0K\0K\0tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85" + text(b"b") + b"tR(K\1("
    array += shape + b"t" + dtype + b"\x89" + text(rows.astype(np.uint8).tobytes()) + b"tb"
    items = b"".join(text(k.encode()) + pickle.dumps(v, protocol=2)[2:-1] for k, v in lists.items())
    return b"\x80\x02}(" + text(b"data") + array + items + b"u."


def names(**lists: list[str]) -> bytes:
    return pickle.dumps({k: [v.encode() for v in of] for k, of in lists.items()}, protocol=3)


def small(monkeypatch: pytest.MonkeyPatch, name: str, files: list[bytes], url: str = "") -> dict[str, bytes]:
    """Let the data set ``name`` be published with this content; the files by their names."""
    source = SOURCES[name]
    published = dict(zip(source.files, files, strict=True))
    sums = {file: md5(content) for file, content in published.items()}
    monkeypatch.setitem(SOURCES, name, replace(source, files=sums, url=url or source.url))
    return published


def put(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


IMAGES = RANDOM.integers(0, 256, (5, 28, 28))
MNIST = [idx(IMAGES), idx(np.array([3, 1, 4, 1, 5])), idx(IMAGES[:2]), idx(np.array([9, 2]))]
ROWS = RANDOM.integers(0, 256, (12, 3072))


def cifar10_files() -> list[bytes]:
    parts = [batch(ROWS[2 * k : 2 * k + 2], labels=[k, 9 - k]) for k in range(6)]
    return [names(label_names=list("abcdefghij")), *parts]


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_idx_sets_are_read(monkeypatch: pytest.MonkeyPatch, root: Path, name: str) -> None:
    put(root / SOURCES[name].folder, small(monkeypatch, name, MNIST))
    data = load(name, root)
    assert data.name == name
    assert data.shape == (1, 28, 28)
    assert np.array_equal(data.train.images[:, 0].numpy(), IMAGES)
    assert data.train.labels.tolist() == [3, 1, 4, 1, 5]
    assert data.test.labels.tolist() == [9, 2]
    assert len(data.classes) == 10
    data.train.images.zero_()  # the memory is the tensor's own


def test_cifar10_is_read(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    put(root / "cifar-10-batches-py", small(monkeypatch, "cifar10", cifar10_files()))
    data = load("cifar10", root)
    assert np.array_equal(data.train.images.numpy(), ROWS[:10].reshape(10, 3, 32, 32))
    assert np.array_equal(data.test.images.numpy(), ROWS[10:].reshape(2, 3, 32, 32))
    assert data.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert data.test.labels.tolist() == [5, 4]
    assert data.classes == tuple("abcdefghij")


def test_cifar100_has_the_fine_labels(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    fine = [f"thing {k}" for k in range(100)]
    files = [
        names(coarse_label_names=["kind"], fine_label_names=fine),
        batch(ROWS[:3], coarse_labels=[0, 0, 0], fine_labels=[99, 0, 7]),
        batch(ROWS[3:4], coarse_labels=[0], fine_labels=[42]),
    ]
    put(root / "cifar-100-python", small(monkeypatch, "cifar100", files))
    data = load("cifar100", root)
    assert data.train.labels.tolist() == [99, 0, 7]
    assert data.test.labels.tolist() == [42]
    assert data.classes[99] == "thing 99"
    assert np.array_equal(data.train.images.numpy(), ROWS[:3].reshape(3, 3, 32, 32))


@pytest.mark.parametrize("change", ["bit", "cut"])
@pytest.mark.parametrize("file", range(4))
def test_a_wrong_file_is_named_and_kept(monkeypatch: pytest.MonkeyPatch, root: Path, change: str, file: int) -> None:
    published = small(monkeypatch, "mnist", MNIST)
    put(root / "MNIST" / "raw", published)
    path = root / "MNIST" / "raw" / list(published)[file]
    content = bytearray(path.read_bytes())
    if change == "bit":
        content[len(content) // 2] ^= 1
    else:
        del content[-1]
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} is not the published file"):
        load("mnist", root)
    assert path.read_bytes() == content


class Evil:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.system, (f"touch {self.file}",)


@pytest.mark.parametrize("position", [0, 1, 6])
def test_a_malicious_pickle_of_the_right_md5_does_nothing(
    monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path, position: int
) -> None:
    files = cifar10_files()
    files[position] = pickle.dumps({"data": Evil(tmp_path / "ran")})
    published = small(monkeypatch, "cifar10", files)
    put(root / "cifar-10-batches-py", published)
    with pytest.raises(DataError, match=rf"{list(published)[position]} was not read: it asks for \w+\.system"):
        load("cifar10", root)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_another_md5_is_never_opened(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    published = small(monkeypatch, "cifar10", cifar10_files())
    put(root / "cifar-10-batches-py", published)
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(names(label_names=list("abcdefghik")))
    opened: list[str] = []
    monkeypatch.setattr(sources, "read_pickle", lambda _, where: opened.append(where))
    with pytest.raises(DataError, match=r"batches.meta is not the published file"):
        load("cifar10", root)
    assert opened == []


@pytest.mark.parametrize(
    ("position", "content", "message"),
    [
        (0, names(other=["a"]), "batches.meta has no list of names under 'label_names'"),
        (1, batch(ROWS[:2, :100], labels=[0, 1]), "data_batch_1 has no images of 3 x 32 x 32 bytes"),
        (2, batch(ROWS[:2], labels=[0]), "data_batch_2 has no 2 whole numbers under 'labels'"),
        (2, batch(ROWS[:2], labels=[0, 0.5]), "data_batch_2 has no 2 whole numbers under 'labels'"),
        (6, batch(ROWS[:2], fine_labels=[0, 1]), "test_batch has no 2 whole numbers under 'labels'"),
        (3, batch(ROWS[:2], labels=[0, 10]), "cifar-10-batches-py do not agree: .* 0 to 10; allowed is 0 to 9"),
    ],
)
def test_pickles_that_do_not_fit_are_named(
    monkeypatch: pytest.MonkeyPatch, root: Path, position: int, content: bytes, message: str
) -> None:
    files = cifar10_files()
    files[position] = content
    put(root / "cifar-10-batches-py", small(monkeypatch, "cifar10", files))
    with pytest.raises(DataError, match=message):
        load("cifar10", root)


def test_more_images_than_labels_is_an_error(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    put(root / "MNIST" / "raw", small(monkeypatch, "mnist", [MNIST[0], MNIST[3], *MNIST[2:]]))
    with pytest.raises(DataError, match=r"train-images.* has 5 images, train-labels.* 2 labels"):
        load("mnist", root)


def test_missing_files_are_downloaded_once(monkeypatch: pytest.MonkeyPatch, root: Path, host: Any) -> None:
    host.files = small(monkeypatch, "mnist", MNIST, url=host.url)
    present = "train-labels-idx1-ubyte.gz"
    put(root / "MNIST" / "raw", {present: host.files[present]})
    assert load("mnist", root).train.labels.tolist() == [3, 1, 4, 1, 5]
    assert host.asked == [name for name in host.files if name != present]
    load("mnist", root)
    assert len(host.asked) == 3


def test_an_archive_is_downloaded_once(monkeypatch: pytest.MonkeyPatch, root: Path, host: Any) -> None:
    published = small(monkeypatch, "cifar10", cifar10_files(), url=host.url + "cifar.tar.gz")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in published.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    host.files["cifar.tar.gz"] = stream.getvalue()
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], archive_md5=md5(stream.getvalue())))
    assert len(load("cifar10", root).train) == 10
    assert len(load("cifar10", root).train) == 10
    assert host.asked == ["cifar.tar.gz"]
    assert sorted(path.name for path in root.iterdir()) == ["cifar-10-batches-py"]


def test_a_failed_download_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path, host: Any
) -> None:
    small(monkeypatch, "mnist", MNIST, url=host.url)
    with pytest.raises(DataError, match=f"{host.url}train-images-idx3-ubyte.gz: the server answers 404"):
        load("mnist", root)
    assert list(tmp_path.iterdir()) == []


def test_the_default_root_is_the_variable(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    put(root / "MNIST" / "raw", small(monkeypatch, "mnist", MNIST))
    monkeypatch.setenv("SPARSECYCLE_DATA", str(root))
    assert len(load("mnist").train) == 5


def test_names() -> None:
    assert NAMES == ("digits", "mnist", "fashion-mnist", "cifar10", "cifar100")


@pytest.mark.parametrize(("given", "near"), [("cifar-10", "cifar10"), ("minst", "mnist"), ("fashion", "fashion-mnist")])
def test_an_unknown_name_gets_the_nearest(given: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"no data set '{given}'; did you mean '{near}'"):
        load(given)


def test_digits() -> None:
    from sklearn.datasets import load_digits

    data, again = load("digits"), load("digits")
    assert data.shape == (1, 8, 8)
    assert (len(data.train), len(data.test)) == (1437, 360)
    counts = torch.bincount(data.train.labels) + torch.bincount(data.test.labels)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert (torch.bincount(data.test.labels) - counts * (360 / 1797)).abs().max() < 1
    assert torch.equal(data.train.images, again.train.images)

    # Together the two parts are scikit-learn's images, level 16 being 255.
    images, labels = load_digits(return_X_y=True)
    expected = sorted(zip(np.rint(images * 255 / 16).astype(int).tolist(), labels.tolist(), strict=True))
    both = torch.cat([data.train.images, data.test.images]).flatten(1).tolist()
    assert expected == sorted(zip(both, torch.cat([data.train.labels, data.test.labels]).tolist(), strict=True))

    scaled = data.train.images.double() / 255
    assert data.mean == pytest.approx((float(scaled.mean()),))
    assert data.std == pytest.approx((float(scaled.std()),))


def test_the_split_of_the_digits_never_changes() -> None:
    data = load("digits")
    assert md5(data.test.images.numpy().tobytes()) == "f50e9858c6b644b0cc3bcdf9936ff0e8"


def real(name: str) -> Any:
    missing = not os.environ.get("SPARSECYCLE_DATA") or not all(
        (data_root() / SOURCES[name].folder / file).exists() for file in SOURCES[name].files
    )
    return pytest.mark.skipif(missing, reason=f"no {name} in $SPARSECYCLE_DATA")


REAL = [pytest.param(name, marks=real(name)) for name in SOURCES]


@pytest.mark.parametrize("name", REAL)
def test_the_real_files(name: str) -> None:
    data = load(name)
    assert (len(data.train), len(data.test)) == ((60_000 if "mnist" in name else 50_000), 10_000)
    # From histograms: exact, and without a float copy of it all.
    level = torch.arange(256, dtype=torch.float64) / 255
    for channel, (mean, std) in enumerate(zip(data.mean, data.std, strict=True)):
        share = torch.bincount(data.train.images[:, channel].flatten(), minlength=256).double()
        share /= share.sum()
        centre = float(share @ level)
        assert centre == pytest.approx(mean, abs=1e-4)
        assert float(share @ (level - centre) ** 2) ** 0.5 == pytest.approx(std, abs=1e-4)
    if name != "mnist":
        each = len(data.train) // len(data.classes)
        assert torch.bincount(data.train.labels).tolist() == [each] * len(data.classes)
        assert torch.bincount(data.test.labels).tolist() == [10_000 // len(data.classes)] * len(data.classes)
    first = {
        "mnist": "5",
        "cifar10": "frog",
        "cifar100": "cattle",
        "fashion-mnist": "Ankle boot",
    }
    assert data.classes[int(data.train.labels[0])] == first[name]
