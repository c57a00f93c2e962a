"""A network cut into graphs that the runtime runs, and parts that PyTorch runs between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, fx

from sparsecycle.runtime.graph import Convolution, Graph, Map, Step, is_scaling, renumbered
from sparsecycle.runtime.operators import Native, seen

__all__ = ["NativePart", "Part", "TorchPart", "Translation", "cut", "shape"]


@dataclass(frozen=True, eq=False)
class NativePart:
    """A part that is a graph of the runtime's steps.

    Attributes:
        graph: Its inputs and outputs are those below, in this order.
        inputs: Names of values: tensors of any shape, read as (images, channels, height, width).
        outputs: Names of values.
        shapes: Of the tensors that go out.
    """

    graph: Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, eq=False)
class TorchPart:
    """A part that PyTorch runs.

    Attributes:
        module: Takes the inputs and returns a tuple of the outputs; its weights are copies.
        inputs: Names of values.
        outputs: Names of values.
        reason: Why the runtime does not run it: ``"aten.gelu has no native form"``.
    """

    module: fx.GraphModule
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    reason: str


Part: TypeAlias = NativePart | TorchPart


@dataclass(frozen=True, eq=False)
class Translation:
    """A network in the runtime's language, as far as it goes.

    Attributes:
        natives: Every use of an operator that the outputs need, in order, as a step; or why it cannot be one.
        numbers: Every value's number in those steps.
        constants: The values that do not depend on the network's inputs.
        outputs: What the network returns.
    """

    natives: Mapping[fx.Node, Native | str]
    numbers: Mapping[fx.Node, int]
    constants: Mapping[fx.Node, Any]
    outputs: Sequence[fx.Node]


_NO_WORK = "no convolution or linear layer is in it"


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of the tensor that an operator makes, or of the first of several."""
    value = node.meta["val"]
    if isinstance(value, tuple | list) and value:
        value = value[0]
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def cut(translation: Translation) -> list[Part]:
    """Cut a network into few parts, in an order in which they can run.

    What could be native runs in PyTorch all the same where no convolution would be in its part: then it is not worth
    the way there and back.
    """
    natives = dict(translation.natives)
    while True:
        groups = _groups(natives)
        idle = [group for group in groups if isinstance(natives[group[0]], Native) and not _has_work(group, natives)]
        if not idle:
            return [_part(translation, group, natives) for group in groups]
        natives.update((node, _NO_WORK) for group in idle for node in group)


def _has_work(nodes: Sequence[fx.Node], natives: Mapping[fx.Node, Native | str]) -> bool:
    made = [native.step for node in nodes if isinstance(native := natives[node], Native)]
    return any(isinstance(step, Convolution) and not is_scaling(step) for step in made)


def _groups(natives: Mapping[fx.Node, Native | str]) -> list[list[fx.Node]]:
    """The nodes of each part, from the fewest parts that are found.

    Each kind of part, PyTorch's and one for each number of images, has its turn again and again; a node is computed
    as soon as its operands have been and it is its kind's turn. With two kinds there is no better way than this,
    given which begins.
    """
    kinds = {node: native.images if isinstance(native, Native) else None for node, native in natives.items()}
    turns = list(dict.fromkeys(kinds.values()))

    def from_turn(first: int) -> list[list[fx.Node]]:
        order = {kind: i for i, kind in enumerate(turns[first:] + turns[:first])}
        times: dict[fx.Node, int] = {}
        for node, kind in kinds.items():
            ready = max((times[i] for i in node.all_input_nodes if i in times), default=0)
            times[node] = ready + (order[kind] - ready) % len(turns)
        return [[node for node in kinds if times[node] == time] for time in sorted(set(times.values()))]

    return min(map(from_turn, range(len(turns))), key=len, default=[])


def _part(translation: Translation, nodes: Sequence[fx.Node], natives: Mapping[fx.Node, Native | str]) -> Part:
    inside = set(nodes)
    reads = dict.fromkeys(i for node in nodes for i in node.all_input_nodes)
    inputs = [node for node in reads if node not in inside and node not in translation.constants]
    elsewhere = {*translation.outputs, *(i for node in natives if node not in inside for i in node.all_input_nodes)}
    outputs = [node for node in nodes if node in elsewhere]
    if isinstance(natives[nodes[0]], Native):
        return _native_part(translation, nodes, inputs, outputs)
    return _torch_part(translation, nodes, inputs, outputs)


def _native_part(
    translation: Translation, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> NativePart:
    numbers = {translation.numbers[node]: i for i, node in enumerate(inputs)}
    made = {node: native for node in nodes if isinstance(native := translation.natives[node], Native)}
    images = made[nodes[0]].images
    maps = [_map(node, images) for node in inputs]
    steps: list[Step] = []
    for node, native in made.items():
        if isinstance(native.step, int):
            numbers[translation.numbers[node]] = numbers[native.step]
        else:
            numbers[translation.numbers[node]] = len(maps)
            maps.append(_map(node, images))
            steps.append(renumbered(native.step, numbers))
    return NativePart(
        Graph(images, list(range(len(inputs))), [numbers[translation.numbers[node]] for node in outputs], maps, steps),
        tuple(node.name for node in inputs),
        tuple(node.name for node in outputs),
        tuple(shape(node) for node in outputs),
    )


def _map(node: fx.Node, images: int) -> Map:
    found = seen(shape(node), images)
    assert found is not None
    return found


def _torch_part(
    translation: Translation, nodes: Sequence[fx.Node], inputs: Sequence[fx.Node], outputs: Sequence[fx.Node]
) -> TorchPart:
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in inputs}
    held: dict[str, Any] = {}
    for node in nodes:
        for source in node.all_input_nodes:
            if source not in copies:
                value = translation.constants[source]
                held[source.name] = value.detach().clone() if isinstance(value, Tensor) else value
                copies[source] = graph.get_attr(source.name)
        copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(tuple(copies[node] for node in outputs))
    reasons: dict[str, str] = {}
    for node in nodes:
        why = translation.natives[node]
        if isinstance(why, str):
            reasons.setdefault(why.partition(" ")[0], why)  # one of each operator
    return TorchPart(
        fx.GraphModule(held, graph),
        tuple(node.name for node in inputs),
        tuple(node.name for node in outputs),
        "; ".join(reasons.values()) or _NO_WORK,
    )
