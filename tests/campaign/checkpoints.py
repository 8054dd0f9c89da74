"""Checkpoints: headers of safetensors, indexes and the JSON files of a model folder.

What is right: where the project finds no fault with weight files, the safetensors library opens
them and finds the same names, types, shapes and bytes; a folder whose weights nobody touched loads
with those weights, or with an error. Nothing that a file asks for may run.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.weight_files import survey_weights
from tests.campaign.damage import damage, odd_json
from tests.campaign.tally import Part, WrongValueError

_PHANTOM = defaults.PHANTOM_FOLDER / "llava"
_JSON_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "processor_config.json",
               "generation_config.json", "mrrag_profile.json")  # fmt: skip
_HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
    "c": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
}
_INDEX = {
    "metadata": {"total_size": 40},
    "weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors",
                   "c": "model-1.safetensors"},
}  # fmt: skip
_NAMES = ("../model.safetensors", "/etc/passwd", "a/b.safetensors", "model.bin", "..", "",
          "model-1.safetensors", "C:\\model.safetensors", "\ud800.safetensors",
          "x" * 5000 + ".safetensors", "model\0.safetensors")  # fmt: skip
_TEMPLATES = (
    "{% for i in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ raise_exception('no') }}",
    "{% for message in messages %}{{ message.content }}{% endfor %}",
    "{{ messages[0]['content'] }}" * 3,
    "{{",
)
_CODE = {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil", "AutoTokenizer": ["evil.Evil"] * 2,
         "AutoProcessor": "evil.Evil", "AutoImageProcessor": "evil.Evil"}  # fmt: skip


@st.composite
def folders(draw: st.DrawFn) -> dict[str, bytes]:
    """Draw the files of a folder: of weights alone, or those of the phantom that are changed."""
    kind = draw(st.sampled_from(("header", "header", "header", "header", "index", "json", "json")))
    if kind == "header":
        return {"model.safetensors": draw(_weights())}
    if kind == "index":
        index = json.dumps(_INDEX)
        if draw(st.booleans()):
            name = draw(st.sampled_from(_NAMES))
            index = index.replace(
                '"model-1.safetensors"', json.dumps(name), draw(st.integers(1, 3))
            )
        text = draw(odd_json(index)).encode()
        return {
            "model.safetensors.index.json": draw(damage(text)) if draw(st.booleans()) else text,
            "model-1.safetensors": _file(json.dumps(_HEADER)),
        }
    name = draw(st.sampled_from(_JSON_FILES))
    text = (_PHANTOM / name).read_text()
    how = draw(st.sampled_from(("values", "values", "values", "bytes", "code", "template")))
    if how == "code":
        return {name: json.dumps({**json.loads(text), "auto_map": _CODE}).encode()}
    if how == "template":
        own = json.loads((_PHANTOM / "tokenizer_config.json").read_text())
        own["chat_template"] = draw(st.sampled_from(_TEMPLATES))
        return {"tokenizer_config.json": json.dumps(own).encode(), "mrrag_profile.json": b""}
    data = draw(odd_json(text)).encode() if how == "values" else draw(damage(text.encode()))
    return {name: data}


@st.composite
def _weights(draw: st.DrawFn) -> bytes:
    text = json.dumps(_HEADER)
    if draw(st.booleans()):
        text = draw(odd_json(text))
    length = draw(st.sampled_from((None, None, None, 0, 1, 2**31, 2**63, 2**64 - 1)))
    data = _file(text, length, draw(st.sampled_from((40, 40, 40, 39, 41, 0))))
    return draw(damage(data)) if draw(st.integers(0, 2)) == 0 else data


def _file(header: str, length: int | None = None, size: int = 40) -> bytes:
    content = header.encode()
    return struct.pack("<Q", len(content) if length is None else length) + content + bytes(size)


@contextmanager
def _unlogged() -> Iterator[None]:
    """What is damaged is logged as well as raised, ten thousand times."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(before)


@_unlogged()
def check(files: dict[str, bytes], folder: Path) -> None:
    if any(name.endswith(".safetensors") for name in files):
        for name, data in files.items():
            (folder / name).write_bytes(data)
        _check_weights(folder)
        return
    target = folder / "model"
    shutil.copytree(_PHANTOM, target)
    effect = folder / "effect"
    (target / "evil.py").write_text(f"open({str(effect)!r}, 'w')\nclass Evil: pass\n")
    for name, data in files.items():
        if data:
            (target / name).write_bytes(data)
        else:
            (target / name).unlink()
    try:
        loaded = load_model(str(target), device="cpu")
    finally:
        if effect.exists():
            raise WrongValueError("code of a checkpoint has run")
    if _digest(loaded.model) != _known():
        raise WrongValueError("other weights are loaded than the folder holds")
    depth = loaded.model.config.get_text_config().num_hidden_layers
    if not all(0 <= layer < depth for layer in loaded.critical_layers):
        raise WrongValueError("a layer is steered that the model does not have")


def _check_weights(folder: Path) -> None:
    from safetensors import safe_open

    found = survey_weights(folder)
    if not found.complete:
        raise ModelError(found.problems[0] if found.problems else "incomplete")
    seen = {}
    for name in found.sizes:
        try:
            with safe_open(folder / name, "pt") as file:
                for key in file.keys():  # noqa: SIM118 (it is no mapping)
                    tensor = file.get_tensor(key)
                    seen[key] = (tuple(tensor.shape), tensor.dtype)
        except Exception as error:
            raise WrongValueError(
                f"a file is found good that safetensors refuses: {error}"
            ) from None
    if {key: (one.shape, one.dtype) for key, one in found.tensors.items()} != seen:
        raise WrongValueError("other tensors are found than safetensors reads")


def _digest(model: Any) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@functools.cache
def _known() -> str:
    return _digest(load_model(str(_PHANTOM), device="cpu").model)


PART = Part("checkpoints", folders(), check)
