"""From a PyTorch network to the runtime's graphs."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from sparsecycle.modes import evaluating
from sparsecycle.runtime.operators import OPERATORS, Call, Native, Operand, Unsupported
from sparsecycle.runtime.parts import Part, Translation, cut, shape

__all__ = ["Traced", "filled", "trace"]


@dataclass(frozen=True, eq=False)
class Traced:
    """A network in parts.

    Attributes:
        inputs: Names of the network's inputs.
        parts: In an order in which they can run.
        constants: The outputs that do not depend on the inputs, by name.
        outputs: Names of the network's outputs.
        structure: What the network returns, with places in ``outputs`` for the outputs.
    """

    inputs: tuple[str, ...]
    parts: tuple[Part, ...]
    constants: Mapping[str, Any]
    outputs: tuple[str, ...]
    structure: Any


def trace(model: nn.Module, example_inputs: Tensor | Sequence[Tensor]) -> Traced:
    """Find the graphs in a network, as it is in evaluation.

    The traced network returns the same, but leaves its inputs as they are where the network itself changes them in
    place.

    Args:
        model: Is left as it is. The graphs may share its parameters' memory.
        example_inputs: What it is called with; the traced network is for tensors of these shapes and types.

    Raises:
        ValueError: If a parameter is not float32 on the CPU, an input is not a tensor on the CPU, or the network
            changes one of its buffers when it is called, or returns anything but tensors and plain values in
            tuples, lists and dicts.
        Exception: Whatever ``torch.export.export`` raises where it cannot follow the network.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    _check(model, inputs)
    exported = _exported(model, inputs)
    constants = _constants(exported)
    returned = _returned(exported)
    outputs = [value for value in returned if isinstance(value, fx.Node)]
    names = [value.name if isinstance(value, fx.Node) else f"returned_{i}" for i, value in enumerate(returned)]
    structure = exported.module().graph.process_outputs(list(range(len(returned))))
    filled(structure, returned)  # raises if it cannot be
    return Traced(
        inputs=tuple(exported.graph_signature.user_inputs),
        parts=tuple(cut(_translation(exported, constants, outputs, dict(model.named_modules())))),
        constants={
            name: copy.deepcopy(constants.get(value, value))
            for name, value in zip(names, returned, strict=True)
            if value in constants or not isinstance(value, fx.Node)
        },
        outputs=tuple(names),
        structure=structure,
    )


def filled(structure: Any, values: Sequence[Any]) -> Any:
    """What a network returns: a :attr:`Traced.structure` with the outputs' values.

    Raises:
        ValueError: If the structure is not of tuples, lists and dicts.
    """
    if isinstance(structure, int):
        return values[structure]
    if isinstance(structure, dict):
        result = copy.copy(structure)  # of its own kind, which may not be made from items alone
        for key, inner in structure.items():
            result[key] = filled(inner, values)
        return result
    if not isinstance(structure, list | tuple):
        raise ValueError(f"the network returns a {type(structure).__name__}; allowed are tuples, lists and dicts")
    items = [filled(inner, values) for inner in structure]
    return type(structure)(*items) if hasattr(structure, "_fields") else type(structure)(items)


def _check(model: nn.Module, inputs: Sequence[Tensor]) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            raise ValueError(f"{name} is on the device {tensor.device}; the runtime needs it on the CPU")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ValueError(f"{name} is of {parameter.dtype}; the runtime needs torch.float32")
    for i, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise ValueError(f"example_inputs[{i}] is of type {type(value).__name__}; it must be a tensor")
        if value.device.type != "cpu":
            raise ValueError(f"example_inputs[{i}] is on the device {value.device}; it must be on the CPU")


