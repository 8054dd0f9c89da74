"""The settings of `MRRAGLLaVA`: the model, its loading, steering and limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from llama_index.core.bridge.pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.integration.entry_points import EntryPoints
from mrrag_llamaindex.integration.inputs.fields import validated
from mrrag_llamaindex.integration.inputs.options import unknown_option
from mrrag_llamaindex.integration.tickets.resolve import MissingContext
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.steering.policy import SteeringPolicy


def policy_as_dict(policy: SteeringPolicy | None) -> dict[str, Any] | None:
    """Write a policy as plain values: its name in `POLICIES`, and its fields."""
    if policy is None:
        return None
    names = {kind: name for name, kind in POLICIES.items()}
    kind = type(policy)
    return {"name": names.get(kind, kind.__name__), **asdict(policy)}  # type: ignore[call-overload]


def _no_policy(value: Any) -> str:
    names = ", ".join(f"{kind.__name__}()" for kind in POLICIES.values())
    return f"policy is {value!r}, which is no SteeringPolicy: give one of {names}, or None"


def policy_from_dict(value: Any) -> Any:
    """Read what `policy_as_dict` wrote; a policy is returned as it is.

    Raises
    ------
    ModelError
        If it is neither, or the name is none of `POLICIES`.
    ValueError
        If a field is none of the policy's.
    """
    if value is None or isinstance(value, SteeringPolicy):
        return value
    if not isinstance(value, Mapping):
        raise ModelError(_no_policy(value))
    fields = dict(value)
    name = fields.pop("name", "ifa")
    if name not in POLICIES:
        raise ModelError(f"no policy {name!r} can be read back; there are: {', '.join(POLICIES)}")
    return TypeAdapter(POLICIES[name]).validate_python(fields)


_RENAMED = {
    "model_name": "the model is model=",
    "model_id": "the model is model=",
    "max_tokens": "the maximum answer length is max_new_tokens=",
    "num_output": "the maximum answer length is max_new_tokens=",
    "context_window": "the window is the model's own",
    **dict.fromkeys(
        ("temperature", "top_p", "top_k", "do_sample", "seed"),
        "it decodes greedily, so that an answer can be reproduced",
    ),
}
"""What other LLMs of LlamaIndex call it."""

_WITHOUT_EFFECT = {
    "messages_to_prompt": "the prompt has the model's own layout",
    "completion_to_prompt": "the prompt has the model's own layout",
    "query_wrapper_prompt": "the prompt has the model's own layout; give text_qa_template to the "
    "engine, or system_prompt",
}
"""Fields of every LLM that this one has no use for."""


LIMITS = ("max_documents", "max_new_tokens", "batch_size", "max_queue", "queue_timeout")
"""Fields that may change while a model stays loaded."""

_LOADED = (
    "model",
    "device",
    "dtype",
    "device_map",
    "quantization",
    "vision_tower",
    "allow_pickle",
    "adapter",
    "merge_adapter",
    "steering_backend",
    "prefix_cache",
    "profile",
    "runtime",
    "api_base",
    "engine_options",
    "request_timeout",
)
"""Fields that say what is loaded and how."""


class GeneratorSettings(EntryPoints):
    """Fields of an LLM over an `Engine`, which they describe."""

    model: str = Field(
        default=defaults.DEFAULT_MODEL,
        description='"phantom" (small, synthetic, offline), a local folder, or a hub id.',
    )
    device: str = Field(
        default="auto", description='A torch device, or "auto": CUDA where present, else CPU.'
    )
    dtype: str = Field(
        default="auto",
        description="\"auto\" (checkpoint's on CUDA, float32 on CPU), or a torch dtype's name.",
    )
    runtime: Literal["transformers", "vllm"] = Field(
        default="transformers",
        description='What runs the model, with engine= as the short form; "vllm": vLLM, here.',
    )
    api_base: str | None = Field(
        default=None,
        description="Address of a vLLM server that runs the model, http://host:port.",
    )
    policy: Annotated[
        SteeringPolicy | None, BeforeValidator(policy_from_dict), PlainSerializer(policy_as_dict)
    ] = Field(
        default_factory=IFA,
        description="Steering of attention, with ifa= as the short form; None turns it off.",
    )
    device_map: str | dict[str, Any] | None = Field(
        default=None, description="Spread the model over devices; takes the place of device."
    )
    quantization: Literal["int8", "int4"] | None = Field(
        default=None, description="Weights of the text model in 8 or 4 bits (bitsandbytes)."
    )
    vision_tower: str = Field(
        default="checkpoint",
        description='Original layout only: "checkpoint", "clip", or the folder of a CLIP model.',
    )
    allow_pickle: bool = Field(
        default=False, description="Read weights in .bin files, which are pickles."
    )
    adapter: str | None = Field(
        default=None, description="LoRA adapter of the model (peft): a folder, or a hub id."
    )
    merge_adapter: bool = Field(
        default=False, description="Add the adapter to the weights, rounded to their type."
    )
    steering_backend: Literal["rows", "eager", "flex"] = Field(
        default="rows", description="How steering is computed; all give the same result."
    )
    max_documents: int = Field(
        default=defaults.MAX_DOCUMENTS, ge=1, description="Maximum documents in one prompt."
    )
    max_new_tokens: int = Field(
        default=defaults.MAX_NEW_TOKENS, ge=1, description="Maximum answer length, in tokens."
    )
    batch_size: int = Field(
        default=defaults.BATCH_SIZE, ge=1, description="Maximum questions answered at once."
    )
    max_queue: int = Field(
        default=defaults.MAX_QUEUE, ge=1, description="Maximum questions that wait for the model."
    )
    queue_timeout: float | None = Field(
        default=defaults.QUEUE_TIMEOUT,
        gt=0,
        description="Seconds a question may wait for its batch; None is without end.",
    )
    prefix_cache: int = Field(
        default=defaults.PREFIX_CACHE,
        ge=0,
        description="Images with documents kept in memory for further questions on them.",
    )
    engine_options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of vLLM's engine (max_model_len, ...)."
    )
    request_timeout: float = Field(
        default=defaults.REQUEST_TIMEOUT,
        gt=0,
        description="Seconds that a vLLM server may take for one answer.",
    )
    profile: str | None = Field(
        default=None, description="Profile file of this model, with its critical layers."
    )
    explain: bool = Field(default=False, description="Say how much each document moved the answer.")
    on_missing_context: MissingContext = Field(
        default="error", description="What to do when no evidence reaches a call."
    )

    def checked(self, name: str, value: Any) -> Any:
        """Return the value of a field as it may be assigned to a model that is loaded.

        Raises
        ------
        ModelError
            If the field does not take it, or says how a model is loaded.
        """
        if name in _WITHOUT_EFFECT and value is not None:
            raise ModelError(f"MRRAGLLaVA cannot honour {name}: {_WITHOUT_EFFECT[name]}")
        if name not in GeneratorSettings.__annotations__:
            return value  # LlamaIndex's own
        try:
            if name == "policy":
                return policy_from_dict(value)
            value = validated(GeneratorSettings.model_fields[name], value)
        except ValidationError as error:
            raise ModelError(f"{name} is {value!r}: {error.errors()[0]['msg']}") from None
        if name in _LOADED and value != getattr(self, name):
            raise ModelError(
                f"{name} says what is loaded, and a model is loaded already: make another one, "
                f"MRRAGLLaVA({name}=...)"
            )
        return value

    def settings(self) -> dict[str, Any]:
        """Return the fields that are not at their defaults, without what belongs to a process."""
        return {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name not in ("callback_manager", *_WITHOUT_EFFECT)
            and getattr(self, name) != field.get_default(call_default_factory=True)
        }

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        """Take ``ifa=`` for ``policy=``, and refuse what is no field, or would have no effect."""
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        if data.get("class_name") == cls.class_name():
            del data["class_name"]  # as it is written
        for name, value in data.items():
            if name in _WITHOUT_EFFECT and value is not None:
                raise ModelError(f"MRRAGLLaVA cannot honour {name}: {_WITHOUT_EFFECT[name]}")
            if name in _RENAMED:
                raise ModelError(f"MRRAGLLaVA takes no option {name!r}; {_RENAMED[name]}")
            if name not in (*cls.model_fields, "ifa"):
                names = [one for one in cls.model_fields if one not in _WITHOUT_EFFECT]
                error = unknown_option(name, "MRRAGLLaVA", [*names, "ifa"])
                raise ModelError(str(error))
        if (
            data.get("api_base") is not None
            and data.get("runtime", "transformers") != "transformers"
        ):
            raise ModelError("give engine= or api_base=, not both: a server has its own engine")
        if "ifa" not in data:
            return data
        if "policy" in data:
            raise ModelError("give ifa= or policy=, not both: ifa= is the short form of policy=")
        return {"policy" if key == "ifa" else key: value for key, value in data.items()}
