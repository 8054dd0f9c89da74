"""What OpenAI's clients send to ``/v1/chat/completions``, and what of it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mrrag_llamaindex.integration.answers.conversation import Message
from mrrag_llamaindex.serving.http.errors import ApiError
from mrrag_llamaindex.serving.http.uploads import image_bytes
from mrrag_llamaindex.serving.schemas import AskOptions

SOURCES = ":sources"
"""End of a model's name by which clients that send no further fields ask for sources as text."""

SOURCES_MARK = "<!-- mrrag sources -->"
"""Before sources in an answer's text; what stands behind it never returns into a prompt."""

WARMEST = 0.1
"""Highest temperature below the interface's own default: LlamaIndex sends it by default."""

HARMLESS = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "seed",
        "service_tier",
        "store",
        "user",
    }
)
"""Parameters that change no answer here: they are taken and have no effect."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "function_call": (None, "none"),
    "functions": (None, []),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "modalities": (None, ["text"]),
    "n": (None, 1),
    "presence_penalty": (None, 0),
    "response_format": (None, {"type": "text"}),
    "stop": (None, [], ""),
    "tool_choice": (None, "none", "auto"),
    "tools": (None, []),
    "top_logprobs": (None, 0),
    "top_p": (None, 1),
}
"""Parameters that would change an answer, by the values that do not."""


_OF_USERS = frozenset({"role", "content", "name"})
"""Fields of a user's message. Clients send answers back with whatever fields they came with."""


class ChatOptions(AskOptions):
    """What the field ``mrrag`` of a request may hold."""

    sources: Literal["field", "markdown"] = Field(
        "field", description="markdown: sources stand in the answer's text, too."
    )


class StreamOptions(BaseModel):
    """Options of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool | None = False
    include_obfuscation: bool | None = Field(None, description="Taken, and has no effect.")


class ChatRequest(BaseModel):
    """A conversation whose last question is to be answered."""

    model_config = ConfigDict(extra="allow")

    model: str
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(
        None, description="Answers are greedy: 0 to 0.1, or the interface's default of 1."
    )
    mrrag: ChatOptions = ChatOptions()

    @property
    def limit(self) -> int | None:
        """The longest answer, in tokens."""
        given = (self.max_completion_tokens, self.max_tokens, self.mrrag.max_new_tokens)
        return min((limit for limit in given if limit is not None), default=None)

    def require_honoured(self) -> None:
        """Refuse, by name, what would change the answer and cannot be honoured.

        Raises
        ------
        ApiError
        """
        warm = self.temperature is not None and not 0 <= self.temperature <= WARMEST
        if warm and self.temperature != 1:
            raise _unsupported("temperature", f"answers are greedy: at most {WARMEST}")
        for name, value in (self.model_extra or {}).items():
            if name in HARMLESS:
                continue
            if name not in NEUTRAL:
                raise _unsupported(name, "this server does not know it")
            if value not in NEUTRAL[name]:
                raise _unsupported(name, "answers are greedy, one, and in words: leave it out")


def read_messages(messages: list[dict[str, Any]]) -> list[Message]:
    """Return messages as OpenAI's clients write them, their images decoded.

    Raises
    ------
    ApiError
        If a message has another form, or a part that is neither text nor an image in a data: URL.
    """
    return [_message(message, f"messages.{place}") for place, message in enumerate(messages)]


def _message(message: dict[str, Any], where: str) -> Message:
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str):
        raise _bad(f"{where}.role", "it must be a text")
    if role == "user":
        # An image in a field of its own would be passed over, and an earlier one be asked about.
        for name in message.keys() - _OF_USERS:
            raise _bad(f"{where}.{name}", "a message of role 'user' has no such field")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise _bad(f"{where}.content", "it must be a text, or a list of parts")
    texts: list[str] = []
    images: list[bytes] = []
    for part in parts:
        kind = part.get("type")
        if kind in ("text", "refusal") and isinstance(part.get(kind), str):
            texts.append(part[kind])
        elif kind == "image_url":
            image = part.get("image_url")
            url = image.get("url") if isinstance(image, dict) else image
            if not isinstance(url, str):
                raise _bad(f"{where}.content", "an image_url part holds no url")
            images.append(image_bytes(url, f"{where}.content"))
        else:
            raise _bad(
                f"{where}.content",
                "a part is neither text nor image_url, and this model reads nothing else",
            )
    text = "\n".join(texts)
    if role == "assistant":
        text = text.partition(SOURCES_MARK)[0].rstrip()
    calls = bool(message.get("tool_calls") or message.get("function_call"))
    return Message(role, text, tuple(images), calls)


def _bad(param: str, message: str) -> ApiError:
    return ApiError(400, "bad_message", f"{param}: {message}", param=param)


def _unsupported(name: str, why: str) -> ApiError:
    return ApiError(400, "unsupported_parameter", f"{name} cannot be honoured: {why}", param=name)
