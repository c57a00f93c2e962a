"""``sparsecycle export``: a network that lies in one file, in a file that others read."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor, nn

from sparsecycle.files import packed
from sparsecycle.files.container import write_whole
from sparsecycle.files.contents import About
from sparsecycle.files.folder import save_pretrained
from sparsecycle.files.narrow import Values
from sparsecycle.files.onnx import to_onnx
from sparsecycle.files.openvino import to_openvino
from sparsecycle.lab.bench.stored import read

__all__ = ["Export", "Network", "export", "network", "parse", "to_folder", "to_torch"]

_SUFFIXES = {"onnx": ".onnx", "torch": ".pt", "openvino": ".xml", "folder": "-packed"}


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a pruned network in a file that other programs read.

    An ONNX file is run by onnxruntime, where that is installed, and OpenVINO's by OpenVINO: it is written only if its
    outputs are within 1e-5 of the network's, as a share of the largest.

    Examples: sparsecycle export runs/NAME --to onnx
              sparsecycle export pruned.pt2 --to torch --output weights.pt
              sparsecycle export runs/NAME --to folder --values bf16 --output my-network
    """

    network: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A network: the folder of a finished run of sparsecycle train; a file of sparsecycle.save; or one of
    torch.export.save, NAME.pt2, which keeps the shapes that it was exported for."""

    to: Literal["onnx", "torch", "openvino", "folder"]
    """onnx: one file. torch: the dense state_dict, for torch.load. openvino: NAME.xml and NAME.bin. Engines take any
    number of images at a time. folder: a packed file and its model card, for a model hub."""

    output: Path | None = None
    """File or folder to write; None: model.onnx, model.pt, model.xml or model-packed in a run's folder, NAME.onnx ...
    beside a file."""

    values: Literal["fp32", "bf16", "fp16", "int8"] = "fp32"
    """What a folder's packed file stores weights as; fp32: bit for bit."""

    sparse: bool = False
    """Leave the weights that are zero out of the ONNX file. onnxruntime reads it so, OpenVINO does not."""

    shape: tuple[int, ...] | None = None
    """Of an image, or of another input: channels, height and width; None: as the run's data has it, or as the file
    says."""

    allow: tuple[str, ...] = ()
    """Functions, package.module:function, that may be called to make the network if its file names them."""

    def __post_init__(self) -> None:
        if self.sparse and self.to != "onnx":
            raise ValueError(f"sparse is for --to onnx alone, not for {self.to}")
        if self.values != "fp32" and self.to != "folder":
            raise ValueError(f"values={self.values!r} is for --to folder alone, not for {self.to}")
        if self.shape is not None and (self.to in ("torch", "folder") or self.network.suffix == ".pt2"):
            what = (
                "a state_dict"
                if self.to == "torch"
                else "a folder"
                if self.to == "folder"
                else f"{self.network}, which keeps its own,"
            )
            raise ValueError(f"shape={self.shape}: there is none to choose for {what}")
        if self.shape is not None and not (self.shape and min(self.shape) >= 1):
            raise ValueError(f"shape={self.shape}; allowed are whole numbers of at least 1")
        if self.output is not None and not self.output.parent.is_dir():
            raise ValueError(f"output={self.output}: there is no folder {self.output.parent}")

    @property
    def target(self) -> Path:
        """The file to write."""
        if self.output is not None:
            return self.output
        suffix = _SUFFIXES[self.to]
        if self.network.is_dir():
            return self.network / f"model{suffix}"
        return self.network.with_name(f"{self.network.stem}{suffix}")


@dataclass(frozen=True)
class Network:
    """A network in evaluation mode.

    Args:
        model: The network.
        inputs: What it may be called with: one image, or a .pt2 file's own batch; empty where that is not known.
        dynamic_batch: Whether it takes any number of images.
    """

    model: nn.Module
    inputs: Sequence[Tensor]
    dynamic_batch: bool


def network(path: Path, shape: Sequence[int] | None = None, allow: Sequence[str] = ()) -> Network:
    """The network in a run's folder, or in a file.

    Args:
        path: What ``sparsecycle export`` takes.
        shape: Of an image, where it is to be another than the network's own.
        allow: See :func:`sparsecycle.files.packed.load`.

    Raises:
        ValueError: If it holds no network.
        OSError: If there is nothing, or the run's data cannot be had.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    inputs: Sequence[Tensor] = ()
    if (path / "config.json").exists() or path.suffix == ".pt2":
        stored = read(path)
        model, inputs = stored.model, stored.inputs
    else:
        try:
            about = packed.read_contents(path).about
        except ValueError as error:
            raise ValueError(
                f"{path} is neither a run of sparsecycle train, nor a file of torch.export.save, NAME.pt2, nor one of "
                f"sparsecycle.save ({error})"
            ) from error
        model, shape = packed.load(path, allow=allow), shape or about.shape
    if shape is not None:
        inputs = [torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))]
    return Network(model, inputs, path.suffix != ".pt2")


def to_torch(model: nn.Module, path: str | os.PathLike[str]) -> int:
    """Write the dense ``state_dict``, zeros and all, and return the file's size in bytes.

    ``torch.load(path, weights_only=True)`` reads it.
    """
    file = io.BytesIO()
    torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)
    write_whole(path, file.getvalue())
    return len(file.getvalue())


def to_folder(model: nn.Module, source: Path, folder: Path, values: Values) -> str:
    """Write a network's packed file and its card, with all that is known where it comes from, and say how large it is.

    Args:
        model: The network.
        source: Where it was read.
        folder: Where to write.
        values: See :func:`sparsecycle.save`.
    """
    about, results = About(), {}
    if source.suffix != ".pt2":
        about = packed.read_contents(source).about
    if (source / "result.json").exists():
        accuracy = json.loads((source / "result.json").read_text(encoding="utf-8"))["accuracy"]
        results["accuracy on the test images, before packing"] = f"{100 * accuracy:.2f} %"
    save_pretrained(model, folder, values, results=results, **vars(about))
    size = (folder / packed.NAME).stat().st_size
    return f"{folder}: {packed.NAME}, {size / 1e6:.3g} MB, and its card, README.md"


def export(options: Export) -> str:
    """Write what was asked for, and say what it is.

    Raises:
        ImportError: If a package that it takes is not installed.
        ValueError: If there is no network, or it cannot be written so.
        OSError: If the network cannot be read, or the file not be written.
    """
    its = network(options.network, options.shape, options.allow)
    if options.to == "torch":
        return f"{options.target}: {to_torch(its.model, options.target) / 1e6:.3g} MB"
    if options.to == "folder":
        return to_folder(its.model, options.network, options.target, options.values)
    if not its.inputs:
        raise ValueError(f"{options.network} does not say of what shape its inputs are: say it, as in --shape 3 32 32")
    if options.to == "onnx":
        words = {"sparse": options.sparse, "dynamic_batch": its.dynamic_batch}
        return str(to_onnx(its.model, its.inputs, options.target, **words))
    return str(to_openvino(its.model, its.inputs, options.target, dynamic_batch=its.dynamic_batch))


def parse(arguments: Sequence[str], prog: str) -> Export:
    """Read the flags of ``export``.

    Raises:
        SystemExit: with code 2 where a flag is wrong (what is wrong is printed), 0 after ``--help``.
    """
    return tyro.cli(Export, prog=prog, args=list(arguments))
