"""Ask a server that runs: what ``mrrag ask --server`` does, with the standard library alone."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from mrrag_llamaindex import __version__
from mrrag_llamaindex.errors import InputError, MRRAGError

_VERSION_HEADER = "mrrag-version"


class ServerError(MRRAGError):
    """A server is away, slow, another one, or refuses a request."""


@dataclass(frozen=True)
class Client:
    """A server, as its users see it.

    Parameters
    ----------
    url : str
        ``http://host:port``, or https.
    token : str, optional
    seconds : float
        How long to wait for an answer.

    Raises
    ------
    InputError
        If the URL is none.
    """

    url: str
    token: str | None = None
    seconds: float = 300.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            raise InputError(f"--server: {self.url!r} is not of the form http://host:port")

    def ask(
        self, question: str, image: bytes | Sequence[bytes], options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the answer, in the shape of ``mrrag ask --json``.

        Parameters
        ----------
        question : str
        image : bytes or sequence of bytes
            The encoded file, or those of one study.
        options : mapping
            Fields of ``POST /v1/ask``.

        Raises
        ------
        ServerError
        """
        files = [image] if isinstance(image, bytes) else image
        texts = [base64.b64encode(file).decode() for file in files]
        # A server of an earlier version takes one text.
        encoded = texts if len(texts) > 1 else texts[0]
        answer = self._post("/v1/ask", {"question": question, "image": encoded, **options})
        if not {"question", "answer", "sources"} <= answer.keys():
            raise ServerError(f"{self._name} sent something else than an answer")
        return answer

    @property
    def _name(self) -> str:
        return f"the server at {self.url}"

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        parts = urlsplit(self.url)
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        connection = kind(str(parts.hostname), parts.port, timeout=self.seconds)
        started = time.monotonic()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        try:
            connection.request("POST", parts.path.rstrip("/") + path, json.dumps(body), headers)
            response = connection.getresponse()
            content = self._whole(response, started)
        except TimeoutError:
            raise ServerError(
                f"{self._name} did not answer within {self.seconds:g} seconds; --timeout waits "
                "longer"
            ) from None
        except ssl.SSLError:
            raise ServerError(f"{self._name} has no TLS certificate that can be trusted") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise ServerError(
                f"{self._name} cannot be reached ({reason}); is mrrag serve running there?"
            ) from None
        finally:
            connection.close()
        return self._read(response, content)

    def _whole(self, response: http.client.HTTPResponse, started: float) -> bytes:
        """Read a response; the socket's own limit is one for every piece."""
        pieces = []
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            if time.monotonic() - started > self.seconds:
                raise TimeoutError
        if response.length:
            raise http.client.IncompleteRead(b"", response.length)
        return b"".join(pieces)

    def _read(self, response: http.client.HTTPResponse, content: bytes) -> dict[str, Any]:
        version = response.headers.get(_VERSION_HEADER)
        try:
            value = json.loads(content)
        except ValueError:
            value = None
        if version is None or not isinstance(value, dict):
            raise ServerError(
                f"{self._name} is none of mrrag serve, or a proxy before it answered (status "
                f"{response.status})"
            )
        if response.status == 200:
            return value
        error = value.get("error")
        error = error if isinstance(error, dict) else {}
        code, message = error.get("code"), str(error.get("message", "it gave no reason"))
        if response.status == 401:
            raise ServerError(
                f"{self._name} wants its token: give --token, or set MRRAG_TOKEN"
                if not self.token
                else f"{self._name} has another token"
            )
        if version != __version__ and code in ("unknown_field", "not_found"):
            raise ServerError(
                f"{self._name} is of version {version} and this command of {__version__}: {message}"
            )
        wait = response.headers.get("Retry-After")
        again = f" (again in {wait} seconds)" if wait else ""
        raise ServerError(f"{self._name} refused: {message}{again}")
