"""What every folder of tests can ask for: tiny models, toy pairs, the shipped phantom model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from mrrag_llamaindex import defaults

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.store.pair import Pair
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower
    from tests.tiny.pairs import Vectors
    from tests.tiny.token_server import TokenServer

# Torch and the rest are imported by what needs them: this file is loaded before the workers start.


@pytest.fixture(scope="session")
def engine() -> LlavaEngine:
    """The phantom model, loaded once."""
    from mrrag_llamaindex.generation.checkpoints.loading import load_model
    from mrrag_llamaindex.generation.engine import LlavaEngine

    return LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=4)


@pytest.fixture
def token_server(engine: LlavaEngine) -> Iterator[TokenServer]:
    """A server that speaks vLLM's interface of tokens, over the phantom."""
    from tests.tiny.token_server import TokenServer

    served = TokenServer(engine)
    thread = threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield served
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    from tests.tiny import tokenizers

    return tokenizers.byte_pairs(["<image>"])


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    from tests.tiny import tokenizers

    return tokenizers.words()


@pytest.fixture
def tokenizer_of() -> Callable[..., PreTrainedTokenizerFast]:
    from tests.tiny import tokenizers

    return tokenizers.words


@pytest.fixture
def films() -> list[Image.Image]:
    from tests.tiny import towers as tiny

    return tiny.films(5)


@pytest.fixture
def resnet_bert() -> Callable[..., ResNetBertTower]:
    """Factory of a `ResNetBertTower` with fresh weights, n = 12, 16 tokens, 48 pixels."""
    from tests.tiny import towers as tiny

    return tiny.resnet_bert


@pytest.fixture
def units() -> Callable[..., Vectors]:
    from tests.tiny import pairs as toy

    return toy.unit_rows


@pytest.fixture
def pairs() -> Callable[..., list[Pair]]:
    from tests.tiny import pairs as toy

    return toy.make_pairs


@pytest.fixture
def towers() -> dict[str, Any]:
    from tests.tiny import pairs as toy

    return dict(toy.TOWERS)


@pytest.fixture
def store() -> Iterator[PairStore]:
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.store.schema import StoreSchema
    from tests.tiny import pairs as toy

    with PairStore.create("memory", StoreSchema(**toy.TOWERS)) as empty:
        yield empty


def eventually(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until something holds, and fail if it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


@pytest.fixture
def wait_for() -> Callable[..., None]:
    return eventually
