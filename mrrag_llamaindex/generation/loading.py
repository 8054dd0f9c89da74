"""Find and load a generator: the phantom, a local folder, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.profile import ModelProfile, middle_third
from mrrag_llamaindex.hub import find_folder

WAYS_ON = (
    'give a local folder, MRRAGLLaVA(model="path/to/folder"), or use the small synthetic model '
    f'that is shipped, MRRAGLLaVA(model="{defaults.PHANTOM}")'
)
STEERABLE_TYPES = ("llava",)


@dataclass(frozen=True)
class LoadedModel:
    """A steerable model with what belongs to it.

    Attributes
    ----------
    model : PreTrainedModel
        In evaluation mode, on its device, with steering's attention registered.
    processor : ProcessorMixin
    profile : ModelProfile
    critical_layers : tuple of int
        The profile's, else the middle third.
    layers_are_known : bool
        False when `critical_layers` is the middle third for want of a profile.
    source : str
    """

    model: Any
    processor: Any
    profile: ModelProfile
    critical_layers: tuple[int, ...]
    layers_are_known: bool
    source: str


def resolve_device(device: str) -> str:
    """Turn ``"auto"`` into CUDA where present, else CPU; check any other choice.

    Raises
    ------
    ModelError
        If the named device is not on this machine. There is no fallback to another one.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {device!r} is not available here; name another one, for example "
            'device="cpu", or device="auto"'
        ) from error
    return device


def model_folder(model: str) -> Path:
    """Local folder of ``model``, downloading a hub id if it is not in the cache.

    Raises
    ------
    ModelError
        If there is no such folder and the hub cannot provide it.
    """
    if model == defaults.PHANTOM:
        return defaults.PHANTOM_FOLDER / "llava"
    return find_folder(model, what="model", ways_on=WAYS_ON, error=ModelError)


def load_model(
    model: str = defaults.DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "rows",
) -> LoadedModel:
    """Load a LLaVA checkpoint so that it can be steered.

    Parameters
    ----------
    model : str
        ``"phantom"``, a folder, or a hub id.
    device : str
        A torch device, or ``"auto"``.
    dtype : str
        ``"auto"`` (the checkpoint's on CUDA, float32 on a CPU), ``"float32"``, ``"bfloat16"`` or
        ``"float16"``.
    backend : {"rows", "eager"}
        Steering backend, see `mrrag_llamaindex.steering`.

    Raises
    ------
    ModelError
        If it cannot be found, read, or steered.
    """
    folder = model_folder(model)
    _check_type(folder, model)
    device = resolve_device(device)

    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    from mrrag_llamaindex.steering.attention import register
    from mrrag_llamaindex.steering.carrier import attention_implementation, steerable_class

    register()
    chosen: Any = dtype
    if dtype == "auto" and device == "cpu":
        chosen = torch.float32
    try:
        auto: Any = AutoProcessor  # without annotations in the library
        processor = auto.from_pretrained(folder)
        with _no_bar() if model == defaults.PHANTOM else nullcontext():
            network, told = steerable_class(LlavaForConditionalGeneration).from_pretrained(
                folder,
                dtype=chosen,
                attn_implementation=attention_implementation(
                    LlavaForConditionalGeneration, backend
                ),
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported by name below
            )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"model {model!r} could not be loaded ({type(error).__name__}: {error}); {WAYS_ON}"
        ) from error
    _check_complete(told, model)
    network = network.to(device).eval()
    profile = ModelProfile.load(folder)
    layers = network.config.text_config.num_hidden_layers
    known = profile.critical_layers is not None
    critical = profile.critical_layers if profile.critical_layers else middle_third(layers)
    if max(critical) >= layers:
        raise ModelError(
            f"the profile of model {model!r} names layer {max(critical)}, and the model has "
            f"{layers} layers: the profile belongs to another model"
        )
    return LoadedModel(network, processor, profile, critical, known, model)


@contextmanager
def _no_bar() -> Iterator[None]:
    """Show no progress bar for a load that takes a tenth of a second."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check_complete(told: Any, model: str) -> None:
    """Refuse weights with gaps: transformers fills them with random numbers and goes on."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in told.get(kind, ()))
        if names:
            raise ModelError(
                f"the weights of model {model!r} do not fit its configuration: "
                f"{kind.replace('_', ' ')}, {len(names)} in all, {names[0]} first"
            )


def _check_type(folder: Path, model: str) -> None:
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{model!r} holds no config.json, so it is not a model; {WAYS_ON}")
    try:
        model_type = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise ModelError(f"config.json of model {model!r} is not valid JSON; {WAYS_ON}") from error
    if model_type == "llava_mistral":
        raise ModelError(
            f"model {model!r} is in LLaVA-Med's original layout (llava_mistral), which "
            "transformers does not read; use a copy converted to the Hugging Face layout (llava)"
        )
    if model_type not in STEERABLE_TYPES:
        raise ModelError(
            f"model {model!r} is of type {model_type!r}, which cannot be steered; supported: "
            f"{', '.join(STEERABLE_TYPES)}"
        )
