"""The engine that a generator's settings describe: one row for each that there is."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.profile_store import with_known_layers
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.interface import Engine

if TYPE_CHECKING:
    from mrrag_llamaindex.integration.generator.settings import GeneratorSettings

_BY_VLLM = "vLLM loads the model in its own way"
_BY_SERVER = "whoever started the server has decided it"
_OF_TRANSFORMERS = {
    "device_map": _BY_VLLM,
    "quantization": _BY_VLLM,
    "vision_tower": "run mrrag convert --for vllm with it, once",
    "allow_pickle": "run mrrag convert --for vllm with it, once",
    "adapter": "merge it into the model's folder with peft, and name that folder",
    "merge_adapter": "merge it into the model's folder with peft, and name that folder",
    "steering_backend": "the plugin in vLLM has one of its own",
}
_OF_VLLM = {"engine_options": 'it belongs to engine="vllm"'}
_OF_SERVERS = {"request_timeout": "it belongs to api_base="}


def load_engine(settings: GeneratorSettings) -> Engine:
    """Load or reach the engine.

    Raises
    ------
    ModelError
        If that cannot be done, or a setting is another engine's.
    """
    name = "server" if settings.api_base is not None else settings.runtime
    load, refused = _ENGINES[name]
    for field, why in refused.items():
        default = type(settings).model_fields[field].get_default(call_default_factory=True)
        if getattr(settings, field) != default:
            raise ModelError(f"{field} has no effect here: {why}")
    limits = {
        "max_documents": settings.max_documents,
        "max_new_tokens": settings.max_new_tokens,
        "batch_size": settings.batch_size,
        "max_queue": settings.max_queue,
        "queue_timeout": settings.queue_timeout,
    }
    return load(settings, limits)


def _transformers(settings: GeneratorSettings, limits: Mapping[str, Any]) -> Engine:
    loaded = load_model(
        settings.model,
        device=settings.device,
        dtype=settings.dtype,
        backend=settings.steering_backend,
        device_map=settings.device_map,
        quantization=settings.quantization,
        vision_tower=settings.vision_tower,
        allow_pickle=settings.allow_pickle,
        adapter=settings.adapter,
        merge_adapter=settings.merge_adapter,
    )
    known = with_known_layers(loaded, settings.profile)
    return LlavaEngine(known, prefix_cache=settings.prefix_cache, **limits)


def _vllm(settings: GeneratorSettings, limits: Mapping[str, Any]) -> Engine:
    from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
    from mrrag_llamaindex.generation.vllm.connection import Connection
    from mrrag_llamaindex.generation.vllm.description import describe
    from mrrag_llamaindex.generation.vllm.engine import VllmEngine
    from mrrag_llamaindex.generation.vllm.in_process import InProcessDoor, arguments_for

    if ":" in settings.device:
        raise ModelError(
            f"device {settings.device!r}: vLLM takes the first that it sees: name the type "
            "alone, and choose one by CUDA_VISIBLE_DEVICES"
        )
    loaded = describe(settings.model, settings.profile)
    folder, let_go = _folder_for_vllm(settings.model)
    place = resolve_device(settings.device, ModelError)
    dtype = Checkpoint.find(settings.model).dtype_for(settings.dtype, place)
    arguments = arguments_for(
        dtype=str(dtype).removeprefix("torch."),
        batch_size=settings.batch_size,
        prefix_cache=settings.prefix_cache,
        images=1 if loaded.family.sees_images and not loaded.family.several_images else None,
        options=settings.engine_options,
    )
    wanted = None if settings.device == "auto" else place
    connection = Connection(InProcessDoor(folder, arguments, wanted), let_go)
    return VllmEngine(loaded, connection, **limits)


def _folder_for_vllm(model: str) -> tuple[Path, Callable[[], object] | None]:
    """Return the folder that vLLM loads; of the small shipped model a copy, and what removes it.

    Raises
    ------
    ModelError
        If vLLM would look for tensors by other names.
    """
    from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
    from mrrag_llamaindex.generation.checkpoints.conversion.vllm import convert_for_vllm, misnamed
    from mrrag_llamaindex.generation.checkpoints.weight_files import survey_weights

    if model == defaults.PHANTOM:
        made = Path(tempfile.mkdtemp(prefix="mrrag-vllm-"))
        let_go = partial(shutil.rmtree, made, ignore_errors=True)
        return convert_for_vllm(model, made / model).folder, let_go
    checkpoint = Checkpoint.find(model)
    if misnamed(survey_weights(checkpoint.folder).keys, checkpoint.family.model_type):
        raise ModelError(
            f"model {model!r} has its tensors under names by which vLLM does not look for them: "
            f"run mrrag convert {model} DST --for vllm, and name DST"
        )
    return checkpoint.folder, None


def _server(settings: GeneratorSettings, limits: Mapping[str, Any]) -> Engine:
    from mrrag_llamaindex.generation.vllm.connection import Connection
    from mrrag_llamaindex.generation.vllm.description import describe
    from mrrag_llamaindex.generation.vllm.engine import VllmEngine
    from mrrag_llamaindex.generation.vllm.over_http import HttpDoor

    assert settings.api_base is not None
    loaded = describe(settings.model, settings.profile)
    door = HttpDoor(settings.api_base, loaded, settings.request_timeout)
    return VllmEngine(loaded, Connection(door), **limits)


_ENGINES: Final = {
    "transformers": (_transformers, _OF_VLLM | _OF_SERVERS),
    "vllm": (_vllm, _OF_TRANSFORMERS | _OF_SERVERS),
    "server": (
        _server,
        dict.fromkeys(("device", "dtype", "prefix_cache"), _BY_SERVER)
        | dict.fromkeys(_OF_TRANSFORMERS, _BY_SERVER)
        | _OF_VLLM,
    ),
}
"""By name: what loads it, and the settings that have no effect on it, with the reason."""
