"""Build one prompt: image, documents, question, with the token span of each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, PromptError
from mrrag_llamaindex.files.rows import is_unicode
from mrrag_llamaindex.generation.checkpoints.profile import PromptTemplate
from mrrag_llamaindex.generation.prompt.marks import Marks
from mrrag_llamaindex.generation.prompt.request import Prompt, PromptDocument, PromptRequest, Span
from mrrag_llamaindex.steering.ifa import min_max_lambdas


class PromptBuilder:
    """Turn a `PromptRequest` into tokens and spans for one tokenizer.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerFast
        Must be a fast tokenizer: spans come from its character offsets.
    template : PromptTemplate
    image_token : str or None
        The token that stands for one image feature; None for a text-only model.
    max_tokens : int
        Longest prompt, image tokens included: the model's window less the answer.
    max_documents : int
        Most documents in one prompt.

    Raises
    ------
    PromptError
        If the tokenizer gives no character offsets.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: PromptTemplate,
        *,
        image_token: str | None = "<image>",
        max_tokens: int,
        max_documents: int = defaults.MAX_DOCUMENTS,
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise PromptError(
                f"{type(tokenizer).__name__} gives no character offsets, so spans cannot be "
                "computed; load the fast version of this tokenizer"
            )
        self.tokenizer = tokenizer
        self.template = template
        self.image_token = image_token
        self.max_tokens = max_tokens
        self.max_documents = max_documents
        self._marks = Marks(tokenizer, template, image_token)

    def build(
        self,
        request: PromptRequest,
        image_text: str | Sequence[str] = (),
        *,
        max_tokens: int | None = None,
    ) -> Prompt:
        """Build the prompt; if it is too long, the lowest-scored documents leave first.

        The question is never cut, and no document is cut: half a report can say the opposite of
        the whole one.

        Parameters
        ----------
        request : PromptRequest
        image_text : str or sequence of str
            What stands for the query image, one image token per feature, or for each of several;
            empty without one.
        max_tokens : int, optional
            Longest prompt. Default: the builder's own.

        Raises
        ------
        PromptError
            If the question is empty or endless, if a text is no valid Unicode, if the prompt does
            not fit even without documents, or if documents were given and none of them fits.
        InputError
            If there are several images for a model that reads one.
        """
        if not request.question.strip():
            raise PromptError("the question is empty; ask something about the image")
        if len(request.question) > defaults.MAX_QUESTION_CHARACTERS:
            raise PromptError(
                f"the question has {len(request.question):,} characters, more than any question "
                f"has (limit {defaults.MAX_QUESTION_CHARACTERS:,}); shorten it"
            )
        given = (image_text,) if isinstance(image_text, str) else image_text
        image_texts = tuple(text for text in given if text)
        self.require_images(len(image_texts))
        max_tokens = self.max_tokens if max_tokens is None else max_tokens
        kept = [document for document in request.documents if document.text.strip()]
        dropped = [document for document in request.documents if not document.text.strip()]
        while kept or not request.documents:
            if len(kept) <= self.max_documents:
                prompt = self._render(request, image_texts, kept, dropped)
                if len(prompt.input_ids) <= max_tokens:
                    return prompt
                if not kept:
                    raise PromptError(
                        f"the prompt needs {len(prompt.input_ids)} tokens without any document "
                        f"and {max_tokens} are available; shorten the question or the "
                        "instructions"
                    )
            # Of equal scores the later document leaves first.
            lowest = min(range(len(kept)), key=lambda i: (_rank(kept[i]), -i))
            dropped.append(kept.pop(lowest))
        raise PromptError(
            f"none of the {len(request.documents)} documents can be read: each is empty or longer "
            f"than the {max_tokens} tokens available (the best-scored is "
            f"{dropped[-1].document_id!r}); split long reports, or use a model with a longer window"
        )

    def _render(
        self,
        request: PromptRequest,
        image_texts: Sequence[str],
        documents: Sequence[PromptDocument],
        dropped: Sequence[PromptDocument],
    ) -> Prompt:
        writer = _Writer(self._marks)
        template = self.template
        before, after = template.opening.split("<image>")
        if image_texts:
            writer.control(before + (template.between_images or "").join(image_texts) + after)
        elif template.opening_without_image is None:
            writer.control(before)
        else:
            writer.control(template.opening_without_image)
        if request.instructions.strip():
            writer.data(request.instructions.strip() + "\n")
        first_chars = None
        if request.asks_twice and documents:
            first_chars = self._write_question(writer, request.question)
            writer.control("\n")
        document_chars = []
        if documents:
            writer.control(template.introduction.format(count=len(documents)))
            head, tail = template.document.split("{text}")
            for number, document in enumerate(documents, start=1):
                writer.control(head.format(number=number))
                document_chars.append(writer.data(document.text.strip()))
                writer.control(tail.format(number=number))
            writer.control(template.caution)
        for question, answer in request.history:
            self._write_question(writer, question)
            writer.control(template.closing + template.answer_opening)
            writer.data(answer)
            writer.control(template.turn_end + template.turn_opening)
        writer.data(request.before_question)
        question_chars = self._write_question(writer, request.question)
        writer.data(request.after_question)
        writer.control(template.closing)
        encoding = self.tokenizer(writer.text, return_offsets_mapping=True)
        ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
        images = self._image_spans(ids, image_texts)
        unknown = self.tokenizer.unk_token_id
        data_spans = [_token_span(offsets, span) for span in writer.data_spans]
        return Prompt(
            text=writer.text,
            input_ids=tuple(ids),
            documents=tuple(documents),
            document_spans=tuple(
                _token_span(offsets, span, document.document_id)
                for span, document in zip(document_chars, documents, strict=True)
            ),
            lambdas=min_max_lambdas([document.score for document in documents]),
            question_span=_token_span(offsets, question_chars, "the question"),
            image_span=(images[0][0], images[-1][1]) if images else None,
            dropped=tuple(dropped),
            unknown_tokens=sum(ids[start:stop].count(unknown) for start, stop in data_spans),
            image_spans=images,
            first_question_span=(
                _token_span(offsets, first_chars, "the question") if first_chars else None
            ),
        )

    @property
    def reads_several(self) -> bool:
        """Whether the model reads several images in one question."""
        return self.template.between_images is not None

    def require_images(self, count: int) -> None:
        """Check that the model reads so many images in one question.

        Raises
        ------
        InputError
            If there are several, and it reads one.
        """
        if count > 1 and not self.reads_several:
            raise InputError(
                f"{count} images were given with one question, and this model reads one: ask about "
                "one of them, or use a model that reads several (docs/generators.md lists them)"
            )

    def _image_spans(self, ids: Sequence[int], image_texts: Sequence[str]) -> tuple[Span, ...]:
        """Find the tokens of each image, as many as were written."""
        if self.image_token is None:
            return ()
        image_id = self.tokenizer.convert_tokens_to_ids(self.image_token)
        places = [index for index, token in enumerate(ids) if token == image_id]
        counts = [text.count(self.image_token) for text in image_texts]
        if len(places) != sum(counts):
            raise PromptError(
                f"the tokenizer gave {len(places)} image tokens where {sum(counts)} were written; "
                f"{self.image_token!r} is not one token of its vocabulary"
            )
        ends = list(accumulate(counts))
        return tuple(
            (places[end - count], places[end - 1] + 1)
            for count, end in zip(counts, ends, strict=True)
        )

    def _write_question(self, writer: _Writer, question: str) -> Span:
        before, after = self.template.question.split("{question}")
        writer.control(before)
        span = writer.data(question.strip())
        writer.control(after)
        return span


