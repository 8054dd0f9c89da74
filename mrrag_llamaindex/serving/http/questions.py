"""``/v1/ask`` and ``/v1/retrieve``."""

from __future__ import annotations

import threading
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from mrrag_llamaindex.errors import NoRelevantCase
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.http.responses import Answer, Documents, NoAnswer, described
from mrrag_llamaindex.serving.http.uploads import read_request
from mrrag_llamaindex.serving.http.work import Workers
from mrrag_llamaindex.serving.schemas import AskRequest, RetrieveRequest
from mrrag_llamaindex.serving.service import Service


def question_routes(service: Service, workers: Workers) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    @routes.post(
        "/v1/ask",
        summary="Answer a question",
        openapi_extra=_body(AskRequest),
        responses=described(Answer | NoAnswer),
    )
    async def ask(request: Request) -> JSONResponse:
        """Answer a question about an image, with the documents behind the answer.

        The response has the shape of ``mrrag ask --json``.
        """
        asked, data = await read_request(request, AskRequest)

        def work(cancelled: threading.Event) -> dict[str, Any]:
            image = service.read_image(data, asked.reading)
            try:
                result = service.ask(image, asked.question, asked, cancelled=cancelled)
            except NoRelevantCase as nothing:
                return nothing.as_dict(asked.question)
            return result.as_dict()

        return _private(await workers.run(request, work))

    @routes.post(
        "/v1/retrieve",
        summary="Find documents",
        openapi_extra=_body(RetrieveRequest),
        responses=described(Documents),
    )
    async def retrieve(request: Request) -> JSONResponse:
        """Find the documents of a question, an image, or both, without an answer."""
        asked, data = await read_request(request, RetrieveRequest)
        if not data and not asked.question.strip():
            raise ApiError(400, "nothing_asked", "give a question, an image, or both")

        def work(_: threading.Event) -> dict[str, Any]:
            image = service.read_image(data, asked.reading) if data else None
            return {"documents": service.retrieve(image, asked.question, asked)}

        return _private(await workers.run(request, work))

    return routes


def _private(content: dict[str, Any]) -> JSONResponse:
    return JSONResponse(content, headers={"Cache-Control": "no-store"})


def _body(model: Any) -> dict[str, Any]:
    """Describe both forms of a request's body for OpenAPI."""
    schema = model.model_json_schema()
    form = {**schema, "properties": dict(schema["properties"])}
    files = {"type": "array", "items": {"type": "string", "format": "binary"}}
    form["properties"]["image"] = {
        **files,
        "description": "The file, once; or once for each image of one study of one patient.",
    }
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}
