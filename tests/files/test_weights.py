from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from sparsecycle.files.container import write
from sparsecycle.files.packed import save
from sparsecycle.files.weights import fit, load_weights, read_weights


class Block(nn.Module):
    def __init__(self, projection: str = "downsample") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.add_module(projection, nn.Conv2d(3, 4, 1))


class Net(nn.Module):
    """What the names of a residual network look like; it is never run."""

    def __init__(self, projection: str = "downsample", output: str = "fc", classes: int = 5) -> None:
        super().__init__()
        self.layer = nn.Sequential(Block(projection))
        self.add_module(output, nn.Linear(4, classes))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def other() -> Net:
    torch.manual_seed(1)
    return Net()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def inside(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {f"{prefix}{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("key", ["", "state_dict", "model", "net", "weights", "model_ema", "model.state_dict"])
def test_a_checkpoint_is_looked_into(key: str, model: Net, tmp_path: Path) -> None:
    content: dict[str, object] = dict(model.state_dict())
    for part in reversed(key.split(".") if key else []):
        content = {"epoch": 3, "best": 0.9, "optimizer": {"state": {}}, part: content}
    torch.save(content, tmp_path / "net.th")
    assert same(read_weights(tmp_path / "net.th"), model.state_dict())


def test_safetensors_are_told_by_their_content(model: Net, tmp_path: Path) -> None:
    save_file(model.state_dict(), tmp_path / "net.pt")
    state = read_weights(tmp_path / "net.pt")
    assert same(dict(sorted(state.items())), dict(sorted(model.state_dict().items())))
    torch.save(model.state_dict(), tmp_path / "net.safetensors", _use_new_zipfile_serialization=False)
    assert same(read_weights(tmp_path / "net.safetensors"), model.state_dict())


def test_the_dictionary_may_hold_itself(tmp_path: Path) -> None:
    content: dict[str, object] = {}
    content["model"] = content
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net\.pt holds no tensors"):
        read_weights(tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nn.Linear(1, 1), r"net.pt holds a pickled torch.nn.modules.linear.Linear, .*torch.save(model.state_dict(), "),
        ({"state_dict": {"w": torch.ones(1)}, "args": argparse.Namespace()}, "holds a pickled argparse.Namespace, and"),
        ([torch.ones(1)], "holds a list; allowed is a state_dict: tensors by name"),
        ({"w": torch.ones(1), "step": 3}, "'step' is of type int; a state_dict holds dense tensors by name"),
        ({1: torch.ones(1)}, "1 is not a name; a state_dict holds"),
        ({"w": torch.ones(2, 2).to_sparse()}, "'w' is of type torch.sparse_coo; a state_dict holds"),
        ({}, "holds no tensors"),
    ],
)
def test_a_file_of_anything_else_is_named(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_weights(tmp_path / "net.pt")


def test_a_file_that_is_not_whole(model: Net, tmp_path: Path) -> None:
    torch.save(model.state_dict(), tmp_path / "net.pt")
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    for name, message in (("net.pt", "is not a whole file of"), ("net.safetensors", "is not a whole safetensors file")):
        data = (tmp_path / name).read_bytes()
        for size in (50, len(data) // 2, len(data) - 1):
            (tmp_path / name).write_bytes(data[:size])
            with pytest.raises(ValueError, match=f"{name} {message}"):
                read_weights(tmp_path / name)
    for data in (b"", b"not a network at all", b"12345678{"):
        (tmp_path / "net.pt").write_bytes(data)
        with pytest.raises(ValueError, match=r"net\.pt is not a whole"):
            read_weights(tmp_path / "net.pt")
    with pytest.raises(FileNotFoundError, match=r"gone\.pt"):
        read_weights(tmp_path / "gone.pt")


def test_a_packed_file_is_unpacked(model: Net, tmp_path: Path) -> None:
    save(model, tmp_path / "net.safetensors")
    assert same(read_weights(tmp_path / "net.safetensors"), model.state_dict())


def test_another_file_of_ours(tmp_path: Path) -> None:
    write(tmp_path / "a.safetensors", "ticket", {"w": torch.ones(1)}, {})
    with pytest.raises(ValueError, match=r"a\.safetensors is a ticket of sparsecycle; allowed is a state_dict"):
        read_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.backbone.", "student.anything."]
)
def test_what_stands_before_the_names_does_not_matter(prefix: str, model: Net) -> None:
    state = model.state_dict()
    found = fit(inside(prefix)(state), model)
    assert same(found.tensors, state)
    assert found.renamed == ({name: f"{prefix}{name}" for name in state} if prefix else {})
    assert found.kept == ()
    holder = nn.Module()
    holder.add_module("net", nn.ModuleDict({"inner": model}))
    assert same(fit(inside(prefix)(state), holder).tensors, holder.state_dict())


def test_a_wrapper_in_the_middle_and_a_holder_of_a_part(model: Net) -> None:
    state = model.state_dict()
    theirs = {f"backbone.{n.replace('layer.', 'layer.module.')}": t for n, t in state.items() if "fc" not in n}
    theirs |= {name: tensor for name, tensor in state.items() if "fc" in name}
    assert same(fit(theirs, model).tensors, state)


@pytest.mark.parametrize("projection", ["downsample", "shortcut", "skip"])
@pytest.mark.parametrize("output", ["fc", "linear", "classifier", "head", "output"])
def test_the_same_layer_may_be_called_otherwise(projection: str, output: str, model: Net) -> None:
    theirs = Net(projection, output)
    found = fit(inside("module.")(model.state_dict()), theirs)
    assert list(found.tensors) == list(theirs.state_dict())
    assert same(dict(zip(model.state_dict(), found.tensors.values(), strict=True)), model.state_dict())
    assert found.renamed[f"layer.0.{projection}.weight"] == "module.layer.0.downsample.weight"


def test_names_that_would_become_one_are_left_as_they_are() -> None:
    model = nn.ModuleDict({"head": nn.Linear(2, 3), "classifier": nn.Linear(2, 3)})
    state = model.state_dict()
    assert same(fit(dict(reversed(state.items())), model).tensors, state)
    with pytest.raises(ValueError, match=r"4 .* are missing: head.weight, head.bias, .*; 1 are left over: x.weight"):
        fit({"x.weight": torch.ones(3, 2)}, model)


def test_batch_norms_counters_may_be_missing_or_more(model: Net, other: Net) -> None:
    state = {name: tensor for name, tensor in other.state_dict().items() if "num_batches" not in name}
    model.layer[0].bn.num_batches_tracked += 7  # type: ignore[operator, union-attr]
    found = fit(inside("module.")(state), model)
    assert found.kept == ("layer.0.bn.num_batches_tracked",)
    assert same(found.tensors, state)
    linear = nn.Linear(2, 2)
    assert list(fit({**linear.state_dict(), "num_batches_tracked": torch.tensor(3)}, linear).tensors) == [
        "weight",
        "bias",
    ]


def test_unrelated_names_are_matched_by_order(model: Net, other: Net) -> None:
    theirs = {
        f"stage{i}.op.{name.rpartition('.')[2]}": tensor for i, (name, tensor) in enumerate(other.state_dict().items())
    }
    found = fit(theirs, model)
    expected = {name: tensor for name, tensor in other.state_dict().items() if "num_batches" not in name}
    assert same(found.tensors, expected)
    assert found.renamed["layer.0.conv.weight"] == "stage0.op.weight"
    swapped = dict(sorted(theirs.items(), key=lambda item: item[1].numel()))
    with pytest.raises(ValueError, match="these are not the weights of this model; 10 of the model's tensors are miss"):
        fit(swapped, model)
    unlike = {f"{name[:-1]}x": tensor for name, tensor in theirs.items()}
    with pytest.raises(ValueError, match="11 are left over: stage0.op.weighx, stage1.op.biax, "):
        fit(unlike, model)


def test_what_does_not_fit_is_named(model: Net, other: Net) -> None:
    state = other.state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fc = state.pop("fc.bias")
    with pytest.raises(ValueError, match="model; 1 of the model's tensors are missing: fc.bias$"):
        fit(state, model)
    with pytest.raises(ValueError, match=r"missing: fc.bias; 1 are left over: fc.bais; did you mean 'fc.bais'\?"):
        fit({**state, "fc.bais": fc}, model)
    with pytest.raises(ValueError, match="^1 of the model's tensors have another shape: layer.0.bn.bias is .2,., "):
        fit({**state, "fc.bias": fc, "layer.0.bn.bias": fc[:2]}, model)
    with pytest.raises(ValueError, match="left over: a.weight, b.weight, c.weight, d.weight, ...$"):
        fit({**state, "fc.bias": fc, **{f"{name}.weight": fc for name in "abcde"}}, model)
    assert same(before, model.state_dict())


def test_another_number_of_classes_is_said(model: Net) -> None:
    theirs = Net(output="head", classes=7).state_dict()
    message = "^the output layer is one for 7 classes, not for 5: head.weight is .7, 4., the model's fc.weight .5, 4., "
    with pytest.raises(ValueError, match=message):
        fit(theirs, model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_of_values_that_are_none_changes_nothing(value: float, model: Net, other: Net, tmp_path: Path) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        other.fc.bias[2] = value  # type: ignore[index, union-attr]
    torch.save(other.state_dict(), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=r"net.pt: fc.bias holds NaN or infinity as torch.float32"):
        load_weights(tmp_path / "net.pt", model)
    assert same(before, model.state_dict())


def test_types_are_the_models(model: Net, other: Net) -> None:
    found = fit({name: tensor.double() for name, tensor in other.state_dict().items() if tensor.dim()}, model)
    assert same(found.tensors, {name: tensor for name, tensor in other.state_dict().items() if tensor.dim()})
    with pytest.raises(ValueError, match="fc.bias is of torch.int64, and the model's is of torch.float32"):
        fit({**other.state_dict(), "fc.bias": torch.arange(5)}, model)
    with pytest.raises(ValueError, match="fc.bias holds NaN or infinity as torch.float32"):
        fit({**other.state_dict(), "fc.bias": torch.full((5,), 1e300, dtype=torch.float64)}, model)


def test_a_file_is_loaded_whole(model: Net, other: Net, tmp_path: Path) -> None:
    torch.save({"state_dict": inside("module.")(other.state_dict())}, tmp_path / "net.th")
    found = load_weights(tmp_path / "net.th", model)
    assert same(model.state_dict(), other.state_dict())
    assert found.renamed["fc.weight"] == "module.fc.weight"


@given(st.lists(st.sampled_from(["module.", "_orig_mod.", "model.", "backbone.", "own."]), max_size=4).map("".join))
def test_any_nesting_of_wrappers_is_seen_through(prefix: str) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    state = model.state_dict()
    assert same(fit(inside(prefix)(state), model).tensors, state)
    assert same(fit(state, nn.Sequential(model)).tensors, nn.Sequential(model).state_dict())


def test_a_folder_with_a_packed_file(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    save(model, tmp_path / "model.safetensors")
    assert torch.equal(read_weights(tmp_path)["weight"], model.weight)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        read_weights(tmp_path)
