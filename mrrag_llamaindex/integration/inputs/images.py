"""Images as LlamaIndex hands them over: documents, nodes, blocks, resources and URLs."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

from llama_index.core.base.llms.types import ImageBlock
from llama_index.core.schema import BaseNode, ImageNode, MediaResource, Node

from mrrag_llamaindex.errors import ImageError
from mrrag_llamaindex.images.query_image import QueryImage

if TYPE_CHECKING:
    from mrrag_llamaindex.images.load import ImageSource
    from mrrag_llamaindex.images.query_image import QueryImage

ImageInput: TypeAlias = "ImageSource | QueryImage | BaseNode | ImageBlock | MediaResource"
"""What stands for an image wherever one is given: a path, ``file:`` or ``data:`` URL, bytes, an
open PIL image, or an object of LlamaIndex that holds one of these."""


QuestionImages: TypeAlias = "ImageInput | Sequence[ImageInput]"
"""The image of a question, or the several images of its study as a list or tuple."""


_LONGEST_NAME = 255
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkq", "TU0A", "Qk")
"""What PNG, JPEG, GIF, WebP, TIFF and BMP begin with in base64."""


def image_source(value: Any) -> ImageSource | QueryImage:
    """Return the path, bytes or open image behind ``value``; nothing is opened.

    Parameters
    ----------
    value : ImageInput

    Raises
    ------
    ImageError
        If it holds no image, or one that only the network could give.
    """
    if isinstance(value, (BaseNode, ImageBlock, MediaResource)):
        source = _of_object(value)
        if source is None:
            raise ImageError(f"the {type(value).__name__} that was given as an image holds none")
        return source
    if isinstance(value, str):
        return _of_string(value)
    return value  # type: ignore[no-any-return]


def read_image(value: QuestionImages | None) -> QueryImage | None:
    """Read an image that a person or a host gave, once; None, and one that is read, stay as is.

    Parameters
    ----------
    value : ImageInput, QueryImage, a list or tuple of them, or None
        Several are those of one study, see `QueryImage.study`.

    Raises
    ------
    ImageError
        As `image_source` and `QueryImage.read`.
    """
    if value is None or isinstance(value, QueryImage):
        return value
    if isinstance(value, list | tuple):
        return QueryImage.study([image_source(one) for one in value])
    return QueryImage.read(image_source(value))


def image_of_node(node: BaseNode) -> ImageSource | None:
    """Return the image of a node: its own, or that of its ``image_path`` metadata; else None."""
    source = _of_object(node)
    if source is None and node.metadata.get("image_path"):
        source = _of_string(str(node.metadata["image_path"]))
    return source


def _of_object(value: BaseNode | ImageBlock | MediaResource) -> ImageSource | None:
    data: Any
    places: tuple[Any, Any]
    if isinstance(value, ImageNode):
        data, places = value.image, (value.image_path, value.image_url)
    elif isinstance(value, ImageBlock):
        data, places = value.image, (value.path, value.url)
    elif isinstance(value, MediaResource):
        data, places = value.data, (value.path, value.url)
    else:
        resource = value.image_resource if isinstance(value, Node) else None
        return None if resource is None else _of_object(resource)
    if data:
        return _of_base64(data)
    place = next((place for place in places if place), None)
    return None if place is None else _of_string(str(place))


def _of_string(text: str) -> ImageSource:
    scheme, _, rest = text.partition(":")
    scheme = scheme.lower()
    if scheme == "data":
        header, comma, payload = rest.partition(",")
        if not comma:
            raise ImageError("the data URL that was given as an image has no comma before its data")
        encoded = unquote_to_bytes(payload)
        return _of_base64(encoded) if header.lower().endswith(";base64") else encoded
    if scheme == "file" and rest.startswith("/"):
        return url2pathname(urlsplit(text).path)
    if scheme in ("http", "https") and rest.startswith("//"):
        raise ImageError(
            "the image is given by a web address, and images are not fetched over the network: "
            "download it and give the file or its bytes"
        )
    if len(text) > _LONGEST_NAME and text.startswith(_BASE64_STARTS):
        raise ImageError(
            "the image is given as base64 text, where a path is expected: give its bytes "
            "(base64.b64decode) or a data: URL"
        )
    return text


def _of_base64(data: str | bytes) -> bytes:
    """Decode base64 as LlamaIndex holds it; bytes of an image itself are returned as they are."""
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        if isinstance(data, bytes):
            return data
        raise ImageError("the image is given as text that is not base64") from None
