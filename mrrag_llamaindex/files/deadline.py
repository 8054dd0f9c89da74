"""Answers of a server that end: httpx limits each pause between bytes, and not the whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx


class Deadline(httpx.BaseTransport):
    """Ends an answer that goes on for ever, byte by byte, which no pause between bytes shows.

    Parameters
    ----------
    transport : httpx.BaseTransport
        What sends the requests.
    seconds : float
        In which an answer must be complete, once it has begun.
    """

    def __init__(self, transport: httpx.BaseTransport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds

    def seconds_of(self, request: httpx.Request) -> float:
        """Return the limit of one request."""
        return self._seconds

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; its answer must be complete in time."""
        seconds = self.seconds_of(request)
        response = self._transport.handle_request(request)
        response.stream = _Timed(response.stream, request, time.monotonic() + seconds)
        return response

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


class _Timed(httpx.SyncByteStream):
    def __init__(self, stream: Any, request: httpx.Request, end: float) -> None:
        self._stream, self._request, self._end = stream, request, end

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            yield part
            if time.monotonic() > self._end:
                raise httpx.ReadTimeout("the answer does not end", request=self._request)

    def close(self) -> None:
        self._stream.close()
