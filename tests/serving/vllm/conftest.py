"""Tiny checkpoints that vLLM's kernels take, with the definition of each.

Without vLLM nothing here is collected: see `tools/vllm/parity.sh`, which makes an environment of
its own for it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.serving.vllm.asking import Definition
from tests.tiny import families


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writer of a checkpoint by family, with heads as wide as vLLM's CPU kernels need."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def write(family: str) -> Path:
        place = folder / family
        if not place.exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setitem(families.TEXT, "head_dim", 32)
                families.write(family, place)
            _rename(place / "model.safetensors")
        return place

    return write


def _rename(file: Path) -> None:
    """Name the tensors of a vision tower as vLLM does; transformers reads both."""
    old, new = "vision_tower.", "vision_tower.vision_model."
    tensors = load_file(file)
    if any(name.startswith(old) and not name.startswith(new) for name in tensors):
        renamed = {
            name.replace(old, new, 1) if new not in name else name: tensor
            for name, tensor in tensors.items()
        }
        save_file(renamed, file, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def definition(checkpoint: Callable[[str], Path]) -> Callable[[str], Definition]:
    made: dict[str, Definition] = {}

    def get(family: str) -> Definition:
        return made.setdefault(family, Definition(checkpoint(family)))

    return get
