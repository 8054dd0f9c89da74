"""The DenseNet of torchxrayvision as a frozen image encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.images.load import load_image, pad_to_square
from mrrag_llamaindex.towers.folders import reading
from mrrag_llamaindex.towers.identity import weights_digest

PREFIX: Final = "xrv:"
"""Before the name of its weights, where a folder or a hub id could stand."""

_WEIGHTS: Final = "model.safetensors"
_SIZE: Final = 224
_RANGE: Final = 1024.0


class XrayImageBackbone:
    """Features of torchxrayvision's DenseNet-121, 1,024 numbers for each film.

    Films are padded to a square in black, resized to 224 pixels (bicubic), in grey from -1,024 to
    1,024 as the networks were trained (Cohen et al., 2022, arXiv 2111.00595).

    Parameters
    ----------
    model : torchxrayvision.models.DenseNet
        Put into evaluation mode, its gradients switched off.
    source : str
        ``"xrv:"`` and the name of the weights; empty if they exist in memory only.
    """

    dimension = 1024

    def __init__(self, model: Any, source: str = "") -> None:
        # Without the classifier and its thresholds, which take no part in a feature.
        self.model = model.features.eval().requires_grad_(False)
        self.source = source
        self._sha256 = weights_digest(self.model)
        self._device = "cpu"

    @classmethod
    def load(cls, source: str) -> Self:
        """Load weights that torchxrayvision has downloaded; nothing is downloaded here.

        Its weight files are pickles, which that library opens.

        Parameters
        ----------
        source : str
            For example ``"xrv:densenet121-res224-all"``.

        Raises
        ------
        TowerError
            If the extra ``xray`` is not installed, there are no such weights of a DenseNet, or
            they have not been downloaded.
        """
        models = _library()
        name = source.removeprefix(PREFIX)
        known = sorted(one for one in models.model_urls if one.startswith("densenet121-res224"))
        if name not in known:
            raise TowerError(f"image encoder {source!r}: those known are {', '.join(known)}")
        file = Path(models.model_urls[name]["weights_url"]).name
        place = Path("~/.torchxrayvision/models_data").expanduser() / file
        if not place.is_file():
            raise TowerError(
                f"image encoder {source!r}: its weights are not on this machine ({file}); download "
                f"them: python -c \"import torchxrayvision as x; x.models.DenseNet('{name}')\""
            )
        with reading("a frozen image encoder", source):
            return cls(models.DenseNet(weights=name), source)

    @classmethod
    def restore(cls, folder: Path, reference: dict[str, Any]) -> Self:
        """Load as a saved tower in ``folder`` says: by name, or the copy of `save`."""
        from safetensors.torch import load_file

        source = str(reference["source"])
        if not source.startswith("./"):
            return cls.load(source)
        with reading("a frozen image encoder", source):
            model = _library().DenseNet(weights=None)
            model.features.load_state_dict(load_file(folder / source / _WEIGHTS))
        return cls(model, source)

    def to(self, device: str) -> Self:
        """Move the weights; returns the backbone itself."""
        self._device = resolve_device(device, TowerError)
        self.model.to(self._device)
        return self

    def features(self, images: Sequence[Image.Image], batch_size: int = 32) -> Tensor:
        """See `mrrag_llamaindex.towers.backbones.protocol.ImageBackbone`."""
        parts = [torch.zeros(0, self.dimension)]
        with torch.inference_mode():
            for start in range(0, len(images), batch_size):
                batch = torch.stack([_prepared(one) for one in images[start : start + batch_size]])
                hidden = self.model(batch.to(self._device))
                parts.append(torch.relu(hidden).mean(dim=(2, 3)).float().cpu())
        return torch.cat(parts).clone()

    def reference(self) -> dict[str, Any]:
        """See `mrrag_llamaindex.towers.backbones.protocol.Backbone`."""
        return {
            "type": "torchxrayvision",
            "source": self.source,
            "sha256": self._sha256,
            "images": {
                "pad": True,
                "size": {"height": _SIZE, "width": _SIZE},
                "range": [-_RANGE, _RANGE],
            },
        }

    def save(self, folder: Path) -> None:
        """Write the weights into ``folder``."""
        from safetensors.torch import save_file

        state = {key: value.cpu().contiguous() for key, value in self.model.state_dict().items()}
        save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})


def _prepared(image: Image.Image) -> Tensor:
    film = image if image.mode == "RGB" else load_image(image)
    square = pad_to_square(film, (0.0, 0.0, 0.0)).convert("L")
    grey = square.resize((_SIZE, _SIZE), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(grey, dtype=np.float32).copy())
    return ((2 * values / 255 - 1) * _RANGE)[None]


def _library() -> Any:
    try:
        from torchxrayvision import models
    # A torchvision that was built for another torch raises errors of its own kinds.
    except Exception as error:
        raise TowerError(
            "encoders of torchxrayvision need the extra xray, with a torchvision that fits the "
            f'installed torch: pip install "mrrag-llamaindex[xray]" ({type(error).__name__})'
        ) from error
    return models
