"""A header is believed in nothing."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.files.safetensors_header import read_header


def written(path: Path, header: object, data: bytes = b"") -> Path:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(content).to_bytes(8, "little") + content + data)
    return path


def tensor(dtype="F32", shape=(2,), offsets=(0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_what_the_library_writes_is_read(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"x": np.zeros((3, 2), np.float16), "y": np.ones(4, np.int64)}, file, {"by": "me"})
    entries = {entry.key: (entry.dtype, entry.shape) for entry in read_header(file)}
    assert entries == {"x": ("F16", (3, 2)), "y": ("I64", (4,))}


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"x": tensor()}, 4, "another|take 8 bytes"),
        ({"x": tensor()}, 12, "take 8 bytes"),
        ({"x": tensor(shape=(3,))}, 8, "another size"),
        ({"x": tensor(shape=(2**62, 4))}, 8, "another size"),
        ({"x": tensor(shape=(-2,))}, 8, "no shape"),
        ({"x": tensor(shape=(True, 2))}, 8, "no shape"),
        ({"x": tensor(dtype="F9")}, 8, "unknown type"),
        ({"x": tensor(dtype=["F32"])}, 8, "unknown type"),
        ({"x": tensor(), "y": tensor(offsets=(4, 12))}, 12, "does not lie"),
        ({"x": tensor(offsets=(4, 12))}, 12, "does not lie"),
        ({"x": tensor(offsets=(8, 0))}, 8, "no place"),
        ({"x": "F32"}, 0, "no tensor"),
        ([], 0, "not an object"),
        ({"x": tensor(), "__metadata__": {"a": 1}}, 8, "not texts"),
        ({"x": tensor(), "__metadata__": [["a", "b"]]}, 8, "not texts"),
        (b'{"__metadata__": {"a": NaN}}', 0, "not texts"),
        ({"\ud800": tensor()}, 8, "half a character"),
        ({"x": tensor(), "__metadata__": {"a": "\udfff"}}, 8, "half a character"),
        (b'{"x": 1, "x": 2}', 0, "not JSON"),
        (b"[" * 100_000, 0, "not JSON"),
        (b"\xff\xfe", 0, "not JSON"),
    ],
)
def test_header_that_lies_is_refused(tmp_path, header, data, said) -> None:
    file = written(tmp_path / "a.safetensors", header, bytes(data))
    with pytest.raises(ValueError, match=said):
        read_header(file)


def test_length_beyond_the_file_is_refused(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    for content in (b"", b"1234", (2**63).to_bytes(8, "little") + b"{}"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="ends within"):
            read_header(file)


def test_nothing_that_passes_is_refused_by_the_library(tmp_path) -> None:
    save_file({"x": np.zeros((3, 2), np.float32), "y": np.ones(4, np.int8)}, tmp_path / "a")
    sound = (tmp_path / "a").read_bytes()
    rng, file = random.Random(1), tmp_path / "b"
    for _ in range(500):
        damaged = bytearray(sound)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(120)] ^= 1 << rng.randrange(8)
        file.write_bytes(damaged[: rng.choice([len(damaged), rng.randrange(len(damaged))])])
        try:
            keys = {entry.key for entry in read_header(file)}
        except ValueError:
            continue
        with safe_open(file, "numpy") as opened:
            assert keys == set(opened.keys())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 200_000, "deeply"),
        (b'{"a":' * 150 + b"1" + b"}" * 150, "deeply"),
        (b"{", "not valid JSON"),
        (b"1" * 5000, "not valid JSON"),
        (b'"\xff"', "UTF-8"),
    ],
)
def test_json_that_would_stop_a_loader_is_refused(tmp_path, content, said) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_json(file)
