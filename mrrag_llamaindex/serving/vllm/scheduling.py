"""The engine's scheduler, which checks plans, keeps cached blocks apart, and reports.

Steering changes nothing before a plan's first row, so blocks before it are everyone's: the image
and the documents are computed once for all questions and plans. From the block on that holds that
row, a block's hash takes the plan in, so that only a request with an equal plan finds it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.serving.vllm.arguments import KEY
from mrrag_llamaindex.serving.vllm.checks import check_arguments, check_config
from mrrag_llamaindex.serving.vllm.requests import steered_positions
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan, from_extra_args
from mrrag_llamaindex.steering.wire.request_report import RequestReport

logger = logging.getLogger(__name__)

Hasher = Callable[[Any], list[Any]]


def steering_scheduler(**arguments: Any) -> Any:
    """Make the scheduler of an engine; vLLM calls this in place of a class."""
    return _scheduler_class()(**arguments)


@dataclass(eq=False)
class _Tracked:
    """What is known of one request: its plan, and the rows that were steered, by layer."""

    sent: RequestPlan
    plan: SteeringPlan
    rows: tuple[int, int]
    salt: bytes
    steered: dict[int, set[int]] = field(default_factory=dict)
    failure: str = ""

    def take(self, first: int, stop: int, done: tuple[dict[int, list[int]], str]) -> None:
        """Note a step that ran rows ``first .. stop - 1``, and what the worker says of it."""
        steered, self.failure = done
        wanted = set(steered_positions(self.plan, self.rows, first, stop))
        for layer in self.plan.layers:
            now = set(steered.get(layer, ()))
            self.steered.setdefault(layer, set()).update(now)
            if now != wanted and not self.failure:
                self.failure = f"layer {layer} steered {len(now)} of {len(wanted)} rows"

    def report(self) -> RequestReport:
        """Sum up. Rows that never ran came from blocks of an equal plan."""
        length = self.plan.prompt_length
        rows = {n: sum(p < length for p in done) for n, done in sorted(self.steered.items())}
        steps = {n: sum(p >= length for p in done) for n, done in sorted(self.steered.items())}
        return RequestReport(
            rows=rows,
            cached=self.rows[1] - self.rows[0] - max(rows.values(), default=0),
            steps=steps if self.plan.every_step else {},
        )


@cache
def _scheduler_class() -> type[Any]:
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.request import RequestStatus

    class SteeringScheduler(Scheduler):  # type: ignore[misc]
        """vLLM's scheduler; requests without a plan pass through it as they are."""

        def __init__(self, vllm_config: Any, *args: Any, **kwargs: Any) -> None:
            check_arguments(vllm_config)
            check_config(vllm_config)
            super().__init__(vllm_config, *args, **kwargs)
            self._hashed_tokens = kwargs.get("hash_block_size") or kwargs["block_size"]
            self._tracked: dict[str, _Tracked] = {}
            self._refused: dict[str, str] = {}
            self._failures = 0
            text = vllm_config.model_config.hf_text_config
            self._depth, self._heads = text.num_hidden_layers, text.num_attention_heads

        def add_request(self, request: Any) -> None:
            """Check a plan against the prompt, and set its blocks apart."""
            try:
                tracked = self._track(request)
            except SteeringError as error:
                tracked = None
                self._refused[request.request_id] = str(error)
            if tracked is not None:
                self._tracked[request.request_id] = tracked
                params = request.sampling_params = copy(request.sampling_params)
                params.extra_args = {**params.extra_args, KEY: request.request_id}
                if request._block_hasher is not None:
                    first = tracked.rows[0] // self._hashed_tokens
                    request._block_hasher = _salted(request._block_hasher, first, tracked.salt)
                    request.block_hashes.clear()
                    request.update_block_hashes()
            super().add_request(request)

        def _track(self, request: Any) -> _Tracked | None:
            params = request.sampling_params
            sent = None if params is None else from_extra_args(params.extra_args)
            if sent is None:
                return None
            if request.prompt_embeds is not None or request.resumable:
                raise SteeringError("a plan needs a prompt of tokens that is sent whole")
            if sent.length != request.num_prompt_tokens:
                raise SteeringError(
                    f"the plan is for a prompt of {sent.length} tokens, and this one has "
                    f"{request.num_prompt_tokens}: count tokens after image expansion, with the "
                    "server's tokenizer and image processor"
                )
            beyond = [layer for layer in sent.layers if layer >= self._depth]
            if beyond:
                raise SteeringError(
                    f"the plan names layer {beyond[0]}, and the model has {self._depth}"
                )
            plan = sent.build()
            for layer, heads in (plan.heads or {}).items():
                if max(heads) >= self._heads:
                    raise SteeringError(
                        f"the plan names head {max(heads)} in layer {layer}, and the model has "
                        f"{self._heads} per layer"
                    )
            salt = sent.digest + self._failures.to_bytes(8, "big")
            return _Tracked(sent, plan, sent.rows, salt)

        def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
            """Check every step's steering before the engine takes its tokens."""
            done = getattr(model_runner_output, "mrrag_steered", {})
            for key, count in scheduler_output.num_scheduled_tokens.items():
                tracked = self._tracked.get(key)
                request = self.requests.get(key)
                if tracked is None or request is None:
                    continue
                stop = request.num_computed_tokens
                tracked.take(stop - count, stop, done.get(key, ({}, "")))
                if tracked.failure:
                    self._refused[key] = tracked.failure
                    self._refuse_sharers(tracked.salt)
            failed = self._fail()
            outputs = super().update_from_output(scheduler_output, model_runner_output)
            for client, output in failed:
                outputs.setdefault(client, EngineCoreOutputs()).outputs.append(output)
            return outputs

        def _refuse_sharers(self, salt: bytes) -> None:
            """Refuse requests that may have read the blocks of one whose steering failed."""
            for key, other in self._tracked.items():
                if other.salt == salt:
                    self._refused.setdefault(
                        key,
                        "steering failed in a request with an equal plan, whose blocks it "
                        "may have read; ask again",
                    )

        def _fail(self) -> list[tuple[int, Any]]:
            """End the requests that were not, or cannot be, steered; each with its reason."""
            refused, self._refused = self._refused, {}
            failed = []
            for key, reason in refused.items():
                self._failures += 1  # blocks that it may have left are found by no other request
                logger.error("request %s was not steered: %s", key, reason)
                for request in self.finish_requests(key, RequestStatus.FINISHED_ERROR):
                    output = EngineCoreOutput(
                        request_id=key,
                        new_token_ids=[],
                        finish_reason=request.get_finished_reason(),
                        stop_reason=reason,
                        events=request.take_events(),
                        trace_headers=request.trace_headers,
                    )
                    failed.append((request.client_index, output))
            return failed

        def _free_request(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            """Leave the report where the answer's end is told."""
            tracked = self._tracked.pop(request.request_id, None)
            if tracked is not None:
                request.stop_reason = tracked.report().dump()
            return super()._free_request(request, *args, **kwargs)

    return SteeringScheduler


def _salted(hasher: Hasher, first: int, salt: bytes) -> Hasher:
    """Let a block's hash, from the block `first` on, say `salt` as well.

    The engine's hashes are chained, so its own says all tokens before; together with the salt it
    says the plan that they were read with.
    """

    def salted(request: Any) -> list[Any]:
        begin = len(request.block_hashes)
        return [
            hashlib.sha256(salt + own).digest() if begin + index >= first else own
            for index, own in enumerate(hasher(request))
        ]

    return salted
