"""A LoRA adapter as peft saves it, put onto the model that it was trained on.

LoRA changes the projections around attention and not attention itself (Hu et al., 2021:
``W x + (alpha / r) B A x``), so a model with one is steered as it is without.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.files.hub import find_folder
from mrrag_llamaindex.files.json_files import read_json

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
INSTALL: Final = 'pip install "mrrag-llamaindex[adapter]"'

_WAYS_ON = "give the folder that peft's save_pretrained wrote, or a hub id"
_NOT_THE_ADAPTER = ("base_model_name_or_path", "revision", "inference_mode", "auto_mapping")
"""Fields of the configuration that change nothing about what it does."""


@dataclass(frozen=True)
class Adapter:
    """An adapter that was looked at and belongs to the model.

    Attributes
    ----------
    name : str
        The last part of its path or hub id.
    folder : pathlib.Path
    digest : str
        SHA-256 of its configuration and weights.
    merged : bool
        Whether it is added to the model's weights, rather than computed beside them.
    """

    name: str
    folder: Path
    digest: str
    merged: bool = False

    @classmethod
    def find(cls, source: str, model: str, folder: Path, *, merged: bool = False) -> Adapter:
        """Find an adapter, and check that it is one that can be put onto a model.

        Parameters
        ----------
        source : str
            A folder or a hub id.
        model : str
            What the model was asked for by.
        folder : pathlib.Path
            Where the model lies.
        merged : bool

        Raises
        ------
        ModelError
            If peft is not installed, there is no such adapter, it is not LoRA, its weights are a
            pickle, or it says that it was trained on another model.
        """
        if importlib.util.find_spec("peft") is None:
            raise ModelError(f"adapter {source!r} needs the package peft; {INSTALL}")
        own = find_folder(source, what="adapter", ways_on=_WAYS_ON, error=ModelError)
        config = _config(own, source)
        kind = str(config.get("peft_type"))
        if kind != "LORA":
            raise ModelError(
                f"adapter {source!r} is of type {kind[:40]!r}, and only LoRA can be put onto a "
                "model here: others change the prompt or attention itself, which steering acts on"
            )
        if not (own / WEIGHTS_FILE).is_file():
            raise ModelError(
                f"adapter {source!r} holds no {WEIGHTS_FILE}; save it with "
                "save_pretrained(..., safe_serialization=True): pickles are not opened"
            )
        _check_base(config, source, model, folder)
        settings = {name: value for name, value in config.items() if name not in _NOT_THE_ADAPTER}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        with (own / WEIGHTS_FILE).open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        return cls(_named(source), own, digest.hexdigest(), merged)

    def put_onto(self, network: Any) -> None:
        """Put it onto a loaded model, in place.

        Parameters
        ----------
        network : PreTrainedModel

        Raises
        ------
        ModelError
            If its tensors do not fit the model: a name or a shape is another one.
        """
        # Whatever peft and transformers raise: ValueError, RuntimeError, KeyError, ...
        try:
            report = network.load_adapter(str(self.folder), use_safetensors=True)
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise self._unfit(f"{type(error).__name__}: {reason}") from error
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            names = sorted(map(str, getattr(report, kind, ())))
            if names:
                words = kind.replace("_", " ")
                raise self._unfit(f"{words}, {len(names)} in all, {names[0]} first")
        if self.merged:
            _merge(network)

    def _unfit(self, reason: str) -> ModelError:
        return ModelError(
            f"adapter {self.name!r} does not fit this model: it was trained on another one, or on "
            f"another layout of it ({reason})"
        )


def _config(folder: Path, source: str) -> Mapping[str, Any]:
    path = folder / CONFIG_FILE
    try:
        config = read_json(path)
        if not isinstance(config, Mapping):
            raise TypeError("not an object")
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(
            f"adapter {source!r}: its {CONFIG_FILE} cannot be read ({error}); {_WAYS_ON}"
        ) from error
    return config


def _check_base(config: Mapping[str, Any], source: str, model: str, folder: Path) -> None:
    """Compare the base that an adapter names with the model; shapes are compared on loading.

    Weights of one architecture have the same shapes, so that only the name tells LLaVA 1.5 from
    LLaVA-Med. Folders move, so of a path the last part counts.
    """
    base = str(config.get("base_model_name_or_path") or "")
    if not base or _named(base) in (_named(model), folder.name):
        return
    raise ModelError(
        f"adapter {source!r} was trained on {base[:200]!r}, and this model is {model!r}: on other "
        f"weights it means nothing. If they are the same weights, set base_model_name_or_path in "
        f"its {CONFIG_FILE} to {_named(model)!r}"
    )


def _named(source: str) -> str:
    return Path(source.replace("\\", "/").rstrip("/")).name


def _merge(network: Any) -> None:
    """Add every LoRA product to its weight, and put the plain layer back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [item for item in network.named_modules() if isinstance(item[1], BaseTunerLayer)]
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer.get_base_layer())
