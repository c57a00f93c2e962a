from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsecycle
from sparsecycle import __version__, native
from sparsecycle.cli import main
from sparsecycle.lab import runner, running
from sparsecycle.lab.bench import memory, report, stored
from sparsecycle.lab.bench.update import CONTESTANTS, TORCH, UPDATE
from sparsecycle.lab.experiment import Experiment
from sparsecycle.lab.result import Result

FAST = ("--epochs", "1", "--batch-size", "256", "--jobs", "1")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sparsecycle {__version__}\n"


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "  train " in out
    assert "  compare " in out
    assert "  bench " in out
    assert "  export " in out


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: sparsecycle COMMAND" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_of_a_command_has_its_groups_and_the_data_sets_defaults(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--data", "cifar10", "--help"]) == 0
    out = capsys.readouterr().out
    for group in ("pruning options", "recipe options", "recipe.augment options"):
        assert group in out
    assert "--epochs INT" in out
    assert "--recipe" not in out
    assert "(default: resnet-20)" in " ".join(out.replace("│", "").split())


def test_help_of_export_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--help"]) == 0
    out = capsys.readouterr().out
    for option in (
        "MODEL",
        "--to {onnx,torch,openvino,folder}",
        "--output",
        "--values",
        "--sparse, --no-sparse",
        "--shape",
        "--allow",
    ):
        assert option in out


