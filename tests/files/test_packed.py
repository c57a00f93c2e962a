from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor, nn

from sparsecycle.files.contents import DTYPES, Matrix
from sparsecycle.files.packed import load, read_contents, read_state, save
from sparsecycle.lab.models import build
from sparsecycle.report import LayerReport, Report

HERE = __name__
called = []


class State(nn.Module):
    """Tensors by name, as buffers."""

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)


def factory(inputs: int, outputs: int) -> nn.Module:
    called.append((inputs, outputs))
    return nn.Linear(inputs, outputs)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(*shape: int, density: float = 0.2, seed: int = 0) -> Tensor:
    chosen = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    return torch.where(chosen, random(*shape, seed=seed + 1), 0)


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether names, their order, types, shapes and bits are the same."""
    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def again(model: nn.Module, folder: Path, values: Any = "fp32") -> dict[str, Tensor]:
    save(model, folder / "model.safetensors", values)
    return read_state(folder)


def the_matrix(path: Path) -> Matrix:
    (matrix,) = read_contents(path).matrices
    return matrix


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 16))
    with torch.no_grad():
        for weight in (model[0].weight, model[3].weight):
            weight[torch.rand(weight.shape) < 0.8] = 0
    return model


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_in_every_shape_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    dtype = DTYPES[name]
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (40, 96), generator=torch.Generator().manual_seed(0))
    raw[raw == 128] = 0  # no -0; see below
    tensor = raw.to(torch.uint8).view(dtype)  # NaNs and infinities of all kinds among them
    found = State(
        matrix=tensor,
        thin=(4 * sparse(40, 50, density=0.1)).to(dtype),
        vector=tensor[0],
        scalar=tensor[0, 0].clone(),
        empty=tensor[:0],
        hollow=torch.empty(3, 0, 2, dtype=dtype),
        strided=tensor[::2, 1::3],
        transposed=tensor.t(),
        last=tensor[:, :12].clone().view(8, 5, 3, 4).contiguous(memory_format=torch.channels_last),
        single=tensor[:1, :1],
        deep=tensor[:, :8].clone().view(2, 2, 2, 5, 2, 2, 2),
    )
    assert same(again(found, tmp_path), found.state_dict())


def test_a_pruned_weight_comes_back_as_zero_whatever_its_sign(tmp_path: Path) -> None:
    """A mask's product is -0 where the weight was negative: as a matrix of zeros alone it takes nothing."""
    weight = random(20, 30) * 0.0
    assert bits(weight) != bits(torch.zeros(20, 30))
    found = again(State(weight=weight, bias=weight[0]), tmp_path)
    assert bits(found["weight"]) == bits(torch.zeros(20, 30))
    assert bits(found["bias"]) == bits(weight[0])
    assert the_matrix(tmp_path).kept == 0


@pytest.mark.parametrize(
    "network",
    [
        lambda: nn.LSTM(5, 7, num_layers=2, bidirectional=True),
        lambda: nn.MultiheadAttention(8, 2),
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
        lambda: nn.Conv3d(2, 4, (1, 2, 3)),
        lambda: nn.Conv1d(4, 4, 5, groups=4),
        lambda: nn.Embedding(30, 8, padding_idx=0),
        lambda: nn.TransformerEncoderLayer(8, 2, 16),
        lambda: nn.BatchNorm1d(9),
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)),
        lambda: nn.Linear(4, 5, dtype=torch.float64),
        lambda: nn.Linear(4, 5).bfloat16(),
        lambda: nn.Linear(4, 5).half(),
        lambda: nn.ReLU(),
    ],
    ids=range(13),
)
def test_every_kind_of_module_comes_back(network: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, target = network(), network()
    save(saved, tmp_path / "f")
    assert load(tmp_path / "f", target) is target
    assert same(target.state_dict(), saved.state_dict())


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    model = nn.ModuleDict({"in": nn.Embedding(50, 16), "mid": nn.Linear(16, 16), "out": nn.Linear(16, 50, bias=False)})
    model["out"].weight = model["in"].weight
    shared = torch.arange(6.0)
    model.register_buffer("a", shared)
    model["mid"].register_buffer("b", shared)
    save(model, tmp_path / "f")
    contents = read_contents(tmp_path / "f")
    assert contents.ties == {"mid.b": "a", "out.weight": "in.weight"}
    assert contents.names == tuple(model.state_dict())
    assert contents.dense_bytes == 4 * (50 * 16 + 16 * 16 + 16 + 6)
    assert same(read_state(tmp_path / "f"), model.state_dict())
    # A network that ties nothing, and one that ties the same.
    torch.manual_seed(1)
    apart = nn.ModuleDict({"in": nn.Embedding(50, 16), "mid": nn.Linear(16, 16), "out": nn.Linear(16, 50, bias=False)})
    apart.register_buffer("a", torch.zeros(6))
    apart["mid"].register_buffer("b", torch.zeros(6))
    for target in (apart, copy.deepcopy(model)):
        for parameter in target.parameters():
            nn.init.zeros_(parameter)
        assert same(load(tmp_path / "f", target).state_dict(), model.state_dict())
    # Views of one memory that look at it otherwise are no ties.
    square = random(6, 6)
    state = State(square=square, transposed=square.t(), part=square[:3])
    assert same(again(state, tmp_path), state.state_dict())


@given(
    st.lists(st.lists(st.integers(0, 7), max_size=4), max_size=4),
    st.sampled_from(list(DTYPES)),
    st.floats(0, 1),
    st.integers(0, 2**31),
)
def test_any_small_state_comes_back(
    tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]], dtype: str, density: float, seed: int
) -> None:
    tensors = {f"t{i}": sparse(*shape, density=density, seed=seed + i) for i, shape in enumerate(shapes)}
    state = State(**{name: (16 * tensor).to(DTYPES[dtype]) for name, tensor in tensors.items()})
    found = again(state, tmp_path_factory.getbasetemp())
    assert same(found, {name: torch.where(t == 0, 0, t.double()).to(t.dtype) for name, t in state.state_dict().items()})


