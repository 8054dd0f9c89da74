"""What must be known of a model to write its prompts: all but its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.families import ModelFamily
    from mrrag_llamaindex.generation.checkpoints.image_readers import ImageReader
    from mrrag_llamaindex.generation.checkpoints.profile import ModelProfile


class ReadableModel(Protocol):
    """A model as prompts are written for it: `LoadedModel`, or one that runs elsewhere.

    Attributes
    ----------
    config : PretrainedConfig
    generation_config : GenerationConfig
        See `mrrag_llamaindex.generation.checkpoints.loading.greedy`.
    tokenizer, images, family, profile, critical_layers, layers_are_known, source
        As of `LoadedModel`.
    """

    @property
    def config(self) -> Any: ...  # noqa: D102

    @property
    def generation_config(self) -> Any: ...  # noqa: D102

    @property
    def tokenizer(self) -> Any: ...  # noqa: D102

    @property
    def images(self) -> ImageReader | None: ...  # noqa: D102

    @property
    def family(self) -> ModelFamily: ...  # noqa: D102

    @property
    def profile(self) -> ModelProfile: ...  # noqa: D102

    @property
    def critical_layers(self) -> tuple[int, ...]: ...  # noqa: D102

    @property
    def layers_are_known(self) -> bool: ...  # noqa: D102

    @property
    def source(self) -> str: ...  # noqa: D102
