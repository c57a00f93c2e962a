from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from sparsecycle.lab.bench import process
from sparsecycle.lab.bench.engines import Job
from sparsecycle.lab.bench.exports import save_arrays
from sparsecycle.lab.bench.process import Process

ENGINES = """
import os
from types import SimpleNamespace

def ready(function, **words):
    bind = lambda batch: lambda: function(*batch)
    return SimpleNamespace(**{"bind": bind, "version": "1", "plan": "", "compiling": None, **words})

def same(job):
    print("a banner")
    return ready(lambda x: x)

def environment(job):
    names = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
    return ready(lambda x: [x], plan=" ".join(os.environ.get(name, "-") for name in names))

def dies(job):
    os._exit(3)

def dies_later(job):
    calls = []
    return ready(lambda x: [x] if not calls.append(0) and len(calls) < 3 else os._exit(4))
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "engines.py").write_text(ENGINES)
    return tmp_path / "engines.py"


@pytest.fixture
def job(tmp_path: Path) -> Job:
    save_arrays([torch.ones(2, 3)], tmp_path / "inputs.npz")
    return Job("", "", str(tmp_path / "inputs.npz"), str(tmp_path / "outputs.npy"), threads=1)


def start(job: Job, file: Path, function: str, **words: object) -> Process:
    # An interpreter that is named runs the file without the package, and starts at once.
    return Process(Job(**{**vars(job), "engine": f"{file}:{function}", **words}), sys.executable)


def test_a_process_times_itself(job: Job, file: Path) -> None:
    its = start(job, file, "same")
    assert its.about == {"version": "1", "plan": "", "compiling": None}
    seconds, clean = its.sample()
    assert seconds > 0
    assert clean in (True, False)
    its.close()
    assert its._process.poll() is not None


def test_threads_and_instruction_set_are_in_its_environment(
    job: Job, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    for words, expected in (({"threads": 2}, "2 - -"), ({"isa": "avx2"}, "1 AVX2 avx2")):
        its = start(job, file, "environment", **words)
        assert its.about["plan"] == expected
        its.close()


def test_several_threads_get_a_pause_before_a_sample(job: Job, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(process.time, "sleep", slept.append)
    for threads in (1, 2):
        its = start(job, file, "same", threads=threads)
        its.sample()
        its.close()
    assert slept == [process._PAUSE]


def test_a_process_that_ends_is_an_error(job: Job, file: Path) -> None:
    with pytest.raises(RuntimeError, match="its process ended with status 3"):
        start(job, file, "dies")
    its = start(job, file, "dies_later")
    with pytest.raises(RuntimeError, match="its process ended with status 4"):
        its.sample()
    with pytest.raises(RuntimeError, match="/no/such/python: No such file or directory"):
        Process(job, "/no/such/python")
