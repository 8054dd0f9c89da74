"""What the doctor found out about a model and this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from mrrag_llamaindex.doctor.verdict import DeviceVerdict

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes
    ----------
    what : str
    state : {"ok", "note", "problem"}
        A problem keeps the model from being loaded.
    text : str
    """

    what: str
    state: State
    text: str


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a model and this machine, without loading any weight.

    Attributes
    ----------
    model, folder : str
    layout : {"original", "transformers"}
    family, model_class : str
    layers, heads, key_value_heads, window : int
        Of the text model; the window in tokens.
    parameters : mapping of str to int
        By part.
    stored_dtype : str
    stored_bytes, largest_file : int
        Of the weight files; on the hub if they are not here.
    image_tokens, prompt_tokens, tokens, documents, batch_size : int
        What the need for memory is computed for: image features, a prompt, a prompt with its
        answer, documents in a prompt, prompts at once.
    devices : tuple of DeviceVerdict
        Every device of this machine; the one that would be used comes first.
    would_fit : tuple of str
        What would fit instead; empty if it fits.
    disk_free : int
        Bytes free beside the model's folder.
    checks : tuple of Check
    packages : mapping of str to str or None
        Installed versions.
    """

    model: str
    folder: str
    layout: str
    family: str
    model_class: str
    layers: int
    heads: int
    key_value_heads: int
    window: int
    parameters: Mapping[str, int]
    stored_dtype: str
    stored_bytes: int
    largest_file: int
    image_tokens: int
    prompt_tokens: int
    tokens: int
    documents: int
    batch_size: int
    devices: tuple[DeviceVerdict, ...]
    would_fit: tuple[str, ...]
    disk_free: int
    checks: tuple[Check, ...]
    packages: Mapping[str, str | None]

    @property
    def chosen(self) -> DeviceVerdict:
        """The device, or all together, that would be used."""
        return self.devices[0]

    @property
    def problems(self) -> tuple[str, ...]:
        """What keeps the model from being loaded, its size apart."""
        return tuple(f"{c.what}: {c.text}" for c in self.checks if c.state == "problem")

    @property
    def loadable(self) -> bool:
        """Whether it can be loaded and used here as asked."""
        return self.chosen.fits and not self.problems

    @property
    def verdict(self) -> str:
        """The result in one line."""
        if self.problems:
            more = len(self.problems) - 1
            rest = f" (and {more} more problem{'s'[: more > 1]})" if more else ""
            return f"model {self.model!r} cannot be loaded: {self.problems[0]}{rest}"
        if self.chosen.fits:
            return f"model {self.model!r} fits: {self.chosen}"
        ways = "; ".join(self.would_fit)
        return f"model {self.model!r} does not fit: {self.chosen}; what would: {ways}"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        values = asdict(self)
        for value, device in zip(values["devices"], self.devices, strict=True):
            value["need"]["total"], value["fits"] = device.need.total, device.fits
        return values | {"loadable": self.loadable, "verdict": self.verdict}
