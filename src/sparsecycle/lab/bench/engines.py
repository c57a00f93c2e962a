"""An inference engine in a process of its own, which times itself when its parent asks: one clock for all of them.

What is not the engine's own needs numpy and the standard library alone, so that another interpreter can run this file:
the newest Python that an engine knows may be an old one.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

__all__ = ["ENGINES", "ONNX", "Engine", "Job", "load", "sample", "serve", "waited"]

Batch = Sequence[Any]
Run = Callable[[], Any]


@dataclass(frozen=True)
class Job:
    """What a process is asked to run.

    Args:
        engine: One of :data:`ENGINES`, or ``FILE.py:function``, a function that takes the job and gives an Engine.
        model: The network's file: ONNX for the engines in :data:`ONNX`, else what torch.export saved.
        inputs: An .npz file of the arrays of one batch, ``arr_0`` first.
        outputs: The .npy file to write the first output to.
        threads: How many the engine may use.
        values: What it computes with: ``fp32``, ``bf16`` or ``int8``.
        calibration: Files like ``inputs``: the batches that int8 takes its scales from.
        test: An .npy file of images; the outputs for all of them are then written in place of those for ``inputs``. It
            holds whole batches.
        isa: The instruction set to stay below; the newest of the machine if empty.
    """

    engine: str
    model: str
    inputs: str
    outputs: str
    threads: int
    values: str = "fp32"
    calibration: tuple[str, ...] = ()
    test: str = ""
    isa: str = ""

    def batch(self) -> Batch:
        """The arrays of one batch."""
        return _arrays(self.inputs)


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Args:
        bind: Of a batch, what computes the outputs for it; that call is what is timed.
        version: The engine's.
        plan: What the engine says of how it runs the network.
        compiling: Seconds that it took to compile the network, if it is known.
    """

    bind: Callable[[Batch], Run]
    version: str
    plan: str = ""
    compiling: float | None = None


def _arrays(file: str) -> Batch:
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def _torch(job: Job) -> tuple[Any, Any]:
    """torch, and the network."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(job.threads)
    model, _ = importlib.import_module("sparsecycle.lab.bench.exports").from_export(job.model)
    return torch, model


def _of_torch(torch: Any, model: Any, layout: str = "contiguous_format") -> Engine:
    """What is called with tensors, without gradients."""

    def bind(batch: Batch) -> Run:
        tensors = map(torch.from_numpy, batch)
        inputs = [x.contiguous(memory_format=getattr(torch, layout)) if x.dim() == 4 else x for x in tensors]

        def run() -> Any:
            with torch.no_grad():
                return model(*inputs)

        return run

    return Engine(bind, f"torch {torch.__version__}")


def eager(job: Job) -> Engine:
    """torch, operator by operator."""
    return _of_torch(*_torch(job))


def channels_last(job: Job) -> Engine:
    """torch, operator by operator, weights and images channels last."""
    torch, model = _torch(job)
    return _of_torch(torch, model.to(memory_format=torch.channels_last), "channels_last")


def inductor(job: Job, freezing: bool = False) -> Engine:
    """torch.compile."""
    torch, model = _torch(job)
    settings: Any = importlib.import_module("torch._inductor.config")
    settings.freezing = freezing
    return _of_torch(torch, torch.compile(model))


def frozen_inductor(job: Job) -> Engine:
    """torch.compile with the weights as constants, folded and laid out ahead."""
    return inductor(job, freezing=True)


def onnxruntime(job: Job) -> Engine:
    """ONNX Runtime's own CPU kernels."""
    ort = importlib.import_module("onnxruntime")
    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    session = ort.InferenceSession(job.model, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def bind(batch: Batch) -> Run:
        feed = dict(zip(names, batch, strict=True))
        return lambda: session.run(None, feed)

    return Engine(bind, f"onnxruntime {ort.__version__}")


def openvino(job: Job) -> Engine:
    """OpenVINO's CPU plugin, one stream."""
    ov = importlib.import_module("openvino")
    settings = {"INFERENCE_NUM_THREADS": job.threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    if job.values == "fp32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # else bf16, where the machine has it
    request = ov.Core().compile_model(job.model, "CPU", settings).create_infer_request()

    def bind(batch: Batch) -> Run:
        return lambda: list(request.infer(batch, share_inputs=True).values())

    return Engine(bind, f"openvino {ov.__version__.partition('-')[0]}")


def deepsparse(job: Job) -> Engine:
    """DeepSparse, which ended with version 1.8."""
    package = importlib.import_module("deepsparse")
    engine = package.Engine(model=job.model, batch_size=len(job.batch()[0]), num_cores=job.threads)
    return Engine(lambda batch: lambda: engine.run(batch), f"deepsparse {package.__version__}")


def sparsecycle(job: Job) -> Engine:
    """Our runtime."""
    package, runtime = importlib.import_module("sparsecycle"), importlib.import_module("sparsecycle.runtime")
    torch, model = _torch(job)
    if job.isa:
        package.native.core().use(job.isa)

    def tensors(batch: Batch) -> Any:
        inputs = tuple(map(torch.from_numpy, batch))
        return inputs[0] if len(inputs) == 1 else inputs

    calibration = [tensors(_arrays(file)) for file in job.calibration] or None
    begin = time.perf_counter()
    compiled = runtime.compile(model, tensors(job.batch()), job.threads, job.values, calibration)
    seconds = time.perf_counter() - begin

    def bind(batch: Batch) -> Run:
        inputs = tuple(map(torch.from_numpy, batch))
        return lambda: compiled(*inputs)

    return Engine(bind, f"sparsecycle {package.__version__}", str(compiled.plan), seconds)


ENGINES: dict[str, Callable[[Job], Engine]] = {
    "torch": eager,
    "torch channels_last": channels_last,
    "torch.compile": inductor,
    "torch.compile frozen": frozen_inductor,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "deepsparse": deepsparse,
    "sparsecycle": sparsecycle,
}
"""Every engine by its name."""

ONNX = ("onnxruntime", "openvino", "deepsparse")
"""Those that read ONNX files; the others read torch.export's."""


def load(job: Job) -> Engine:
    """The job's engine with the network in it.

    Raises:
        ValueError: If the engine is not known, or its file has no such function.
    """
    if job.engine in ENGINES:
        return ENGINES[job.engine](job)
    file, _, function = job.engine.rpartition(":")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file) if file else None
    if spec is None or spec.loader is None:
        raise ValueError(f"engine={job.engine!r}; allowed are {', '.join(ENGINES)}, and FILE.py:function")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, function):
        raise ValueError(f"engine={job.engine!r}: {file} has no {function!r}")
    engine: Engine = getattr(module, function)(job)
    return engine


