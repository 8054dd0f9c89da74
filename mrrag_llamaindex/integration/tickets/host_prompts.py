"""Read what a host framework put into a prompt: the question, and the words around it.

Stock LlamaIndex templates wrap context and question in sentences of their own. The prompt is
rebuilt in the model's own layout, so those sentences are recognised and left out; the words of
an application's own template are kept.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["plain", "answer", "refine", "condense"]


@dataclass(frozen=True)
class HostText:
    """A host's message, taken apart.

    Attributes
    ----------
    kind : {"plain", "answer", "refine", "condense"}
        Which stock template it follows; "plain" for none.
    question : str
        The user's question; for "plain" the whole text.
    context : str
        Text that the host put where context goes, without our documents.
    """

    kind: Kind
    question: str
    context: str = ""


@functools.cache
def _user_templates() -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    from llama_index.core.chat_engine import condense_plus_context, condense_question
    from llama_index.core.prompts import chat_prompts, default_prompts

    chat_refine = chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS[0].content or ""
    content_refine = (
        "New Context: --------------------- {context_msg} --------------------- "
        "Query: {query_str} Original Answer: {existing_answer} New Answer:"
    )
    templates: list[tuple[Kind, str]] = [
        ("answer", default_prompts.DEFAULT_TEXT_QA_PROMPT_TMPL),
        ("answer", default_prompts.DEFAULT_TREE_SUMMARIZE_TMPL),
        ("refine", default_prompts.DEFAULT_REFINE_PROMPT_TMPL),
        ("refine", chat_refine),
        ("refine", content_refine),
        ("condense", condense_plus_context.DEFAULT_CONDENSE_PROMPT_TEMPLATE),
        ("condense", condense_question.DEFAULT_TEMPLATE),
    ]
    return tuple((kind, _pattern(template)) for kind, template in templates)


@functools.cache
def _system_templates() -> tuple[tuple[Kind, re.Pattern[str]], ...]:
    from llama_index.core.chat_engine import condense_plus_context, context
    from llama_index.core.prompts import chat_prompts

    content_refine = chat_prompts.CHAT_REFINE_PROMPT_TMPL_MSGS[0].content or ""
    templates: list[tuple[Kind, str]] = [
        ("answer", chat_prompts.TEXT_QA_SYSTEM_PROMPT.content or ""),
        ("answer", condense_plus_context.DEFAULT_CONTEXT_PROMPT_TEMPLATE),
        ("answer", context.DEFAULT_CONTEXT_TEMPLATE),
        ("refine", condense_plus_context.DEFAULT_CONTEXT_REFINE_PROMPT_TEMPLATE),
        ("refine", context.DEFAULT_REFINE_TEMPLATE),
        ("refine", content_refine.split("New Context:")[0]),
    ]
    return tuple((kind, _pattern(template)) for kind, template in templates)


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


def read_user_text(text: str) -> HostText:
    """Take a user message apart; text that follows no stock template is all question."""
    for kind, pattern in _user_templates():
        match = pattern.fullmatch(text.strip())
        if match:
            groups = match.groupdict()
            question = groups.get("query_str") or groups.get("question") or ""
            context = groups.get("context_str") or groups.get("context_msg") or ""
            return HostText(kind, question.strip(), context)
    return HostText("plain", text.strip())


def read_system_text(text: str) -> HostText:
    """Take a system message apart; `HostText.question` is what the application added."""
    for kind, pattern in _system_templates():
        match = pattern.match(text.strip())
        if match:
            groups = match.groupdict()
            context = groups.get("context_str") or groups.get("context_msg") or ""
            return HostText(kind, text.strip()[match.end() :].strip(), context)
    return HostText("plain", text.strip())


def readable(text: str) -> str:
    """Return host text without the punctuation that packing leaves, '' if no word is in it."""
    text = re.sub(r"\\[nrt]", " ", text).strip(" \t\r\n'\",[]-")
    return text if re.search(r"\w\w", text) else ""
