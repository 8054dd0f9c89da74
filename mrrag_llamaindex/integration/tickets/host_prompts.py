"""Read finished text that a host sends: the question, and the words around it.

Stock LlamaIndex templates wrap context and question in sentences of their own. The prompt is
rebuilt in the model's own layout, so those sentences are recognised and left out; the words of
an application's own template are kept. Where a host fills a template, `templates` reads it, and
nothing here has to guess.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from llama_index.core.base.llms.types import ChatMessage

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.integration.tickets.conversation import (
    INSTRUCTING,
    conversation_of,
    image_of,
    last_user,
    message_text,
    recalled_by_memory,
    require_readable,
    without_memory,
)
from mrrag_llamaindex.integration.tickets.host_call import (
    HostCall,
    Kind,
    left_over_of_text,
    turns_of_text,
)
from mrrag_llamaindex.integration.tickets.markers import find_segments, find_tickets, strip
from mrrag_llamaindex.integration.tickets.registry import TicketRegistry


@functools.cache
def stock_user_templates() -> tuple[tuple[Kind, str], ...]:
    """Return the host's own templates of a user message, with their kind."""
    from llama_index.core.chat_engine import condense_plus_context, condense_question
    from llama_index.core.prompts import chat_prompts, default_prompts

    chat_refine = chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS[0].content or ""
    content_refine = (
        "New Context: --------------------- {context_msg} --------------------- "
        "Query: {query_str} Original Answer: {existing_answer} New Answer:"
    )
    return (
        ("answer", default_prompts.DEFAULT_TEXT_QA_PROMPT_TMPL),
        ("answer", default_prompts.DEFAULT_TREE_SUMMARIZE_TMPL),
        ("refine", default_prompts.DEFAULT_REFINE_PROMPT_TMPL),
        ("refine", chat_refine),
        ("refine", content_refine),
        ("condense", condense_plus_context.DEFAULT_CONDENSE_PROMPT_TEMPLATE),
        ("condense", condense_question.DEFAULT_TEMPLATE),
    )


@functools.cache
def stock_system_templates() -> tuple[tuple[Kind, str], ...]:
    """Return the host's own templates of a system message, with their kind."""
    from llama_index.core.chat_engine import condense_plus_context, context
    from llama_index.core.prompts import chat_prompts

    content_refine = chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS[0].content or ""
    return (
        ("answer", chat_prompts.TEXT_QA_SYSTEM_PROMPT.content or ""),
        ("answer", condense_plus_context.DEFAULT_CONTEXT_PROMPT_TEMPLATE),
        ("answer", context.DEFAULT_CONTEXT_TEMPLATE),
        ("refine", condense_plus_context.DEFAULT_CONTEXT_REFINE_PROMPT_TEMPLATE),
        ("refine", context.DEFAULT_REFINE_TEMPLATE),
        ("refine", content_refine.split("New Context:")[0]),
    )


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", template.strip())
    regex = ""
    for index, part in enumerate(parts):
        if index % 2:
            regex += rf"(?P<{part}>.*?)"
        else:
            # White space differs between the string and the rich form of one template.
            regex += r"\s*".join(re.escape(word) for word in re.split(r"(?:\s+|(?<=:))", part))
    return re.compile(regex, re.DOTALL)


@functools.cache
def _request_for_json() -> re.Pattern[str]:
    """Return what a host's program appends to a prompt whose answer it will parse."""
    from llama_index.core.output_parsers.pydantic import PYDANTIC_FORMAT_TMPL

    return _pattern(PYDANTIC_FORMAT_TMPL)


def read_finished(messages: Sequence[ChatMessage], registry: TicketRegistry) -> HostCall:
    """Take finished messages apart; what follows no stock template is all question.

    Raises
    ------
    EvidenceError
        As `find_tickets`.
    InputError
        If there is no user message, the last one holds several images, or the answer is to be JSON.
    """
    last = last_user(messages)
    require_readable(messages, last)
    texts = [message_text(message) for message in messages]
    refuse_json(texts)
    tickets = find_tickets("\n".join(texts), registry)
    contexts: list[str] = []
    rests = []
    for text in texts:
        segments = sorted(
            (segment for ticket in tickets for segment in find_segments(text, ticket)),
            key=lambda segment: segment.start,
        )
        contexts += [text[segment.start : segment.stop] for segment in segments]
        for segment in reversed(segments):
            text = text[: segment.start] + " " + text[segment.stop :]
        rests.append(strip(text))
    held = [text != rest for text, rest in zip(texts, rests, strict=True)]
    own = [without_memory(rest) for rest in rests]
    left_over = sum(text != rest for text, rest in zip(own, rests, strict=True))
    rests = own

    kind, question, context = _user(rests[last])
    if kind == "condense":
        return HostCall(
            kind,
            question,
            history=turns_of_text(context),
            text=rests[last].strip(),
            left_over=left_over_of_text(context),
        )
    instructions = []
    recalled = recalled_by_memory(messages, held)
    for position in sorted(set(range(len(messages))) - recalled):
        if messages[position].role in INSTRUCTING:
            system_kind, words, system_context = _system(rests[position])
            instructions.append(words)
            contexts.append(system_context)
            kind = "refine" if "refine" in (kind, system_kind) else kind
    before = after = ""
    if kind == "plain" and tickets and tickets[0].question.strip():
        before, middle, after = question.rpartition(tickets[0].question.strip())
        before, question, after = (before, middle, after) if middle else ("", question, "")
    earlier = conversation_of(messages[:last], rests[:last])
    sent = image_of(messages[last])
    return HostCall(
        kind,
        question,
        (*contexts, context),
        "\n".join(words for words in instructions if words),
        readable(before) and before,
        after,
        earlier.turns,
        None if kind != "plain" and not tickets else sent or (None if tickets else earlier.image),
        left_over=left_over + earlier.left_over + len(recalled),
    )


def refuse_json(texts: Sequence[str]) -> None:
    """Raise `InputError` for a prompt whose answer is to be JSON of a schema."""
    if any(_request_for_json().search(text) for text in texts):
        raise InputError(
            "the prompt asks for JSON of a schema, as structured_answer_filtering, evaluators, "
            "extractors and the output parsers of templates do, and this model answers in words: "
            "take output_cls= or llm.as_structured_llm(...) for a schema with one verdict, and "
            "give programs, evaluators and rerankers another LLM"
        )


def _user(text: str) -> tuple[Kind, str, str]:
    """Return kind, question, and context (for "condense" the conversation) of a user message."""
    for kind, template in stock_user_templates():
        match = _pattern(template).fullmatch(text.strip())
        if match:
            groups = match.groupdict()
            question = groups.get("query_str") or groups.get("question") or ""
            names = ("context_str", "context_msg", "chat_history")
            return kind, question.strip(), next((groups[n] for n in names if groups.get(n)), "")
    return "plain", text.strip(), ""


def _system(text: str) -> tuple[Kind, str, str]:
    """Return kind, what the application added, and the context of a system message."""
    for kind, template in stock_system_templates():
        match = _pattern(template).match(text.strip())
        if match:
            groups = match.groupdict()
            context = groups.get("context_str") or groups.get("context_msg") or ""
            return kind, text.strip()[match.end() :].strip(), context
    return "plain", text.strip(), ""


def readable(text: str) -> str:
    """Return host text without the punctuation that packing leaves, '' if no word is in it."""
    text = re.sub(r"\\[nrt]", " ", text).strip(" \t\r\n'\",[]-")
    return text if re.search(r"\w\w", text) else ""
