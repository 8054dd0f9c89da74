"""Frozen encoders in a saved tower: where they are, and proof that they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone
from mrrag_llamaindex.towers.backbones.xray import XrayImageBackbone
from mrrag_llamaindex.towers.folders import model_folder

KEYS = ("image_backbone", "text_backbone")
_COPIES = "backbones"
_PREPARATION = "preparation"


def write_backbones(
    folder: Path,
    backbones: tuple[ImageBackbone, TextBackbone],
    references: Mapping[str, dict[str, Any]],
    copy: bool,
) -> dict[str, dict[str, Any]]:
    """Write into ``folder`` what it takes to find both encoders again.

    Parameters
    ----------
    folder : Path
    backbones : image and text backbone
    references : mapping
        By `KEYS`, see `Backbone.reference`.
    copy : bool
        Copy the encoders themselves, not only image preparation and tokenizer.

    Returns
    -------
    dict
        References to store, by `KEYS`.

    Raises
    ------
    TowerError
        If an encoder that is in memory only is not to be copied.
    """
    stored = {}
    for key, backbone in zip(KEYS, backbones, strict=True):
        reference = dict(references[key])
        if copy:
            place = folder / _COPIES / key
            place.mkdir(parents=True, exist_ok=True)
            backbone.save(place)
            reference["source"] = f"./{_COPIES}/{key}"
        elif not reference["source"]:
            raise TowerError(
                f"the {key.replace('_', ' ')} exists in memory only; save the tower with "
                "copy_backbones=True"
            )
        # They may differ from those in the encoder's own folder.
        if isinstance(backbone, TransformersImageBackbone):
            backbone.images.save(folder / _PREPARATION)
        if isinstance(backbone, TransformersTextBackbone):
            backbone.texts.save(folder / _PREPARATION)
        stored[key] = reference
    return stored


def read_backbones(
    folder: Path,
    references: Mapping[str, dict[str, Any]],
    given: tuple[ImageBackbone | None, TextBackbone | None],
) -> tuple[ImageBackbone, TextBackbone]:
    """Load both encoders, or take those given, and check them against the stored references.

    Raises
    ------
    TowerError
        If one cannot be loaded or is not the one that the heads were fitted on.
    """
    kinds: tuple[Any, Any] = (TransformersImageBackbone, TransformersTextBackbone)
    loaded: list[Any] = []
    for key, backbone, kind in zip(KEYS, given, kinds, strict=True):
        reference = references[key]
        if backbone is None and key == KEYS[0] and reference.get("type") == "torchxrayvision":
            backbone = XrayImageBackbone.restore(folder, reference)
        if backbone is None and reference.get("type") != "transformers":
            raise TowerError(
                f"the {key.replace('_', ' ')} of this tower is of type {reference.get('type')!r}; "
                f"load it yourself and give it as FrozenTower.load(folder, {key}=...)"
            )
        ready = backbone or kind.restore(
            _place(folder, reference), folder / _PREPARATION, reference
        )
        _check_same(key, ready, reference)
        loaded.append(ready)
    return loaded[0], loaded[1]


def _place(folder: Path, reference: dict[str, Any]) -> Path:
    source = str(reference["source"])
    if not source.startswith("./"):
        return model_folder(source)
    if not (folder / source).is_dir():
        raise TowerError(f"the tower in {str(folder)!r} has lost its folder {source!r}")
    return folder / source


def _check_same(key: str, backbone: Any, stored: dict[str, Any]) -> None:
    reference = backbone.reference()
    digest = str(reference.get("sha256"))
    what = key.replace("_", " ")
    if digest != stored["sha256"]:
        raise TowerError(
            f"the {what} at {stored['source']!r} has other weights than those that the heads were "
            f"fitted on (sha256 {stored['sha256'][:12]}..., found {digest[:12]}"
            "...); restore them or fit the heads again"
        )
    for name, value in stored.items():
        if name in ("source", "sha256"):
            continue
        other = reference.get(name)
        if name == "config" and isinstance(other, dict):
            # Another transformers release may know further fields; those known must agree.
            differs = [field for field in value if field in other and other[field] != value[field]]
        else:
            differs = [name] if other != value else []
        if differs:
            raise TowerError(
                f"the {what} at {stored['source']!r} has another {differs[0]!r} than the one that "
                "the heads were fitted on; restore it or fit the heads again"
            )
    if "config" in stored:
        backbone.config = stored["config"]
