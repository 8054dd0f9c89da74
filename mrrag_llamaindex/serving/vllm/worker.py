"""The platform's worker, which also says what was steered in each step."""

from __future__ import annotations

from typing import Any

from mrrag_llamaindex.serving.vllm.checks import check_layers
from mrrag_llamaindex.serving.vllm.requests import SteeredRequests

_PLATFORM_WORKERS = {
    "cpu": "vllm.v1.worker.cpu_worker.CPUWorker",
    "cuda": "vllm.v1.worker.gpu_worker.Worker",
}


def _steered_worker() -> type[Any]:
    """Make the worker class of this platform with two things added."""
    from vllm.platforms import current_platform
    from vllm.utils.import_utils import resolve_obj_by_qualname

    platform = current_platform.device_type
    if platform not in _PLATFORM_WORKERS:
        raise RuntimeError(
            f"steering: vLLM runs on {platform!r} here; it is supported on "
            f"{' and '.join(_PLATFORM_WORKERS)}"
        )
    base: type[Any] = resolve_obj_by_qualname(_PLATFORM_WORKERS[platform])

    class Worker(base):  # type: ignore[misc]
        """Checks the layers that were loaded; reports with every output."""

        def load_model(self, *args: Any, **kwargs: Any) -> Any:
            result = super().load_model(*args, **kwargs)
            check_layers(self.vllm_config.compilation_config.static_forward_context)
            return result

        def execute_model(self, *args: Any, **kwargs: Any) -> Any:
            return self._reported(super().execute_model(*args, **kwargs))

        def sample_tokens(self, *args: Any, **kwargs: Any) -> Any:
            return self._reported(super().sample_tokens(*args, **kwargs))

        def _reported(self, output: Any) -> Any:
            if output is not None:
                layers = self.vllm_config.compilation_config.static_forward_context.values()
                requests = next((r for layer in layers if (r := _requests(layer))), None)
                output.mrrag_steered = {} if requests is None else requests.take()
            return output

    Worker.__name__ = Worker.__qualname__ = f"Steered{base.__name__}"
    return Worker


def _requests(layer: Any) -> SteeredRequests | None:
    return getattr(getattr(layer, "impl", None), "requests", None)


def __getattr__(name: str) -> type[Any]:
    if name == "SteeredWorker":
        globals()[name] = _steered_worker()
        made: type[Any] = globals()[name]
        return made
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
