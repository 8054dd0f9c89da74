"""An image that is sent to another process becomes the same tensors there."""

from __future__ import annotations

import pytest
import torch

from mrrag_llamaindex.generation.checkpoints.loading import load_model
from tests.tiny.families import write


@pytest.mark.parametrize("name", ["llava", "llava_next", "gemma3", "qwen2_5_vl"])
def test_it_is_seen_as_it_was(name, tmp_path, films):
    reader = load_model(str(write(name, tmp_path / name)), device="cpu").images
    for film in (films[0], films[1].resize((200, 90)), films[2].resize((30, 120))):
        sent = reader.to_send(film)
        assert sent.mode == "RGB"
        here, there = reader.read([film]), reader.read([sent])
        assert here.texts == there.texts
        assert here.tensors.keys() == there.tensors.keys()
        for key, value in here.tensors.items():
            assert torch.equal(value, there.tensors[key]), key


def test_the_phantom_sends_what_no_library_resizes(engine, films):
    sent = engine.loaded.images.to_send(films[0])
    assert sent.size == (48, 48)
    assert sent.tobytes() == engine.loaded.images.to_send(sent).tobytes()
