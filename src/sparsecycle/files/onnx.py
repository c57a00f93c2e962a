"""A network in an ONNX file, checked with onnxruntime."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.files.container import write_whole
from sparsecycle.files.exported import Exported, Run, check, graph, placed, quiet

__all__ = ["to_onnx"]

_LARGEST = 2**31 - 1  # bytes, of what protobuf takes


def to_onnx(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    sparse: bool = False,
    dynamic_batch: bool = True,
) -> Exported:
    """Write a network, as it is in evaluation mode, to one ONNX file that holds each weight once.

    Where onnxruntime is installed it must compute the same, within 1e-5 of each output's largest value, on the example
    inputs, on random ones and on another batch; else there is no file, or the one that was there. Batch norm is folded
    into the convolutions before it. Initializers have the names that they have in the state_dict, those apart that the
    exporter makes of several or transposes.

    Args:
        model: The network, also in the middle of its pruning. It is left as it is.
        example_inputs: What it is called with, on its device.
        path: The file, replaced if it is there; the folder must be.
        sparse: Write weights as ``sparse_initializer`` where that is smaller, as it is with more than two thirds of
            zeros: a kept weight then takes 12 bytes. onnxruntime reads it, and computes as with dense weights;
            OpenVINO does not.
        dynamic_batch: Whether the inputs' first dimension may be of any size, the same for all; the others, or all of
            them, are those of the examples.

    Returns:
        What was written, and the largest error, or that it was not checked since onnxruntime is not installed.

    Raises:
        ImportError: If onnx or onnxscript is not installed.
        ValueError: If the network cannot be exported, takes more than 2 GB, or comes out as another.
    """
    inputs = placed(example_inputs, dynamic_batch)
    size = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    if size > _LARGEST:
        raise ValueError(f"the network has {size / 1e9:.1f} GB of tensors; a file of ONNX holds {_LARGEST / 1e9:.1f}")
    for name in ("onnx", "onnxscript"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ImportError(f"ONNX needs the package {name}: pip install 'sparsecycle[export]'") from error
    data = _serialized(model, inputs, dynamic_batch, sparse)
    try:
        runtime: Any = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        found = Exported(Path(path), len(data), lacking="onnxruntime")
    else:
        library = f"onnxruntime {runtime.__version__}"
        worst = check(model, inputs, dynamic_batch, _session(runtime, data), library)
        found = Exported(Path(path), len(data), library, worst)
    write_whole(path, data)
    return found


def _serialized(model: nn.Module, inputs: Sequence[Tensor], dynamic_batch: bool, sparse: bool) -> bytes:
    passes: Any = importlib.import_module("onnx_ir.passes.common")
    exported = graph(model, inputs, dynamic_batch)
    names = tuple({0: "batch"} for _ in inputs) if dynamic_batch else None
    with quiet(f"there is no ONNX for {type(model).__name__}"):
        program = torch.onnx.export(exported, dynamo=True, optimize=True, dynamic_shapes=names, verbose=False)
    assert program is not None
    # What the exporter notes of every node: as large as a small network, with the paths of this machine's files.
    passes.ClearMetadataAndDocStringPass()(program.model)
    proto: Any = program.model_proto
    if sparse:
        _make_sparse(proto.graph)
    data: bytes = proto.SerializeToString()
    return data


def _make_sparse(its: Any) -> None:
    onnx: Any = importlib.import_module("onnx")
    dense = list(its.initializer)
    del its.initializer[:]
    for tensor in dense:
        weight = onnx.numpy_helper.to_array(tensor)
        (places,) = weight.reshape(-1).nonzero()
        coordinates = onnx.helper.make_sparse_tensor(
            onnx.numpy_helper.from_array(weight.reshape(-1)[places], tensor.name),
            onnx.numpy_helper.from_array(places),
            weight.shape,
        )
        # Weights alone: shapes and bounds, which nodes look at before they run, have fewer dimensions.
        if weight.ndim > 1 and coordinates.ByteSize() < tensor.ByteSize():
            its.sparse_initializer.append(coordinates)
        else:
            its.initializer.append(tensor)


def _session(runtime: Any, data: bytes) -> Run:
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    with quiet("onnxruntime does not take the network's ONNX"):
        session = runtime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return [torch.as_tensor(y) for y in session.run(None, arrays)]

    return run
