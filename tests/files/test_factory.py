from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from sparsecycle.files.contents import About
from sparsecycle.files.factory import make
from sparsecycle.lab.models import MODELS, build

HERE = f"{__name__}:network"
called: list[tuple[tuple[Any, ...], dict[str, Any]]] = []


def network(*places: Any, **names: Any) -> nn.Module:
    called.append((places, names))
    return nn.Linear(2, 3)


def nothing() -> None:
    pass


def anything(network: nn.Module) -> None:
    pass


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    called.clear()


@pytest.mark.parametrize("name", MODELS)
def test_own_networks_are_made_without_being_told(name: str) -> None:
    shape = (1, 28, 28) if name == "lenet-5-caffe" else (3, 32, 32)
    on_meta = []

    def check(network: nn.Module) -> None:
        on_meta.append(all(tensor.is_meta for tensor in network.state_dict().values()))

    made = make(About(name, (shape, 7)), (), check)
    assert on_meta == [True]
    assert all(parameter.requires_grad for parameter in made.parameters())
    state, expected = made.state_dict(), build(name, shape, 7).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {key: t.shape for key, t in expected.items()}
    assert all(tensor.is_cpu for tensor in state.values())
    assert len(state) == len([*made.parameters(), *made.buffers()]), "what is not in the state would stay empty"


def test_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    make(About("resnet-20", {"shape": (3, 32, 32), "classes": 10}), (), anything)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"calls 'linear' with \(\): "),
        (((1, 8, 8), 3, 4), r"calls 'linear' with \(\(1, 8, 8\), 3, 4\)"),
        ({"shape": (1, 8, 8)}, "arguments are shape; allowed are shape and classes"),
        ({"shape": (1, 8, 8), "classes": 3, "x": 1}, "arguments are shape, classes, x; allowed are"),
        (((1, 8, 8), 10**30), "calls 'linear' with"),
        (((1, 1 << 40, 1 << 40), 3), "calls 'linear' with"),
        (((1, 8, 8), -3), "classes is -3; it needs a positive integer"),
        (((1, 8, 8), "3"), "classes is '3'; it needs a positive integer"),
        ((None, None), r"calls 'linear' with \(None, None\)"),
        (("abc", 3), r"shape is 'abc'; it needs \(channels, height, width\)"),
    ],
    ids=range(10),
)
def test_arguments_that_an_own_network_does_not_take(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(About("linear", arguments), (), anything)


def test_an_own_network_of_another_size_takes_no_memory() -> None:
    def other(network: nn.Module) -> None:
        raise ValueError(f"{sum(p.numel() for p in network.parameters())} weights")

    with pytest.raises(ValueError, match="65000000000 weights"):
        make(About("linear", ((1, 8, 8), 10**9)), (), other)


def test_making_an_own_network_loads_none_of_the_modules_that_meta_draws_with() -> None:
    code = """
import sys
from sparsecycle.files.contents import About
from sparsecycle.files.factory import make
import sparsecycle.lab.models
before = set(sys.modules)
for name, shape in (("resnet-18", (3, 32, 32)), ("lenet-5-caffe", (1, 28, 28)), ("vgg-like-snip", (3, 32, 32))):
    make(About(name, (shape, 10)), (), lambda network: None)
print(len(set(sys.modules) - before))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 10


def test_another_factory_is_called_if_that_is_allowed() -> None:
    checked = []
    for arguments, expected in (((1, "a"), ((1, "a"), {})), ({"x": 1}, ((), {"x": 1}))):
        made = make(About(HERE, arguments), ["os:abort", HERE], checked.append)
        assert isinstance(made, nn.Linear)
        assert called.pop() == expected
        assert checked.pop() is made
    assert isinstance(make(About(HERE), HERE, anything), nn.Linear)


@pytest.mark.parametrize("allow", [(), ("network",), (f"{HERE}s",), f"{HERE}_too", (HERE.upper(),)], ids=range(5))
def test_another_factory_is_not_called_otherwise(allow: Any) -> None:
    with pytest.raises(ValueError, match="names the factory") as raised:
        make(About(HERE), allow, anything)
    assert called == []
    assert str(raised.value) == (
        f"names the factory '{HERE}', which is not called unless you say so: load(path, model) with your network, "
        f"or load(path, allow=['{HERE}']) if you trust it"
    )


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (None, r"names no factory that makes its network; pass the network: load\(path, model\)"),
        ("", "names the factory '', which is not here: Empty module name"),
        ("no.such.module:f", "'no.such.module:f', which is not here: No module named 'no'"),
        (f"{__name__}:absent", "which is not here: module .* has no attribute 'absent'"),
        (f"{__name__}:nothing", "which gave a NoneType and no network"),
        ("timm:resnet18", "which is not here: "),
    ],
    ids=range(6),
)
def test_a_factory_that_makes_nothing(factory: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(About(factory), [factory or ""], anything)
