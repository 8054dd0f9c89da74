"""What one model is given to read: images as it takes them, and prompts that fit its window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from PIL import Image

from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.generation.checkpoints.image_readers import PreparedImage
from mrrag_llamaindex.generation.first_token import spellings
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.prompt.builder import PromptBuilder
from mrrag_llamaindex.generation.prompt.readable import ReadableModel
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptRequest
from mrrag_llamaindex.steering.ifa import min_max_lambdas
from mrrag_llamaindex.steering.policy import SteeringPolicy

Pictures: TypeAlias = Image.Image | Sequence[Image.Image] | None
"""The query image of one request, its several images in order, or none."""


def pictures_of(image: Pictures) -> tuple[Image.Image, ...]:
    """Return the images of one request, in order."""
    return (image,) if isinstance(image, Image.Image) else tuple(image or ())


_LEAST_TEXT = 128  # tokens: a question and one short report
_USUAL_SIDE = 1024  # pixels


class PromptReader:
    """Images and prompts for one model.

    Parameters
    ----------
    loaded : ReadableModel
        Tokenizer, template, image reader and configuration; see `load_model`.
    max_documents : int
        Most documents in one prompt.
    max_new_tokens : int
        Longest answer, in tokens; reserved in the model's window.

    Attributes
    ----------
    window : int
        Tokens that the model takes, its answer included.
    image_tokens : int
        Those that an image of usual size takes; 0 for a model that reads text only.
    prompts : PromptBuilder
    yes_ids, no_ids : list of int
        Tokens that spell yes (no), see `spellings`.

    Raises
    ------
    ModelError
        If image and answer leave no room for text in the model's window.
    """

    def __init__(self, loaded: ReadableModel, max_documents: int, max_new_tokens: int) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.max_new_tokens = max_new_tokens
        text = loaded.config.get_text_config(decoder=True)
        self.window = int(text.max_position_embeddings)
        # Some models cut an image into more tokens the larger it is; prompts count the true ones.
        usual = self.read_image(Image.new("RGB", (_USUAL_SIDE, _USUAL_SIDE)))
        self.image_tokens = usual.tokens if usual else 0
        self._require_room(max_new_tokens)
        self.prompts = PromptBuilder(
            self.tokenizer,
            loaded.profile.template,
            image_token=loaded.images.image_token if loaded.images else None,
            max_tokens=self.window - max_new_tokens,
            max_documents=max_documents,
        )
        self.yes_ids = spellings(self.tokenizer, "yes")
        self.no_ids = spellings(self.tokenizer, "no")

    def yes_and_no(self, probabilities: torch.Tensor) -> tuple[float, float]:
        """Return p(yes) and p(no) of the first token, from its distribution (vocabulary,)."""
        p_yes, p_no = (float(probabilities[ids].sum()) for ids in (self.yes_ids, self.no_ids))
        return p_yes, p_no

    def _require_room(self, max_new_tokens: int) -> None:
        if max_new_tokens < 1:
            raise ModelError(f"max_new_tokens={max_new_tokens} leaves no answer; give at least 1")
        if max_new_tokens + self.image_tokens >= self.window - _LEAST_TEXT:
            raise ModelError(
                f"max_new_tokens={max_new_tokens} and {self.image_tokens} image tokens leave no "
                f"room for text in this model's window of {self.window}; ask for shorter answers"
            )

    def answer_tokens(self, max_new_tokens: int | None) -> int:
        """Return the longest answer of a call, for which its prompt must leave room.

        Parameters
        ----------
        max_new_tokens : int or None
            None: the reader's own.

        Raises
        ------
        ModelError
            If it leaves no answer, or no room for text.
        """
        if max_new_tokens is None:
            return self.max_new_tokens
        self._require_room(max_new_tokens)
        return max_new_tokens

    @property
    def end_ids(self) -> frozenset[int]:
        """The model's end tokens."""
        ends = self.loaded.generation_config.eos_token_id
        return frozenset([ends] if isinstance(ends, int) else ends or ())

    def document_room(self, question: str) -> int:
        """Return the tokens that one document can have at most beside a question.

        An upper bound: the query image and the template's own words take some of them.
        """
        return self.prompts.max_tokens - self.token_count(question)

    def token_count(self, text: str) -> int:
        """Return the number of tokens of a text."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @property
    def reads_several(self) -> bool:
        """Whether a question may have several images; of a model that reads text only it may."""
        return self.loaded.images is None or self.prompts.reads_several

    def require_images(self, count: int) -> None:
        """Check, before anything is read, that the model takes so many images in one question.

        One that reads text only takes any number, and none of them.

        Raises
        ------
        InputError
        """
        if self.loaded.images:
            self.prompts.require_images(count)

    def read_image(self, image: Pictures) -> PreparedImage | None:
        """Prepare the RGB image of a question, or its several; None without one.

        A model that reads text only gets None, too.
        """
        pictures = pictures_of(image)
        return self.loaded.images.read(pictures) if self.loaded.images and pictures else None

    def read_images(
        self, requests: Sequence[PromptRequest], images: Sequence[Pictures]
    ) -> list[PreparedImage | None]:
        """Prepare the image or images of each request, what occurs twice only once.

        Raises
        ------
        InputError
            If there are not as many images as requests.
        ModelError
            If the model's processor fails.
        """
        if len(requests) != len(images):
            raise InputError(f"{len(requests)} requests and {len(images)} images")
        with person_readable():
            seen = {_key(image): self.read_image(image) for image in images}
        return [seen[_key(image)] for image in images]

    def prompt(
        self,
        request: PromptRequest,
        image: PreparedImage | None,
        policy: SteeringPolicy | None = None,
        max_new_tokens: int | None = None,
    ) -> Prompt:
        """Build the prompt of a request; see `PromptBuilder.build`.

        An answer longer than the reader's own takes its room from the documents; a shorter one
        gives none back, so that the prompt is the same.

        ``policy`` matters if it asks twice, or leaves documents out: they stand among the prompt's
        dropped ones. They are chosen from all documents, by lambdas over all of them, before the
        rest is fitted into the window.
        """
        # Before the fit, because what is left out makes room for what is relevant. Only in a
        # prompt that overflows is this not the choice that `HardMask(mode="mask")` makes: it masks
        # after the fit, by lambdas over the documents that fitted.
        texts = image.texts if image else ()
        readable = [document for document in request.documents if document.text.strip()]
        lambdas = min_max_lambdas([document.score for document in readable])
        leaving = [False] * len(lambdas) if policy is None else policy.leaves_out(lambdas)
        left = [document for document, leaves in zip(readable, leaving, strict=True) if leaves]
        kept = [document for document in request.documents if document not in left]
        room = min(self.prompts.max_tokens, self.window - self.answer_tokens(max_new_tokens))
        twice = request.asks_twice or (policy is not None and policy.asks_twice)
        asked = replace(request, documents=kept, asks_twice=twice)
        prompt = self.prompts.build(asked, texts, max_tokens=room)
        return replace(prompt, dropped=(*left, *prompt.dropped))


def _key(image: Pictures) -> tuple[int, ...]:
    return tuple(map(id, pictures_of(image)))
