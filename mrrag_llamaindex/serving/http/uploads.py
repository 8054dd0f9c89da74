"""Read what clients send: JSON with an image in base64, or a form with a file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any, TypeVar, get_origin
from urllib.parse import unquote_to_bytes

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException

from mrrag_llamaindex.defaults import MAX_QUERY_IMAGES
from mrrag_llamaindex.serving.http.errors import ApiError, validation_error

Model = TypeVar("Model", bound=BaseModel)


async def read_request(request: Request, model: type[Model]) -> tuple[Model, list[bytes]]:
    """Return the fields of a request and the bytes of its images.

    Parameters
    ----------
    request : fastapi.Request
        JSON, or ``multipart/form-data`` with the fields by name: lists as repeated fields or as
        JSON, objects and tuples as JSON.
    model : type
        Of the fields; its ``image`` is text, or several.

    Raises
    ------
    ApiError
        If it is neither, a field is wrong or unknown, or the image is no base64.
    """
    require_parameters(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    data: list[bytes] = []
    fields: Any
    if kind == "application/json":
        fields = await request.body()
    elif kind == "multipart/form-data":
        try:
            async with request.form(max_files=MAX_QUERY_IMAGES + 1, max_fields=1000) as form:
                fields = _fields_of(form, model)
                sent = [one for one in form.getlist("image") if isinstance(one, UploadFile)]
                if sent:
                    data = [await one.read() for one in sent]
                    fields["image"] = ""
        except HTTPException:
            raise ApiError(400, "bad_form", "the form cannot be read") from None
    else:
        raise ApiError(
            415, "bad_content_type", "send application/json, or multipart/form-data with a file"
        )
    # Megabytes of text take a while, and other requests should not wait for it.
    return await asyncio.to_thread(_checked, model, fields, data)


def require_parameters(request: Request, *known: str) -> None:
    """Refuse parameters of an address that would be passed over.

    Raises
    ------
    ApiError
        If there is one beside ``known``.
    """
    for name in request.query_params:
        if name not in known:
            raise ApiError(
                422, "unknown_field", f"the address takes no parameter {name!r}", param=name
            )


def image_bytes(text: str, param: str = "image") -> bytes:
    """Return the bytes of a ``data:`` URL, or of a file in base64.

    Raises
    ------
    ApiError
        If it is neither, or an address: the server fetches nothing.
    """
    scheme, colon, rest = text[:4096].partition(":")
    if colon and scheme.lower() in ("http", "https", "file", "ftp"):
        raise ApiError(
            400,
            "image_not_sent",
            "the server fetches no image from an address: send it as a data: URL",
            param=param,
        )
    encoded = text
    if colon and scheme.lower() == "data":
        header, comma, _ = rest.partition(",")
        encoded = text[len(scheme) + 1 + len(header) + 1 :]
        if not comma:
            raise ApiError(400, "bad_image", "the data: URL has no comma", param=param)
        if not header.lower().endswith(";base64"):
            return unquote_to_bytes(encoded)
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(
            400, "bad_image", "the image is neither a data: URL nor base64", param=param
        ) from None


def _checked(model: type[Model], fields: Any, data: list[bytes]) -> tuple[Model, list[bytes]]:
    if isinstance(fields, bytes):
        try:
            fields = json.loads(fields)
        except (ValueError, RecursionError):
            raise ApiError(422, "bad_json", "the body is not valid JSON") from None
    try:
        checked = model.model_validate(fields)
    except ValidationError as error:
        raise validation_error(error.errors(include_input=False, include_url=False)) from None
    sent = getattr(checked, "image", None)
    if not data and sent is not None:
        data = [image_bytes(one) for one in ([sent] if isinstance(sent, str) else sent)]
    return checked, data


def _fields_of(form: FormData, model: type[BaseModel]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in form:
        sent = form.getlist(name)
        values = [value for value in sent if isinstance(value, str)]
        known = model.model_fields.get(name)
        listed = name == "image" or (known is not None and get_origin(known.annotation) is list)
        if known is not None and len(sent) > 1 and not listed:
            raise ApiError(422, "bad_field", f"{name}: it stands there twice", param=name)
        if known is not None and len(values) < len(sent) and name != "image":
            raise ApiError(422, "bad_field", f"{name}: it is no file", param=name)
        if name == "image" and 0 < len(values) < len(sent):
            raise ApiError(422, "bad_field", "image: it is a file and a text", param=name)
        if not values or known is None or known.annotation is str:
            fields[name] = values[0] if values else None
        elif name == "image":
            fields[name] = values[0] if len(values) == 1 else values
        elif listed:
            read = [_value(name, value) for value in values]
            fields[name] = [
                item for one in read for item in (one if isinstance(one, list) else [one])
            ]
        else:
            fields[name] = _value(name, values[0])
    return fields


def _value(name: str, text: str) -> Any:
    """Return a field's text, or what it says where it is a list or an object in JSON."""
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError(422, "bad_field", f"{name}: not valid JSON", param=name) from None
