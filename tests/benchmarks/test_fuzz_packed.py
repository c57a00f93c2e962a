from __future__ import annotations

import random
from pathlib import Path

import torch
from benchmarks.fuzz_packed import KINDS, SIGNED, Subject, assembled, fuzz, opened, outcome, same, sign, subjects


def test_what_is_taken_apart_and_put_together_is_read(tmp_path: Path) -> None:
    for subject in subjects(tmp_path):
        table, parts = opened(subject.data)
        sign(table, parts)
        (tmp_path / "f").write_bytes(assembled(table, parts))
        assert outcome(subject, tmp_path / "f") == "identical"


def test_every_mutation_changes_the_file_and_is_the_same_again(tmp_path: Path) -> None:
    data = subjects(tmp_path)[0].data
    for mutate in KINDS:
        found = [mutate(data, random.Random(seed)) for seed in range(4)]
        assert found == [mutate(data, random.Random(seed)) for seed in range(4)]
        assert len({data, *found}) > 2


def test_some_mutations_of_every_kind(tmp_path: Path) -> None:
    tallies, wrong = fuzz(range(9 * len(KINDS)), 1, tmp_path)
    assert wrong == []
    assert {name: tally.outcomes.total() for name, tally in tallies.items()} == {kind.__name__: 9 for kind in KINDS}
    assert sum(tally.outcomes["refused"] for tally in tallies.values()) > 5 * len(KINDS)
    assert not any(
        tally.outcomes["other"] for name, tally in tallies.items() if name not in {k.__name__ for k in SIGNED}
    )


def test_what_must_not_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"")

    def subject(error: BaseException | None) -> Subject:
        def read(path: Path) -> dict[str, torch.Tensor]:
            if error:
                raise error
            return {"w": torch.ones(2)}

        return Subject(b"", read, {"w": torch.zeros(2)})

    assert outcome(subject(None), tmp_path / "f") == "other"
    assert outcome(subject(ValueError(f"{tmp_path / 'f'}: w: no")), tmp_path / "f") == "refused"
    assert outcome(subject(ValueError("no")), tmp_path / "f") == "ValueError without the file's name: no"
    assert outcome(subject(OverflowError("no")), tmp_path / "f") == "OverflowError: no"


def test_the_same_is_the_same_bit_for_bit() -> None:
    zero = {"a": torch.zeros(2)}
    assert same(zero, {"a": torch.zeros(2)})
    assert not same(zero, {"a": -torch.zeros(2)})
    assert not same(zero, {"a": torch.zeros(2, 1)})
    assert not same(zero, {"a": torch.zeros(2, dtype=torch.int32)})
    assert not same({**zero, "b": zero["a"]}, {"b": zero["a"], **zero})
