"""Small checkpoints in the original layout, one for every test to change."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from mrrag_llamaindex.generation.checkpoints.stored_tensors import StoredTensor


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Models this small only wait for their threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The module `original_checkpoint`."""
    file = Path(__file__).with_name("original_checkpoint.py")
    spec = importlib.util.spec_from_file_location("original_checkpoint", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pieces(make: ModuleType) -> bytes:
    """A sentencepiece model."""
    return make.sentencepiece_model()


@pytest.fixture(scope="session")
def clip(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the CLIP model that the checkpoint names."""
    folder = tmp_path_factory.mktemp("clip")
    make.write_clip(folder)
    return folder


@pytest.fixture
def original(make: ModuleType, clip: Path, pieces: bytes) -> Any:
    return make.make_original(clip, pieces)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on any read of a value that is not the comparison with CLIP."""
    monkeypatch.setattr(
        "mrrag_llamaindex.generation.checkpoints.llava_original.vision_tower._difference",
        lambda *_: "",
    )
    monkeypatch.setattr(StoredTensor, "read", lambda self: pytest.fail(f"{self.key} was read"))
