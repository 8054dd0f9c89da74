"""Say what towers would load, how large they are, and whether this machine has the memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor import machine
from mrrag_llamaindex.doctor.diagnosis import Check
from mrrag_llamaindex.doctor.machine import DeviceMemory
from mrrag_llamaindex.doctor.tower_drafts import (
    Draft,
    draft_dual,
    draft_frozen,
    draft_open_clip,
    draft_resnet_bert,
    read_own,
)
from mrrag_llamaindex.doctor.verdict import gigabytes
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.devices import resolve_device
from mrrag_llamaindex.files.hub import find_folder, weight_sizes
from mrrag_llamaindex.towers.folders import WAYS_ON
from mrrag_llamaindex.towers.loading import kind_of

_BYTES = 4  # towers are float32 on every device


@dataclass(frozen=True)
class TowersDiagnosis:
    """What was found out about towers, without loading a weight.

    Attributes
    ----------
    towers, folder : str
    draft : Draft
    device : DeviceMemory
        The one that they would be loaded on.
    """

    towers: str
    folder: str
    draft: Draft
    device: DeviceMemory

    @property
    def need(self) -> int:
        """Bytes of the weights in float32; a batch needs some more."""
        return _BYTES * sum(self.draft.parameters.values())

    @property
    def checks(self) -> tuple[Check, ...]:
        """What was looked at."""
        return self.draft.checks

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the towers from being loaded, their size apart."""
        return tuple(f"{c.what}: {c.text}" for c in self.checks if c.state == "problem")

    @property
    def loadable(self) -> bool:
        """Whether they can be loaded here."""
        return not self.problems and self.need <= self.device.free

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.problems:
            return f"towers {self.towers!r} cannot be loaded: {self.problems[0]}"
        place = f"{gigabytes(self.need)} on {self.device.device} in float32"
        free = f"{gigabytes(self.device.free)} are free"
        fit = "fit: they need" if self.loadable else "do not fit: they need"
        return f"towers {self.towers!r} {fit} {place}, {free}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        draft = asdict(self.draft)
        return {
            "towers": self.towers,
            "folder": self.folder,
            **draft,
            "need": self.need,
            "device": asdict(self.device),
            "loadable": self.loadable,
            "verdict": self.verdict,
        }


def examine_towers(source: str, device: str = "auto") -> TowersDiagnosis:
    """Examine towers as `load_towers` would take them; of the hub only small files are fetched.

    Parameters
    ----------
    source, device : str
        As for `mrrag_llamaindex.towers.loading.load_towers`.

    Raises
    ------
    TowerError
        If there are no such towers, they are of no kind that is read here, or their settings or
        headers cannot be used. What else is wrong stands in the diagnosis.
    MRRAGError
        If psutil (extra ``cli``) is not installed.
    """
    place = resolve_device(device, TowerError)
    folder = (
        defaults.PHANTOM_FOLDER / "towers"
        if source == defaults.PHANTOM
        else find_folder(source, what="towers", ways_on=WAYS_ON, error=TowerError, weights=False)
    )
    try:
        draft = _draft(folder, source)
    except TowerError as error:
        raise _not_here(source, folder, error) from error
    name = "cuda:0" if place == "cuda" else place
    devices = {memory.device: memory for memory in machine.devices()}
    return TowersDiagnosis(source, str(folder), draft, devices[name])


def _draft(folder: Path, source: str) -> Draft:
    kind = kind_of(folder, source)
    if kind == "resnet-bert":
        return draft_resnet_bert(folder, read_own(folder))
    if kind == "frozen":
        return draft_frozen(folder, read_own(folder))
    return draft_open_clip(folder, source) if kind == "open-clip" else draft_dual(folder, source)


def _not_here(source: str, folder: Path, error: TowerError) -> TowerError:
    """Say what a download would fetch where the weights of a hub id are not here yet."""
    local = Path(source).expanduser().is_dir() or source == defaults.PHANTOM
    if local or any(folder.glob("*.safetensors")):
        return error
    sizes = weight_sizes(source, what="towers", ways_on=WAYS_ON, error=TowerError)
    return TowerError(
        f"towers {source!r}: their weights ({gigabytes(sum(sizes.values()))}) are not on this "
        "machine, and more cannot be said without their headers; loading them once downloads them"
    )
