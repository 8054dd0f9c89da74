"""The generator that a command's options name, loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.checkpoints.loading import LoadedModel
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.generation.interface import Engine
    from mrrag_llamaindex.generation.prompt.readable import ReadableModel


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how it is loaded: the options of these names."""

    model: str
    device: str
    quantization: str | None
    vision_tower: str
    allow_pickle: bool
    adapter: str | None = None
    merge_adapter: bool = False

    def any_engine(self, runtime: str, api_base: str | None, **settings: Any) -> tuple[Engine, str]:
        """Load it into transformers or vLLM, or reach a server, as `engine` does."""
        if runtime == "transformers" and api_base is None:
            return self.engine(**settings)
        from mrrag_llamaindex.integration.llm import MRRAGLLaVA

        here = vars(self) | {"device": "auto" if api_base else self.device}
        llm = MRRAGLLaVA(**here, runtime=runtime, api_base=api_base, **settings)
        note = _layers_note(llm.engine.loaded, kept=False)
        console.say("note", note)
        return llm.engine, note

    def load(self, backend: str = "rows") -> LoadedModel:
        """Load the model as it is."""
        from mrrag_llamaindex.generation.checkpoints.loading import load_model

        return load_model(**vars(self), backend=backend)

    def engine(
        self, backend: str = "rows", *, quiet: bool = False, **settings: Any
    ) -> tuple[LlavaEngine, str]:
        """Load it into a `LlavaEngine` with the critical layers that are known of it.

        Also returns, and prints, a note that names the layers and where they come from; where
        ``quiet``, those that the model brings along are not worth a line.
        """
        from mrrag_llamaindex.generation.checkpoints.profile_store import with_known_layers
        from mrrag_llamaindex.generation.engine import LlavaEngine

        loaded = self.load(backend)
        known = with_known_layers(loaded)
        kept = known is not loaded
        note = _layers_note(known, kept=kept)
        if kept or not (quiet and known.layers_are_known):
            console.say("note", note)
        return LlavaEngine(known, **settings), note


def _layers_note(loaded: ReadableModel, *, kept: bool) -> str:
    """Name the layers and where they come from; ``kept`` ones were found here by find-layers."""
    layers = f"critical layers {', '.join(map(str, loaded.critical_layers))}"
    if kept:
        return f"{layers}: as mrrag find-layers found on this model"
    if loaded.layers_are_known:
        return f"{layers}: from the profile in the model's folder"
    return (
        f"{layers}, the middle third: none were found on this model; mrrag find-layers finds them"
    )