@pytest.mark.parametrize(("values", "narrower"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_half_the_bits_are_rounded_as_torch_rounds(
    values: str, narrower: torch.dtype, model: nn.Module, tmp_path: Path
) -> None:
    found = again(model, tmp_path, values)
    for name, tensor in model.state_dict().items():
        matrix = tensor.dim() > 1
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor.to(narrower).float() if matrix else tensor)


def test_int8_is_half_a_scale_off_and_the_same_when_saved_again(model: nn.Module, tmp_path: Path) -> None:
    found = again(model, tmp_path, "int8")
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1:
            scales = (tensor.flatten(1).abs().amax(1) / 127).bfloat16().float()
            off = (found[name] - tensor).flatten(1).abs() / scales[:, None].clamp_min(1e-9)
            assert 0.1 < off.max() <= 0.5
        else:
            assert bits(found[name]) == bits(tensor)
    model.load_state_dict(found)
    assert same(again(model, tmp_path, "int8"), found)


def test_any_reader_of_safetensors_opens_the_file(model: nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path / "f")
    parts = load_file(tmp_path / "f")
    assert sorted(parts) == ["0.weight", "3.weight", "sparsecycle/contents", "sparsecycle/float32", "sparsecycle/int64"]
    assert all(part.dtype == np.uint8 for part in parts.values())
    contents = read_contents(tmp_path / "f")
    assert {stored.name: sum(stored.lengths) for stored in contents.stored} == {
        name: len(part) for name, part in parts.items() if name != "sparsecycle/contents"
    }


def test_what_is_known_is_kept(model: nn.Module, tmp_path: Path) -> None:
    report = Report((LayerReport("0.weight", (8, 4, 3, 3), 58),), 0.8, (3, 3), {"schedule": "cubic"}, {})
    save(
        model,
        tmp_path / "f",
        factory=f"{HERE}:factory",
        arguments=(3, [4, 5]),
        report=report,
        classes=["cat", 7],
        shape=torch.Size([4, 3, 3]),
        mean=(0, 0.5),
        std=np.array([1, 2]),
    )
    about = read_contents(tmp_path / "f").about
    assert about.report is not None
    assert json.loads(json.dumps(about.report)) == json.loads(json.dumps(report.to_dict()))
    assert (about.factory, about.arguments) == (f"{HERE}:factory", (3, (4, 5)))
    assert (about.classes, about.shape, about.mean, about.std) == (("cat", "7"), (4, 3, 3), (0.0, 0.5), (1.0, 2.0))
    save(model, tmp_path / "f", arguments={"classes": 3})
    assert read_contents(tmp_path / "f").about.arguments == {"classes": 3}


def test_a_folder_has_one_model(model: nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path / "model.safetensors")
    assert same(load(tmp_path, copy.deepcopy(model)).state_dict(), model.state_dict())
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent", model)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="model.safetensors"):
        load(tmp_path / "empty", model)


# --- how large it is -------------------------------------------------------------------------------------------------


def entropy(density: float) -> float:
    return -density * math.log2(density) - (1 - density) * math.log2(1 - density)


@pytest.mark.parametrize("density", [0.5, 0.2, 0.1, 0.05, 0.02, 0.01])
@pytest.mark.parametrize("shape", [(120, 100), (64, 64, 3, 3)], ids=str)
def test_positions_of_a_random_mask_take_about_its_entropy(
    density: float, shape: tuple[int, ...], tmp_path: Path
) -> None:
    weight = sparse(*shape, density=density)
    save(State(weight=weight), tmp_path / "f")
    matrix = the_matrix(tmp_path / "f")
    share = matrix.kept / matrix.weights
    assert share == pytest.approx(density, rel=0.2)
    dead = sum(shape[:2])  # bits, where a row or a column happens to be dead
    assert 8 * matrix.parts["positions"] <= 1.03 * entropy(share) * weight.numel() + dead + 8 * 10


def n_of_m(n: int, m: int, *shape: int) -> Tensor:
    """Along the last dimension."""
    order = torch.rand(*shape[:-1], shape[-1] // m, m, generator=torch.Generator().manual_seed(0)).argsort(-1)
    return (order < n).reshape(shape) * (random(*shape).abs() + 0.1)


BLOCKS = sparse(32, 32, density=0.3).ne(0)


@pytest.mark.parametrize(
    ("weight", "bytes_"),
    [
        (n_of_m(2, 4, 128, 128), 0.68 * 128 * 128 / 8),
        (n_of_m(2, 4, 32, 3, 3, 64).permute(0, 3, 1, 2), 0.68 * 32 * 64 * 9 / 8),
        (n_of_m(4, 8, 128, 128), 0.80 * 128 * 128 / 8),
        (BLOCKS.repeat_interleave(4, 0).repeat_interleave(4, 1) * random(128, 128), 1.03 * entropy(0.3) * 1024 / 8 + 6),
        (BLOCKS.repeat_interleave(16, 1) * random(32, 512), 1.03 * entropy(0.3) * 1024 / 8 + 6),
        (BLOCKS[:, :, None, None] * random(32, 32, 3, 3), 1.03 * entropy(0.3) * 1024 / 8 + 6),
        (BLOCKS[0][:, None, None, None] * random(32, 32, 3, 3), 4),
        (BLOCKS[0][None, :, None, None] * random(32, 32, 3, 3), 4),
        (BLOCKS[0][:, None] * sparse(32, 900, density=0.1), 4 + 1.03 * entropy(0.1) * 32 * 0.5 * 900 / 8),
        (random(64, 64).abs() + 0.1, 0),
        (torch.zeros(64, 64), 2),
    ],
    ids=range(11),
)
def test_structure_takes_about_what_it_says(weight: Tensor, bytes_: float, tmp_path: Path) -> None:
    save(State(weight=weight), tmp_path / "f")
    matrix = the_matrix(tmp_path / "f")
    assert matrix.parts["positions"] <= bytes_
    assert same(read_state(tmp_path / "f"), {"weight": weight.where(weight != 0, 0)})


# The sign and what is below the 8 symbols' bits is random: 17 bits of fp32, 4 of fp16, 1 of bf16; see test_values. An
# int8's magnitudes are from about 40 to 127, and it has a sign too.
@pytest.mark.parametrize(("values", "bits_"), [("fp32", 24.4), ("bf16", 8.4), ("fp16", 11.4), ("int8", 7.2)])
def test_pruned_gaussians_take_few_bits(values: Any, bits_: float, tmp_path: Path) -> None:
    weight = random(512, 512)
    weight[weight.abs() < weight.abs().quantile(0.8)] = 0
    save(State(weight=weight), tmp_path / "f", values)
    matrix = the_matrix(tmp_path / "f")
    assert 8 * (matrix.parts["values"] + matrix.parts["scales"]) < bits_ * matrix.kept


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("density", [0.9, 1.0])
def test_a_dense_tensor_takes_no_more_than_it_has(name: str, density: float, tmp_path: Path) -> None:
    dtype = DTYPES[name]
    raw = torch.randint(0, 2 if dtype is torch.bool else 256, (60, 80), generator=torch.Generator().manual_seed(0))
    tensor = raw.to(torch.uint8).view(dtype)
    tensor = torch.where(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(0)) < density, tensor, 0)
    save(State(weight=tensor.to(dtype)), tmp_path / "f")
    (stored,) = read_contents(tmp_path / "f").stored
    assert sum(stored.lengths) <= stored.dense_bytes + 1


# --- what is not written ---------------------------------------------------------------------------------------------


class Extra(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("make", "values", "message"),
    [
        (
            lambda: State(a=torch.ones(2), bad=torch.ones(2, 2) * 1j),
            "fp32",
            "bad is of torch.complex64; a packed file holds fl",
        ),
        (
            lambda: State(bad=torch.eye(3).to_sparse()),
            "fp32",
            "bad is of torch.sparse_coo, torch.float32; a packed file holds",
        ),
        (
            lambda: State(bad=torch.quantize_per_tensor(torch.ones(2), 1.0, 0, torch.qint8)),
            "fp32",
            "bad is of torch.* torch.qi",
        ),
        (lambda: State(bad=torch.ones(2, 2, device="meta")), "fp32", "bad cannot be stored: it is on meta"),
        (
            lambda: State(bad=torch.ones(2, dtype=torch.uint16)),
            "fp32",
            "bad is of torch.uint16; a packed file holds float64, ",
        ),
        (lambda: Extra(2, 2), "fp32", "_extra_state is of type dict; a packed file holds tensors alone"),
        (
            lambda: nn.LazyLinear(3),
            "fp32",
            "weight is of type UninitializedParameter; a packed file holds tensors alone",
        ),
        (
            lambda: State(**{"sparsecycle/contents": torch.ones(2)}),
            "fp32",
            "sparsecycle/contents cannot be stored: it has a name",
        ),
        (lambda: State(bad=torch.ones([1] * 40)), "fp32", "bad: it has 40 dimensions; allowed are 32"),
        (
            lambda: State(a=torch.ones(2, 2), bad=torch.tensor([[1, math.nan]])),
            "bf16",
            "bad: a weight is NaN or infinite, and",
        ),
        (
            lambda: State(bad=torch.tensor([[math.inf]])),
            "fp16",
            "bad: a weight is NaN or infinite, and has no place in fp16; ",
        ),
        (
            lambda: State(bad=torch.tensor([[-math.inf]])),
            "int8",
            "bad: a weight is NaN or infinite, and has no place in int8",
        ),
        (
            lambda: State(bad=torch.tensor([[70000.0]])),
            "fp16",
            "bad: its largest magnitude is 70000, too much for fp16",
        ),
        (lambda: nn.Linear(2, 2), "fp8", "values='fp8'; allowed are fp32, bf16, fp16, int8"),
    ],
    ids=range(14),
)
@pytest.mark.filterwarnings("ignore:.*quantiz", "ignore:Lazy modules")
def test_what_has_no_place_in_a_file_leaves_the_old_one(
    make: Callable[[], nn.Module], values: Any, message: str, tmp_path: Path
) -> None:
    (tmp_path / "f").write_bytes(b"old")
    model = make()
    with pytest.raises(ValueError, match=message):
        save(model, tmp_path / "f", values)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("f", b"old")]


