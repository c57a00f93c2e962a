"""Whether a packed file that was damaged, or made to do harm, gets past its reader.

    python -m benchmarks.fuzz_packed [--mutations 100000] [--first 0] [--seed 0]

Run it from the repository's root, on Linux. Small packed files are changed at random, and each is read under a limit
of time and one of memory. Damage (bits, bytes, ranges of the file, its header) must be refused with a ValueError, or
change no weight. Files whose digests were made right again ("signed": their table, its text, a part, also beneath zstd)
must be refused with a ValueError, or be read: whoever makes a file may put any weights into it. Everything else is
printed, with what repeats it, and ends with status 1.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import json
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as from_safetensors
from torch import Tensor, nn

from sparsecycle.files.entropy import Frame, compress
from sparsecycle.files.packed import load, read_state, save
from sparsecycle.lab.bench.tables import table as as_table
from sparsecycle.lab.models import build

SECONDS = 5.0
MEMORY = 1 << 30  # bytes of address space, beyond what is taken at the start
LIMIT = 1 << 26  # bytes of tensors that a file may claim
CONTENTS = "sparsecycle/contents"

Random = random.Random


# --- packed files, taken apart and put together ----------------------------------------------------------------------


def opened(data: bytes) -> tuple[Any, dict[str, bytes]]:
    """A packed file's table of contents, as JSON has it, and its parts."""
    parts = {name: array.tobytes() for name, array in sorted(from_safetensors(data).items())}
    return json.loads(unpacked(parts.pop(CONTENTS))), parts


def unpacked(frame: bytes) -> bytes:
    return Frame(np.frombuffer(frame, np.uint8)).take(LIMIT, fewer=True).tobytes()


def sign(table: Any, parts: Mapping[str, bytes]) -> None:
    """Put the parts' digests into the table."""
    for stored in (*table["matrices"], *table["dense"]):
        name = stored.get("name", f"sparsecycle/{stored['dtype']}")
        if name in parts:
            stored["digest"] = hashlib.sha256(parts[name]).hexdigest()[:16]


def assembled(table: Any, parts: Mapping[str, bytes]) -> bytes:
    """The packed file of a table, JSON or already compressed, and its parts."""
    data = table if isinstance(table, bytes) else compress(json.dumps(table).encode(), quick=True)
    metadata = {"format": "pt", "kind": "packed model", "version": "1", "digest": hashlib.sha256(data).hexdigest()}
    header: dict[str, Any] = {"__metadata__": metadata}  # safetensors itself writes these in any order
    end = 0
    for name, part in {**parts, CONTENTS: data}.items():
        header[name] = {"dtype": "U8", "shape": [len(part)], "data_offsets": [end, end + len(part)]}
        end += len(part)
    return with_header(header, b"".join([*parts.values(), data]))


