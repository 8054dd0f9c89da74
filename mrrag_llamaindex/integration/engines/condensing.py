"""Chat that rephrases follow-up questions by a template in any language."""

from __future__ import annotations

from llama_index.core.base.llms.generic_utils import messages_to_history_str
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.chat_engine import CondensePlusContextChatEngine


class MRRAGCondensePlusContextChatEngine(CondensePlusContextChatEngine):
    """`CondensePlusContextChatEngine` that hands its condense template to the LLM as a template.

    The stock engine fills it itself and sends finished text, in which only the host's own wording
    could be told from a question. Made by ``MRRAGIndex.as_chat_engine``.
    """

    def _condense_question(self, chat_history: list[ChatMessage], latest_message: str) -> str:
        if self._skip_condense or not chat_history:
            return latest_message
        return self._llm.predict(
            self._condense_prompt_template,
            chat_history=messages_to_history_str(chat_history),
            question=latest_message,
        )

    async def _acondense_question(
        self, chat_history: list[ChatMessage], latest_message: str
    ) -> str:
        if self._skip_condense or not chat_history:
            return latest_message
        return await self._llm.apredict(
            self._condense_prompt_template,
            chat_history=messages_to_history_str(chat_history),
            question=latest_message,
        )
