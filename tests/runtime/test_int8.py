"""Networks in 8 bits as a whole.

Each step of random networks, lowered in any layouts, is looked at alone: what it makes of what the native steps before
it have made. Then networks as users have them go through ``compile``, and are compared with the simulation by which
steps are chosen to stay in float32.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.runtime.graphs import Homes, close, graphs, homes, homes8, numbers
from tests.runtime.integers import codes, decoded
from tests.runtime.programs import choose, core, forms8, run, shape
from torch import Tensor, nn

import sparsecycle as sc
from sparsecycle import native
from sparsecycle.runtime.compiled import Compiled
from sparsecycle.runtime.graph import Add, Concatenate, Convolution, Flatten, Graph, Map, Pool, Step
from sparsecycle.runtime.interpret import evaluate
from sparsecycle.runtime.layouts import Lanes, Scale
from sparsecycle.runtime.lower import Lowered, lower
from sparsecycle.runtime.quantize import Quantized, _outputs, quantize

pytestmark = pytest.mark.skipif(native.core() is None, reason="the native core was not built")


@st.composite
def layouts8(draw: st.DrawFn, graph: Graph) -> tuple[Homes, Homes]:
    beside = draw(homes(graph, core().widest()))
    gathering = 4 * core().widest() if core().int8_windows() else None
    return beside, draw(homes8(graph, beside, sorted({form.lanes for form in forms8()}), gathering))


def inputs_of(graph: Graph, images: int, seed: int) -> list[Tensor]:
    return [numbers(shape(images, graph.maps[value]), seed + value) for value in graph.inputs]


def wrong_steps(graph: Graph, quantized: Quantized, found: list[Tensor]) -> list[str]:
    """Which steps make something else of ``found`` than what is found of them."""
    read, kept = quantized.read(graph), quantized.kept(graph)
    coded = [
        decoded(codes(x, quantized.scales[value]), quantized.scales[value]) if value in read - kept else x
        for value, x in enumerate(found)
    ]
    wrong = []
    for value, step in enumerate(graph.steps, len(graph.inputs)):
        if isinstance(step, Convolution) and value in quantized.weights:
            step = replace(step, weight=quantized.weights[value].values())
        sources = [coded if value in quantized.steps else found]
        if isinstance(step, Pool):
            sources.append(found)  # of which whole maps' averages are taken, if they are of float32
        scale = quantized.scales[value] if value in kept else None
        if not any(is_right(found[value], step, [x.double() for x in its], scale) for its in sources):
            wrong.append(f"{value}: {step.name}")
    return wrong


def is_right(found: Tensor, step: Step, sources: list[Tensor], scale: Scale | None) -> bool:
    """Whether it is what a step makes of these: of the numbers of a scale the nearest, as float32 tells."""
    expected = evaluate(step, sources)
    if scale is None:
        return close(found, expected)
    if isinstance(step, Concatenate | Flatten) or (isinstance(step, Pool) and step.kind == "max"):
        return torch.equal(found.double(), expected)
    expected = expected.clamp(-scale.zero * scale.step, (255 - scale.zero) * scale.step)
    return bool(((found - expected).abs() <= 0.501 * scale.step).all())


@settings(max_examples=60)
@given(st.data())
def test_each_step_of_any_network_in_any_layouts(data: st.DataObject) -> None:
    graph = data.draw(graphs(data.draw(st.sampled_from([1, 3, 8, 33]))))
    graph = replace(graph, steps=[replace(step, name=f"{number}") for number, step in enumerate(graph.steps)])
    keep = data.draw(st.sets(st.sampled_from([step.name for step in graph.steps]), max_size=3)) if graph.steps else ()
    quantized = quantize(graph, [inputs_of(graph, 2, 0), inputs_of(graph, 1, 9)], keep)
    inputs = inputs_of(graph, graph.images, data.draw(st.integers(0, 99)))
    beside, home = data.draw(layouts8(graph))

    def computed(threads: int, outputs: list[int]) -> list[Tensor]:
        given = replace(graph, outputs=outputs)
        made = lower(given, beside, core().Program(graph.images, threads), quantized, home)
        try:
            choose(made, data.draw)
        except ValueError as error:
            # In the blocks that were drawn, 32 images of wide maps may be too far apart.
            assume("too long for 16-bit offsets" not in str(error))
            raise
        return run(made.program, given, inputs)

    every = list(range(len(graph.maps)))
    one, two = (computed(threads, every) for threads in (1, 2))
    assert not wrong_steps(graph, quantized, one)
    assert not wrong_steps(graph, quantized, two)
    if keep:
        return
    # Integers' sums are the same in every order. Where less is put out, memory is used again.
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    fewer = computed(data.draw(st.integers(1, 2)), graph.outputs)
    assert all(torch.equal(found, one[value]) for found, value in zip(fewer, graph.outputs, strict=True))


# Values of 4 x 8 x 8, of which the first one is the input.


def conv(name: str, input: int, residual: int | None = None) -> Convolution:
    weight = numbers((4, 4, 3, 3), len(name)) / 6
    return Convolution(name, input, weight, None, (1, 1), (1, 1), (1, 1), 1, "relu", residual)


def mixed(steps: list[Step], keep: list[str], outputs: list[int], side: Lanes) -> tuple[Graph, Quantized, Lowered]:
    """Some steps in 8 bits, with these lanes, and some in float32."""
    maps = [Map(4, 8, 8)] * (len(steps) + 1)
    graph = Graph(3, [0], outputs, maps, steps)
    quantized = quantize(graph, [inputs_of(graph, 3, 0)], keep)
    home = {(8, 8): (Lanes(1, 2, 2), 1)}
    return graph, quantized, lower(graph, home, core().Program(3, 1), quantized, {(8, 8): (side, 1)})


def choose_first(made: Lowered) -> None:
    for number in made.convolutions:
        made.program.candidate(number, made.program.forms(number)[0], 1)


def test_a_residual_and_a_sum_may_have_other_scales_than_what_is_made() -> None:
    steps: list[Step] = [conv("a", 0), conv("b", 1, residual=0), Add("sum", 1, 2, "relu"), conv("c", 3)]
    graph, quantized, made = mixed(steps, [], [0, 1, 2, 3, 4], Lanes(1, 4, 4))
    assert len({quantized.scales[value] for value in (0, 1, 2, 3)}) == 4
    choose_first(made)
    assert not wrong_steps(graph, quantized, run(made.program, graph, inputs_of(graph, 3, 5)))
    assert made.names[:5] == ["a (input)", "a", "b", "sum", "c"]


def test_what_8_bits_make_for_float32_has_no_halo() -> None:
    steps: list[Step] = [conv("a", 0), conv("b", 1), Concatenate("cat", (1, 1))]
    maps = [*[Map(4, 8, 8)] * 3, Map(8, 8, 8)]
    graph = Graph(3, [0], [2, 3], maps, steps)
    quantized = quantize(graph, [inputs_of(graph, 3, 0)], ["b", "cat"])
    home = {(8, 8): (Lanes(1, 2, 2), 1)}
    names = lower(graph, home, core().Program(3, 1), quantized, home).names
    assert names == ["a (input)", "a", "b (layout)", "b", "cat", "cat", "output", "output"]


def test_the_simulation_rounds_what_is_rounded() -> None:
    """Neither what steps on float32 read, nor only what steps in 8 bits do."""
    steps: list[Step] = [conv("a", 0), conv("bb", 0), Add("sum", 1, 2), conv("ccc", 2), conv("dddd", 3)]
    graph, quantized, made = mixed(steps, ["bb", "ccc", "dddd"], [3, 4, 5], Lanes(1, 4, 4))
    choose_first(made)
    inputs = inputs_of(graph, 3, 5)
    found = torch.cat([value.flatten() for value in run(made.program, graph, inputs)])
    assert difference(found, _outputs(graph, inputs, quantized)) < 1e-6


class Residual(nn.Module):
    """Two convolutions beside a shortcut, as in ResNets."""

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, made, 3, stride, 1, bias=False),
            nn.BatchNorm2d(made),
            nn.ReLU(),
            nn.Conv2d(made, made, 3, 1, 1, bias=False),
            nn.BatchNorm2d(made),
        )
        self.shortcut = nn.Conv2d(channels, made, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class Inverted(nn.Module):
    """A depthwise convolution between two of 1x1 beside a shortcut, as in MobileNets."""

    def __init__(self, channels: int, wide: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, 1, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def resnet() -> nn.Module:
    blocks = Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 32, 1)
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, nn.AdaptiveAvgPool2d(1), *head(32))


def mobilenet() -> nn.Module:
    stem = nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6()
    return nn.Sequential(*stem, Inverted(16, 48), Inverted(16, 48), nn.AdaptiveAvgPool2d(1), *head(16))


def vgg() -> nn.Module:
    layers: list[nn.Module] = []
    for channels, made in ((3, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(channels, made, 3, 1, 1), nn.BatchNorm2d(made), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, *head(128))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(768, 96), nn.ReLU(), nn.Linear(96, 64), nn.SiLU(), nn.Linear(64, 10))


def head(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.Flatten(), nn.Linear(channels, 10)


MODELS = {"resnet": resnet, "mobilenet": mobilenet, "vgg": vgg, "mlp": mlp}


def pruned(name: str) -> nn.Module:
    """A network of that kind, nine of ten weights zero, and with batch norms that do something."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.1)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.weight[0].numel() > 30:
            weight = nn.init.normal_(module.weight, 0, (20 / module.weight[0].numel()) ** 0.5).detach()
            weight[torch.rand_like(weight) > 0.1] = 0
    return model.requires_grad_(False)


