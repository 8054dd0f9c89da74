"""A method of the table: what retrieves, what steers, what decodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.methods.ranking import Ranking
    from mrrag_llamaindex.generation.prompt.request import PromptDocument


@dataclass(frozen=True)
class Method:
    """One method: each part is a frozen dataclass of its own, or None for nothing of the kind.

    Attributes
    ----------
    name : str
    ranking : Ranking or None
        Which documents are read; None: none.
    policy : steering policy or None
        None: plain attention.
    decoding : Decoding or None
        None: greedy.
    generates : bool
        Whether a model answers; if not, the ranking does, see `vote.Voters`.
    """

    name: str
    ranking: Ranking | None = None
    policy: Any = None
    decoding: Any = None
    generates: bool = True

    def documents(self, data: EmbeddedSet, row: int) -> list[PromptDocument]:
        """Return the documents of question ``row``, best first."""
        return self.ranking.documents(data, row) if self.ranking else []

    def settings(self) -> dict[str, str]:
        """Return everything that decides an answer, as text: what a resumed run must have too."""
        parts = {"ranking": self.ranking, "policy": self.policy, "decoding": self.decoding}
        return {name: repr(part) for name, part in parts.items() if part is not None}

    def tuned_part(self) -> str:
        """Return what is tuned, as text: the policy if there is one, else the ranking."""
        return repr(self.policy if self.policy is not None else self.ranking)