class _Writer:
    """Append template text and data to one string, keeping the span of every piece of data."""

    def __init__(self, marks: Marks) -> None:
        self.text = ""
        self.data_spans: list[Span] = []
        self._marks = marks

    def control(self, text: str) -> Span:
        if self.data_spans and self.data_spans[-1][1] == len(self.text):
            self._part(text)
        return self._append(text)

    def data(self, text: str) -> Span:
        if not is_unicode(text):
            raise PromptError(
                "a text of the prompt holds characters that are not valid Unicode (halves of a "
                "pair); encode it to UTF-8 and back with errors='replace'"
            )
        escaped = self._marks.apart(text)
        self._part(escaped)
        span = self._append(escaped)
        if escaped:
            self.data_spans.append(span)
        return span

    def _part(self, following: str) -> None:
        """Keep a mark from arising where two texts meet."""
        if self._marks.cross(self.text, following):
            self.text += " "

    def _append(self, text: str) -> Span:
        start = len(self.text)
        self.text += text
        return start, len(self.text)


def _rank(document: PromptDocument) -> float:
    return float("-inf") if document.score is None else document.score


def _token_span(offsets: Sequence[Span], chars: Span, name: str | None = None) -> Span:
    """Tokens that overlap ``chars``; with ``name``, none at all is an error."""
    inside = [
        index
        for index, (start, stop) in enumerate(offsets)
        if start < stop and start < chars[1] and stop > chars[0]
    ]
    if inside:
        return inside[0], inside[-1] + 1
    if name is not None:
        raise PromptError(f"{name} holds no text that this model's tokenizer can read")
    return 0, 0
