"""Files that were damaged, and files that were made to do harm: their digests are right, and something else is not."""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fuzz_packed import KINDS, SIGNED, assembled, opened, same, sign
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from torch import nn

from sparsecycle.files.bits import pack
from sparsecycle.files.entropy import compress
from sparsecycle.files.packed import load, read_state, save

Table = Any
Parts = dict[str, bytes]


def network(seed: int = 0) -> nn.Sequential:
    """A matrix of each kind: sparse, of blocks and dead channels; and dense tensors."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(32, 32))
    with torch.no_grad():
        model[0].weight[torch.rand(30, 40) < 0.7] = 0
        blocks = torch.rand(8, 8) < 0.5
        blocks[3] = blocks[:, 5] = False
        model[2].weight[~blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)] = 0
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f"


def forge(path: Path, change: Callable[[Table, Parts], None], values: Any = "fp32") -> None:
    """Save the network, change its table and its parts, and make all digests right."""
    save(network(), path, values)
    table, parts = opened(path.read_bytes())
    change(table, parts)
    sign(table, parts)
    path.write_bytes(assembled(table, parts))


def refused(path: Path, message: str) -> None:
    """It is refused, naming the file; and a network is left as it was."""
    target = network(1)
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=message) as raised:
        load(path, target)
    assert str(path) in str(raised.value)
    assert same(target.state_dict(), before)
    with pytest.raises(ValueError, match="f(:| is| has)"):
        read_state(path)


def sections(matrix: Table, parts: Parts) -> list[bytes]:
    ends = np.cumsum([0, *matrix["lengths"]])
    return [parts[matrix["name"]][begin:end] for begin, end in itertools.pairwise(ends)]


def put(matrix: Table, parts: Parts, its: list[bytes]) -> None:
    matrix["lengths"] = [len(section) for section in its]
    parts[matrix["name"]] = b"".join(its)


def matrix_change(number: int, **fields: Any) -> Callable[[Table, Parts], None]:
    def change(table: Table, parts: Parts) -> None:
        table["matrices"][number].update(fields)

    return change


def section_change(number: int, at: int, spoil: Callable[[bytes], bytes], **fields: Any) -> Callable[..., None]:
    def change(table: Table, parts: Parts) -> None:
        matrix = table["matrices"][number]
        its = sections(matrix, parts)
        its[at] = spoil(its[at])
        put(matrix, parts, its)
        matrix.update(fields)

    return change


def test_what_is_forged_without_a_change_is_read(path: Path) -> None:
    forge(path, lambda table, parts: None)
    assert same(read_state(path), network().state_dict())
    table, _ = opened(path.read_bytes())
    first, second = table["matrices"]
    assert (first["code"], first["block"], first["alive"]) == ("rice", [1, 1], [False, False]), "what is spoilt below"
    assert (second["block"], second["alive"]) == ([4, 4], [True, True])


SPARSE, BLOCKS = 0, 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (matrix_change(SPARSE, kept=1000), "0.weight: positions? |0.weight: 1000 numbers of"),
        (matrix_change(SPARSE, k=40), "0.weight: .* numbers of 40 bits take .* bytes, and there are"),
        (matrix_change(SPARSE, k=-1), "0.weight: the Rice code's k is -1"),
        (matrix_change(SPARSE, k=1 << 60), "0.weight: the Rice code's k is 1152921504606846976"),
        (matrix_change(SPARSE, code="all"), "0.weight: 1200 numbers of .* bits take .* bytes, and there are"),
        (matrix_change(SPARSE, code="bits"), "0.weight: positions coded by 'bits' come in 2 parts"),
        (matrix_change(SPARSE, code="huffman"), "0.weight: positions are coded by 'huffman'; there are"),
        (
            matrix_change(SPARSE, lengths=[1 << 40, 0, 0, 0]),
            "0.weight: its parts have 1099511627776 bytes, and there are",
        ),
        (matrix_change(SPARSE, lengths=[]), "0.weight: its parts have 0 bytes, and there are"),
        (matrix_change(SPARSE, block=[7, 1]), r"0.weight: blocks of shape \(7, 1\) do not divide a tensor of shape"),
        (matrix_change(SPARSE, block=[0, 1]), r"0.weight: blocks of shape \(0, 1\) do not divide"),
        (matrix_change(SPARSE, block=[30]), r"0.weight: blocks of shape \(30,\) do not divide"),
        (
            matrix_change(SPARSE, alive=[True, False]),
            "0.weight: its living channels are not as many as it has channels",
        ),
        (matrix_change(SPARSE, alive=[True] * 9), "0.weight: it has 4 parts"),
        (matrix_change(SPARSE, block=[1, 2]), "0.weight: "),
        (matrix_change(BLOCKS, block=[4, 2]), "2.weight: its living channels are not as many as it has channels"),
        (matrix_change(BLOCKS, alive=[True, False]), "2.weight: positions coded by .* come in"),
        (matrix_change(BLOCKS, kept=17), "2.weight: 17 weights are kept, in blocks of 16"),
        (matrix_change(SPARSE, shape=[30, 1 << 42], kept=5), "it claims .* bytes of tensors; allowed are .* .limit."),
        (matrix_change(SPARSE, shape=[1 << 62, 1 << 62]), "0.weight: its shape is"),
        (matrix_change(SPARSE, shape=[-30, -40]), r"0.weight: its shape is \(-30, -40\)"),
        (
            matrix_change(SPARSE, stored="float16"),
            "0.weight: the values take more than 16 bits|0.weight: .* numbers of",
        ),
        (matrix_change(SPARSE, dtype="float99"), "0.weight: its type is 'float99'"),
        (
            section_change(SPARSE, 0, lambda unary: b"\xff" + unary[1:]),
            "0.weight: more than the|0.weight: .* positions, w",
        ),
        (section_change(SPARSE, 0, lambda unary: unary[:-2]), "0.weight: .* positions, where .* are said to be"),
        (
            section_change(SPARSE, 0, lambda unary: bytes(1000) + unary),
            "0.weight: a gap is larger than the tensor's 1200",
        ),
        (
            section_change(SPARSE, 0, lambda unary: bytes(20) + unary),
            "0.weight: a position runs past the tensor's 1200",
        ),
        (
            section_change(SPARSE, 1, lambda low: low + b"x"),
            "0.weight: .* numbers of .* bits take .* bytes, and there are",
        ),
        (section_change(SPARSE, 3, lambda below: below[:-1]), "0.weight: .* numbers of .* bits take"),
        (
            section_change(SPARSE, 2, lambda _: compress(bytes(1 << 24)), values={}),
            "least, packed, signs, span is too much or too little",
        ),
        (section_change(BLOCKS, 0, lambda alive: b"\0"), "2.weight: .* of 0 weights are kept"),
        (section_change(BLOCKS, 0, lambda alive: alive + b"\0"), "2.weight: its living channels are not as many"),
    ],
    ids=range(32),
)
def test_a_matrix_that_does_not_add_up(change: Callable[..., None], message: str, path: Path) -> None:
    forge(path, change)
    refused(path, message)


def scale_change(numbers: list[float]) -> Callable[..., None]:
    """Other scales, all written in full."""

    def change(table: Table, parts: Parts) -> None:
        matrix = table["matrices"][SPARSE]
        its = sections(matrix, parts)
        scales = torch.ones(30, dtype=torch.bfloat16)
        scales[: len(numbers)] = torch.tensor(numbers, dtype=torch.bfloat16)
        bits = scales.view(torch.int16).numpy().view(np.uint16).astype(np.uint64)
        magnitudes, signs = bits & np.uint64(0x7FFF), bits >> np.uint64(15)
        matrix["scales"] = {"least": 0, "span": 15, "signs": "both", "packed": False}
        below = (magnitudes & np.uint64(127)) << np.uint64(1) | signs
        its[-4:-2] = [pack(magnitudes >> np.uint64(7), 8), pack(below, 8)]
        put(matrix, parts, its)

    return change


def test_scales(path: Path) -> None:
    forge(path, scale_change([]), "int8")
    assert read_state(path)["0.weight"].abs().max() == 127
    for wrong in (math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0):
        forge(path, scale_change([2.0, wrong]), "int8")
        refused(path, "0.weight: a scale is no positive number")
    forge(path, matrix_change(SPARSE, scales=None), "int8")
    refused(path, "0.weight: scales are there if values are int8 alone")
    forge(path, section_change(SPARSE, -3, lambda below: below + b"x"), "int8")
    refused(path, "0.weight: 30 numbers of .* bits take")


def test_values(path: Path) -> None:
    def more_symbols(table: Table, parts: Parts) -> None:
        matrix = table["matrices"][SPARSE]
        its = sections(matrix, parts)
        its[2] = compress(bytes(1 << 24))
        matrix["values"]["packed"] = True
        put(matrix, parts, its)

    forge(path, more_symbols)
    refused(path, "0.weight: a part that zstd packed has more in it than it should")

    def zeros(table: Table, parts: Parts) -> None:
        matrix = table["matrices"][SPARSE]
        matrix["values"] = {"least": 0, "span": 0, "signs": "plus", "packed": False}
        put(matrix, parts, [*sections(matrix, parts)[:2], b"", b""])

    forge(path, zeros)
    refused(path, "0.weight: 0 weights are not zero, where .* are said to be")
    forge(path, matrix_change(SPARSE, values={"least": 1 << 31, "span": 1, "signs": "plus", "packed": False}))
    refused(path, "0.weight: the values take more than 32 bits")


def test_dense_tensors(path: Path) -> None:
    def fewer(table: Table, parts: Parts) -> None:
        floats = next(its for its in table["dense"] if its["dtype"] == "float32")
        floats["lengths"][-1] -= 1
        parts["sparsecycle/float32"] = parts["sparsecycle/float32"][:-1]

    forge(path, fewer)
    refused(path, "sparsecycle/float32: .* numbers of .* bits take .* bytes, and there are")

    def another_type(table: Table, parts: Parts) -> None:
        its = next(its for its in table["dense"] if its["dtype"] == "int64")
        its["dtype"] = "nothing"
        parts["sparsecycle/nothing"] = parts.pop("sparsecycle/int64")

    forge(path, another_type)
    refused(path, "sparsecycle/nothing: its type is 'nothing'; allowed are")


def test_parts_that_are_not_those_of_the_table(path: Path) -> None:
    forge(path, lambda table, parts: parts.update(more=b"x"))
    refused(path, r"its parts are not those of its table: \['more'\]")
    forge(path, lambda table, parts: parts.pop("2.weight") and None)
    refused(path, r"its parts are not those of its table: \['2.weight'\]")
    save_file({"sparsecycle/contents": np.ones((2, 2), np.uint8)}, path, {"kind": "packed model", "version": "1"})
    refused(path, "sparsecycle/contents is no sequence of bytes")
    save_file({"sparsecycle/contents": np.ones(2, np.float32)}, path, {"kind": "packed model", "version": "1"})
    refused(path, "sparsecycle/contents is no sequence of bytes")
    save_file({"x": np.ones(2, np.uint8)}, path, {"kind": "packed model", "version": "1"})
    refused(path, "sparsecycle/contents is missing")


def test_files_of_something_else(path: Path) -> None:
    save_file({"x": np.ones(2, np.uint8)}, path)
    refused(path, "f is not a packed model of sparsecycle, but 'some other file'")
    save_file({"x": np.ones(2, np.uint8)}, path, {"kind": "ticket"})
    refused(path, "f is not a packed model of sparsecycle, but 'ticket'")
    save_file({"x": np.ones(2, np.uint8)}, path, {"kind": "packed model", "version": "2"})
    refused(path, "f has format version 2; this program reads 1")
    for data in (b"", b"x", bytes(100), b"\xff" * 100, json.dumps({}).encode()):
        path.write_bytes(data)
        refused(path, "f is not a whole safetensors file")


def test_a_file_that_breaks_in_its_last_tensor_touches_none(path: Path) -> None:
    def change(table: Table, parts: Parts) -> None:
        last = table["dense"][-1]
        last["lengths"].append(0)

    forge(path, change)
    refused(path, "values come in 3 parts, not in 2")


def test_a_limit_of_memory(path: Path) -> None:
    save(network(), path)
    size = sum(tensor.numel() * tensor.itemsize for tensor in network().state_dict().values())
    assert same(read_state(path, limit=size), network().state_dict())
    with pytest.raises(ValueError, match=f"it claims {size:,} bytes of tensors; allowed are {size - 1:,} .limit."):
        load(path, network(1), limit=size - 1)


def endless_positions(table: Table, parts: Parts) -> None:
    matrix = table["matrices"][SPARSE]
    matrix.update(code="gaps", k=0)
    put(matrix, parts, [compress(bytes(1 << 28)), *sections(matrix, parts)[2:]])


def endless_values(table: Table, parts: Parts) -> None:
    matrix = table["matrices"][SPARSE]
    matrix["values"]["packed"] = True
    its = sections(matrix, parts)
    put(matrix, parts, [*its[:2], compress(bytes(1 << 28)), its[3]])


def terabytes(table: Table, parts: Parts) -> None:
    table["matrices"][SPARSE].update(shape=[1 << 20, 1 << 20], kept=0)


@pytest.mark.parametrize("bomb", [endless_positions, endless_values, terabytes])
def test_a_small_file_takes_little_memory(bomb: Callable[..., None], path: Path) -> None:
    forge(path, bomb)
    assert path.stat().st_size < 1 << 17
    target = network()
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="f: "):
            load(path, target)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21


def test_a_table_without_end(path: Path) -> None:
    save(network(), path)
    _, parts = opened(path.read_bytes())
    path.write_bytes(assembled(compress(b" " * (1 << 26)), parts))
    tracemalloc.start()
    try:
        refused(path, "f: the table of contents has more than 4194304 bytes")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 24


def test_positions_of_one_tensor_are_read_in_pieces(path: Path) -> None:
    weight = torch.ones(1 << 10, 1 << 10)
    weight[::7] = 0
    linear = nn.Linear(1 << 10, 1 << 10, bias=False)
    linear.weight.data = weight
    save(linear, path)
    tracemalloc.start()
    try:
        load(path, linear)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 21, "beside the tensors, which torch has"


def test_arguments_that_ask_for_terabytes(path: Path) -> None:
    linear = nn.Linear(2, 3)
    for arguments in ([(1, 8, 8), 10**11], [(1, 10**6, 10**6), 10]):
        save(linear, path, factory="lenet-300-100", arguments=arguments)
        with pytest.raises(ValueError, match="f is of another network: it lacks fc1.weight"):
            load(path)
    save(linear, path, factory="lenet-300-100", arguments=[(1, 10**30, 8), 10])
    with pytest.raises(ValueError, match="f calls 'lenet-300-100' with"):
        load(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("saved") / "f"
    found = {}
    for values in ("fp32", "bf16", "fp16", "int8"):
        save(network(), path, values)  # type: ignore[arg-type]
        found[values] = path.read_bytes()
    return found


@given(st.sampled_from(["fp32", "bf16", "fp16", "int8"]), st.sampled_from(KINDS), st.integers(0, 2**31))
def test_any_mutation_is_refused_or_harmless(
    saved: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, values: str, mutate: Any, seed: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated"
    path.write_bytes(saved[values])
    expected = read_state(path)
    path.write_bytes(mutate(saved[values], random.Random(seed)))
    try:
        state = read_state(path, limit=1 << 26)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017 - anything else is raised
        return
    assert mutate in SIGNED or same(state, expected)
