"""A folder in the layout of open_clip: its settings, and its tensors by their headers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.json_files import check_json_files, read_json
from mrrag_llamaindex.files.safetensors_header import read_header
from mrrag_llamaindex.towers.open_clip.names import CONFIG, PICKLE, WEIGHTS

# The statistics that open_clip takes where a checkpoint states none, those of OpenAI's CLIP.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_PREPROCESSING: Final = {
    "mean",
    "std",
    "interpolation",
    "resize_mode",
    "size",
    "mode",
    "fill_color",
}


@dataclass(frozen=True)
class OpenClipFolder:
    """What a folder states, before any value of a tensor is read.

    Attributes
    ----------
    folder : Path
    model, vision, text : mapping
        ``model_cfg`` without its two parts, ``vision_cfg`` and ``text_cfg``.
    mean, std : three floats
        Of the channels, in [0, 1].
    weights : Path
    shapes : mapping of str to tuple of int
        Of every stored tensor.
    """

    folder: Path
    model: Mapping[str, Any]
    vision: Mapping[str, Any]
    text: Mapping[str, Any]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    weights: Path
    shapes: Mapping[str, tuple[int, ...]]

    @classmethod
    def read(cls, folder: Path, *, allow_pickle: bool = False) -> OpenClipFolder:
        """Read the settings and the headers.

        Parameters
        ----------
        folder : Path
        allow_pickle : bool
            Read ``open_clip_pytorch_model.bin`` where there are no safetensors, with torch's
            restricted unpickler, which runs no code of the file.

        Raises
        ------
        TowerError
            If a file is missing or damaged, or states what is not known here.
        """
        try:
            check_json_files(folder)
            stated = read_json(folder / CONFIG)
            model = dict(stated["model_cfg"])
            vision, text = dict(model.pop("vision_cfg")), dict(model.pop("text_cfg"))
            preprocessing = dict(stated.get("preprocess_cfg") or {})
            mean, std = (
                tuple(float(value) for value in preprocessing.get(name) or default)
                for name, default in (("mean", _MEAN), ("std", _STD))
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise TowerError(
                f"{CONFIG} in {str(folder)!r} cannot be read ({type(error).__name__}: {error})"
            ) from None
        refuse_unknown("preprocess_cfg", preprocessing, _PREPROCESSING)
        # open_clip's other modes of resizing need no word here: films are padded to a square
        # first, and on a square all of them do the same.
        if preprocessing.get("interpolation", "bicubic") != "bicubic":
            raise TowerError(
                f"{CONFIG} asks for {preprocessing['interpolation']!r} interpolation; bicubic is "
                "what is read here"
            )
        if (folder / WEIGHTS).is_file():
            weights = folder / WEIGHTS
        elif (folder / PICKLE).is_file():
            weights = folder / PICKLE
        else:
            raise TowerError(f"the folder {str(folder)!r} holds no {WEIGHTS}; download it")
        if weights.name == PICKLE and not allow_pickle:
            raise TowerError(
                f"the weights in {str(folder)!r} are only there as a pickle ({PICKLE}), which "
                f"could run code when it is opened; get {WEIGHTS}, or, if you trust its source, "
                "write that file with open_clip_safetensors of "
                "mrrag_llamaindex.towers.open_clip.folder"
            )
        return cls(folder, model, vision, text, mean, std, weights, _shapes(weights))

    def tensors(self) -> dict[str, Tensor]:
        """Read every tensor."""
        from safetensors.torch import load_file

        return _unpickled(self.weights) if self.weights.name == PICKLE else load_file(self.weights)


def open_clip_safetensors(folder: str | Path) -> Path:
    """Write ``open_clip_model.safetensors`` from the pickle in a folder.

    The pickle is opened with torch's restricted unpickler, which runs no code of the file.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    TowerError
        If there is no such pickle, or it holds anything but tensors.
    """
    from safetensors.torch import save_file

    place = Path(folder).expanduser()
    if not (place / PICKLE).is_file():
        raise TowerError(f"the folder {str(folder)!r} holds no {PICKLE}")
    tensors = {k: v.detach().clone().contiguous() for k, v in _unpickled(place / PICKLE).items()}
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
    return place / WEIGHTS


def refuse_unknown(what: str, stated: Mapping[str, Any], known: set[str]) -> None:
    """Raise `TowerError` that names a setting which is not among ``known``."""
    unknown = sorted(set(stated) - known)
    if unknown:
        raise TowerError(
            f"{CONFIG} has the setting {unknown[0]!r} in {what}, which is not known here; what it "
            "does to a vector would be missing"
        )


def _shapes(weights: Path) -> dict[str, tuple[int, ...]]:
    if weights.name == PICKLE:
        return {key: tuple(value.shape) for key, value in _unpickled(weights).items()}
    try:
        return {entry.key: entry.shape for entry in read_header(weights)}
    except (ValueError, OSError) as error:
        raise TowerError(
            f"{weights.name} in {str(weights.parent)!r} cannot be used: {error}; download it again"
        ) from None


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        values = values.get("state_dict", values)
        if all(isinstance(value, Tensor) for value in values.values()):
            return dict(values)
        reason = "it holds more than tensors"
    # Whatever the bytes of a pickle happen to mean.
    except Exception as error:
        reason = type(error).__name__
    raise TowerError(f"{path.name} in {str(path.parent)!r} cannot be read ({reason})")