def sample(run: Run, threads: int, warm_up: float = 0.01, least: float = 0.02) -> tuple[float, bool]:
    """Seconds of a call, the mean over at least ``least`` seconds, and whether nothing disturbed them.

    With one thread there are two clocks, that on the wall and the processor time of this process; what else the machine
    does lengthens the one, a thread that spins while it waits the other. The shorter one is the better.

    Args:
        run: What is called.
        threads: How many threads compute.
        warm_up: Seconds of calls that come first and are not counted: other engines had the caches. Done in any
            case by the first call, and not at all where it is 0.
        least: Seconds, reached by repeating the call.
    """
    begin = time.perf_counter()
    while time.perf_counter() - begin < warm_up:
        run()
    before, calls = waited(), 0
    begin, worked = time.perf_counter(), time.process_time()
    while not calls or time.perf_counter() - begin < least:
        run()
        calls += 1
    wall, worked = time.perf_counter() - begin, time.process_time() - worked
    return (min(wall, worked) if threads == 1 else wall) / calls, waited() - before < 0.02 * wall


def waited() -> float:
    """Seconds that this process's threads were ready to run but did not; 0 where the system does not say."""
    total = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[1])
        except OSError:  # the thread has ended
            continue
    return total / 1e9


def _first(outputs: Any) -> Any:
    return np.array(outputs[0] if isinstance(outputs, Sequence) else outputs)


def serve(job: Job, requests: TextIO, answers: TextIO) -> None:
    """Answer each line of ``requests`` with a sample, after a first answer that says what was loaded, or what failed.

    The answers are JSON, a line each: ``version``, ``plan`` and ``compiling``, or ``error``; then ``seconds`` of a call
    and whether it was ``clean``.
    """

    def answer(**words: object) -> None:
        print(json.dumps(words), file=answers, flush=True)

    try:
        engine, batch = load(job), job.batch()
        run = engine.bind(batch)
        run()
        batches = [batch]
        if job.test:
            images = np.load(job.test)
            batches = [[its] for its in np.split(images, len(images) // len(batch[0]))]
        np.save(job.outputs, np.concatenate([_first(engine.bind(its)()) for its in batches]))
    except ModuleNotFoundError as error:
        answer(error=f"{error.name} is not installed")
        return
    except Exception as error:
        answer(error=f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}")
        return
    answer(version=engine.version, plan=engine.plan, compiling=engine.compiling)
    seconds = 0.0
    for _ in requests:
        # What a long call touches stays in no cache anyway.
        seconds, clean = sample(run, job.threads, **({"warm_up": 0.0} if seconds > 0.1 else {}))
        answer(seconds=seconds, clean=clean)


def main() -> None:
    """Serve the job in the only argument."""
    # What engines print goes elsewhere than the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    words = json.loads(sys.argv[1])
    serve(Job(**{**words, "calibration": tuple(words["calibration"])}), sys.stdin, answers)


if __name__ == "__main__":
    main()
