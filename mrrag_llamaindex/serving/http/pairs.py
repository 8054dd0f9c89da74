"""``/v1/pairs/{id}`` and its image."""

from __future__ import annotations

import io
import threading
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.http.responses import Pair, described
from mrrag_llamaindex.serving.http.uploads import require_parameters
from mrrag_llamaindex.serving.http.work import Workers
from mrrag_llamaindex.serving.service import Service


def pair_routes(service: Service, workers: Workers) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()

    async def pair_facts(request: Request, pair_id: str) -> Response:
        require_parameters(request)

        def work(_: threading.Event) -> dict[str, Any]:
            pair = service.pair(pair_id)
            has_image = pair.image_path is not None
            return {
                "pair_id": pair.pair_id,
                "patient_id": pair.patient_id,
                "study_id": pair.study_id,
                "report": pair.report,
                "missing": pair.missing,
                "metadata": pair.metadata,
                "image": f"/v1/pairs/{quote(pair_id, safe='')}/image" if has_image else None,
            }

        content = await workers.run(request, work)
        return JSONResponse(content, headers={"Cache-Control": "no-store"})

    @routes.get("/v1/pairs/{pair_id:path}/image", summary="Image of a pair")
    async def pair_image(
        request: Request, pair_id: str, low: float | None = None, high: float | None = None
    ) -> Response:
        """Return the image of a pair as PNG, its pixels alone; ``low`` and ``high`` window it."""
        if not bytes(request.scope["raw_path"]).endswith(b"/image"):
            return await pair_facts(request, f"{pair_id}/image")  # an id that ends so, quoted

        require_parameters(request, "low", "high")
        if (low is None) != (high is None):
            raise ApiError(422, "bad_field", "a window needs both low and high")

        def work(_: threading.Event) -> bytes:
            window = None if low is None or high is None else (low, high)
            file = io.BytesIO()
            service.pair_image(pair_id, ReadingOptions(window)).save(file, "PNG")
            return file.getvalue()

        content = await workers.run(request, work)
        return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})

    @routes.get("/v1/pairs/{pair_id:path}", summary="A stored pair", responses=described(Pair))
    async def pair(request: Request, pair_id: str) -> Response:
        """Return what is stored of a pair; quote slashes in its id (``%2F``)."""
        return await pair_facts(request, pair_id)

    return routes
