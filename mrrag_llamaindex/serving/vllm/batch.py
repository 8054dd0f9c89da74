"""Which row of the engine's running batch carries which plan.

vLLM tells a logits processor, before every forward pass, which requests entered, left or moved in
the batch, with their parameters: the one documented view of it. This one never touches a logit.
vLLM also asks it, in the process that takes requests in, whether their parameters are valid.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.serving.vllm.arguments import KEY
from mrrag_llamaindex.serving.vllm.requests import SteeredRequest, SteeredRequests
from mrrag_llamaindex.steering.wire.request_plan import ARGUMENT, RequestPlan, from_extra_args


class SteeredBatch(LogitsProcessor):  # type: ignore[misc]
    """Keeps `SteeredRequests` of one engine up to date, and gives it to its attention layers."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._layers = vllm_config.compilation_config.static_forward_context
        self._attached = False
        self.requests = SteeredRequests()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request whose plan is none, before the engine sees it: an error 400.

        Raises
        ------
        ValueError
            Naming the field.
        """
        try:
            plan = from_extra_args(sampling_params.extra_args)
        except SteeringError as error:
            raise ValueError(str(error)) from None
        if plan is not None and sampling_params.stop:
            raise ValueError(
                "a request with a plan cannot have stop strings, which end it before it reports "
                "its steering; use stop_token_ids"
            )

    def is_argmax_invariant(self) -> bool:
        """Say that nothing is done to logits."""
        return True

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Return them as they are."""
        return logits

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch."""
        if not self._attached:
            for layer in self._layers.values():
                if getattr(getattr(layer, "impl", None), "is_steered", False):
                    layer.impl.requests = self.requests
            self._attached = True
        process_dict_updates(self.requests.by_row, batch_update, _request)


def _request(params: Any, *_: Any) -> SteeredRequest | None:
    """Make a request's state of its parameters, which the scheduler has checked and given a key."""
    arguments = params.extra_args or {}
    if KEY not in arguments:
        return None
    return SteeredRequest.of(arguments[KEY], RequestPlan.read(arguments[ARGUMENT]))
