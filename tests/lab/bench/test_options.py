from __future__ import annotations

from pathlib import Path

import pytest

from sparsecycle.lab.bench.options import Bench, parse
from sparsecycle.lab.bench.subject import Subject
from sparsecycle.lab.options import UsageError


def bench(*words: str) -> Bench:
    return parse(["--update", *words], "sparsecycle bench")


def test_a_bench_has_shapes_that_fit_and_one_thread_and_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 3)
    assert bench().subject() == Subject("lenet-300-100", (1, 28, 28), 10, 0.9)
    assert bench("--model", "resnet-18", "--sparsity", "0.5").subject() == Subject("resnet-18", (3, 32, 32), 10, 0.5)
    own = bench("--model", "nets:mine", "--shape", "2", "7", "9", "--classes", "5")
    assert own.subject() == Subject("nets:mine", (2, 7, 9), 5, 0.9)
    assert bench().threads == (1, 3)
    assert bench("--threads", "4", "2").threads == (4, 2)
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert bench().threads == (1,)
    assert (bench().steps, bench("--no-steps").steps) == (True, False)


def test_a_bench_may_be_of_a_file() -> None:
    options = parse(["net.pt2", "--values", "fp32", "int8", "--batch-size", "4"], "sparsecycle bench")
    assert (options.file, options.values, options.batch_size) == (Path("net.pt2"), ("fp32", "int8"), 4)
    assert (bench().file, bench().values, bench().batch_size) == (None, ("fp32",), None)


@pytest.mark.parametrize("words", [[], ["net.pt2", "--update"]])
def test_a_bench_must_be_told_what_to_measure(words: list[str]) -> None:
    with pytest.raises(UsageError, match="say what to measure: --update, .* or FILE"):
        parse(words, "sparsecycle bench")


def test_values_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"values=\('int8', 'int8'\); allowed are fp32, bf16 and int8, each once"):
        Bench(values=("int8", "int8"))


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UsageError, match="model 'resnet18' is not known; did you mean 'resnet-18'"):
        bench("--model", "resnet18")
