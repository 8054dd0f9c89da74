"""Documents into a prompt, with their evidence, and without a marker that anyone can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.output_parsers import BaseOutputParser, StrOutputParser
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.prompts import BasePromptTemplate, PromptTemplate, format_document
from langchain_core.runnables import Runnable, RunnableLambda

from mrrag_llamaindex.errors import EvidenceError, InputError
from mrrag_llamaindex.integration.other_hosts.passages import common_evidence
from mrrag_llamaindex.integration.tickets.markers import strip
from mrrag_llamaindex.integration.tickets.written_out import (
    Whole,
    changes_documents,
    tells_documents,
)
from mrrag_llamaindex.langchain.documents import passages_of, with_markers, without_markers
from mrrag_llamaindex.langchain.images import image_of_question
from mrrag_llamaindex.langchain.messages import recalled, with_labels, without_visible_markers

if TYPE_CHECKING:
    from langchain_core.language_models import LanguageModelLike

_QUESTION_KEYS = ("input", "question", "query")


def create_stuff_documents_chain(
    llm: LanguageModelLike,
    prompt: BasePromptTemplate[Any],
    *,
    output_parser: BaseOutputParser[Any] | None = None,
    document_prompt: BasePromptTemplate[Any] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
) -> Runnable[dict[str, Any], Any]:
    """Build the stock chain of this name, for documents of `MRRAGRetriever` and `MRRAGCompressor`.

    It takes the same arguments, and may stand wherever the stock one does, as in
    ``create_retrieval_chain``. The difference: the documents' image and scores reach `ChatMRRAG`.

    Raises
    ------
    InputError
        If the prompt has no variable of this name.
    """
    filled = evidence_prompt(
        prompt,
        document_prompt=document_prompt,
        document_separator=document_separator,
        document_variable_name=document_variable_name,
    )
    chain = filled | llm | (output_parser or StrOutputParser())
    return chain.with_config(run_name="stuff_documents_chain")


def evidence_prompt(
    prompt: BasePromptTemplate[Any],
    *,
    document_prompt: BasePromptTemplate[Any] | None = None,
    document_separator: str = "\n\n",
    document_variable_name: str = "context",
) -> Runnable[dict[str, Any], PromptValue]:
    """Return a prompt whose context is a list of documents, for a chain of one's own.

    Image and scores go with the messages that it makes; callbacks, other models and whoever prints
    them see plain text. A model other than `ChatMRRAG` reads that.

    Parameters
    ----------
    prompt : BasePromptTemplate
        The application's own, in any language.
    document_prompt : BasePromptTemplate, optional
        How one document is written; default: its text alone.
    document_separator, document_variable_name : str

    Raises
    ------
    InputError
        If the prompt has no variable of this name. When it is filled: if it leaves documents out,
        cuts them or changes their letters.

    Examples
    --------
    >>> context = {"context": retriever, "question": RunnablePassthrough()}  # doctest: +SKIP
    >>> chain = context | evidence_prompt(prompt) | llm                      # doctest: +SKIP
    """
    if document_variable_name not in prompt.input_variables:
        raise InputError(
            f"the prompt has no variable {document_variable_name!r} for the documents; it has "
            f"{', '.join(sorted(prompt.input_variables)) or 'none'}"
        )
    one = document_prompt or PromptTemplate.from_template("{page_content}")

    def variables(inputs: dict[str, Any]) -> tuple[dict[str, Any], str]:
        missing = sorted({*prompt.input_variables} - {*inputs, *prompt.partial_variables})
        if missing:
            raise InputError(f"the prompt needs {missing[0]!r}, and the chain's inputs lack it")
        documents = _under_one_ticket(inputs[document_variable_name], inputs, one)
        known = {*prompt.input_variables, *prompt.optional_variables}
        own = {name: value for name, value in inputs.items() if name in known}
        # Functions among them are called once: the prompt is filled more than once.
        held = {k: v() if callable(v) else v for k, v in prompt.partial_variables.items()}
        text = document_separator.join(item.page_content for item in documents)
        return {**held, **own}, text

    def ways(values: dict[str, Any], text: str) -> list[dict[str, Any]]:
        kinds = Whole.of(strip(text), text), strip(text), text
        return [{**values, document_variable_name: kind} for kind in kinds]

    def made(values: dict[str, Any], text: str, filled: Sequence[PromptValue]) -> PromptValue:
        whole, plain, marked = (value.to_messages() for value in filled)
        for messages in (whole, with_labels(marked)):
            if tells_documents(_texts(messages), _texts(plain), text):
                history = {id(item) for value in values.values() for item in _listed(value)}
                known = recalled(messages, history)
                return ChatPromptValue(messages=without_visible_markers(known))
        raise changes_documents(document_variable_name, prompt)

    def fill(inputs: dict[str, Any]) -> PromptValue:
        values, text = variables(inputs)
        return made(values, text, [prompt.format_prompt(**way) for way in ways(values, text)])

    async def afill(inputs: dict[str, Any]) -> PromptValue:
        values, text = variables(inputs)
        filled = [await prompt.aformat_prompt(**way) for way in ways(values, text)]
        return made(values, text, filled)

    return RunnableLambda(fill, afill, name="evidence_prompt")


def _texts(messages: Sequence[BaseMessage]) -> list[str]:
    return [str(message.text) for message in messages]


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _under_one_ticket(
    documents: Any, inputs: Mapping[str, Any], document_prompt: BasePromptTemplate[Any]
) -> list[Document]:
    """Write each document by its prompt, and put all of them under a ticket of their own."""
    passages = passages_of(documents)
    if not passages:
        raise EvidenceError(
            "no documents are left for this question: a filter or compressor of the chain took all "
            "of them away, and the model would answer from nothing"
        )
    evidence = common_evidence(passages)
    # Documents of another retriever do not know their image; the block around the question may.
    image = image_of_question(
        None if evidence is None else evidence.image,
        on_missing="error" if evidence is None else "ignore",
    )
    if evidence is not None and image != evidence.image:
        raise EvidenceError(
            "these documents were retrieved without the image that the question is about: retrieve "
            "them anew"
        )
    # What the application writes beside a report belongs to that document, and is read with it.
    written = [
        item.model_copy(update={"page_content": format_document(item, document_prompt)})
        for item in without_markers(documents)
    ]
    question = _question("" if evidence is None else evidence.question, inputs)
    return with_markers(written, question, image)


def _question(retrieved: str, inputs: Mapping[str, Any]) -> str:
    """Return the user's question: what was searched with may be a model's wording of it."""
    texts = [value for value in inputs.values() if isinstance(value, str)]
    if retrieved in texts:
        return retrieved
    named = (inputs[key] for key in _QUESTION_KEYS if isinstance(inputs.get(key), str))
    return next(named, retrieved)