def test_what_is_said_of_it_must_be_plain(model: nn.Module, tmp_path: Path) -> None:
    for words in ({"arguments": [object()]}, {"mean": [math.nan]}):
        with pytest.raises(ValueError, match="must be plain JSON values"):
            save(model, tmp_path / "f", **words)  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "broken"]
)
def test_a_write_that_fails_leaves_the_old_file(
    call: str, failure: BaseException, model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "f"
    save(nn.Linear(2, 3), path)
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(failure)):
        save(model, path)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert path.read_bytes() == old
    save(model, path)
    assert same(read_state(path), model.state_dict())


# --- into which model ------------------------------------------------------------------------------------------------


def test_a_model_keeps_its_mode_type_layout_and_hooks(model: nn.Sequential, tmp_path: Path) -> None:
    save(model, tmp_path / "f")
    state = model.state_dict()
    for training in (False, True):
        target = copy.deepcopy(model).half().to(memory_format=torch.channels_last).train(training)
        for parameter in target.parameters():
            nn.init.zeros_(parameter)
        seen: list[object] = []
        target[3].register_forward_hook(lambda module, *_, seen=seen: seen.append(module))
        weights = [*target.parameters()]
        assert load(tmp_path / "f", target) is target
        assert target.training is target[1].training is training
        assert [parameter is weight for parameter, weight in zip(target.parameters(), weights, strict=True)] == [
            True
        ] * 6
        assert target[0].weight.is_contiguous(memory_format=torch.channels_last)
        assert all(parameter.requires_grad for parameter in target.parameters())
        for name, tensor in target.state_dict().items():
            assert tensor.dtype == (torch.half if state[name].is_floating_point() else state[name].dtype)
            assert torch.equal(tensor, state[name].to(tensor.dtype))
        target.float()(torch.ones(2, 4, 3, 3))
        assert seen == [target[3]]


