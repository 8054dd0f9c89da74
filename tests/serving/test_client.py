"""A client gives up a server that sends without an end, or breaks off."""

from __future__ import annotations

import time

import pytest

from mrrag_llamaindex.serving.client import Client, ServerError
from tests.loopback import dripping


@pytest.mark.parametrize(
    ("pieces", "words"), [(40, "did not answer within 0.3 seconds"), (2, "cannot be reached")]
)
def test_a_server_that_drips_or_breaks_off_is_given_up(pieces: int, words: str) -> None:
    with dripping(pieces, length=100_000) as url:
        client, began = Client(url, seconds=0.3), time.time()
        with pytest.raises(ServerError, match=words):
            client.ask("Is there a nodule?", b"film", {})
        assert time.time() - began < 1
