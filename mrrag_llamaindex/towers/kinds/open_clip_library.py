"""CLIPs that open_clip alone can build: trunks of timm (ConvNeXt, EVA, ...) and CLIP's ResNets."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Self

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.towers.base import TorchTower
from mrrag_llamaindex.towers.folders import absolute_source, model_folder, read_tokenizer, reading
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder
from mrrag_llamaindex.towers.open_clip.library import LibraryLayout, check_end_of_text
from mrrag_llamaindex.towers.text_windows import TextWindows


class OpenClipLibraryTower(TorchTower):
    """Towers whose classes are those of open_clip and timm, the extra ``open-clip``.

    Nothing is fetched: the weights are the folder's own safetensors, every tensor of which must
    have its place, and the tokenizer is the folder's. Images are padded to a square and resized
    (bicubic), so that no film is cut.

    Parameters
    ----------
    network : nn.Module
        With ``encode_image`` and ``encode_text``.
    layout : LibraryLayout
    images : ImagePreparation
    texts : TextWindows
    source : str
        See `DualTower`.
    device : str
        A torch device, or ``"auto"``.
    """

    name = "open-clip"

    def __init__(
        self,
        network: nn.Module,
        layout: LibraryLayout,
        images: ImagePreparation,
        texts: TextWindows,
        *,
        source: str = "",
        device: str = "cpu",
    ) -> None:
        self._model = {"model": layout.arguments}
        super().__init__(
            network, images, texts, dimension=layout.dimension, source=source, device=device
        )

    @classmethod
    def load(cls, source: str, *, long_text: str = "mean", device: str = "cpu") -> Self:
        """Load from a folder or a hub id.

        Parameters
        ----------
        source : str
        long_text : {"mean", "truncate"}
            See `TextWindows`.
        device : str
            A torch device, or ``"auto"``.

        Raises
        ------
        TowerError
            If the extra is not installed, or the folder cannot be found, is incomplete, states
            what is not read here, or holds other tensors than its model has.
        """
        folder = model_folder(source)
        with reading("towers in the layout of open_clip", source):
            stored = OpenClipFolder.read(folder)
            layout = LibraryLayout.of(stored)
            tokenizer = read_tokenizer(folder)
            check_end_of_text(tokenizer, layout.vocabulary)
            network = _built(layout)
            network.load_state_dict(stored.tensors())
            texts = TextWindows(tokenizer, layout.tokens, long_text, "max_length")
        images = ImagePreparation.square(layout.image_size, stored.mean, stored.std)
        return cls(*(network, layout, images, texts), source=absolute_source(source), device=device)

    def settings(self) -> dict[str, Any]:
        """Everything beside the weights that moves vectors, as plain JSON."""
        return {**super().settings(), **self._model}

    def _image_features(self, inputs: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.network.encode_image(inputs["pixel_values"])  # type: ignore[operator]
        return features

    def _text_features(self, inputs: dict[str, Tensor]) -> Tensor:
        features: Tensor = self.network.encode_text(inputs["input_ids"])  # type: ignore[operator]
        return features


def _built(layout: LibraryLayout) -> nn.Module:
    try:
        from open_clip.model import CLIP, CustomTextCLIP
    except ImportError:
        raise TowerError(
            f"it has {layout.trunk}, which open_clip reads: "
            'pip install "mrrag-llamaindex[open-clip]", with a torchvision that fits the torch here'
        ) from None
    # A torchvision that was made for another torch ends in errors of any kind.
    except Exception as error:
        raise TowerError(
            f"open_clip cannot be imported here ({type(error).__name__}: {error}); install a "
            "torchvision that fits the installed torch"
        ) from None
    kind = CustomTextCLIP if layout.custom_text else CLIP
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = kind(**layout.arguments)
    return network.float()
