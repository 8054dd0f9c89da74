"""What a client is told: a status, a code for programs and one sentence for a person."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import CancelledError
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mrrag_llamaindex import errors
from mrrag_llamaindex.serving.service import Cancelled, LearnedError, PairError

logger = logging.getLogger(__name__)


ERROR_HEADER = "mrrag-error"
"""Header with the code of an error."""


class ApiError(Exception):
    """A request that is refused.

    Parameters
    ----------
    status : int
    code : str
        For programs.
    message : str
        One sentence. It never repeats a question, a report or a path.
    param : str, optional
        The field of the request that it is about.
    retry_after : int, optional
        Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it."""
        headers = {"Cache-Control": "no-store", ERROR_HEADER: self.code}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    @property
    def body(self) -> dict[str, Any]:
        """The body, which OpenAI's clients read as one of theirs."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "type": kind,
                "param": self.param,
            }
        }

    def response(self) -> JSONResponse:
        """Return it as a response."""
        return JSONResponse(self.body, self.status, self.headers)


_OF_THE_CLIENT: Mapping[type[errors.MRRAGError], tuple[int, str]] = {
    PairError: (404, "not_found"),
    errors.ImageError: (400, "bad_image"),
    errors.InputError: (400, "bad_input"),
    errors.NoRelevantCase: (409, "no_relevant_case"),
    errors.EvidenceError: (409, "no_evidence"),
    errors.PromptError: (400, "prompt_too_long"),
}
"""What a client can mend, and so is told; the first that fits."""


_STORE_HELP = (
    "; if an ingest replaces pairs of the store just now, it goes on when that has ended; if the "
    "store was made anew, start the server anew; else see mrrag verify"
)


def api_error(error: BaseException) -> ApiError:
    """Return what to tell a client of any error; what it cannot mend is logged, without its text.

    Messages of errors may hold ids of pairs and paths: a log gets the kind and the place alone.
    """
    if isinstance(error, ApiError):
        return error
    for kind, (status, code) in _OF_THE_CLIENT.items():
        if isinstance(error, kind):
            return ApiError(status, code, " ".join(str(error).split()))
    if isinstance(error, errors.BusyError):
        status = 503 if error.timed_out else 429
        return ApiError(status, "busy", " ".join(str(error).split()), retry_after=2)
    if isinstance(error, (Cancelled, CancelledError, ClientDisconnect)):
        return ApiError(503, "cancelled", "the request was cancelled")
    if isinstance(error, LearnedError):  # names files and towers, and nobody
        logger.error("request failed: %s", error)
        return ApiError(503, "store_unavailable", " ".join(str(error).split()))
    of_store = isinstance(error, errors.StoreError)
    what_to_do = _STORE_HELP if of_store else ""
    logger.error("request failed: %s in %s%s", type(error).__name__, _place(error), what_to_do)
    if of_store:
        return ApiError(
            503,
            "store_unavailable",
            "the store behind this server cannot be read: it is gone, was replaced or is being "
            "changed by another program, or is damaged; whoever runs the server sees where in its "
            "log, and what to do",
        )
    return ApiError(
        500,
        "internal_error",
        f"the server failed ({type(error).__name__}); this is a fault of its own, which its log "
        "names",
    )


def _place(error: BaseException) -> str:
    """Return file and line in which an error was raised."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return "an unknown place"
    return f"{Path(place.tb_frame.f_code.co_filename).name}, line {place.tb_lineno}"


def add_error_handlers(app: FastAPI) -> None:
    """Let every failure of an app end in the same kind of body."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return validation_error(error.errors()).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        return _of_status(error.status_code).response()

    @app.exception_handler(errors.MRRAGError)
    @app.exception_handler(ApiError)
    async def known(_: Request, error: Exception) -> JSONResponse:
        return api_error(error).response()


def validation_error(details: Any) -> ApiError:
    """Return the refusal of a request that does not have the fields it should have."""
    first = details[0]
    # What the field holds is left out: it may be a question, or an image.
    place = [part for part in map(str, first["loc"]) if part not in ("body", "query", "path")]
    field = ".".join(place)
    if first["type"] == "extra_forbidden":
        return ApiError(422, "unknown_field", f"there is no field {field!r}", param=field)
    if first["type"] == "json_invalid":
        return ApiError(422, "bad_json", "the body is not valid JSON")
    words = str(first["msg"])
    return ApiError(422, "bad_field", f"{field}: {words}" if field else words, param=field or None)


def _of_status(status: int) -> ApiError:
    if status == HTTPStatus.NOT_FOUND:
        return ApiError(404, "not_found", "there is nothing at this address; /docs lists what is")
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        return ApiError(405, "method_not_allowed", "this address does not take this method")
    phrase = HTTPStatus(status).phrase.lower()
    return ApiError(status, phrase.replace(" ", "_"), phrase)
