from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.generation.vllm.connection import Connection
from mrrag_llamaindex.generation.vllm.description import describe
from mrrag_llamaindex.generation.vllm.engine import VllmEngine
from mrrag_llamaindex.generation.vllm.over_http import HttpDoor
from tests.tiny.token_server import TokenServer


@pytest.fixture
def server(token_server) -> TokenServer:
    return token_server


@pytest.fixture
def reach(server) -> Iterator[Callable[..., VllmEngine]]:
    made = []

    def open_door(address: str = "", seconds: float = 20.0, **limits) -> VllmEngine:
        loaded = describe(defaults.PHANTOM)
        connection = Connection(HttpDoor(address or server.address, loaded, seconds))
        made.append(connection)
        return VllmEngine(loaded, connection, **{"max_new_tokens": 4, **limits})

    yield open_door
    for connection in made:
        connection.close()