def images(count: int, seed: int) -> Tensor:
    return numbers((count, 3, 16, 16), seed)


def compiled(name: str, batch: int, **arguments: object) -> Compiled:
    calibration = [images(64, 1), images(64, 2)]
    x = images(batch, 0)
    return sc.runtime.compile(pruned(name), x, values="int8", calibration=calibration, **arguments)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (19, 2)])
def test_networks_give_what_the_simulation_gives(name: str, batch: int, threads: int) -> None:
    network, x = compiled(name, batch, threads=threads), images(batch, 3)
    (part,), (quantized,) = network.traced.parts, network.quantized
    steps = part.graph.steps
    assert quantized.steps == set(range(1, len(steps) + 1))
    assert len(quantized.weights) == sum(isinstance(step, Convolution) for step in steps)
    found = network(x)
    # Where float32 cannot tell which of two numbers is nearer, they may differ.
    assert difference(found, _outputs(part.graph, [x], quantized).reshape(batch, 10)) < 3e-3
    assert difference(found, pruned(name)(x)) < 0.04


@pytest.mark.parametrize("name", MODELS)
def test_networks_in_files_and_from_several_threads_give_the_same_bits(name: str, tmp_path: Path) -> None:
    network, x = compiled(name, 5, threads=1), images(5, 3)
    first = network(x)
    sc.runtime.save(network, tmp_path / "network")
    assert torch.equal(sc.runtime.load(tmp_path / "network")(x), first)
    found: list[Tensor] = []
    workers = [threading.Thread(target=lambda: found.extend(network(x) for _ in range(5))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 15
    assert all(torch.equal(other, first) for other in found)
