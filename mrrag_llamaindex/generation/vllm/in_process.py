"""vLLM in this process's care: its asynchronous engine, started with what steering needs."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Final

from mrrag_llamaindex.errors import ModelError, MRRAGError
from mrrag_llamaindex.generation.vllm.door import MOST_LOGPROBS, Door, Piece, WireRequest

PLUGIN: Final = "mrrag_llamaindex.serving.vllm.arguments"
"""Lives in a folder above this one, and is found by name, as vLLM itself finds it."""

OWN: Final = (
    "model",
    "dtype",
    "max_num_seqs",
    "enable_prefix_caching",
    "limit_mm_per_prompt",
    "max_logprobs",
    "logprobs_mode",
    "disable_log_stats",
)
"""Arguments of vLLM's that other settings decide."""

_ENVIRONMENT = threading.Lock()


class InProcessDoor(Door):
    """An engine of one's own; vLLM runs the model in a process that belongs to this one.

    Parameters
    ----------
    folder : Path
        As `convert_for_vllm` writes it.
    arguments : mapping
        Of ``vllm.AsyncEngineArgs``.
    device : str, optional
        Where it must run. Default: where this build of vLLM does.
    """

    name = "vLLM"

    def __init__(
        self, folder: Path, arguments: Mapping[str, Any], device: str | None = None
    ) -> None:
        self._folder = folder
        self._device = device
        self._arguments = dict(arguments)
        self._engine: Any = None
        self._numbers = itertools.count()

    async def open(self) -> int:
        """See `Door`; takes from half a minute on, most of it in vLLM's imports."""
        # Standard output is the program's own: vLLM would log there, in its processes as well.
        os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
        try:
            from vllm import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise ModelError(
                f"vLLM cannot be imported ({' '.join(str(error).split())[:200]}); see what "
                "mrrag doctor MODEL --engine vllm says, or ask a server: api_base="
            ) from error
        where = current_platform.device_type
        if self._device not in (None, where):
            raise ModelError(
                f"this vLLM runs on {where!r}, and device={self._device!r} was asked for: install "
                'the build for it, or leave device="auto"'
            )
        steering = resolve_name(f"{PLUGIN}:engine_arguments")()
        wanted = {**steering, **self._arguments}
        differing = [name for name in steering if wanted[name] != steering[name]]
        if differing:
            raise ModelError(f"steering in vLLM decides {differing[0]}: leave it out")
        known = AsyncEngineArgs.__dataclass_fields__
        for name in wanted:
            if name not in known:
                raise ModelError(f"vLLM's engine takes no argument {name!r}")
        try:
            with _steering_on():
                arguments = AsyncEngineArgs(model=str(self._folder), **wanted)
                self._engine = AsyncLLM.from_engine_args(arguments)
        except MRRAGError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:500]
            memory = (
                "; on a CPU it wants nearly all memory free, unless VLLM_CPU_KVCACHE_SPACE=4 in "
                "the environment (GiB) says what it may take"
            )
            raise ModelError(
                f"vLLM did not start ({type(error).__name__}: {text}); see what mrrag doctor "
                f"{self._folder.name} --engine vllm says, and vLLM's own log"
                f"{memory if where == 'cpu' else ''}"
            ) from error
        return int(self._engine.model_config.max_model_len)

    async def pieces(self, request: WireRequest) -> AsyncGenerator[Piece, None]:
        """See `Door`."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        prompt: dict[str, Any] = {"prompt_token_ids": list(request.sent_ids)}
        if request.images:
            prompt["multi_modal_data"] = {"image": list(request.images)}
        sampling = SamplingParams(**request.sampling, output_kind=RequestOutputKind.DELTA)
        name = f"mrrag-{next(self._numbers)}"
        if self._engine is None:
            raise ModelError("vLLM was closed: make another MRRAGLLaVA")
        try:
            async with aclosing(self._engine.generate(prompt, sampling, name)) as outputs:
                async for output in outputs:
                    yield _piece(output)
        except EngineDeadError:
            raise ModelError(
                "vLLM's process has ended, and with it every request at work: its log says why; "
                "make another MRRAGLLaVA"
            ) from None
        except (VLLMClientError, ValueError) as error:
            text = " ".join(str(error).split())[:300]
            raise ModelError(f"vLLM refuses this request: {text}") from error

    async def close(self) -> None:
        """See `Door`."""
        engine, self._engine = self._engine, None
        if engine is None:
            return
        if engine.output_handler is not None:  # it would take the end for a failure
            engine.output_handler.cancel()
        await asyncio.to_thread(engine.shutdown)


def arguments_for(
    *,
    dtype: str,
    batch_size: int,
    prefix_cache: int,
    images: int | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the engine's arguments for our settings and those of a user's own.

    Raises
    ------
    ModelError
        If a user's decide what our settings do.
    """
    taken = [name for name in OWN if name in options]
    if taken:
        raise ModelError(f"engine_options: {taken[0]} is decided by the other settings")
    return {
        "dtype": dtype,
        "max_num_seqs": batch_size,
        "enable_prefix_caching": prefix_cache > 0,
        "limit_mm_per_prompt": {} if images is None else {"image": images},
        # A request that is taken back lets its two copies drift, and the next one on that image
        # fails.
        "mm_processor_cache_gb": 0,
        "max_logprobs": MOST_LOGPROBS,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
        **options,
    }


def _piece(output: Any) -> Piece:
    (answer,) = output.outputs
    told = [{token: item.logprob for token, item in step.items()} for step in answer.logprobs or ()]
    return Piece(
        tokens=tuple(answer.token_ids),
        logprobs=told,
        prompt_ids=output.prompt_token_ids,
        finish_reason=answer.finish_reason,
        stop_reason=answer.stop_reason,
    )


@contextmanager
def _steering_on() -> Iterator[None]:
    """Let the plugin register itself in the processes that are started in the block."""
    name = resolve_name(f"{PLUGIN}:ACTIVE")
    with _ENVIRONMENT:  # engines that start at once would take each other's setting away
        before = os.environ.get(name)
        os.environ[name] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[name]
            else:
                os.environ[name] = before