def test_help_of_bench_has_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--update, --no-update", "--steps, --no-steps", "--model STR", "--threads", "--json"):
        assert option in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "there is no command 'trian'; did you mean 'train'?"),
        (["train", "--data", "cifar"], "did you mean 'cifar10"),
        (["train", "--model", "lenet300"], "did you mean 'lenet-300-100'?"),
        (["compare", "--methods", "dense", "agb"], "did you mean 'agp'?"),
        (["train", "--epoch", "3"], "--epochs INT"),
        (["train", "--epochs", "0"], "epochs=0"),
        (["train", "--sparsity", "90"], "sparsity=90"),
        (["train", "--method", "one-shot", "--end", "0.3"], "end=0.3"),
        (["compare", "--model", "resnet-20", "--sparsities", "-1"], "-1"),
        (["compare", "--seeds", "1", "1"], "seeds names 1 more than once"),
        (["compare", "--model", "conv3", "--methods", "dense", "--jobs", "0"], "jobs=0"),
        (["bench"], "say what to measure: --update"),
        (["bench", "net.pt2", "--update"], "or FILE, a network that runs"),
        (["bench", "net.pt2", "--values", "fp16"], "--values"),
        (["bench", "--update", "--model", "resnet18"], "did you mean 'resnet-18'?"),
        (["bench", "--update", "--threads", "1", "0"], "threads=(1, 0)"),
        (["bench", "--update", "--threads", "2", "2"], "more than once"),
        (["bench", "--update", "--sparsity", "1"], "sparsity=1.0"),
        (["bench", "--update", "--seconds", "-1"], "seconds=-1.0"),
        (["bench", "--update", "--batch-size", "0"], "batch_size=0"),
        (["bench", "--update", "--json", "no/such/folder/a.json"], "there is no folder"),
        (["bench", "--update", "--model", "vgg-16", "--shape", "3", "8", "8"], "at least 16 pixels"),
        (["bench", "--update", "--classes", "0"], "classes is 0"),
        (["exprot"], "did you mean 'export'?"),
        (["export", "net.pt2"], "--to"),
        (["export", "--to", "onnx"], "MODEL"),
        (["export", "net.pt2", "--to", "onx"], "openvino"),
        (["export", "net.pt2", "--to", "torch", "--sparse"], "sparse is for --to onnx alone, not for torch"),
        (["export", "net.pt2", "--to", "onnx", "--shape", "3", "32", "32"], "shape=(3, 32, 32)"),
        (["export", "runs/a", "--to", "torch", "--shape", "3", "32", "32"], "shape=(3, 32, 32)"),
        (["export", "runs/a", "--to", "onnx", "--shape", "3", "0"], "shape=(3, 0)"),
        (["export", "runs/a", "--to", "onnx", "--output", "no/such/folder/a.onnx"], "there is no folder"),
    ],
)
def test_usage_errors_end_with_2_and_name_what_is_near(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = [] if words[0] in ("trian", "bench", "exprot", "export") else ["--runs", str(tmp_path / "runs")]
    assert main([*words, *extra]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists(), "nothing is begun"


def test_train_runs_each_seed_and_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--seeds", "0", "1", "--runs", str(tmp_path), *FAST[:4], "--sparsity", "0.5"]
    assert main(words) == 0
    out = capsys.readouterr().out
    scores = [float(s) for s in re.findall(r"^seed \d: ([\d.]+) %", out, re.M)]
    folders = sorted(path.name for path in tmp_path.iterdir())
    assert len(scores) == len(folders) == 2
    assert all(folder in out for folder in folders)
    assert "requested 50.0000%, achieved 50.0000%" in out
    mean, deviation = re.findall(r"2 seeds: ([\d.]+) ± ([\d.]+)", out)[0]
    assert float(mean) == pytest.approx(sum(scores) / 2, abs=0.011)
    assert float(deviation) == pytest.approx(abs(scores[0] - scores[1]) / 2, abs=0.011)


def test_compare_runs_once_and_writes_table_and_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compare", "--methods", "dense", "agp", "--sparsities", "0.5", "0.9", "--seeds", "0", "1"]
    words += ["--runs", str(tmp_path), *FAST]
    assert main(words) == 0
    first = capsys.readouterr().out
    content = json.loads((tmp_path / "results.json").read_text())
    assert [(r["method"], r["requested"], r["seeds"]) for r in content["rows"]] == [
        ("dense", 0.0, 2),
        ("agp", 0.5, 2),
        ("agp", 0.9, 2),
    ]
    assert [r["achieved"] for r in content["rows"]] == pytest.approx([0, 0.5, 0.9], abs=1e-4)
    assert len(content["runs"]) == 6
    for name in ("accuracy.png", "schedules.png"):
        assert (tmp_path / name).stat().st_size > 10_000
        assert str(tmp_path / name) in first
    assert first.count("sparsecycle train") == 1, "what to do next"

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("it ran again")

    monkeypatch.setattr(runner, "run", forbidden)
    monkeypatch.setattr(running, "_go_on", forbidden)
    assert main(words) == 0
    assert capsys.readouterr().out == first


def test_compare_with_a_failing_run_ends_with_1_and_shows_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runner.run

    def run(it: Experiment, *args: object, **kwargs: object) -> Result:
        if it.method == "agp":
            raise ValueError("epoch 1 of 1: the training loss is nan")
        return real(it, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(runner, "run", run)
    words = ["compare", "--methods", "dense", "agp", "--sparsities", "0.5", "--seeds", "0"]
    assert main([*words, "--runs", str(tmp_path), *FAST]) == 1
    out, err = capsys.readouterr()
    assert "error: agp 0.5 seed 0: ValueError: epoch 1 of 1: the training loss is nan" in err
    assert "Traceback" not in err
    assert "dense" in out
    assert "│ agp" not in out


def test_a_failure_is_one_line_and_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").write_text("a file stands where the folder should")
    assert main(["train", "--epochs", "1", "--runs", str(tmp_path / "runs")]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err


def test_a_file_and_the_same_flags_are_the_same_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("data: digits\nmethod: agp\nsparsity: 0.5\nseeds: [3]\nepochs: 1\nbatch-size: 256\nrotate: 5\n")
    runs = tmp_path / "runs"
    assert main(["train", "--config", str(file), "--runs", str(runs)]) == 0
    flags = ["--method", "agp", "--sparsity", "0.5", "--seeds", "3", "--batch-size", "256", "--rotate", "5"]
    assert main(["train", *flags, "--epochs", "1", "--runs", str(runs)]) == 0
    assert len(list(runs.iterdir())) == 1


def test_a_ticket_is_searched_and_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs, fast = ("--runs", str(tmp_path / "runs")), FAST[:4]
    words = ["train", "--method", "lottery-ticket", "--sparsity", "0.75", "--arguments", "rate=0.5", *runs, *fast]
    assert main(words) == 0
    (ticket,) = tmp_path.glob("runs/*/ticket.safetensors")
    first = capsys.readouterr().out
    assert main(["train", "--method", "ticket", "--ticket", str(ticket), *runs, *fast]) == 0
    second = capsys.readouterr().out
    score = re.compile(r"^seed 0: ([\d.]+) %", re.M)
    assert score.findall(first) == score.findall(second)
    assert "achieved 75.0000%" in first
    assert "achieved 75.0000%" in second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "one-cycle", "--arguments", "betta=6"], "did you mean 'beta'"),
        (["--arguments", "beta"], "'beta'"),
        (["--method", "colt", "--recovery", "zero"], "recovery='zero'"),
        (["--method", "ticket"], "ticket"),
        (["--ticket", "a.safetensors"], "ticket"),
    ],
)
def test_words_for_a_method_that_does_not_take_them_are_usage_errors(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", *words, "--runs", str(tmp_path / "runs")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "runs").exists(), "nothing is begun"


def test_compare_looks_at_the_weights_before_anything_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"fc1.weight": torch.ones(300, 64)}, tmp_path / "net.pt")
    words = ["compare", "--runs", str(tmp_path / "runs"), "--init", str(tmp_path / "net.pt")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert f"error: {tmp_path / 'net.pt'}: these are not the weights of this model; 5 of the model's tensors are" in err
    assert main([*words[:-1], str(tmp_path / "gone.pt")]) == 1
    assert "gone.pt" in capsys.readouterr().err
    assert main([*words[:3], "--mean", "0.1", "0.2"]) == 2
    assert "mean=(0.1, 0.2)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_missing_ticket_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone.safetensors"
    assert main(["train", "--method", "ticket", "--ticket", str(gone), "--runs", str(tmp_path / "runs")]) == 1
    assert "gone.safetensors" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_an_interrupt_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "_go_on", interrupted)
    assert main(["compare", "--seeds", "0", "--runs", str(tmp_path), *FAST]) == 130
    assert "error: interrupted; the same command" in capsys.readouterr().err


