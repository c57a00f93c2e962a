"""One network in the files that the inference engines read: torch.export's, ONNX, and ONNX with int8 values."""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["from_export", "quantize", "save_arrays", "to_export", "to_onnx"]

_OPSET = 13  # the newest that DeepSparse takes


def to_export(model: nn.Module, inputs: Sequence[Tensor], path: Path) -> None:
    """Write ``model``, which is in evaluation mode, as torch.export gives it for ``inputs``.

    Raises:
        RuntimeError: If torch cannot export it.
    """
    with _in_short(f"{type(model).__name__} cannot be exported"):
        exported = torch.export.export(model, tuple(inputs))
    torch.export.save(exported, path)


def from_export(path: Path | str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network that :func:`to_export` wrote, or a user's torch.export.save, and the inputs that it was exported for.

    It gives a tuple of its outputs, and does not check its inputs at every call, as ``ExportedProgram.module()`` does,
    which takes longer than a small network itself.

    Raises:
        ValueError: If its inputs are something else than tensors by place, or none.
    """
    program = torch.export.load(path)
    inputs, words = program.example_inputs or ((), {})
    if words or not inputs or not all(isinstance(x, Tensor) for x in inputs):
        raise ValueError(f"{path} was not exported for tensors alone, by place, at least one: others cannot be timed")
    module = program.module()
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_module" and not node.users:
            graph.erase_node(node)
    graph.set_codegen(torch.fx.graph.CodeGen())
    # A copy leaves behind the hooks that check too, and can be put into evaluation mode.
    return torch.fx.GraphModule(module, graph).eval(), inputs


def to_onnx(exported: Path, path: Path) -> None:
    """Write what torch.export saved as ONNX with names ``x0``, ``x1`` ... of its inputs; batch norm is folded.

    Raises:
        ImportError: If onnx is not installed.
        RuntimeError: If there is no ONNX for the network.
    """
    importlib.import_module("onnx")
    module, inputs = from_export(exported)
    names = [f"x{i}" for i in range(len(inputs))]
    with warnings.catch_warnings(), _in_short("there is no ONNX for it"):
        # The newer exporter's graphs run slower in DeepSparse, and only the older one writes what all of them read.
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, str(path), dynamo=False, opset_version=_OPSET, input_names=names)


def quantize(onnx: Path, calibration: Iterable[Sequence[Tensor]], path: Path, *, narrow: bool) -> None:
    """Write an ONNX file's network with static scales: uint8 activations, int8 weights with a scale an output channel.

    Args:
        onnx: What :func:`to_onnx` wrote.
        calibration: Batches that the activations' scales are taken from, from minimum to maximum.
        path: The file to write.
        narrow: Use 7 of the weights' 8 bits. Without an instruction that adds up four products in 32 bits, the engines
            add up two in 16, which overflow else: as fast, but wrong by several percent.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        RuntimeError: If onnxruntime cannot quantize the network.
    """
    package: Any = importlib.import_module("onnxruntime.quantization")
    prepare: Any = importlib.import_module("onnxruntime.quantization.shape_inference")
    batches = iter(calibration)

    class Reader(package.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Mapping[str, Any] | None:
            batch = next(batches, None)
            return None if batch is None else {f"x{i}": x.numpy() for i, x in enumerate(batch)}

    with tempfile.TemporaryDirectory() as folder, _in_short("it cannot be quantized"):
        prepared = os.path.join(folder, "prepared.onnx")
        prepare.quant_pre_process(str(onnx), prepared, skip_symbolic_shape=True)
        package.quantize_static(
            prepared,
            str(path),
            Reader(),
            quant_format=package.QuantFormat.QDQ,
            per_channel=True,
            activation_type=package.QuantType.QUInt8,
            weight_type=package.QuantType.QInt8,
            reduce_range=narrow,
        )


def save_arrays(tensors: Sequence[Tensor], path: Path) -> None:
    """Write tensors as the .npz file that an engine reads its inputs from."""
    np.savez(path, *(tensor.numpy() for tensor in tensors))


@contextlib.contextmanager
def _in_short(what: str) -> Iterator[None]:
    """Whatever goes wrong within, in the user's network or in a library, becomes one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RuntimeError(f"{what} ({reason})") from error
