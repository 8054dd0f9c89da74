"""Say what would be loaded where, what it needs, and whether this machine can; load nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.blueprint import draw
from mrrag_llamaindex.doctor.checkup import (
    check_prompt,
    check_quantization,
    check_steering,
    check_vision_tower,
    check_weights,
)
from mrrag_llamaindex.doctor.diagnosis import Check, Diagnosis
from mrrag_llamaindex.doctor.memory import ModelSize
from mrrag_llamaindex.doctor.verdict import DeviceVerdict, judge, what_would_fit
from mrrag_llamaindex.doctor.vllm import check_vllm
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.quantization import check_name
from mrrag_llamaindex.generation.checkpoints.weight_files import survey_weights


def examine(
    model: str = defaults.DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    max_documents: int = defaults.MAX_DOCUMENTS,
    batch_size: int = defaults.BATCH_SIZE,
    engine: str = "transformers",
) -> Diagnosis:
    """Examine a model as `load_model` would take it; of the hub only small files are fetched.

    Parameters
    ----------
    model, device, dtype, device_map, quantization, vision_tower, allow_pickle
        As for `mrrag_llamaindex.generation.checkpoints.loading.load_model`.
    max_documents, batch_size : int
        For the memory of prompts; a report is taken to have about 100 tokens.
    engine : {"transformers", "vllm"}
        What is to run it. For vLLM, what it needs is looked at as well; its memory is what is left
        of the device, or what ``VLLM_CPU_KVCACHE_SPACE`` allows, beside the weights.

    Raises
    ------
    ModelError
        If there is no such model, its configuration cannot be used, or an argument is wrong. What
        else is wrong with it stands in the diagnosis.
    SteeringError
        If the model cannot be steered.
    MRRAGError
        If psutil (extra ``cli``) is not installed.
    """
    check_name(quantization)
    checkpoint = Checkpoint.find(model, weights=False)
    place = resolve_device(device if device_map is None else "auto", ModelError)
    device = place if device_map is None else "device_map"

    def dtype_on(name: str) -> Any:
        return checkpoint.dtype_for(dtype, place if name == "device_map" else name)

    files = survey_weights(checkpoint.folder)
    checks, sizes = check_weights(checkpoint, files, allow_pickle)
    tower, tower_is_here = check_vision_tower(checkpoint, files, vision_tower)
    usable = files.complete and tower_is_here and not any(c.state == "problem" for c in checks)
    checks += tower
    blueprint = draw(
        checkpoint,
        dtype_on(device),
        with_weights=usable,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
    )
    checks += [Check(what, "problem", text) for what, text in blueprint.problems]
    checks += [Check("checkpoint", "note", note) for note in blueprint.notes]
    if blueprint.checked:
        checks.append(Check("tensors", "ok", "every stored tensor has its place in the model"))
    size = ModelSize.of(blueprint.model)
    text = size.text_config
    prompt, prompt_checks = check_prompt(checkpoint, blueprint, max_documents, batch_size)
    checks += [*prompt_checks, *check_steering(blueprint.model, place)]
    if engine == "vllm":
        checks += check_vllm(checkpoint, files, quantization)
    else:
        checks += check_quantization(quantization, device, dtype_on(device))
    verdicts = judge(
        machine.devices(), size, prompt, dtype_on, quantization, spread=device_map is not None
    )
    verdicts = _chosen_first(verdicts, device)
    wanted = size, prompt, dtype_on(device), quantization
    would_fit = () if verdicts[0].fits else what_would_fit(verdicts[0], verdicts, *wanted)
    return Diagnosis(
        model=model,
        folder=str(checkpoint.folder),
        layout="original" if checkpoint.original else "transformers",
        family=checkpoint.family.model_type,
        model_class=checkpoint.family.model_class,
        layers=int(text.num_hidden_layers),
        heads=int(text.num_attention_heads),
        key_value_heads=int(text.num_key_value_heads),
        window=int(text.max_position_embeddings),
        parameters=dict(size.parameters),
        stored_dtype=files.dtype or checkpoint.dtype,
        stored_bytes=sum(sizes.values()),
        largest_file=max(sizes.values(), default=0),
        image_tokens=prompt.image_tokens,
        prompt_tokens=prompt.prompt_tokens,
        tokens=prompt.tokens,
        documents=prompt.documents,
        batch_size=prompt.batch_size,
        devices=verdicts,
        would_fit=would_fit,
        disk_free=machine.free_disk(checkpoint.folder),
        checks=tuple(checks),
        packages=machine.packages(),
    )


def _chosen_first(verdicts: tuple[DeviceVerdict, ...], device: str) -> tuple[DeviceVerdict, ...]:
    # "cuda" alone is the current device, the first one unless someone changed it.
    name = "cuda:0" if device == "cuda" else device
    first = [verdict for verdict in verdicts if verdict.device == name]
    if not first:
        raise ModelError(
            f"device {device!r}: how much memory it has cannot be told here; name one of "
            f"{', '.join(verdict.device for verdict in verdicts)}"
        )
    return (first[0], *(verdict for verdict in verdicts if verdict is not first[0]))
