"""Any image encoder and any text encoder, frozen, joined by two trained heads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.atomic import write_atomically
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.files.writing import system_errors
from mrrag_llamaindex.towers.backbones.feature_cache import FEATURES_FOLDER, KnownFeatures
from mrrag_llamaindex.towers.backbones.protocol import ImageBackbone, TextBackbone
from mrrag_llamaindex.towers.backbones.saved import read_backbones, write_backbones
from mrrag_llamaindex.towers.base import check_images, check_texts, unit_rows
from mrrag_llamaindex.towers.folders import TOWER_FILE, reading
from mrrag_llamaindex.towers.identity import make_identity, weights_digest
from mrrag_llamaindex.towers.projection_head import FittedHeads, empty_head
from mrrag_llamaindex.towers.raw_projection import RawProjection

HEADS_FILE = "heads.safetensors"


class FrozenTower:
    """Frozen encoders with trained heads; a `mrrag_llamaindex.towers.protocol.DualTower`.

    The encoders may be of any origin, see `ImageBackbone` and `TextBackbone`; for those of
    transformers there are ready adapters. Features can be cached, so that training the heads
    (`learning.towers.heads.recipe.train_heads`) takes seconds on a CPU. A long text is read in
    windows whose features are averaged before the head, so that embedding agrees with what the
    heads were fitted on. Beside the common space it may keep the encoders' own features
    (`mrrag_llamaindex.mcr.blocks`): vectors are then ``[head ; raw]``, each of unit length.

    Parameters
    ----------
    image_backbone : ImageBackbone
    text_backbone : TextBackbone
    heads : FittedHeads
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.

    Raises
    ------
    ValueError
        If a head does not fit its encoder, or the two heads differ in dimension.
    """

    name = "frozen"

    def __init__(
        self,
        image_backbone: ImageBackbone,
        text_backbone: TextBackbone,
        heads: FittedHeads,
        *,
        source: str = "",
        device: str = "cpu",
    ) -> None:
        for what, backbone, head in (
            ("image", image_backbone, heads.image),
            ("text", text_backbone, heads.text),
        ):
            if head.inputs != backbone.dimension:
                raise ValueError(
                    f"the {what} head takes {head.inputs} features, the {what} encoder "
                    f"gives {backbone.dimension}"
                )
        if heads.image.dimension != heads.text.dimension:
            raise ValueError("the two heads differ in dimension")
        self.image_backbone = image_backbone
        self.text_backbone = text_backbone
        self.record = dict(heads.record)
        self.source = source
        self.dimension = heads.image.dimension
        self.text_token_limit = text_backbone.text_token_limit
        self.long_text = text_backbone.long_text
        self._heads = nn.ModuleDict({"image": heads.image, "text": heads.text})
        self._head_settings = {"image_head": heads.image.settings, "text_head": heads.text.settings}
        self.blocks = heads.blocks
        if heads.raw is not None:
            image, text = heads.raw
            self._heads.update({"raw_image": image, "raw_text": text})
            self._head_settings["raw"] = {
                "image": image.settings,
                "text": text.settings,
                "scales": list(self.blocks.scales),
            }
        self._heads.eval().requires_grad_(False)
        self._known: dict[str, KnownFeatures] = {}
        self._references = {
            "image_backbone": image_backbone.reference(),
            "text_backbone": text_backbone.reference(),
        }
        self.to(device)

    def to(self, device: str) -> Self:
        """Move encoders and heads; returns the tower itself."""
        self.device = resolve_device(device, TowerError)
        self.image_backbone.to(device)
        self.text_backbone.to(device)
        self._heads.to(self.device)
        return self

    @property
    def identity(self) -> str:
        """``"frozen@<16 hex digits>"`` of heads, encoders and settings, not of their places."""
        references = [{**one, "source": ""} for one in self._references.values()]
        parts = [*references, self._head_settings["raw"]] if self.blocks.raw_image else references
        return make_identity(self.name, parts, weights_digest(self._heads))

    def embed_images(
        self, images: Sequence[Image.Image], batch_size: int = 32
    ) -> NDArray[np.float32]:
        """See `DualTower.embed_images`."""
        check_images(images, batch_size)
        return self._embed("image", self.image_backbone.features(images, batch_size))

    def embed_texts(self, texts: Sequence[str], batch_size: int = 32) -> NDArray[np.float32]:
        """See `DualTower.embed_texts`."""
        check_texts(texts, batch_size)
        return self._embed("text", self.text_backbone.features(texts, batch_size))

    @property
    def remembers(self) -> bool:
        """See `mrrag_llamaindex.towers.protocol.Remembers`."""
        return self._features_folder() is not None

    def remembered(self, kind: str, keys: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """See `mrrag_llamaindex.towers.protocol.Remembers`.

        From the features that training has cached in the towers' folder. They are those of the
        same encoder: the cache's name comes from its reference.
        """
        folder = self._features_folder()
        if folder is None:
            return {}
        if kind not in self._known:
            reference = self._references[f"{kind}_backbone"]
            self._known[kind] = KnownFeatures(folder, kind, reference)
        known = self._known[kind]
        features = {key: known[key] for key in dict.fromkeys(keys) if key in known}
        finite = {key: one for key, one in features.items() if bool(torch.isfinite(one).all())}
        if not finite:
            return {}
        return dict(zip(finite, self._embed(kind, torch.stack([*finite.values()])), strict=True))

    def save(self, folder: str | Path, copy_backbones: bool = False) -> None:
        """Write heads, settings and, if asked, the encoders into ``folder``.

        Parameters
        ----------
        folder : str or Path
        copy_backbones : bool
            Put a copy of both encoders into the folder, which then stands alone. Otherwise it
            refers to where they were loaded from, with a hash of their weights.

        Raises
        ------
        TowerError
            If an encoder exists in memory only and is not to be copied.
        """
        from safetensors.torch import save_file

        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        (target / TOWER_FILE).unlink(missing_ok=True)
        backbones = (self.image_backbone, self.text_backbone)
        references = write_backbones(target, backbones, self._references, copy_backbones)
        state = self._heads.state_dict()
        with system_errors():
            save_file({k: v.cpu().contiguous() for k, v in state.items()}, target / HEADS_FILE)
        data = {
            "kind": self.name,
            "format": 2 if self.blocks.raw_image else 1,
            **self._head_settings,
            "record": self.record,
            **references,
        }
        write_atomically(target / TOWER_FILE, json.dumps(data, indent=2) + "\n")
        self.source = str(target.resolve())

    @classmethod
    def load(
        cls,
        folder: str | Path,
        device: str = "cpu",
        *,
        image_backbone: ImageBackbone | None = None,
        text_backbone: TextBackbone | None = None,
    ) -> Self:
        """Read a folder written by `save`.

        Parameters
        ----------
        folder : str or Path
        device : str
            A torch device, or ``"auto"``.
        image_backbone, text_backbone : optional
            The encoders, where they are not of the transformers library or have moved.

        Raises
        ------
        TowerError
            If a file is missing or damaged, or an encoder is not the one that the heads were
            fitted on.
        """
        from safetensors.torch import load_file

        where = Path(folder).resolve()
        with reading("a tower", str(folder)):
            data = json.loads((where / TOWER_FILE).read_text(encoding="utf-8"))
            image_head, text_head = (empty_head(data[key]) for key in ("image_head", "text_head"))
            modules: dict[str, nn.Module] = {"image": image_head, "text": text_head}
            raw, scales = None, None
            if "raw" in data:
                raw = RawProjection(**data["raw"]["image"]), RawProjection(**data["raw"]["text"])
                scales = tuple(data["raw"]["scales"])
                modules.update(raw_image=raw[0], raw_text=raw[1])
            heads = FittedHeads(image_head, text_head, data["record"], raw, scales)
            nn.ModuleDict(modules).load_state_dict(load_file(where / HEADS_FILE))
            references = {key: data[key] for key in ("image_backbone", "text_backbone")}
        given = (image_backbone, text_backbone)
        image, text = read_backbones(where, references, given)
        return cls(image, text, heads, source=str(where), device=device)

    def _features_folder(self) -> Path | None:
        folder = Path(self.source) / FEATURES_FOLDER
        return folder if self.source and folder.is_dir() else None

    def _embed(self, kind: str, features: Tensor) -> NDArray[np.float32]:
        names = [kind, f"raw_{kind}"] if self.blocks.raw_image else [kind]
        with torch.inference_mode():
            there = features.to(self.device)
            parts = [unit_rows(self._heads[name](there).float(), kind) for name in names]
        return np.concatenate(parts, axis=1)

    def settings(self) -> dict[str, Any]:
        """Describe what the tower is made of, as plain JSON."""
        settings = {**self._references, "image_head": self._head_settings["image_head"]}
        if self.blocks.raw_image:
            settings["raw"] = self._head_settings["raw"]
        return settings
