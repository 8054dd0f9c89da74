"""From which side a DICOM film was taken: what a person calls it by among others of its study."""

from __future__ import annotations

import re

from mrrag_llamaindex.images.dicom.source import DicomSource, is_dicom

_SIDE = ("ImageLaterality", "Laterality")
_CODE = re.compile(r"[A-Z][A-Z0-9 ]{0,15}")
"""Of a coded string of DICOM; nothing else is shown, whatever was written there."""


def view_of(data: bytes) -> str:
    """Return the view position of a file, with its side where it has one: ``"PA"``, ``"MLO L"``.

    Nothing else is read, and nothing of the patient. Empty where the file does not say, or is none
    of DICOM.
    """
    if not is_dicom(data):
        return ""
    try:
        header = DicomSource.of(data, "film").read(["ViewPosition", *_SIDE], pixels=False)
        position = str(header.get("ViewPosition") or "").strip()
        side = next((str(header.get(name)) for name in _SIDE if header.get(name)), "").strip()
    except Exception:  # a label, and no more: what is damaged is said where pixels are read
        return ""
    parts = [position, *([side] if side in ("L", "R") else [])]
    return " ".join(parts) if _CODE.fullmatch(position) else ""
