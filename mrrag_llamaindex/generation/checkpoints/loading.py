"""Load a generator so that it can be steered."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError, MRRAGError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.generation.checkpoints.adapters.lora import Adapter
from mrrag_llamaindex.generation.checkpoints.chat_template import profile_for
from mrrag_llamaindex.generation.checkpoints.checkpoint import WAYS_ON, Checkpoint
from mrrag_llamaindex.generation.checkpoints.families import ModelFamily
from mrrag_llamaindex.generation.checkpoints.image_readers import ImageReader, reader_for
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile
from mrrag_llamaindex.generation.checkpoints.quantization import (
    check_name,
    check_quantized,
    quantization_config,
)

logger = logging.getLogger(__name__)

_MOST_WORDS = 500
"""Characters of a loader's message that are quoted."""


@dataclass(frozen=True)
class LoadedModel:
    """A steerable model with what belongs to it.

    Attributes
    ----------
    model : PreTrainedModel
        In evaluation mode, on its device, with steering's attention registered.
    tokenizer : PreTrainedTokenizerFast
    images : ImageReader or None
        None for a text-only model.
    family : ModelFamily
    profile : ModelProfile
    critical_layers : tuple of int
        The profile's, else the middle third.
    layers_are_known : bool
        False when `critical_layers` is the middle third for want of a profile.
    source : str
    adapter : Adapter or None
        What was put onto the model.
    """

    model: Any
    tokenizer: Any
    images: ImageReader | None
    family: ModelFamily
    profile: ModelProfile
    critical_layers: tuple[int, ...]
    layers_are_known: bool
    source: str
    adapter: Adapter | None = None

    @property
    def name(self) -> str:
        """For people: the last part of the model's path or hub id, and its adapter's."""
        names = [Path(self.source).name, *([self.adapter.name] if self.adapter else [])]
        return "+".join(names)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def generation_config(self) -> Any:
        """How the model decodes, see `greedy`."""
        return self.model.generation_config


def load_model(
    model: str = defaults.DEFAULT_MODEL,
    *,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "rows",
    device_map: str | Mapping[str, Any] | None = None,
    quantization: str | None = None,
    vision_tower: str = "checkpoint",
    allow_pickle: bool = False,
    adapter: str | None = None,
    merge_adapter: bool = False,
) -> LoadedModel:
    """Load a checkpoint so that it can be steered.

    Parameters
    ----------
    model : str
        ``"phantom"``, a folder, or a hub id. LLaVA-Med's original layout is converted while it
        is read.
    device : str
        A torch device, or ``"auto"``: CUDA where present, else CPU.
    dtype : str
        ``"auto"`` (the checkpoint's on CUDA, float32 on a CPU), ``"float32"``, ``"bfloat16"`` or
        ``"float16"``.
    backend : {"rows", "eager", "flex"}
        Steering backend, see `mrrag_llamaindex.steering`. ``"flex"`` is compared with the
        definition first, see `attention.proof`, which takes up to a minute.
    device_map : str or mapping, optional
        Spread the model over devices, as in transformers; takes the place of ``device``.
    quantization : {"int8", "int4"}, optional
        Weights of the text model in 8 or 4 bits, see `checkpoints.quantization`.
    vision_tower : str
        For the original layout: ``"checkpoint"``, ``"clip"`` or the folder of a CLIP model.
    allow_pickle : bool
        For the original layout: read ``.bin`` files, which are pickles.
    adapter : str, optional
        Folder or hub id of a LoRA adapter that was trained on this model, see `adapters.lora`.
    merge_adapter : bool
        Add the adapter to the weights: a little faster, and rounded to their type.

    Raises
    ------
    ModelError
        If it cannot be found or read, if a tensor is missing, unexpected or wrongly shaped, or
        if what was asked for is not available here.
    SteeringError
        If its attention cannot be steered, or the backend is wrong or cannot run here.
    """
    from mrrag_llamaindex.steering.attention.model_class import require_backend
    from mrrag_llamaindex.steering.attention.support import check_steerable

    check_name(quantization)
    checkpoint = Checkpoint.find(model)
    if merge_adapter and adapter is None:
        raise ModelError("merge_adapter goes with adapter: there is none to be merged")
    if merge_adapter and quantization is not None:
        raise ModelError(
            f"an adapter is not merged into weights of {quantization}, which would round it away; "
            "leave merge_adapter out"
        )
    found = None
    if adapter is not None:
        found = Adapter.find(adapter, model, checkpoint.folder, merged=merge_adapter)
    place = resolve_device(device if device_map is None else "auto", ModelError)
    require_backend(backend, place.partition(":")[0])
    loaded_in = checkpoint.dtype_for(dtype, place)
    network, tokenizer, processor = _load(
        checkpoint,
        backend,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
        dtype=loaded_in,
        device_map={"": place} if device_map is None else device_map,
        quantization_config=quantization_config(
            quantization, place if device_map is None else None, loaded_in
        ),
    )
    check_quantized(network, quantization)
    if found is not None:
        found.put_onto(network)
        check_steerable(network)
        network.eval()
    with readable(model):  # a processor may load well and fail on its first image
        reader = reader_for(checkpoint.family, processor, network.config)
        profile = profile_for(checkpoint, tokenizer, processor, reader)
        critical = profile.layers_for(network.config.get_text_config(decoder=True), model)
    return LoadedModel(
        network,
        tokenizer,
        reader,
        checkpoint.family,
        profile,
        critical,
        profile.critical_layers is not None,
        model,
        found,
    )


