"""A model that runs elsewhere: everything about it but its weights, which are not read here."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.chat_template import profile_for
from mrrag_llamaindex.generation.checkpoints.checkpoint import Checkpoint
from mrrag_llamaindex.generation.checkpoints.conversion.vllm import require_family
from mrrag_llamaindex.generation.checkpoints.families import ModelFamily
from mrrag_llamaindex.generation.checkpoints.image_readers import ImageReader, reader_for
from mrrag_llamaindex.generation.checkpoints.loading import greedy, readable
from mrrag_llamaindex.generation.checkpoints.processors import NO_CODE, load_processor
from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DescribedModel:
    """A `ReadableModel` without weights.

    Attributes
    ----------
    folder : Path
    config, generation_config, tokenizer, images, family, profile, critical_layers
        As of `ReadableModel`.
    layers_are_known, source
        As of `ReadableModel`.
    """

    folder: Path
    config: Any
    generation_config: Any
    tokenizer: Any
    images: ImageReader | None
    family: ModelFamily
    profile: ModelProfile
    critical_layers: tuple[int, ...]
    layers_are_known: bool
    source: str

    @property
    def identity(self) -> str:
        """Name and digest of the configuration and the prompt's layout; not of the weights."""
        text = repr((self.profile.template, self.config.to_json_string()))
        return f"{Path(self.source).name}@vllm-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def within(self, window: int) -> DescribedModel:
        """Return it with a window of at most so many tokens, which is what its engine was given."""
        text = self.config.get_text_config(decoder=True)
        text.max_position_embeddings = min(int(text.max_position_embeddings), window)
        return self


def describe(model: str, profile: str | None = None) -> DescribedModel:
    """Read what prompts are written with; of a model on the hub only the small files.

    Parameters
    ----------
    model : str
        ``"phantom"``, a folder, or a hub id: the one that vLLM runs.
    profile : str, optional
        A profile file with the model's critical layers. Default: that of the folder. Those that
        ``mrrag find-layers`` keeps for a user are found by weights, which are not read here.

    Raises
    ------
    ModelError
        If there is no such model, vLLM cannot run its family, or it is in the original layout.
    """
    from transformers import AutoConfig, GenerationConfig

    checkpoint = Checkpoint.find(model, weights=False)
    require_family(checkpoint)
    if checkpoint.original:
        raise ModelError(
            f"model {model!r} is in LLaVA's original layout, which vLLM does not load: run mrrag "
            f"convert {model} DST --for vllm, and name DST"
        )
    generation: Any = GenerationConfig
    with readable(model):
        tokenizer, processor, notes = load_processor(checkpoint)
        config: Any = AutoConfig.from_pretrained(checkpoint.folder, **NO_CODE)
        if (checkpoint.folder / "generation_config.json").is_file():
            stored = generation.from_pretrained(checkpoint.folder)
        else:
            stored = generation.from_model_config(config)
        reader = reader_for(checkpoint.family, processor, config)
        own = profile_for(checkpoint, tokenizer, processor, reader)
    for note in notes:
        logger.warning("model %r: %s", model, note)
    if profile is not None:
        own = _with_layers(own, Path(profile))
    text = config.get_text_config(decoder=True)
    return DescribedModel(
        folder=checkpoint.folder,
        config=config,
        generation_config=greedy(stored, config),
        tokenizer=tokenizer,
        images=reader,
        family=checkpoint.family,
        profile=own,
        critical_layers=own.layers_for(text, model),
        layers_are_known=own.critical_layers is not None,
        source=model,
    )


def _with_layers(own: ModelProfile, path: Path) -> ModelProfile:
    if not path.is_file():
        raise ModelError(f"there is no profile file {path.name!r} where it was named")
    named = ModelProfile.read(path)
    if named.critical_layers is None:
        raise ModelError(f"profile {path.name} names no critical_layers")
    return replace(own, critical_layers=named.critical_layers, note=named.note)
