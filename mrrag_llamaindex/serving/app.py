"""The app: everything that a server answers, over one `Service`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI

from mrrag_llamaindex import __version__
from mrrag_llamaindex.serving.http.errors import add_error_handlers
from mrrag_llamaindex.serving.http.pairs import pair_routes
from mrrag_llamaindex.serving.http.questions import question_routes
from mrrag_llamaindex.serving.http.work import Workers
from mrrag_llamaindex.serving.page.router import page_routes
from mrrag_llamaindex.serving.service import Service
from mrrag_llamaindex.serving.settings import Settings


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

    app = FastAPI(
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
    app.include_router(page_routes(service, workers))

    @app.get("/healthz", summary="Whether the server answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    return app
