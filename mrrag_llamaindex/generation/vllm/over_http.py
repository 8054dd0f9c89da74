"""A vLLM server, asked in tokens: ``POST /inference/v1/generate``.

Of vLLM's interfaces this is the one that takes the prompt as it was written here. A chat completion
would write it anew, by a template of the server's.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
from PIL import Image

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.vllm.description import DescribedModel
from mrrag_llamaindex.generation.vllm.door import Door, Piece, WireRequest
from mrrag_llamaindex.steering.wire.request_plan import ARGUMENT

KEY_VARIABLE: Final = "VLLM_API_KEY"
"""Environment variable with the server's key, which vLLM itself reads under this name, too."""

COMMAND: Final = (
    "MRRAG_VLLM=1 vllm serve FOLDER --enable-scale-out "
    "$(python -m mrrag_llamaindex.serving.vllm.arguments)"
)

_GENERATE = "/inference/v1/generate"
_CONNECT_SECONDS = 5.0
_SHORT_SECONDS = 20.0
"""For what takes a server no work: which model it runs, the tokens of a sentence, a refusal."""
_HELLO = "Yes, no: is there a pleural effusion? 12.5 mm"
_MOST_BYTES = 1 << 20

_QUOTED: Final = re.compile(
    r"""['"]?\binput(?:_value)?['"]?\s*[:=].*|\bdata:\S+|\d+(?:,\s*\d+){3,}""", re.DOTALL
)
"""What a server repeats of a request: the value that it refused, an image, a prompt's tokens."""