def _exported(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """The network as PyTorch's operators, none of which changes what it reads."""
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        # The exporter warns of how the network, or PyTorch itself, is written.
        warnings.simplefilter("ignore")
        exported: ExportedProgram = torch.export.export(model, inputs, strict=False).run_decompositions({})
    for output in exported.graph_signature.output_specs:
        if output.kind is OutputKind.BUFFER_MUTATION:
            raise ValueError(f"the network changes its buffer {output.target} when called; the runtime has no state")
    return exported


def _constants(exported: ExportedProgram) -> dict[fx.Node, Any]:
    """What does not depend on the inputs: parameters, buffers, and what is computed from them alone."""
    held = {
        spec.arg.name: exported.state_dict.get(spec.target, exported.constants.get(spec.target))
        for spec in exported.graph_signature.input_specs
        if spec.kind is not InputKind.USER_INPUT
    }
    constants: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.name in held:
            value = held[node.name]
            constants[node] = value.detach() if isinstance(value, Tensor) else value
        elif node.op == "get_attr":
            constants[node] = getattr(exported.graph_module, node.target)
        elif node.op == "call_function" and constants.keys() >= set(node.all_input_nodes) and not _is_random(node):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), constants.__getitem__)
            constants[node] = node.target(*args, **kwargs)
    return constants


def _is_random(node: fx.Node) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())


def _returned(exported: ExportedProgram) -> list[Any]:
    """What the network returns, from left to right: nodes and plain values."""
    (values,) = next(node for node in exported.graph.nodes if node.op == "output").args
    specs = exported.graph_signature.output_specs
    return [value for value, spec in zip(values, specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]


def _needed(exported: ExportedProgram, constants: Mapping[fx.Node, Any], outputs: Sequence[fx.Node]) -> list[fx.Node]:
    """The operators' uses that the outputs depend on, in order."""
    needed = set(outputs)
    for node in reversed(exported.graph.nodes):
        if node in needed and node not in constants:
            needed.update(node.all_input_nodes)
    return [n for n in exported.graph.nodes if n.op == "call_function" and n in needed and n not in constants]


def _translation(
    exported: ExportedProgram,
    constants: Mapping[fx.Node, Any],
    outputs: Sequence[fx.Node],
    modules: Mapping[str, nn.Module],
) -> Translation:
    nodes = _needed(exported, constants, outputs)
    used = set(nodes)
    natives: dict[fx.Node, Native | str] = {}
    numbers = {node: i for i, node in enumerate(exported.graph.nodes)}

    def operand(node: fx.Node) -> Any:
        if node in constants:
            return constants[node]
        value, native = node.meta["val"], natives.get(node)
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            raise Unsupported(f"reads {value.dtype if isinstance(value, Tensor) else type(value).__name__}")
        if not all(isinstance(size, int) and size > 0 for size in value.shape):
            raise Unsupported(f"reads a tensor of shape {tuple(value.shape)}")
        return Operand(numbers[node], tuple(value.shape), native.images if isinstance(native, Native) else None)

    for node in nodes:
        if node.target is operator.getitem and (several := node.all_input_nodes[0]) in natives:
            # Of what makes several tensors, a step makes the first alone.
            source = natives[several]
            natives[node] = Native(source.images, numbers[several]) if isinstance(source, Native) else source
            continue
        name = str(node.target)  # "aten.conv2d.default"
        try:
            if name not in OPERATORS:
                raise Unsupported("has no native form")
            if any(user.target is operator.getitem and user.args[1] != 0 for user in node.users if user in used):
                raise Unsupported("makes several tensors that are used")
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), operand)
            if 0 in shape(node):
                raise Unsupported("makes an empty tensor")
            natives[node] = OPERATORS[name](Call(_path(node, modules), shape(node)), *args, **kwargs)
        except Unsupported as why:
            natives[node] = f"{name.rpartition('.')[0] or name} {why}"
    return Translation(natives, numbers, constants, outputs)


def _path(node: fx.Node, modules: Mapping[str, nn.Module]) -> str:
    """Of the module whose operator it is; and the operator's name, where the module is made of others."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = stack[-1][0] if stack else ""
    if path in modules and not list(modules[path].children()) and path:
        return path
    return ".".join(filter(None, [path, str(node.target).split(".")[1]]))
