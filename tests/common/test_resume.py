"""Promise 4: from a checkpoint taken at any moment, a run ends with the same bits as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import sparsecycle as sc
from sparsecycle.methods import METHODS

Difference = Callable[[Any, Any], "str | None"]


def test_resumed_in_mid_run(start: Any, difference: Difference, method: str, optimizer: str) -> None:
    whole = start(method, optimizer).train(12)
    checkpoint = start(method, optimizer).train(5).checkpoint()
    resumed = start(method, optimizer, seed=1).resume(checkpoint)
    assert resumed.sparsifier.report().steps == (5, 12)
    resumed.train(7)
    assert difference(whole, resumed) is None
    notes = resumed.sparsifier.finalize().notes
    assert notes == whole.sparsifier.finalize().notes
    assert not any("step" in note for note in notes)


@pytest.mark.parametrize("step", range(13))
@pytest.mark.parametrize("method", ["progressive", "cyclical", "movement", "gsm", "acdc", "dpf", "rigl"], indirect=True)
def test_resumed_at_every_step(start: Any, difference: Difference, method: str, step: int) -> None:
    words = {"recovery": "stored"} if method == "cyclical" else {}
    whole = start(method, "amsgrad", **words).train(12)
    checkpoint = start(method, "amsgrad", **words).train(step).checkpoint()
    resumed = start(method, "amsgrad", seed=1, **words).resume(checkpoint).train(12 - step)
    assert difference(whole, resumed) is None


#: Methods that are their criterion, and take no other.
THEIR_CRITERION = ("random", "snip", "grasp", "synflow", "movement")


@pytest.mark.parametrize("words", [{"update_every": 5}, {"scope": "erk"}, {"scope": {"head": 0.5, "c*": 0.25}}])
@pytest.mark.parametrize(
    ("method", "criterion"),
    [
        *((method, None) for method in THEIR_CRITERION),
        *((m, c) for m in METHODS if m not in THEIR_CRITERION for c in ("random", "magnitude_gain", "movement")),
    ],
    indirect=["method"],
)
def test_resumed_with_other_words(
    start: Any, difference: Difference, method: str, words: dict[str, Any], criterion: str | None
) -> None:
    words = words if criterion is None else {**words, "criterion": criterion}
    whole = start(method, **words).train(12)
    checkpoint = start(method, **words).train(7).checkpoint()
    resumed = start(method, seed=1, **words).resume(checkpoint).train(5)
    assert difference(whole, resumed) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_states_load_in_any_order(start: Any, difference: Difference, method: str, order: tuple[int, ...]) -> None:
    whole = start(method).train(7)
    states = [part.state_dict() for part in start(method).train(4).parts]
    resumed = start(method, seed=1)
    for i in order:
        resumed.parts[i].load_state_dict(states[i])
    resumed.steps = 4
    resumed.train(3)
    assert difference(whole, resumed) is None


def test_rolled_back_in_the_same_process(start: Any, difference: Difference, method: str, some_optimizer: str) -> None:
    run = start(method, some_optimizer).train(4)
    checkpoint = run.checkpoint()
    run.train(5)
    run.resume(checkpoint).train(8)
    assert difference(start(method, some_optimizer).train(12), run) is None


def test_rolled_back_to_before_the_gradients_of_an_update(start: Any, difference: Difference) -> None:
    """What RigL saw in the step that is undone must not decide about the update that comes again."""
    run = start("rigl").train(5)
    checkpoint = run.checkpoint()
    run.loss().backward()
    run.optimizer.step()  # the update is due after it
    run.optimizer.zero_grad()
    run.resume(checkpoint)
    run.sparsifier.step()
    run.steps += 1
    other = start("rigl", seed=1).resume(checkpoint)
    other.sparsifier.step()  # nobody has seen a gradient here
    other.steps += 1
    assert difference(run, other) is None


def test_resumed_in_new_process(start: Any, difference: Difference, tmp_path: Path) -> None:
    """Every method under every optimizer, killed after 5 steps."""
    suite = Path(sys.modules[start.__module__].__file__ or "")
    script = f"""
import importlib.util, pathlib, torch
torch.set_num_threads({torch.get_num_threads()})
spec = importlib.util.spec_from_file_location("suite", {str(suite)!r})
suite = importlib.util.module_from_spec(spec)
spec.loader.exec_module(suite)
for file in sorted(pathlib.Path({str(tmp_path)!r}).glob("*.start")):
    run = suite.Run(*file.stem.split("_"), seed=2).resume(file.read_bytes()).train(7)
    file.with_suffix(".end").write_bytes(run.checkpoint())
"""
    optimizers = sys.modules[start.__module__].OPTIMIZERS
    pairs = [(method, optimizer) for method in METHODS for optimizer in optimizers]
    for method, optimizer in pairs:
        (tmp_path / f"{method}_{optimizer}.start").write_bytes(start(method, optimizer).train(5).checkpoint())
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    for method, optimizer in pairs:
        ended = start(method, optimizer, seed=3).resume((tmp_path / f"{method}_{optimizer}.end").read_bytes())
        assert ended.steps == 12
        assert difference(start(method, optimizer).train(12), ended) is None, (method, optimizer)


def test_state_is_small_and_plain(start: Any, method: str) -> None:
    state = start(method).train(5).sparsifier.state_dict()
    assert {name: bits.numel() for name, bits in state["masks"].items()} == {
        "conv.weight": 7,  # 54 bits
        "hidden.weight": 60,
        "head.weight": 4,
    }
    assert all(bits.dtype == torch.uint8 for bits in state["masks"].values())
    assert len(state["memory"]) == (3 if method == "movement" else 0)
    assert len(state["stored"]) == (3 if method in ("movement", "dpf") else 0)
    shapes = [(3, 2, 3, 3), (10, 48), (3, 10)]
    for tensors in (state["memory"], state["stored"]):
        assert [tuple(t.shape) for t in tensors] in ([], shapes)


def test_state_does_not_change_with_the_run(start: Any) -> None:
    run = start("cyclical", recovery="stored", criterion="magnitude_gain").train(5)
    state = run.sparsifier.state_dict()
    copied = {name: bits.clone() for name, bits in state["masks"].items()}
    held = [tensor.clone() for tensor in [*state["memory"], *state["stored"]]]
    assert len(held) == 6
    run.train(3)
    assert all(torch.equal(bits, copied[name]) for name, bits in state["masks"].items())
    assert all(torch.equal(a, b) for a, b in zip([*state["memory"], *state["stored"]], held, strict=True))


def test_numpy_numbers_leave_a_plain_state(start: Any, difference: Difference) -> None:
    import numpy as np

    def begin(seed: int) -> Any:
        run = start("progressive", seed=seed)
        run.sparsifier.remove()
        run.sparsifier = sc.Sparsifier(
            run.model, run.optimizer, np.float64(0.5), sc.Linear(), total_steps=np.int64(12), update_every=np.int64(2),
            scope={"head": np.float32(0.25)},
        )  # fmt: skip
        return run

    resumed = begin(1).resume(begin(0).train(4).checkpoint()).train(8)
    assert difference(begin(0).train(12), resumed) is None
    assert resumed.sparsifier.finalize().kept == 282