def test_a_compiled_model_is_saved_and_filled(model: nn.Module, tmp_path: Path) -> None:
    save(torch.compile(model, backend="eager"), tmp_path / "f")  # type: ignore[arg-type]
    target = torch.compile(copy.deepcopy(model), backend="eager")
    for parameter in target.parameters():
        nn.init.zeros_(parameter)
    assert load(tmp_path / "f", target) is target  # type: ignore[arg-type]
    assert same(target._orig_mod.state_dict(), model.state_dict())


def test_a_model_that_is_narrower_or_wider_is_filled(tmp_path: Path) -> None:
    save(nn.Linear(4, 5).bfloat16(), tmp_path / "f", "int8")
    state = read_state(tmp_path / "f")
    target = load(tmp_path / "f", nn.Linear(4, 5, dtype=torch.float64))
    assert all(torch.equal(tensor, state[name].double()) for name, tensor in target.state_dict().items())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            nn.Linear(3, 2),
            "is of another network: weight has shape (3, 2) there, (2, 3) in the network; bias has shape (3",
        ),
        (nn.Linear(2, 3, bias=False), "is of another network: the network has no tensor bias"),
        (Extra(2, 3), "is of another network: it lacks _extra_state"),
        (
            nn.BatchNorm1d(3),
            "is of another network: it lacks running_mean; it lacks running_var; it lacks num_batches_tra",
        ),
        (
            nn.LSTM(2, 3, 2),
            "is of another network: it lacks weight_ih_l0; it lacks weight_hh_l0; it lacks bias_ih_l0; it ",
        ),
        (nn.Linear(2, 3, device="meta"), "cannot be read into a network on meta, which has no memory"),
    ],
    ids=range(6),
)
def test_a_model_that_does_not_fit_is_left_as_it_was(target: nn.Module, message: str, tmp_path: Path) -> None:
    save(nn.Linear(2, 3), tmp_path / "f")
    before = copy.deepcopy(target).state_dict()
    with pytest.raises(ValueError, match="f (is of another|cannot be read)") as raised:
        load(tmp_path / "f", target)
    assert str(raised.value).startswith(f"{tmp_path / 'f'} {message}")
    for name, tensor in target.state_dict().items():
        assert not isinstance(tensor, Tensor) or tensor.is_meta or bits(tensor) == bits(before[name])


