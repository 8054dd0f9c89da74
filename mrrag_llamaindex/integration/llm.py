"""`MRRAGLLaVA`: the LLM that redeems a query's ticket and answers from image and evidence."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, LLMMetadata

from mrrag_llamaindex.errors import EvidenceError, ModelError
from mrrag_llamaindex.generation.answer import Answer
from mrrag_llamaindex.generation.explanation import explain
from mrrag_llamaindex.generation.influence.hiding import require_explainable
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.generation.model_errors import person_readable
from mrrag_llamaindex.generation.prompt.request import PromptRequest
from mrrag_llamaindex.generation.stream import TokenStream
from mrrag_llamaindex.integration.entry_points import HostMessages, Reply, as_messages
from mrrag_llamaindex.integration.generator.loaded import LoadedGenerator
from mrrag_llamaindex.integration.inputs.options import token_limit
from mrrag_llamaindex.integration.query_image import current_query_image
from mrrag_llamaindex.integration.tickets.host_call import TURNS, HostCall
from mrrag_llamaindex.integration.tickets.host_prompts import read_finished
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.registry import TICKETS
from mrrag_llamaindex.integration.tickets.resolve import Resolved, resolve
from mrrag_llamaindex.integration.trace import answer_facts, verbatim_answer

if TYPE_CHECKING:
    from PIL.Image import Image

    from mrrag_llamaindex.images.query_image import QueryImage

_CALLS = itertools.count()
"""Numbers of the LLM calls of this process, in order of completion."""

_SAFETY_TOKENS = 64  # the host counts with another tokenizer than the model's


class MRRAGLLaVA(LoadedGenerator):
    """LLaVA-Med that reads the query image, the scored documents and the question.

    It works inside unmodified LlamaIndex engines. Image and scores reach it through a ticket
    that `MRRAGIndex`, `MRRAGRetriever` or `MRRAGPostprocessor` wrote into the documents' LLM
    text; the prompt is then rebuilt as image, documents, question, and the attention from the
    question to each document is raised by its score (IFA).

    Parameters
    ----------
    model, device, policy, ...
        The fields of `GeneratorSettings`, each with its description.
    ifa : IFA or None
        Short form of `policy`.
    profile : str or None
        A profile that ``mrrag find-layers`` wrote. Without it the one kept for this very model is
        taken, if there is one; a profile of another model is refused.
    explain : bool
        Say for each document how much it moved the answer (`Answer.influence`, and the metadata
        of responses). Costs one more pass over the tokens of the question, with a row for each
        document; the answer itself does not change.
    engine : Engine or {"transformers", "vllm"}, optional
        What runs the model, ``runtime`` in short: transformers here, or vLLM, which batches
        whatever is asked at once. A server with vLLM is named by ``api_base=``. Or a generator
        that is loaded already: the fields that say how to load one are not used then, and limits
        that are not given are the engine's.

    Raises
    ------
    ModelError
        At construction, if the model cannot be found or loaded, if its profile is another
        model's, or if its answers cannot be explained and that was asked for.

    Notes
    -----
    Whatever a call raises on purpose is an `MRRAGError`, which LlamaIndex passes on unchanged.

    Copies share the loaded model and may have other limits and another policy
    (``llm.model_copy(update={"max_documents": 3})``, or by assignment). What is pickled, or written
    by ``to_dict``, are the settings: the model is loaded anew where they are read.
    """

    def __init__(self, *, engine: Engine | str | None = None, **data: Any) -> None:
        super().__init__(engine=engine, **data)
        if self.explain:
            require_explainable(self._engine)
        if not self._engine.loaded.family.sees_images:
            warnings.warn(
                f"model {self.model!r} is text-only: it reads the reports and not the query image",
                stacklevel=2,
            )

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name of the class, for serialisation."""
        return "MRRAGLLaVA"

    @property
    def metadata(self) -> LLMMetadata:
        """Window left for text: the host's prompt helper knows nothing of image tokens."""
        return LLMMetadata(
            context_window=self._engine.window - self._engine.image_tokens - _SAFETY_TOKENS,
            num_output=self.max_new_tokens,
            is_chat_model=True,
            model_name=self.model if self.adapter is None else f"{self.model}+{self.adapter}",
        )

    def complete_batch(self, prompts: Sequence[str], **kwargs: Any) -> list[CompletionResponse]:
        """Answer many prompts at once, in their order.

        Questions on the same image and documents share the work up to the question; others run
        in batches of about equal length.

        Parameters
        ----------
        prompts : sequence of str
            As `complete` takes them, each with the evidence of one query.

        Raises
        ------
        MRRAGError
            As `complete`, for the first prompt that cannot be answered; nothing is then answered.
        """
        answers = self._answers([as_messages(prompt) for prompt in prompts], kwargs)
        return [Reply.of(answer).completion() for answer in answers]

    def _resolve(self, messages: Sequence[ChatMessage]) -> Resolved:
        call = getattr(messages, "call", None) or _finished(messages)
        resolved = resolve(call, TICKETS, self.on_missing_context)
        if not resolved.tickets and resolved.image is not None:
            _require_same_as_block(resolved.image)
        if call.kind == "condense" and self._rephrases(call):
            return replace(resolved, follow_up="")
        return resolved

    def _rephrases(self, call: HostCall) -> bool:
        """Whether a follow-up question is put into words of its own, or handed on as it is.

        Only by a model that can, and only where the whole conversation is about the image at hand:
        words about another patient would enter this one's question.
        """
        if not self._engine.loaded.profile.conversational:
            return False
        try:
            image = current_query_image()
        except EvidenceError:
            return False  # the retrieval that follows raises it
        known = TURNS.about(call.history, image)
        return not call.left_over and len(known) == len(call.history)

    def _answer(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Answer:
        (answer,) = self._answers([messages], kwargs)
        return answer

    def _answers(
        self, conversations: Sequence[Sequence[ChatMessage]], kwargs: dict[str, Any]
    ) -> list[Answer]:
        limit = token_limit(kwargs)
        calls = [self._resolve(messages) for messages in conversations]
        inputs = {
            place: self._inputs(call) for place, call in enumerate(calls) if not call.follow_up
        }
        try:
            with person_readable():  # a policy of one's own, for example
                generated = self._engine.generate(
                    [request for request, _ in inputs.values()],
                    [image for _, image in inputs.values()],
                    policy=self.policy,
                    max_new_tokens=limit,
                )
        finally:
            _rest(calls)
        answers = {
            place: self._record(calls[place], answer, *inputs[place], limit)
            for place, answer in zip(inputs, generated, strict=True)
        }
        return [
            answers[place] if place in answers else verbatim_answer(call.follow_up)
            for place, call in enumerate(calls)
        ]

    def _open(self, messages: Sequence[ChatMessage], kwargs: dict[str, Any]) -> Iterator[Reply]:
        limit = token_limit(kwargs)
        call = self._resolve(messages)
        if call.follow_up:
            return iter([Reply(call.follow_up, call.follow_up, {})])
        request, image = self._inputs(call)
        with person_readable():
            stream = self._engine.stream(request, image, policy=self.policy, max_new_tokens=limit)
        return self._replies(call, stream, request, image, limit)

    def _replies(
        self,
        call: Resolved,
        stream: TokenStream,
        request: PromptRequest,
        image: tuple[Image, ...],
        limit: int | None,
    ) -> Iterator[Reply]:
        text = ""
        try:
            for piece in stream:
                text += piece
                yield Reply(text, piece, {})
        finally:
            stream.close()
            _rest([call])
        if stream.answer is not None:
            answer = self._record(call, stream.answer, request, image, limit)
            yield Reply(text, "", answer_facts(answer))

    def _inputs(self, call: Resolved) -> tuple[PromptRequest, tuple[Image, ...]]:
        request = call.request
        if not self._engine.loaded.profile.conversational:
            request = replace(request, history=())
        return request, () if call.image is None else call.image.pictures

    def _record(
        self,
        call: Resolved,
        answer: Answer,
        request: PromptRequest,
        image: tuple[Image, ...],
        limit: int | None,
    ) -> Answer:
        answer = replace(answer, text=strip(answer.text), left_out_turns=call.left_out_turns)
        if not answer.text:
            raise ModelError(
                f"model {self.model!r} ended its answer before its first word; hosts would show "
                "this as an empty response, as if there were nothing to say"
            )
        if answer.unknown_tokens:
            warnings.warn(
                f"{answer.unknown_tokens} words of this prompt are unknown to model "
                f"{self.model!r}: it did not read them, and its answer is worth little",
                stacklevel=1,  # what the user wrote is any number of frames of the host above
            )
        if self.explain:
            influence = explain(self._engine, request, image, self.policy, limit)
            answer = replace(answer, influence=influence)
        number = next(_CALLS)
        for ticket in call.tickets:
            ticket.record(answer, number)
        if call.kind != "condense":
            TURNS.record(request.question, answer.text, call.image, call.conversation)
        return answer


def _rest(calls: Sequence[Resolved]) -> None:
    """Let go of decoded pixels, however the calls ended."""
    for call in calls:
        for ticket in call.tickets:
            ticket.rest()


def _finished(messages: Sequence[ChatMessage]) -> HostCall:
    """Read messages that no template of a question was filled for."""
    call = read_finished(messages, TICKETS)
    if not isinstance(messages, HostMessages):
        return call
    return replace(call, variables=messages.variables, purpose=messages.purpose)


def _require_same_as_block(image: QueryImage) -> None:
    """Raise `EvidenceError` if the image in a message is not that of the block around the call.

    Multimodal engines put retrieved images there, which are other patients'.
    """
    try:
        enclosing = current_query_image()
    except EvidenceError:
        return  # the message says itself what it is about
    if enclosing is not None and enclosing != image:
        raise EvidenceError(
            "the message holds another image than the enclosing query_image(...) block, which "
            "could mix two patients: multimodal engines put the images that they retrieved into "
            "their messages; take index.as_query_engine(llm=llm) or index.as_chat_engine(llm=llm), "
            "or give one image"
        )
