from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sparsecycle import runtime
from sparsecycle.lab.bench import engines
from sparsecycle.lab.bench.engines import ENGINES, ONNX, Engine, Job, load, sample, serve
from sparsecycle.lab.bench.exports import save_arrays, to_export, to_onnx


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)).eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(4, 2, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def job(model: nn.Module, images: torch.Tensor, tmp_path: Path) -> Job:
    to_export(model, [images], tmp_path / "model.pt2")
    save_arrays([images], tmp_path / "inputs.npz")
    return Job(
        engine="torch",
        model=str(tmp_path / "model.pt2"),
        inputs=str(tmp_path / "inputs.npz"),
        outputs=str(tmp_path / "outputs.npy"),
        threads=1,
    )


def first(engine: Engine, job: Job) -> Any:
    outputs = engine.bind(job.batch())()
    return torch.as_tensor(np.asarray(outputs[0] if isinstance(outputs, (list, tuple)) else outputs))


@pytest.mark.parametrize("name", ["torch", "torch channels_last"])
def test_torch_gives_the_models_outputs_with_the_threads_asked_for(
    name: str, job: Job, model: nn.Module, images: torch.Tensor
) -> None:
    engine = load(replace(job, engine=name, threads=2))
    assert torch.get_num_threads() == 2
    with torch.no_grad():
        torch.testing.assert_close(first(engine, job), model(images))
    assert engine.version == f"torch {torch.__version__}"


@pytest.mark.parametrize(("name", "freezing"), [("torch.compile", False), ("torch.compile frozen", True)])
def test_torch_compile_freezes_where_it_is_asked_to(
    name: str, freezing: bool, job: Job, model: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch._inductor.config as settings

    compiled = []

    def compile(network: nn.Module) -> nn.Module:
        compiled.append(settings.freezing)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    with settings.patch(freezing=not freezing), torch.no_grad():
        torch.testing.assert_close(first(load(replace(job, engine=name)), job), model(images))
    assert compiled == [freezing]


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_that_read_onnx_give_the_models_outputs(
    name: str, job: Job, model: nn.Module, images: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    package = pytest.importorskip(name)
    to_onnx(Path(job.model), tmp_path / "model.onnx")
    engine = load(replace(job, engine=name, model=str(tmp_path / "model.onnx")))
    with torch.no_grad():
        torch.testing.assert_close(first(engine, job), model(images), rtol=1e-4, atol=1e-4)
    assert package.__version__.startswith(engine.version.removeprefix(f"{name} "))


def test_the_runtime_is_asked_for_what_the_job_says(
    job: Job, model: nn.Module, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    real = runtime.compile

    def compile(network: nn.Module, inputs: Any, *words: Any) -> Any:
        asked.append(words)
        return real(network, inputs)

    monkeypatch.setenv("SPARSECYCLE_CACHE", str(tmp_path))
    monkeypatch.setattr(runtime, "compile", compile)
    save_arrays([2 * images], tmp_path / "calibration0.npz")
    calibration = (str(tmp_path / "calibration0.npz"),)
    engine = load(replace(job, engine="sparsecycle", values="int8", calibration=calibration))
    with torch.no_grad():
        torch.testing.assert_close(first(engine, job), model(images), rtol=1e-4, atol=1e-5)
    assert "total" in engine.plan
    assert engine.compiling is not None
    load(replace(job, engine="sparsecycle", threads=2))
    assert asked[0][:2] == (1, "int8")
    torch.testing.assert_close(asked[0][2], [2 * images])
    assert asked[1] == (2, "fp32", None)


def test_every_engine_has_a_docstring_and_onnx_is_read_by_some() -> None:
    assert all(engine.__doc__ for engine in ENGINES.values())
    assert set(ONNX) < set(ENGINES)


OWN = """
from types import SimpleNamespace

def double(job):
    bind = lambda batch: lambda: [2 * batch[0]]
    return SimpleNamespace(bind=bind, version="own 1", plan="", compiling=None)

def absent(job):
    import no_such_engine

def broken(job):
    raise RuntimeError("no kernel for it" + chr(10) + "details")
"""


@pytest.fixture
def own(job: Job, tmp_path: Path) -> Job:
    (tmp_path / "own.py").write_text(OWN)
    return replace(job, engine=f"{tmp_path / 'own.py'}:double")


def test_an_engine_may_be_the_users(own: Job, images: torch.Tensor) -> None:
    torch.testing.assert_close(first(load(own), own), 2 * images)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("tensorrt", "engine='tensorrt'; allowed are torch, torch channels_last"),
        ("own.py:treble", "own.py has no 'treble'"),
    ],
)
@pytest.mark.usefixtures("own")
def test_an_unknown_engine_is_refused(
    engine: str, message: str, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        load(replace(job, engine=engine))


class Clocks:
    """A wall clock and the processor's, which a call moves by different times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = self.processor = self.waiting = 0.0
        self.calls = 0
        monkeypatch.setattr(engines.time, "perf_counter", lambda: self.wall)
        monkeypatch.setattr(engines.time, "process_time", lambda: self.processor)
        monkeypatch.setattr(engines, "waited", lambda: self.waiting)

    def run(self, wall: float, processor: float, waiting: float = 0.0) -> None:
        self.calls += 1
        self.wall += wall
        self.processor += processor
        self.waiting += waiting


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    return Clocks(monkeypatch)


def test_a_sample_is_the_mean_of_warm_calls(clocks: Clocks) -> None:
    assert sample(lambda: clocks.run(0.25, 0.25), 1, warm_up=1.0, least=2.0) == (0.25, True)
    assert clocks.calls == 4 + 8
    assert sample(lambda: clocks.run(3.0, 3.0), 1, warm_up=0.0, least=2.0) == (3.0, True)
    assert clocks.calls == 12 + 1


@pytest.mark.parametrize(
    ("threads", "wall", "processor", "seconds"), [(1, 0.5, 0.25, 0.25), (1, 0.25, 0.5, 0.25), (2, 0.5, 1.0, 0.5)]
)
def test_one_thread_has_the_shorter_of_two_clocks(
    threads: int, wall: float, processor: float, seconds: float, clocks: Clocks
) -> None:
    assert sample(lambda: clocks.run(wall, processor), threads)[0] == seconds


def test_a_sample_that_waited_is_not_clean(clocks: Clocks) -> None:
    assert not sample(lambda: clocks.run(1.0, 1.0, waiting=0.03), 1)[1]
    assert sample(lambda: clocks.run(1.0, 1.0, waiting=0.01), 1)[1]


def answers(job: Job, requests: int) -> list[dict[str, Any]]:
    out = io.StringIO()
    serve(job, io.StringIO("\n" * requests), out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_process_says_what_it_has_and_answers_with_samples(own: Job, images: torch.Tensor) -> None:
    ready, *samples = answers(own, 2)
    assert ready == {"version": "own 1", "plan": "", "compiling": None}
    assert np.array_equal(np.load(own.outputs), 2 * images.numpy())
    assert len(samples) == 2
    assert all(its["seconds"] > 0 and its["clean"] in (True, False) for its in samples)


def test_of_a_test_set_there_are_all_outputs(own: Job, images: torch.Tensor, tmp_path: Path) -> None:
    test = torch.cat([images, 3 * images, 5 * images])
    np.save(tmp_path / "test.npy", test.numpy())
    answers(replace(own, test=str(tmp_path / "test.npy")), 0)
    assert np.array_equal(np.load(own.outputs), 2 * test.numpy())


@pytest.mark.parametrize(
    ("function", "error"),
    [("absent", "no_such_engine is not installed"), ("broken", "RuntimeError: no kernel for it")],
)
def test_a_process_says_why_it_cannot(function: str, error: str, own: Job) -> None:
    assert answers(replace(own, engine=own.engine.replace("double", function)), 1) == [{"error": error}]
