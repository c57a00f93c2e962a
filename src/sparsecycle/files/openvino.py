"""A network in OpenVINO's two files, checked with it."""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparsecycle.files.container import write_whole
from sparsecycle.files.exported import Exported, Run, check, graph, placed, quiet

__all__ = ["to_openvino"]


def to_openvino(
    model: nn.Module,
    example_inputs: Tensor | Sequence[Tensor],
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool = True,
) -> Exported:
    """Write a network, as it is in evaluation mode, as ``NAME.xml`` and, beside it, ``NAME.bin``, in full precision.

    OpenVINO must compute the same from them, as :func:`sparsecycle.files.onnx.to_onnx` says, or nothing is written.

    Args:
        model: The network, also in the middle of its pruning. It is left as it is.
        example_inputs: What it is called with, on its device.
        path: The file NAME.xml. Both files are replaced if they are there; the folder must be.
        dynamic_batch: Whether the inputs' first dimension may be of any size, the same for all.

    Returns:
        What was written, and the largest error.

    Raises:
        ImportError: If openvino is not installed.
        ValueError: If ``path`` does not end in .xml, or the network cannot be exported or comes out as another.
    """
    target = Path(path)
    if target.suffix != ".xml":
        raise ValueError(f"path={str(target)!r}; allowed is a name that ends in .xml, beside which .bin is written")
    inputs = placed(example_inputs, dynamic_batch)
    try:
        openvino: Any = importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        raise ImportError("OpenVINO's files need the package openvino: pip install openvino") from error
    exported = graph(model, inputs, dynamic_batch)
    shapes = [openvino.PartialShape([-1, *x.shape[1:]] if dynamic_batch else list(x.shape)) for x in inputs]
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder, target.name)
        with quiet(f"there is no OpenVINO for {type(model).__name__}"):
            converted = openvino.convert_model(exported, input=shapes)
            openvino.save_model(converted, written, compress_to_fp16=False)
        library = f"openvino {openvino.__version__.partition('-')[0]}"
        worst = check(model, inputs, dynamic_batch, _compiled(openvino, written), library)
        parts = {target.with_suffix(suffix): written.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
    for part, data in parts.items():
        write_whole(part, data)
    return Exported(target, sum(map(len, parts.values())), library, worst)


def _compiled(openvino: Any, path: Path) -> Run:
    # Where the processor has bf16, OpenVINO would compute in it.
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        return [torch.as_tensor(y) for y in compiled([x.numpy() for x in inputs]).values()]

    return run
