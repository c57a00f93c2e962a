"""An inference engine at work in a process of its own, seen from the process that started it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparsecycle.lab.bench import engines
from sparsecycle.lab.bench.engines import Job

__all__ = ["Process"]

_PAUSE = 0.1
_BELOW = {
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "DNNL_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NM_ARCH": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    }
}
"""What tells the engines' libraries to stay below an instruction set; ONNX Runtime's own kernels cannot be told."""


class Process:
    """An engine at work in a process of its own.

    Args:
        job: What it runs.
        python: The interpreter; ours if empty.

    Raises:
        RuntimeError: With the engine's own words, if it is not there or cannot run the network.
    """

    def __init__(self, job: Job, python: str = "") -> None:
        command = [python or sys.executable]
        # Where torch is not needed it is not loaded. The modules beside the file are not to be taken for others.
        command += ["-I", engines.__file__] if python or job.engine in engines.ONNX else ["-m", engines.__name__]
        # The runtime keeps what it chose. It is to choose now, not to take what it chose while something disturbed it.
        cache = str(Path(job.outputs).parent)
        environment = {**os.environ, "OMP_NUM_THREADS": str(job.threads), "SPARSECYCLE_CACHE": cache}
        if job.isa:
            environment |= _BELOW[job.isa]
        self._threads = job.threads
        try:
            self._process = subprocess.Popen(
                [*command, json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment,
            )
        except OSError as error:
            raise RuntimeError(f"{command[0]}: {error.strerror}") from error
        self.about = self._answer()
        """The engine's ``version`` and ``plan``, and seconds of ``compiling``."""
        if "error" in self.about:
            self.close()
            raise RuntimeError(self.about["error"])

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self.close()
            raise RuntimeError(f"its process ended with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def sample(self) -> tuple[float, bool]:
        """Seconds of a forward pass, and whether nothing disturbed it.

        Raises:
            RuntimeError: If the process has ended.
        """
        if self._threads > 1:
            time.sleep(_PAUSE)  # for a while the threads of the engine before spin, waiting for more work
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=self._process.stdin, flush=True)
        answer = self._answer()
        return answer["seconds"], answer["clean"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
