"""``/v1/chat/completions`` and ``/v1/models``, as OpenAI's clients speak them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mrrag_llamaindex.integration.answers.ask import AskResult
from mrrag_llamaindex.integration.answers.conversation import Question, read_conversation
from mrrag_llamaindex.serving.http.chat_schemas import (
    SOURCES,
    SOURCES_MARK,
    ChatRequest,
    read_messages,
)
from mrrag_llamaindex.serving.http.errors import ApiError, api_error
from mrrag_llamaindex.serving.http.responses import Completed, described
from mrrag_llamaindex.serving.http.uploads import read_request
from mrrag_llamaindex.serving.http.work import EventStream, Workers
from mrrag_llamaindex.serving.service import Cancelled, Service


def chat_routes(service: Service, workers: Workers) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    started = int(time.time())

    @routes.get("/v1/models", summary="The model")
    async def models() -> dict[str, Any]:
        """List the names of the model: by the second, sources stand in the answer's text."""
        names = (service.name, service.name + SOURCES)
        known = {"object": "model", "created": started, "owned_by": "mrrag"}
        return {"object": "list", "data": [{"id": name, **known} for name in names]}

    @routes.post(
        "/v1/chat/completions",
        summary="Answer the last question of a conversation",
        responses=described(Completed),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": ChatRequest.model_json_schema()}},
            }
        },
    )
    async def complete(request: Request) -> Response:
        """Answer as OpenAI's interface does; ``mrrag`` of the response holds the sources."""
        asked, _ = await read_request(request, ChatRequest)
        if asked.model not in (service.name, service.name + SOURCES):
            raise ApiError(
                404, "model_not_found", f"the model here is {service.name!r}", param="model"
            )
        asked.require_honoured()
        messages = read_messages(asked.messages)
        completion = Completion(service, asked)

        def work(cancelled: threading.Event) -> Generator[Any, None, None]:
            question = read_conversation(messages, asked.mrrag.reading)
            return completion.pieces(question, cancelled)

        if not asked.stream:
            pieces = await workers.run(request, lambda cancelled: list(work(cancelled)))
            return _private(completion.whole(pieces[-1]))
        pieces_of = workers.iterate(request, work)
        first = await anext(pieces_of)  # what is wrong with the request is said by its status
        return EventStream(completion.events(first, pieces_of))

    return routes


@dataclass
class Completion:
    """One answer in OpenAI's words.

    Parameters
    ----------
    service : Service
    asked : ChatRequest
    """

    service: Service
    asked: ChatRequest

    def __post_init__(self) -> None:
        self._known = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.asked.model,
        }

    def pieces(
        self, question: Question, cancelled: threading.Event
    ) -> Generator[str | AskResult, None, None]:
        """Yield an empty piece once the question is taken, the answer's pieces, and the result."""
        if question.image is None:
            raise ApiError(
                400,
                "image_required",
                "the conversation holds no image: send it with the question, as a part of type "
                "image_url with a data: URL",
                param="messages",
            )
        options = self.asked.mrrag.model_copy(update={"max_new_tokens": self.asked.limit})
        answer = self.service.stream(
            self.service.read_image(question.image),
            question.text,
            options,
            history=question.history,
            left_over=question.left_over,
            instructions=question.instructions,
        )
        try:
            yield ""
            for piece in answer:
                if cancelled.is_set():
                    raise Cancelled
                yield piece
        finally:
            answer.close()
        assert answer.result is not None
        yield answer.result

    def whole(self, result: AskResult) -> dict[str, Any]:
        """Return the response to a request that does not stream."""
        message = {"role": "assistant", "content": result.text + self._sources(result)}
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": _finish(result),
            "logprobs": None,
        }
        return {
            **self._known,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(result),
            "mrrag": _facts(result),
        }

    async def events(
        self, first: Any, rest: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[str, None]:
        """Yield the events of a stream; an error that comes late is the last of them."""
        try:
            yield self._event({"role": "assistant", "content": ""})
            async with contextlib.aclosing(rest):
                async for piece in rest:
                    if isinstance(piece, str):
                        yield self._event({"content": piece})
                        continue
                    if sources := self._sources(piece):
                        yield self._event({"content": sources})
                    yield self._event({}, finish=_finish(piece), mrrag=_facts(piece))
                    if self.asked.stream_options and self.asked.stream_options.include_usage:
                        yield _data({**self._chunk(), "choices": [], "usage": _usage(piece)})
        except Exception as error:
            yield _data(api_error(error).body)
        yield "data: [DONE]\n\n"

    def _event(self, delta: dict[str, str], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _data({**self._chunk(), "choices": [choice], **more})

    def _chunk(self) -> dict[str, Any]:
        return {**self._known, "object": "chat.completion.chunk"}

    def _sources(self, result: AskResult) -> str:
        if not (self.asked.model.endswith(SOURCES) or self.asked.mrrag.sources == "markdown"):
            return ""
        rows = [
            f"{place}. `{_code(row['pair_id'])}`: score {row['score']:.3f}, "
            f"lambda {row['lambda']:.2f}{'' if row['read'] else ', not read'}"
            for place, row in enumerate(result.sources(), 1)
        ]
        return "\n\n" + "\n".join([SOURCES_MARK, "**Sources**", "", *rows])


def _usage(result: AskResult) -> dict[str, int]:
    prompt, answer = result.answer.prompt_tokens, result.answer.answer_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
    }


def _finish(result: AskResult) -> str:
    return "length" if result.answer.cut_off else "stop"


def _facts(result: AskResult) -> dict[str, Any]:
    facts = result.as_dict()
    del facts["question"], facts["answer"]
    return {**facts, "left_out_turns": result.answer.left_out_turns}


def _code(text: str) -> str:
    """Return an id so that no part of it is markup."""
    return text.replace("`", "'").replace("\n", " ")


def _data(value: Any) -> str:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n"


def _private(content: dict[str, Any]) -> JSONResponse:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})
