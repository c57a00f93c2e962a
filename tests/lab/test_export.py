from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sparsecycle.files import packed
from sparsecycle.files.packed import NAME, save
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.export import Export, export, network, parse, to_torch
from sparsecycle.lab.models import build


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    model = build("linear", (1, 8, 8), 10).eval()
    next(model.parameters()).data[:, :60] = 0
    return model


@pytest.fixture
def run(model: nn.Module, tmp_path: Path) -> Path:
    folder = Experiment(data="digits", model="linear").folder(tmp_path)
    with folder.lock():
        save(model, folder.path / NAME)
    return folder.path


@pytest.fixture
def exported(model: nn.Module, tmp_path: Path) -> Path:
    torch.export.save(torch.export.export(model, (torch.randn(3, 1, 8, 8),)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


def same(found: nn.Module, model: nn.Module) -> bool:
    mine = model.state_dict()
    return all(torch.equal(tensor, mine[name]) for name, tensor in found.state_dict().items()) and len(mine) > 0


def test_a_run_takes_its_datas_images(run: Path, model: nn.Module) -> None:
    found = network(run)
    assert same(found.model, model)
    assert [x.shape for x in found.inputs] == [(1, 1, 8, 8)]
    assert found.dynamic_batch
    assert [x.shape for x in network(run, (1, 4, 16)).inputs] == [(1, 1, 4, 16)]


def test_an_exported_file_keeps_its_shapes(exported: Path, model: nn.Module) -> None:
    found = network(exported)
    assert same(found.model, model)
    assert [x.shape for x in found.inputs] == [(3, 1, 8, 8)]
    assert not found.dynamic_batch


def test_a_packed_file_makes_its_network(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    packed.save(model, file, factory="linear", arguments=((1, 8, 8), 10), shape=(1, 8, 8))
    found = network(file)
    assert same(found.model, model)
    assert [x.shape for x in found.inputs] == [(1, 1, 8, 8)]
    assert found.dynamic_batch
    assert [x.shape for x in network(file, (2, 4, 8)).inputs] == [(1, 2, 4, 8)]


def test_a_packed_file_may_call_what_it_is_allowed_to(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    packed.save(model, tmp_path / "net.safetensors", factory="torch.nn:Linear", arguments=(3, 2))
    assert same(network(tmp_path / "net.safetensors", allow=["torch.nn:Linear"]).model, model)
    with pytest.raises(ValueError, match="torch.nn:Linear"):
        network(tmp_path / "net.safetensors")
    options = Export(network=tmp_path / "net.safetensors", to="onnx", allow=("torch.nn:Linear",))
    with pytest.raises(ValueError, match=r"net\.safetensors does not say of what shape .*: say it, as in --shape 3"):
        export(options)


def test_what_is_no_network_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"net\.bin is neither a run .*, nor one of sparsecycle\.save \(.*net\.bin"):
        network(tmp_path / "net.bin")
    with pytest.raises(FileNotFoundError, match="there is no file .*nothing"):
        network(tmp_path / "nothing")


def test_a_state_dict_loads_into_the_plain_network(run: Path, model: nn.Module) -> None:
    said = export(Export(network=run, to="torch"))
    file = run / "model.pt"
    assert said == f"{file}: {file.stat().st_size / 1e6:.3g} MB"
    fresh = build("linear", (1, 8, 8), 10)
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert same(fresh, model)


def test_tied_weights_stay_tied_in_a_state_dict(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    model[1].weight = model[0].weight
    assert 64 * 64 * 4 < to_torch(model, tmp_path / "net.pt") < 1.2 * 64 * 64 * 4


def test_onnx_of_a_run_is_of_any_batch_and_may_be_sparse(run: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    file = tmp_path / "net.onnx"
    said = export(Export(network=run, to="onnx", output=file, sparse=True))
    assert said.startswith(f"{file}: {file.stat().st_size / 1e6:.3g} MB, ")
    graph = onnx.load(file).graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [its.values.dims for its in graph.sparse_initializer] == [[40]]


def test_onnx_of_an_exported_file_has_its_batch(exported: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export(Export(network=exported, to="onnx"))
    (x,) = onnx.load(exported.with_suffix(".onnx")).graph.input
    assert [its.dim_value for its in x.type.tensor_type.shape.dim] == [3, 1, 8, 8]


def test_openvino_is_asked_for(run: Path) -> None:
    pytest.importorskip("openvino")
    assert export(Export(network=run, to="openvino")).startswith(f"{run / 'model.xml'}: ")
    assert (run / "model.bin").exists()


def test_options_are_read() -> None:
    options = parse(["net.pt2", "--to", "onnx", "--sparse", "--output", "a.onnx"], "sparsecycle export")
    assert options == Export(network=Path("net.pt2"), to="onnx", sparse=True, output=Path("a.onnx"))
    assert parse(["net", "--to", "onnx", "--shape", "3", "32", "32"], "sparsecycle export").shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("file", "to", "target"),
    [("a.b/net.pt2", "onnx", "a.b/net.onnx"), ("net.safetensors", "torch", "net.pt"), ("x", "openvino", "x.xml")],
)
def test_the_target_lies_beside_the_file(file: str, to: str, target: str) -> None:
    assert parse([file, "--to", to], "sparsecycle export").target == Path(target)


def test_a_run_becomes_a_folder_with_a_card(model: nn.Module, run: Path, tmp_path: Path) -> None:
    save(model, run / NAME, factory="linear", arguments=((1, 8, 8), 10), classes=map(str, range(10)))
    (run / "result.json").write_text('{"accuracy": 0.9125}')
    said = export(parse([str(run), "--to", "folder", "--values", "int8"], "export"))
    folder = run / "model-packed"
    assert said.startswith(f"{folder}: model.safetensors, ")
    assert "| accuracy on the test images, before packing | 91.25 % |" in (folder / "README.md").read_text()
    found = packed.read_contents(folder)
    assert (found.values, found.about.factory, len(found.about.classes or ())) == ("int8", "linear", 10)
    weight, loaded = (next(its.parameters()) for its in (model, packed.load(folder)))
    assert (loaded - weight).abs().max() <= weight.abs().max() / 127 * 0.51
    again = parse([str(folder / NAME), "--to", "folder", "--output", str(tmp_path / "other")], "export")
    export(again)
    assert torch.equal(next(packed.load(tmp_path / "other").parameters()), loaded)


def test_a_pt2_file_becomes_a_folder_too(model: nn.Module, exported: Path) -> None:
    export(parse([str(exported), "--to", "folder"], "export"))
    state = packed.read_state(exported.with_name("net-packed"))
    assert torch.equal(next(iter(state.values())), next(model.parameters()))


@pytest.mark.parametrize("words", [["--to", "onnx", "--values", "int8"], ["--to", "folder", "--shape", "3"]])
def test_what_a_folder_does_not_take(words: list[str], run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([str(run), *words], "export")
    assert "folder" in capsys.readouterr().err