def with_header(header: Any, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


# --- what is mutated -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subject:
    """A packed file, how it is read, and what is in it."""

    data: bytes
    read: Callable[[Path], dict[str, Tensor]]
    state: dict[str, Tensor]


def subjects(folder: Path) -> list[Subject]:
    """Small packed files of every kind that there is."""
    found = []
    for prune in (_unstructured, _two_of_four, _blocks, _filters, _dense):
        for values in ("fp32", "bf16", "fp16", "int8"):
            model = _network()
            with torch.no_grad():
                for weight in (model[0].weight, model[3].weight):
                    weight *= prune(weight)
            save(model, folder / "subject", values, classes=["a", "b"], mean=[0.5])
            found.append(_subject(folder / "subject", lambda path: read_state(path, limit=LIMIT)))
    own = ((1, 8, 8), 3)
    save(build("linear", *own), folder / "subject", factory="linear", arguments=own)
    found.append(_subject(folder / "subject", lambda path: load(path, limit=LIMIT).state_dict()))
    return found


def _subject(path: Path, read: Callable[[Path], dict[str, Tensor]]) -> Subject:
    return Subject(assembled(*opened(path.read_bytes())), read, read(path))


def _network() -> nn.Sequential:
    """All kinds of tensors: matrices, norms, a counter, one that is tied, and one that is empty."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16, 32), nn.Linear(16, 32))
    model[4].weight = model[3].weight
    model.register_buffer("empty", torch.empty(0, 3, dtype=torch.float64))
    return model


def _unstructured(weight: Tensor) -> Tensor:
    return torch.rand_like(weight) < 0.2


def _two_of_four(weight: Tensor) -> Tensor:
    order = torch.rand_like(weight).reshape(-1, 4).argsort(1)
    return (order < 2).reshape(weight.shape)


def _blocks(weight: Tensor) -> Tensor:
    blocks = torch.rand([n // 4 if d < 2 else 1 for d, n in enumerate(weight.shape)]) < 0.4
    return blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)


def _filters(weight: Tensor) -> Tensor:
    return (torch.rand(len(weight)) < 0.5).reshape(-1, *[1] * (weight.dim() - 1))


def _dense(weight: Tensor) -> Tensor:
    return torch.ones_like(weight)


# --- mutations -------------------------------------------------------------------------------------------------------


def flip(data: bytes, chance: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, chance: Random) -> bytes:
    begin, end = _range(data, chance)
    value = chance.choice([b"\0", b"\xff", b" ", b"9"])
    return data[:begin] + value * (end - begin) + data[end:]


def cut(data: bytes, chance: Random) -> bytes:
    begin, end = _range(data, chance)
    return data[:begin] + (data[end:] if chance.random() < 0.5 else b"")


def insert(data: bytes, chance: Random) -> bytes:
    at = chance.randint(0, len(data))
    return data[:at] + chance.randbytes(chance.randint(1, 16)) + data[at:]


def swap(data: bytes, chance: Random) -> bytes:
    a, b, c, d = sorted(chance.randint(0, len(data)) for _ in range(4))
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def edit_header(data: bytes, chance: Random) -> bytes:
    """Change safetensors' own table, which nothing signs."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header, chance)
    return with_header(header, data[8 + length :])


def edit_table(data: bytes, chance: Random) -> bytes:
    """Change fields of the table of contents, and sign it."""
    table, parts = opened(data)
    for _ in range(chance.choice([1, 1, 2])):
        edit(table, chance)
    return assembled(table, parts)


def spoil_table(data: bytes, chance: Random) -> bytes:
    """Change the table's text, and sign it."""
    table, parts = opened(data)
    text = chance.choice(DAMAGE)(json.dumps(table).encode(), chance)
    return assembled(compress(text, quick=True), parts)


def spoil_part(data: bytes, chance: Random) -> bytes:
    """Change a part's bytes, below zstd where that packed them, and sign it; mostly with its length right."""
    table, parts = opened(data)
    stored = chance.choice([its for its in (*table["matrices"], *table["dense"]) if sum(its["lengths"])])
    name = stored.get("name", f"sparsecycle/{stored['dtype']}")
    ends = np.cumsum([0, *stored["lengths"]])
    sections = [parts[name][begin:end] for begin, end in itertools.pairwise(ends)]
    i = chance.choice([i for i, section in enumerate(sections) if section])
    framed = sections[i].startswith(b"\x28\xb5\x2f\xfd") and chance.random() < 0.7
    spoilt = chance.choice(DAMAGE)(unpacked(sections[i]) if framed else sections[i], chance)
    sections[i] = compress(spoilt) if framed else spoilt
    parts[name] = b"".join(sections)
    if chance.random() < 0.9:
        stored["lengths"] = [len(section) for section in sections]
    sign(table, parts)
    return assembled(table, parts)


DAMAGE = [flip, overwrite, cut, insert, swap]
SIGNED = [edit_table, spoil_table, spoil_part]
KINDS = [*DAMAGE, edit_header, *SIGNED]

VALUES: list[Any] = [
    *(0, 1, 2, 3, 4, 7, 8, 9, 16, 63, 64, 65, 255, -1, 1 << 16, 1 << 24, 1 << 31, 1 << 48, 1 << 53, 1 << 63, 1 << 64),
    *(10**30, 10**400, -(1 << 63), 0.5, 1e308, float("nan"), float("inf"), True, False, None, "", "x", "\ud800", "0"),
    *([], {}, [0], [[]], [1 << 40, 1 << 40], [0, 1 << 62, 1 << 62], [10**400], {"x": 1}, {"x": [-1]}, [True] * 3),
    *("int8", "bool", "float64", "bfloat16", "float8_e5m2", "complex64", "rice", "gaps", "bits", "all", "plus", "both"),
    *("0.weight", "3.weight", "4.weight", CONTENTS, "sparsecycle/float32", "U8", "F32", "resnet-18", "os:abort"),
]


def edit(tree: Any, chance: Random) -> None:
    """Change something in JSON: a value, a key, or whether it is there, once or twice."""
    holder, key = _place(tree, chance)
    value, way = holder[key], chance.random()
    if way < 0.1:
        del holder[key]
    elif way < 0.2 and isinstance(holder, list):
        holder.insert(key, value)
    elif way < 0.3 and isinstance(holder, dict):
        holder[chance.choice([*holder, "x", ""])] = holder.pop(key)
    elif way < 0.6 and type(value) is int:
        near = [value + 1, value - 1, 2 * value, value // 2, -value, value ^ 1 << chance.randrange(8)]
        holder[key] = chance.choice(near)
    elif way < 0.7:
        its_holder, its_key = _place(tree, chance)
        holder[key] = copy.deepcopy(its_holder[its_key])
    else:
        alike = [one for one in VALUES if type(one) is type(value)] if way < 0.9 else VALUES
        holder[key] = copy.deepcopy(chance.choice(alike))


def _place(tree: Any, chance: Random) -> tuple[Any, Any]:
    """Something in JSON: down from the root, so that a list of many things is not looked into more than others."""
    while True:
        key = chance.choice([*tree]) if isinstance(tree, dict) else chance.randrange(len(tree))
        if not isinstance(tree[key], dict | list) or not tree[key] or chance.random() < 0.1:
            return tree, key
        tree = tree[key]


def _range(data: bytes, chance: Random) -> tuple[int, int]:
    begin = chance.randrange(len(data))
    return begin, min(len(data), begin + chance.choice([1, 1, 2, 4, 8, 64, 1024]))


# --- what comes of them ----------------------------------------------------------------------------------------------


class Late(BaseException):
    """Reading took too long; no handler of exceptions keeps this one."""


@dataclass
class Tally:
    """What came of one kind of mutation."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    """Whether names, their order, types, shapes and bits are the same."""
    return list(first) == list(second) and all(
        a.dtype == b.dtype and a.shape == b.shape and _bits(a) == _bits(b)
        for a, b in zip(first.values(), second.values(), strict=True)
    )


def _bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def outcome(subject: Subject, path: Path) -> str:
    """``"refused"``, ``"identical"``, ``"other"`` weights, or what should not have been raised."""
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        state = subject.read(path)
    except ValueError as error:
        return "refused" if str(path) in str(error) else f"ValueError without the file's name: {error}"
    except Late:
        return f"more than {SECONDS:g} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return "identical" if same(state, subject.state) else "other"


def fuzz(mutations: range, seed: int, folder: Path) -> tuple[dict[str, Tally], list[str]]:
    """Try mutations; what comes of each kind, and what must not be."""
    base = subjects(folder)
    tallies: dict[str, Tally] = defaultdict(Tally)
    wrong = []
    path = folder / "mutated"
    for number in mutations:
        chance = Random(f"{seed} {number}")
        mutate, subject = KINDS[number % len(KINDS)], chance.choice(base)
        path.write_bytes(mutate(subject.data, chance))
        begin = time.perf_counter()
        found = outcome(subject, path)
        tally = tallies[mutate.__name__]
        tally.slowest = max(tally.slowest, time.perf_counter() - begin)
        allowed = found in ("refused", "identical") or (found == "other" and mutate in SIGNED)
        tally.outcomes[found if allowed else "wrong"] += 1
        if not allowed:
            wrong.append(f"{mutate.__name__}: {found[:200]!r} (--seed {seed} --first {number} --mutations 1)")
    return tallies, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def late(*_: object) -> None:
        raise Late

    signal.signal(signal.SIGALRM, late)
    with tempfile.TemporaryDirectory() as folder:
        subjects(Path(folder))  # what is imported on the way has its memory before it is limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, most))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        mutations = range(arguments.first, arguments.first + arguments.mutations)
        tallies, wrong = fuzz(mutations, arguments.seed, Path(folder))
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    head = ["mutation", "tried", "refused", "identical", "other weights", "wrong", "slowest, ms"]
    rows = [
        [name, f"{tally.outcomes.total():,}"]
        + [f"{tally.outcomes[one]:,}" for one in ("refused", "identical", "other", "wrong")]
        + [f"{1000 * tally.slowest:.0f}"]
        for name, tally in tallies.items()
    ]
    print(as_table(head, rows))
    print(f"\nLargest growth of memory: {grown / 1024:.0f} MiB")
    if wrong:
        sys.exit("\n".join(["", f"{len(wrong)} must not be:", *wrong[:50]]))


if __name__ == "__main__":
    main()