def test_the_files_factory(tmp_path: Path) -> None:
    path = tmp_path / "f"
    own = build("resnet-20", (3, 8, 8), 4)
    save(own, path, factory="resnet-20", arguments=[(3, 8, 8), 4])
    found = load(path)
    assert not found.training
    assert same(found.state_dict(), own.state_dict())
    assert found(torch.ones(2, 3, 8, 8)).shape == (2, 4)
    other = nn.Linear(2, 3)
    save(other, path, factory=f"{HERE}:factory", arguments={"inputs": 2, "outputs": 3})
    with pytest.raises(ValueError, match=f"{path} names the factory '{HERE}:factory', which is not called unless"):
        load(path)
    assert called == []
    found = load(path, allow=[f"{HERE}:factory"])
    assert called.pop() == (2, 3)
    assert not found.training
    assert same(found.state_dict(), other.state_dict())
    save(other, path)
    with pytest.raises(ValueError, match=rf"{path} names no factory .* pass the network: load\(path, model\)"):
        load(path)


def test_a_factory_that_makes_another_network(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for factory_, arguments in (("linear", [(1, 8, 8), 10**9]), (f"{HERE}:factory", [7, 7])):
        save(nn.Linear(2, 3), path, factory=factory_, arguments=arguments)
        with pytest.raises(ValueError, match=f"{path} is of another network: "):
            load(path, allow=[f"{HERE}:factory"])


def test_the_file_may_go_once_it_is_read(model: nn.Module, tmp_path: Path) -> None:
    save(model, tmp_path / "f")
    state = read_state(tmp_path / "f")
    (tmp_path / "f").write_bytes(bytes(json.dumps("x") * 1000, "ascii"))
    (tmp_path / "f").unlink()
    assert same(state, model.state_dict())


def test_data_parallel_wrappers_leave_no_trace(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    save(nn.DataParallel(model), tmp_path / "net")
    assert list(read_state(tmp_path / "net")) == ["weight", "bias"]
    other = nn.DataParallel(nn.Linear(3, 4))
    assert load(tmp_path / "net", other) is other
    assert torch.equal(other.module.weight, model.weight)


def test_a_backward_over_weights_that_were_overwritten_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    save(model, tmp_path / "net")
    x = torch.ones(2, 3, requires_grad=True)
    loss = model(x).sum()
    load(tmp_path / "net", model)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
