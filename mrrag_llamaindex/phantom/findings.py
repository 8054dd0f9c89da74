"""The eight yes/no findings of a synthetic patient: names, sites and textures.

Everything here is synthetic. The names are borrowed from chest radiology so that questions
read naturally; nothing in a phantom image resembles a real film closely enough to learn from.

A finding is drawn as a *fine* texture at its own site. The stripes are about five pixels
wide in the full-size image: a tower that reads half of the resolution sees them, while the
generator's processor, which reduces the image further, averages them to grey. Brightness at
the site depends only weakly on the finding, so the generator's own eyes are not enough and
it has to read the documents. In life a film has 2,000 pixels a side and the model sees 336.
"""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_SIDE = 192
"""Pixels per side of a phantom image."""


@dataclass(frozen=True)
class Finding:
    """One yes/no finding of a synthetic patient.

    Attributes
    ----------
    name : str
        As it stands in questions and reports, e.g. "pleural effusion".
    token : str
        The word that stands for it in the phantom's vocabulary.
    article : str
        Indefinite article, "" for a mass noun.
    centre : tuple of float
        Site (x, y) as a fraction of the image side.
    radii : tuple of float
        Half axes of the elliptic site as a fraction of the image side.
    angle : float
        Direction of the stripes in degrees.
    period : float
        Width of one stripe pair in pixels of the full-size image.
    """

    name: str
    token: str
    article: str
    centre: tuple[float, float]
    radii: tuple[float, float]
    angle: float
    period: float

    def __post_init__(self) -> None:
        if not self.name or not self.token or " " in self.token:
            raise ValueError("a finding needs a name and a one-word token")
        if not all(0.0 < c < 1.0 for c in self.centre) or not all(
            0.0 < r < 0.5 for r in self.radii
        ):
            raise ValueError(f"the site of {self.name!r} lies outside of the image")
        if self.period < 2.0:
            raise ValueError("stripes narrower than two pixels cannot be drawn")

    @property
    def noun(self) -> str:
        """The name with its article: "a pleural effusion", "edema"."""
        return f"{self.article} {self.name}" if self.article else self.name


FINDINGS: tuple[Finding, ...] = (
    Finding("pleural effusion", "effusion", "a", (0.24, 0.76), (0.11, 0.08), 0.0, 5.5),
    Finding("nodule", "nodule", "a", (0.70, 0.30), (0.08, 0.08), 45.0, 5.0),
    Finding("consolidation", "consolidation", "a", (0.29, 0.55), (0.10, 0.09), 135.0, 5.5),
    Finding("cardiomegaly", "cardiomegaly", "", (0.55, 0.66), (0.11, 0.10), 90.0, 6.0),
    Finding("edema", "edema", "", (0.50, 0.42), (0.08, 0.10), 20.0, 5.0),
    Finding("atelectasis", "atelectasis", "", (0.77, 0.72), (0.09, 0.08), 160.0, 5.5),
    Finding("pneumothorax", "pneumothorax", "a", (0.29, 0.25), (0.09, 0.08), 70.0, 5.0),
    Finding("fracture", "fracture", "a", (0.86, 0.46), (0.07, 0.10), 110.0, 5.5),
)
"""All findings; their order is the order of every `findings` tuple of this package."""
