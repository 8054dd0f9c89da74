"""Look at a model folder: what it holds, and of which family it is. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.hub import find_folder
from mrrag_llamaindex.files.json_files import check_json_files
from mrrag_llamaindex.generation.checkpoints.families import ModelFamily, family_of
from mrrag_llamaindex.generation.checkpoints.llava_original.settings import (
    ORIGINAL_TYPES,
    is_original,
    read_config,
)

WAYS_ON = (
    'give a local folder, MRRAGLLaVA(model="path/to/folder"), or use the small synthetic model '
    f'that is shipped, MRRAGLLaVA(model="{defaults.PHANTOM}")'
)


@dataclass(frozen=True)
class Checkpoint:
    """A model folder.

    Attributes
    ----------
    source : str
        The name that it was asked for by.
    folder : pathlib.Path
    config : mapping
        The parsed ``config.json``.
    family : ModelFamily
    original : bool
        Whether it is in the layout of the original LLaVA code, not in that of transformers.
    """

    source: str
    folder: Path
    config: Mapping[str, Any]
    family: ModelFamily
    original: bool

    @classmethod
    def find(cls, model: str, *, weights: bool = True) -> Checkpoint:
        """Find a model: a shipped one, a folder, or a hub id (downloaded if not in the cache).

        Parameters
        ----------
        model : str
            ``"phantom"`` or another of `defaults.PHANTOM_MODELS`, or as above.
        weights : bool
            False: of a model on the hub only the small files are fetched.

        Raises
        ------
        ModelError
            If there is no such folder and the hub cannot provide it, if it holds no model, or
            one of a family that cannot be steered.
        """
        if model in defaults.PHANTOM_MODELS:
            folder = defaults.PHANTOM_FOLDER / defaults.PHANTOM_MODELS[model]
        else:
            folder = find_folder(
                model, what="model", ways_on=WAYS_ON, error=ModelError, weights=weights
            )
        try:
            config = read_config(folder)
            check_json_files(folder)
        except (ModelError, ValueError, OSError) as error:
            raise ModelError(f"model {model!r}: {error}; {WAYS_ON}") from error
        original = is_original(config)
        if original:
            text_type = ORIGINAL_TYPES[config["model_type"]]
            family = family_of(
                {"model_type": "llava", "text_config": {"model_type": text_type}}, model
            )
        else:
            family = family_of(config, model)
        return cls(model, folder, config, family, original)

    @property
    def dtype(self) -> str:
        """Name of the dtype that the weights are stored in, as the configuration states it."""
        text = self.config.get("text_config") or {}
        for config in (self.config, text):
            stated = config.get("dtype") or config.get("torch_dtype")
            if stated:
                return str(stated).removeprefix("torch.")
        return "float32"

    def dtype_for(self, dtype: str, device: str) -> Any:
        """Choose the dtype to load weights in: ``"auto"`` is float32 on a CPU, else as stored.

        Raises
        ------
        ModelError
            If torch has no such floating type.
        """
        import torch

        if dtype == "auto":
            dtype = "float32" if device == "cpu" else self.dtype
        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
            raise ModelError(f"dtype {dtype!r}: use auto, float32, bfloat16 or float16")
        return kind
