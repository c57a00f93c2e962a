from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsecycle.lab.store import BrokenFile, RunFolder, RunInUse, digest, plain


def folder(tmp_path: Path, **config: object) -> RunFolder:
    return RunFolder(tmp_path / "runs", "a label: x/y", config)


@dataclass(frozen=True)
class Settings:
    rate: float = 1.0
    limit: float | None = None
    size: int = 1


def test_the_digest_is_that_of_the_canonical_json() -> None:
    # sha256 of {"a":1,"b":[2.0,null]}
    assert digest({"b": (2.0, None), "a": 1}) == "6e9ecd594ebc01016eba02b76b86dcb4b32b3c397043c670c95ff3cc1e450bea"


def test_whole_numbers_in_float_fields_do_not_change_the_digest() -> None:
    assert plain(Settings(rate=1, limit=2)) == {"rate": 1.0, "limit": 2.0, "size": 1}
    assert digest(plain(Settings(rate=1))) == digest(plain(Settings(rate=1.0)))
    assert digest(plain(Settings())) != digest(plain(Settings(limit=0.0)))


@given(st.dictionaries(st.text(), st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()))
def test_the_digest_ignores_the_order_and_sees_every_value(config: dict[str, object]) -> None:
    assert digest(config) == digest(dict(reversed(config.items())))
    assert digest(config) != digest({**config, "one more": 1})


def test_a_number_that_is_not_finite_has_no_digest() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        digest({"lr": float("nan")})


def test_the_folders_name(tmp_path: Path) -> None:
    run = folder(tmp_path, lr=0.1)
    assert run.path.name == f"a_label_x_y-{run.digest[:8]}"
    assert run.path != folder(tmp_path, lr=0.2).path
    assert not run.path.exists()
    with run.lock():
        assert json.loads((run.path / "config.json").read_text())["lr"] == 0.1


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    run = folder(tmp_path)
    code = (
        "import sys; from sparsecycle.lab.store import RunFolder\n"
        f"with RunFolder({str(tmp_path / 'runs')!r}, 'a label: x/y', {{}}).lock():\n"
        "    print('in', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        with pytest.raises(RunInUse, match=f"process {process.pid} is at this run"), run.lock():
            pass
        process.kill()
    with run.lock(), pytest.raises(RunInUse, match=f"process {os.getpid()}"), run.lock():
        pass


def test_a_changed_configuration_is_noticed(tmp_path: Path) -> None:
    run = folder(tmp_path, lr=0.1)
    with run.lock():
        pass
    config = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**config, "lr": 0.2}))
    with pytest.raises(BrokenFile, match="config.json holds the configuration"), run.lock():
        pass
    (run.path / "config.json").write_text("{")
    with pytest.raises(BrokenFile, match="config.json is not JSON"), run.lock():
        pass


def test_a_file_is_whole_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = folder(tmp_path)
    with run.lock():
        run.write_bytes("file", b"old")

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            run.write_bytes("file", b"new")
        assert (run.path / "file").read_bytes() == b"old"
        assert list(run.path.glob(".*")) == []


def test_what_a_kill_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.lock():
        (run.path / ".weights.safetensors.123.tmp").write_bytes(b"half")
    with run.lock():
        assert not list(run.path.glob("*.tmp"))
        assert not list(run.path.glob(".*.tmp"))


def test_checkpoints(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.lock():
        assert run.load_checkpoint() is None
        run.save_checkpoint(3, {"epoch": 3, "w": torch.arange(4.0)})
        run.save_checkpoint(12, {"epoch": 12, "w": torch.arange(5.0)})
        assert len(list(run.path.glob("checkpoint-*"))) == 1
        state = run.load_checkpoint()
        assert state is not None
        assert state["epoch"] == 12
        assert torch.equal(state["w"], torch.arange(5.0))
        run.drop_checkpoints()
        assert run.load_checkpoint() is None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damage: str) -> None:
    run = folder(tmp_path)
    with run.lock():
        run.save_checkpoint(1, {"w": torch.zeros(1000)})
        (path,) = run.path.glob("checkpoint-*")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"flip": bytes(data), "cut": bytes(data[:100]), "empty": b""}[damage])
        with pytest.raises(BrokenFile, match=rf"{path.name} is damaged.*delete it"):
            run.load_checkpoint()


def test_metrics_are_appended_and_replaced(tmp_path: Path) -> None:
    run = folder(tmp_path)
    with run.lock():
        run.add_metrics({"epoch": 1})
        run.add_metrics({"epoch": 2})
        with open(run.path / "metrics.jsonl", "a") as file:
            file.write('{"epo')
        run.set_metrics([{"epoch": 1}])
        run.add_metrics({"epoch": 2, "loss": 0.5})
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"epoch": 1}, {"epoch": 2, "loss": 0.5}]
