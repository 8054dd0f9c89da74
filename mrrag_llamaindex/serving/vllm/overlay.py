"""The overlay: an attention class of vLLM, whose steered rows are computed again and replaced.

``super().forward`` runs whatever the engine would have run, for all requests of the step together.
Only then, and only for rows that a plan names, attention is computed as the rows backend does it
in transformers: formula, mask, softmax. Keys and values come from the paged cache, so that it makes
no difference whether they were computed now, in an earlier chunk or by another request.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.serving.vllm.checks import check_arguments, check_layer

if TYPE_CHECKING:
    from mrrag_llamaindex.serving.vllm.requests import SteeredRequests


def steered_backend(base: type[Any]) -> type[Any]:
    """Make the steered subclass of one of vLLM's attention backends.

    Parameters
    ----------
    base
        A subclass of vLLM's ``AttentionBackend``, with the engine's own kernels.
    """
    implementation = _steered_implementation(base.get_impl_cls())
    builder = _remembering_builder(base.get_builder_cls())

    class Steered(base):  # type: ignore[misc]
        @staticmethod
        def get_impl_cls() -> type[Any]:
            return implementation

        @staticmethod
        def get_builder_cls() -> type[Any]:
            return builder

    return _named(Steered, base)


def _steered_implementation(base: type[Any]) -> type[Any]:
    signature = inspect.signature(base.__init__)

    class Implementation(base):  # type: ignore[misc]
        """Attributes beside those of the base: what the rows need to know of the layer."""

        is_steered = True
        requests: SteeredRequests | None = None

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            from vllm.config import get_current_vllm_config

            check_arguments(get_current_vllm_config())
            given = signature.bind(self, *args, **kwargs).arguments
            self.own_sliding_window: int | None = given.get("sliding_window")
            self.is_decoder = given.get("attn_type", "decoder") == "decoder"
            if self.is_decoder:
                check_layer(base.__name__, given)

        def fused_output_quant_supported(self, *args: Any, **kwargs: Any) -> bool:
            return False  # the rows are put into an output that holds plain numbers

        def forward(
            self,
            layer: Any,
            query: Any,
            key: Any,
            value: Any,
            kv_cache: Any,
            attn_metadata: Any,
            output: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Any:
            result = super().forward(
                layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs
            )
            if self.is_decoder and self.requests and attn_metadata is not None:
                self.requests.steer(layer, query, kv_cache, attn_metadata.of_the_step, output)
            return result

    return _named(Implementation, base)


def _remembering_builder(base: type[Any]) -> type[Any]:
    class Builder(base):  # type: ignore[misc]
        """Keeps what is common to all attention classes beside what this one makes of it."""

        supports_update_block_table = False  # the copy would keep another group's block table

        def build(
            self, common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any
        ) -> Any:
            metadata = super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
            metadata.of_the_step = common_attn_metadata
            return metadata

    return _named(Builder, base)


def _named(cls: type[Any], base: type[Any]) -> type[Any]:
    cls.__name__ = cls.__qualname__ = f"Steered{base.__name__}"
    return cls
