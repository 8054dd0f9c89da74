"""The app: everything that a server answers, over one `Service`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from mrrag_llamaindex import __version__
from mrrag_llamaindex.serving.http.chat import chat_routes
from mrrag_llamaindex.serving.http.errors import add_error_handlers
from mrrag_llamaindex.serving.http.guards import Guard
from mrrag_llamaindex.serving.http.metrics import Metrics, metric_routes
from mrrag_llamaindex.serving.http.pairs import pair_routes
from mrrag_llamaindex.serving.http.questions import question_routes
from mrrag_llamaindex.serving.http.reference import reference_routes
from mrrag_llamaindex.serving.http.tokens import WrongTokens, login_routes
from mrrag_llamaindex.serving.http.work import Workers
from mrrag_llamaindex.serving.page.router import page_routes
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings


class _Guarded(FastAPI):
    """An app behind a `Guard`, which sees what fails in the app's own outermost layer, too."""

    def __init__(
        self, settings: Settings, metrics: Metrics, wrong: WrongTokens, **options: Any
    ) -> None:
        super().__init__(**options)
        self._guard = Guard(super().__call__, settings, metrics, wrong)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._guard(scope, receive, send)


def create_app(service: Service, settings: Settings | None = None) -> FastAPI:
    """Return the app of one server.

    Parameters
    ----------
    service : Service
    settings : Settings, optional

    Notes
    -----
    ``app.state`` holds ``service``, ``settings`` and ``workers``, in whose threads everything that
    blocks belongs: ``await app.state.workers.run(request, work)``, or ``iterate`` for streams.
    """
    settings = settings or Settings()
    workers = Workers(settings)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        workers.close()

    metrics, wrong = Metrics(), WrongTokens()
    app = _Guarded(
        settings,
        metrics,
        wrong,
        title="mrrag",
        version=__version__,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service, app.state.settings, app.state.workers = service, settings, workers
    add_error_handlers(app)
    app.include_router(question_routes(service, workers))
    app.include_router(pair_routes(service, workers))
    app.include_router(chat_routes(service, workers))
    app.include_router(metric_routes(service, workers, metrics))
    app.include_router(reference_routes(app))
    app.include_router(login_routes(settings, wrong))
    app.include_router(page_routes(service, workers, settings.upload_bytes))

    @app.get("/healthz", summary="Whether the server answers")
    async def healthz() -> dict[str, str]:
        """Return ``ok``, or 503 where the store cannot be used; needs no token."""
        await asyncio.to_thread(service.check)
        return {"status": "ok"}

    return app