def test_an_interrupted_bench_has_nothing_to_take_up(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "bench_steps", interrupted)
    assert main(["bench", "--update"]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("trains", [True, False])
def test_bench_prints_its_tables_and_keeps_the_figures(
    trains: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "is_known", lambda: False)
    words = ["--model", "lenet-300-100", "--shape", "1", "8", "8", "--classes", "4", "--batch-size", "4"]
    words += ["--threads", "1", "--seconds", "0", "--json", str(tmp_path / "found.json")]
    assert main(["bench", "--update", *words, *([] if trains else ["--no-steps"])]) == 0
    out = capsys.readouterr().out
    for name in CONTESTANTS:
        assert (f"\n| {name} " in out) == (name != TORCH or native.core() is not None)
    assert ("\n| bare loop " in out) == trains
    assert "native core: " in out
    assert out.splitlines()[-1].startswith("| lenet-300-100, 1 thread |  49,600 |")
    found = json.loads((tmp_path / "found.json").read_text())
    assert (found["model"], found["shape"], found["weights"]) == ("lenet-300-100", [1, 8, 8], 49_600)
    assert ("steps" in found) == trains
    assert found["updates"][0]["contestants"][UPDATE]["reads"] > 0


def test_bench_of_a_file_keeps_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def bench_file(path: Path, **words: object) -> dict[str, Any]:
        asked.update(path=path, **words)
        return {"races": []}

    monkeypatch.setattr(stored, "bench_file", bench_file)
    words = ["--threads", "1", "--seconds", "2", "--batch-size", "4", "--json", str(tmp_path / "found.json")]
    assert main(["bench", "net.pt2", *words]) == 0
    assert asked == {"path": Path("net.pt2"), "batch": 4, "values": ("fp32",), "threads": (1,), "seconds": 2.0}
    assert json.loads((tmp_path / "found.json").read_text()) == {"races": []}


def test_bench_of_no_file_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "net.pt2"]) == 1
    assert "error: there is no file net.pt2" in capsys.readouterr().err


def test_export_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(exported, tmp_path / "net.pt2")
    assert main(["export", str(tmp_path / "net.pt2"), "--to", "torch"]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'net.pt'}: ")
    assert torch.load(tmp_path / "net.pt", weights_only=True)["weight"].shape == (2, 3)


def test_export_names_what_must_be_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = torch.export.export(torch.nn.Linear(3, 2), (torch.ones(1, 3),))
    torch.export.save(exported, tmp_path / "net.pt2")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export", str(tmp_path / "net.pt2"), "--to", "onnx"]) == 1
    assert capsys.readouterr().err == "error: ONNX needs the package onnx: pip install 'sparsecycle[export]'\n"


def test_export_of_no_file_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "net.pt2", "--to", "onnx"]) == 1
    assert capsys.readouterr().err == "error: there is no file net.pt2\n"


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "sparsecycle.lab.options", raising=False)
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert main(["train"]) == 1
    assert "error: the command needs tyro: pip install 'sparsecycle[lab]'" in capsys.readouterr().err


def test_the_package_does_not_load_the_laboratory() -> None:
    code = "import sys, sparsecycle.cli; print([m for m in sys.modules if m.startswith(('sparsecycle.lab', 'tyro'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_that_cannot_be_had_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSECYCLE_DATA", str(tmp_path))
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"another file")
    assert main(["train", "--data", "cifar10", "--runs", str(tmp_path / "runs")]) == 1
    error = capsys.readouterr().err
    assert "cifar-10-python.tar.gz" in error
    assert "Traceback" not in error


def test_inspect_shows_what_is_in_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sparsecycle.save(nn.Linear(3, 2), tmp_path / "model.safetensors", "bf16")
    assert main(["inspect", str(tmp_path)]) == 0
    assert "weight         2×3" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "model.safetensors"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["values"] == "bf16"
    assert main(["inspect", str(tmp_path / "gone")]) == 1
    assert "gone" in capsys.readouterr().err
    assert main(["inspect"]) == 2
