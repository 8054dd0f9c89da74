"""Towers by name: the shipped ones, a folder, or a model of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.json_files import read_json
from mrrag_llamaindex.towers.folders import (
    TOWER_FILE,
    WAYS_ON,
    absolute_source,
    model_folder,
)
from mrrag_llamaindex.towers.open_clip.names import CONFIG, is_open_clip

if TYPE_CHECKING:
    from mrrag_llamaindex.towers.protocol import DualTower

Kind: TypeAlias = Literal["resnet-bert", "frozen", "open-clip", "dual"]
"""See `kind_of`."""

_PICKLES = (".tar", ".pt", ".pth", ".ckpt")


def load_towers(source: str, device: str = "cpu") -> DualTower:
    """Load towers.

    Parameters
    ----------
    source : str
        ``"phantom"``; a folder with ``tower.json`` (written by `ResNetBertTower.save` or
        `FrozenTower.save`); a folder with the ``config.json`` of a transformers dual encoder, or
        with ``open_clip_config.json`` and its weights (BiomedCLIP); or the hub id of any of these.
    device : str
        A torch device, or ``"auto"`` for CUDA where present.

    Returns
    -------
    DualTower
        Its ``source`` leads here again: folders are made absolute.

    Raises
    ------
    TowerError
        If there is nothing of that name, it cannot be read, or the device is absent. Without a
        network this takes seconds.
    """
    if source == defaults.PHANTOM:
        shipped = defaults.PHANTOM_FOLDER / "towers"
        if not (shipped / TOWER_FILE).is_file():
            raise TowerError(
                "the phantom's towers are missing from this installation; install the package "
                "again, or make them with its training script"
            )
        tower: DualTower = _load_own(_own_kind(shipped), shipped, device)
        tower.source = source
        return tower
    folder = model_folder(source)
    kind = kind_of(folder, source)
    if kind == "resnet-bert" or kind == "frozen":
        tower = _load_own(kind, folder, device)
    elif kind == "open-clip":
        from mrrag_llamaindex.towers.kinds.open_clip import load_open_clip

        tower = load_open_clip(str(folder), device=device)
    else:
        from mrrag_llamaindex.towers.kinds.hf_dual import HFDualTower

        tower = HFDualTower.load(str(folder), device=device)
    tower.source = absolute_source(source)
    return tower


def kind_of(folder: Path, source: str) -> Kind:
    """Tell from a folder's files how its towers are read.

    Parameters
    ----------
    folder : Path
    source : str
        How the towers were named, for messages.

    Returns
    -------
    {"resnet-bert", "frozen", "open-clip", "dual"}
        The first two were saved here; ``"dual"`` is a dual encoder of transformers.

    Raises
    ------
    TowerError
        If there is nothing in it that can be read, or ``tower.json`` is damaged or of another
        version.
    """
    if (folder / TOWER_FILE).is_file():
        return _own_kind(folder)
    if is_open_clip(folder):
        return "open-clip"
    if (folder / "config.json").is_file():
        return "dual"
    if own := sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES):
        raise TowerError(
            f"towers {source!r}: {own[0]} is a pickle of its authors' own program, without the "
            "settings of its model, as CXR-CLIP and others publish it; save its two encoders there "
            "with save_pretrained, and join them with mrrag train-towers (--image-backbone, "
            "--text-backbone)"
        )
    raise TowerError(
        f"towers {source!r}: the folder holds neither {TOWER_FILE} nor config.json nor {CONFIG}; "
        f"{WAYS_ON}"
    )


def _own_kind(folder: Path) -> Literal["resnet-bert", "frozen"]:
    try:
        kind = read_json(folder / TOWER_FILE).get("kind")
    except (OSError, ValueError, AttributeError) as error:
        raise TowerError(
            f"{TOWER_FILE} in {str(folder)!r} cannot be read ({type(error).__name__})"
        ) from error
    if kind in ("resnet-bert", "frozen"):
        return cast('Literal["resnet-bert", "frozen"]', kind)
    raise TowerError(
        f"{TOWER_FILE} in {str(folder)!r} is of kind {kind!r}; this version reads "
        '"resnet-bert" and "frozen"'
    )


def _load_own(kind: Literal["resnet-bert", "frozen"], folder: Path, device: str) -> DualTower:
    if kind == "resnet-bert":
        from mrrag_llamaindex.towers.kinds.resnet_bert import ResNetBertTower

        return ResNetBertTower.load(folder, device=device)
    from mrrag_llamaindex.towers.kinds.frozen import FrozenTower

    return FrozenTower.load(folder, device=device)