class HttpDoor(Door):
    """A server that somebody else runs.

    Parameters
    ----------
    api_base : str
        ``http://host:port``, or https; ``/v1`` at its end is taken as that of OpenAI's clients.
    loaded : DescribedModel
        The model that it must run.
    seconds : float
        Longest that one answer may take.

    Raises
    ------
    ModelError
        If the address is none.
    """

    def __init__(self, api_base: str, loaded: DescribedModel, seconds: float) -> None:
        address = api_base.rstrip("/").removesuffix("/v1")
        try:
            parts = urlsplit(address)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound or parts.username or parts.password or parts.query:
            raise ModelError(f"api_base {api_base!r} is not of the form http://host:port")
        self.name = f"the vLLM server at {address}"
        self._address = address
        self._loaded = loaded
        self._seconds = seconds
        self._client: httpx.AsyncClient | None = None
        self._model = ""

    async def open(self) -> int:
        """See `Door`: asks which model is served, compares tokenizers, and tries the plugin."""
        key = os.environ.get(KEY_VARIABLE)
        self._client = httpx.AsyncClient(
            base_url=self._address,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(self._seconds, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,  # a proxy of the environment would read reports
        )
        served = await self._json("GET", "/v1/models")
        try:
            first = served["data"][0]
            self._model, window = str(first["id"]), int(first["max_model_len"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise ModelError(
                f"{self.name} does not say which model it serves, as vLLM does"
            ) from None
        body = {"model": self._model, "prompt": _HELLO, "add_special_tokens": True}
        theirs = (await self._json("POST", "/tokenize", body)).get("tokens")
        if theirs != self._loaded.tokenizer(_HELLO)["input_ids"]:
            raise ModelError(
                f"{self.name} serves {self._model!r}, whose tokenizer is not that of model "
                f"{self._loaded.source!r}: let both name one folder"
            )
        await self._require_plugin()
        return window

    async def _require_plugin(self) -> None:
        """Send a plan that none can be: a server without the plugin passes over it."""
        body = {
            "model": self._model,
            "token_ids": self._loaded.tokenizer("yes")["input_ids"],
            "sampling_params": {"max_tokens": 1, "extra_args": {ARGUMENT: "are you there?"}},
        }
        try:
            await self._json("POST", _GENERATE, body)
        except _RefusedError as refused:
            if refused.status == 400:
                return
            raise
        raise ModelError(
            f"{self.name} runs without this package's plugin, and would pass over every plan: "
            f"start it by {COMMAND}"
        )

    async def pieces(self, request: WireRequest) -> AsyncGenerator[Piece, None]:
        """See `Door`."""
        body = self._body(request)
        ended = False
        deadline = time.monotonic() + self._seconds
        async with self._answered("POST", _GENERATE, body) as response:
            lines = response.aiter_lines()
            while True:
                left = max(0.001, deadline - time.monotonic())
                try:
                    line = await asyncio.wait_for(anext(lines), left)
                except StopAsyncIteration:
                    break
                except asyncio.TimeoutError:
                    raise self._late() from None
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    ended = True
                    break
                piece = self._piece(data)
                if piece is not None:
                    yield piece
        if not ended:
            raise self._gone()

    async def close(self) -> None:
        """See `Door`."""
        if self._client is not None:
            await self._client.aclose()

    def _body(self, request: WireRequest) -> dict[str, Any]:
        sampling = dict(request.sampling)
        # The server cuts the list off by one where the chosen token is none of them.
        spare = next(n for n in range(len(request.watched) + 1) if n not in request.watched)
        sampling["logprob_token_ids"] = [*request.watched, spare]
        sampling["logprobs"] = len(request.watched) + 1
        body: dict[str, Any] = {
            "model": self._model,
            "token_ids": list(request.sent_ids),
            "sampling_params": sampling,
            "return_token_ids": True,
            "stream": True,
        }
        if request.images:
            urls = map(_data_url, request.images)
            body["content_parts"] = [{"type": "image_url", "url": url} for url in urls]
        return body

    def _piece(self, data: str) -> Piece | None:
        try:
            told = json.loads(data)
            if "error" in told:
                raise ModelError(f"{self.name} did not answer this request: {_reason(told)}")
            if not told["choices"]:
                return None
            choice = told["choices"][0]
            steps = (choice.get("logprobs") or {}).get("content") or ()
            return Piece(
                tokens=tuple(map(int, choice.get("token_ids") or ())),
                logprobs=[_logprobs(step) for step in steps],
                prompt_ids=told.get("prompt_token_ids"),
                finish_reason=choice.get("finish_reason"),
                stop_reason=choice.get("stop_reason"),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise ModelError(f"{self.name} answers in a form that is not vLLM's") from None

    async def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        limit = min(self._seconds, _SHORT_SECONDS)
        try:
            text = await asyncio.wait_for(self._whole(method, path, body), limit)
        except asyncio.TimeoutError:
            raise ModelError(
                f"{self.name} did not say within {limit:g} seconds what it runs: is it a vLLM "
                "server, and not stuck?"
            ) from None
        try:
            answer = json.loads(text)
            if not isinstance(answer, dict):
                raise ValueError
        except ValueError:
            raise ModelError(f"{self.name} answers in a form that is not vLLM's") from None
        return answer

    async def _whole(self, method: str, path: str, body: Any) -> bytes:
        async with self._answered(method, path, body) as response:
            return await response.aread()

    @asynccontextmanager
    async def _answered(self, method: str, path: str, body: Any) -> AsyncIterator[httpx.Response]:
        """Send a request; what goes wrong is one error that names the server."""
        assert self._client is not None
        try:
            async with self._client.stream(method, path, json=body) as response:
                if response.status_code >= 400:
                    content = await asyncio.wait_for(response.aread(), _SHORT_SECONDS)
                    raise self._refused(response.status_code, content)
                yield response
        except httpx.ConnectError:
            raise ModelError(f"{self.name} cannot be reached: is it running?") from None
        except (httpx.TimeoutException, asyncio.TimeoutError):
            raise self._late() from None
        except httpx.TransportError:
            raise self._gone() from None

    def _late(self) -> ModelError:
        return ModelError(
            f"{self.name} did not answer within {self._seconds:g} seconds: ask again later, or "
            "raise request_timeout"
        )

    def _gone(self) -> ModelError:
        return ModelError(f"{self.name} went away in the middle of the answer: ask again")

    def _refused(self, status: int, body: bytes) -> ModelError:
        if status == 401:
            return ModelError(f"{self.name} asks for a key: set {KEY_VARIABLE}")
        if status in (403, 404):
            return ModelError(
                f"{self.name} does not take prompts in tokens ({status}): start it by {COMMAND}"
            )
        try:
            reason = _reason(json.loads(body[:_MOST_BYTES]))
        except ValueError:
            reason = "no reason was given"
        if "max allowed" in reason and "logprobs" in reason:
            reason += "; start the server with --max-logprobs 128"
        return _RefusedError(f"{self.name} refuses this request ({status}): {reason}", status)


class _RefusedError(ModelError):
    """An answer of the server that says no."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _logprobs(step: Mapping[str, Any]) -> dict[int, float]:
    told = {int(item["token_id"]): float(item["logprob"]) for item in step["top_logprobs"]}
    return {int(step["token_id"]): float(step["logprob"]), **told}


def _reason(told: Mapping[str, Any]) -> str:
    error = told.get("error", told)
    message = error.get("message") if isinstance(error, Mapping) else error
    told_here = _QUOTED.sub("...", str(message or "no reason was given"))
    return " ".join(told_here.split())[:300]


def _data_url(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