def _load(
    checkpoint: Checkpoint, backend: str, *, vision_tower: str, allow_pickle: bool, **options: Any
) -> tuple[Any, Any, Any]:
    """Model, tokenizer, and processor (None for a text-only model)."""
    import transformers

    from mrrag_llamaindex.generation.checkpoints.processors import load_processor
    from mrrag_llamaindex.generation.checkpoints.weight_files import open_weights
    from mrrag_llamaindex.steering.attention.model_class import (
        attention_implementation,
        steerable_class,
    )
    from mrrag_llamaindex.steering.attention.proof import require_proven
    from mrrag_llamaindex.steering.attention.registry import register
    from mrrag_llamaindex.steering.attention.support import check_steerable

    register()
    base = getattr(transformers, checkpoint.family.model_class)
    options["attn_implementation"] = attention_implementation(base, backend)
    notes: tuple[str, ...] = ()
    with readable(checkpoint.source), ExitStack() as stack:
        if checkpoint.source in defaults.PHANTOM_MODELS:  # its load takes a tenth of a second
            stack.enter_context(no_progress_bars())
        if checkpoint.original:
            from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original

            opened = open_original(
                checkpoint.folder, vision_tower=vision_tower, allow_pickle=allow_pickle
            )
            notes, processor, tokenizer = opened.notes, opened.processor, opened.processor.tokenizer
            options["config"], options["state_dict"] = opened.config, dict(opened.tensors)
        else:
            open_weights(
                checkpoint.folder,
                what=f"model {checkpoint.source!r}",
                allow_pickle=allow_pickle,
            )
            tokenizer, processor, notes = load_processor(checkpoint)
            # Weights in pickles could run code of their author.
            options["use_safetensors"] = None if allow_pickle else True
        network, report = steerable_class(base).from_pretrained(
            None if checkpoint.original else checkpoint.folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported by name below
            **options,
        )
    check_complete(report, checkpoint.source)
    check_steerable(network)
    require_proven(backend, network)
    stored = opened.generation_config if checkpoint.original else network.generation_config
    network.generation_config = greedy(stored, network.config)
    for note in notes:
        logger.warning("model %r: %s", checkpoint.source, note)
    return network.eval(), tokenizer, processor


def greedy(stored: Any, config: Any) -> Any:
    """Return how a model decodes: greedily, whatever else its checkpoint asks for.

    A penalty on repetition counts the prompt, and in a batch the padding of shorter prompts, so
    that an answer would depend on its company; sampling depends on chance; and forced or suppressed
    tokens would move p(yes). `generate` of transformers takes all that from the model unasked.

    Parameters
    ----------
    stored : GenerationConfig
        The checkpoint's. Its special tokens are kept, and no more.
    config : PretrainedConfig
        The model's. Of a converted LLaVA, the suppressed tokens are kept as well: they are rows
        that the conversion added, and no words.
    """
    from transformers import GenerationConfig

    names = ["bos_token_id", "eos_token_id", "pad_token_id"]
    if hasattr(config, "mrrag_vision_tower"):
        names.append("suppress_tokens")
    generation_config: Any = GenerationConfig  # without annotations in the library
    return generation_config(**{name: getattr(stored, name) for name in names})


@contextmanager
def readable(model: str) -> Iterator[None]:
    """Turn what transformers raises while it loads into a `ModelError`."""
    try:
        yield
    except MRRAGError:
        raise
    except Exception as error:
        raise _unreadable(model, error) from error
    except BaseException as error:
        # A crash in a loader written in Rust is a BaseException; interrupts must pass.
        if type(error).__name__ != "PanicException":
            raise
        raise _unreadable(model, error) from error


def _unreadable(model: str, error: BaseException) -> ModelError:
    text = " ".join(str(error).split())
    text = text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]} ..."
    return ModelError(
        f"model {model!r} could not be loaded ({type(error).__name__}: {text}); {WAYS_ON}"
    )


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Let transformers show no progress bar."""
    from transformers.utils import logging as transformers_logging

    library: Any = transformers_logging  # without annotations
    enabled = library.is_progress_bar_enabled()
    library.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            library.enable_progress_bar()


def check_complete(report: Any, model: str) -> None:
    """Refuse weights with gaps: transformers fills them with random numbers and goes on."""
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(str(name) for name in report.get(kind, ()))
        if names:
            raise ModelError(
                f"the weights of model {model!r} do not fit its configuration: "
                f"{kind.replace('_', ' ')}, {len(names)} in all, {names[0]} first"
            )
