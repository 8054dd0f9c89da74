"""What a request may say: every field is honoured, and what is no field is refused by name."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from mrrag_llamaindex import defaults
from mrrag_llamaindex.files.rows import spellings
from mrrag_llamaindex.images.options import ReadingOptions
from mrrag_llamaindex.integration.inputs.study_scores import CombineImages
from mrrag_llamaindex.mcr.weights import FusionWeights
from mrrag_llamaindex.store.hits import Exclusion, OnePer

MOST_DOCUMENTS = 100
"""Documents that one request may ask for: more than any prompt holds."""

_IN_A_FORM = "In a form: the field once for each, or one list in JSON."


def _identifier(text: str) -> str:
    """Refuse what would exclude nobody: no stored id is like that."""
    try:
        spellings(text)
    except ValueError as error:
        raise ValueError(f"an id {error}") from None
    return text


Identifiers = Annotated[list[Annotated[str, AfterValidator(_identifier)]], Field(max_length=10_000)]


_IMAGE = (
    "A data: URL, or the file in base64; or a list of them, the images of one study of one patient."
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RetrievalOptions(_Strict):
    """Which documents a question gets, and how its image is read."""

    k: int | None = Field(
        None,
        ge=1,
        le=MOST_DOCUMENTS,
        description=f"Most documents; default {defaults.MAX_DOCUMENTS}.",
    )
    one_per: OnePer = Field(
        "study", description="What takes one place at most among the documents."
    )
    weights: dict[str, float] | None = Field(
        None,
        description="Fusion weights by term: image_text, image_image and text_text, all three; "
        "text_image, raw_image and raw_text where towers have them. Default: the server's. With "
        "other weights than the server's no document has a probability.",
    )
    exclude_pairs: Identifiers = Field(
        [], description=f"Pairs that may not be evidence. {_IN_A_FORM}"
    )
    exclude_patients: Identifiers = Field(
        [], description=f"Patients whose pairs may not be evidence. {_IN_A_FORM}"
    )
    exclude_studies: Identifiers = Field(
        [], description=f"Studies whose pairs may not be evidence. {_IN_A_FORM}"
    )
    minimum_probability: float | None = Field(
        None, ge=0, le=1, description="Leave out documents that are less probable; keep one."
    )
    combine_images: CombineImages = Field(
        "mean", description="Score of a pair, over the images of a question that has several."
    )
    abstain: bool = Field(
        False, description="Give no answer below the threshold of the store's calibration."
    )
    window: tuple[float, float] | None = Field(
        None, description="Values that become black and white in the query image."
    )
    frame: int | None = Field(None, ge=1, description="Frame of an image with several, from 1.")

    @property
    def reading(self) -> ReadingOptions:
        """How the query image is read; raises `ImageError` where that is impossible."""
        return ReadingOptions(self.window, self.frame)

    def for_retriever(self) -> dict[str, Any]:
        """Return the options of `MRRAGRetriever`; raises `InputError` for impossible weights."""
        options: dict[str, Any] = {
            "similarity_top_k": self.k or defaults.MAX_DOCUMENTS,
            "one_per": self.one_per,
            "combine_images": self.combine_images,
            "exclude": Exclusion(
                pair_ids=frozenset(self.exclude_pairs),
                patient_ids=frozenset(self.exclude_patients),
                study_ids=frozenset(self.exclude_studies),
            ),
            "minimum_probability": self.minimum_probability,
            "abstain": self.abstain,
        }
        if self.weights is not None:
            options["weights"] = FusionWeights.from_json(json.dumps(self.weights))
            options["calibration"] = False  # that of the store belongs to the server's weights
        return options


class AskOptions(RetrievalOptions):
    """How a question is answered."""

    ifa: bool = Field(True, description="Steer attention by the scores.")
    explain: bool = Field(False, description="Say how much each document moved the answer.")
    max_new_tokens: int | None = Field(
        None, ge=1, description="Longest answer, in tokens; at most, and by default, the server's."
    )


class RetrieveRequest(RetrievalOptions):
    """A search by question, image or both."""

    question: str = ""
    image: str | list[str] | None = Field(None, description=_IMAGE)


class AskRequest(AskOptions):
    """A question about an image."""

    question: str
    image: str | list[str] = Field(description=_IMAGE)
