"""What is particular to one method of the table: how it is built, tuned, chosen and cited."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.methods import tuning
from mrrag_llamaindex.evaluation.methods.method import Method
from mrrag_llamaindex.evaluation.methods.ranking import Fused, Ranking
from mrrag_llamaindex.evaluation.methods.vote import Voters
from mrrag_llamaindex.steering.policies.registry import POLICIES

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.mcr.weights_file import AnyWeights


@dataclass(frozen=True)
class Ingredients:
    """What a method may be made of: K, weights of the fused score, and what was learned for it.

    K is the number of documents of a method that reads a fixed number, and the most of the others.
    """

    documents: int
    weights: AnyWeights
    learned: Ranking | None
    policy: Any = None


@dataclass(frozen=True)
class MethodRow:
    """Everything that is particular to one method.

    Attributes
    ----------
    name : str
        In tables, files and ``--methods``.
    reads, does : str
        Which documents, and what happens to attention or decoding; for documentation.
    source : str
        Citation.
    differs : str
        From the original, for documentation.
    ranking : callable or None
        From `Ingredients`; None: no documents are read.
    policy : str
        A name of `steering.policies.registry.POLICIES`, or ``module:class`` of a policy that only
        the table knows, taken with its defaults; empty: plain attention.
    options : mapping
        Fields of the policy that are not at their defaults.
    usual : bool
        Whether it runs where no method is named.
    decoding : str
        ``module:class``, taken with its defaults; empty: greedy.
    learns : str
        ``module:function`` from an `EmbeddedSet` to a ranking, where one is learned beforehand.
        The ranking has a ``note``; the function raises `InputError` if there is nothing to learn.
    learns_policy : str
        ``module:function`` from training questions, an engine and the row's ranking to a policy and
        a note, where a policy is learned beforehand; it raises `InputError` likewise.
    grid : callable or None
        Settings that are tried on validation questions, see `tuning.Grid`; None: as published.
    tried : str
        The grid in words.
    choose : callable
        Which of them is taken, see `tuning.Choice`.
    generates : bool
        Whether a model answers. If not, the ranking does, see `vote.Voters`.
    """

    name: str
    reads: str
    source: str
    does: str = ""
    differs: str = ""
    ranking: Callable[[Ingredients], Ranking | None] | None = None
    policy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    usual: bool = True
    decoding: str = ""
    learns: str = ""
    learns_policy: str = ""
    grid: tuning.Grid | None = None
    tried: str = ""
    choose: tuning.Choice = tuning.most_accurate
    generates: bool = True

    @property
    def weighs(self) -> bool:
        """Whether it ranks by the fused score, whose weights are learned."""
        return self.ranking in (fused, voting)

    def learn(self, data: EmbeddedSet) -> Any:
        """Learn the ranking, as ``learns`` says; its ``note`` tells what it was learned from."""
        return resolve_name(self.learns)(data)

    def learn_policy(
        self, data: EmbeddedSet | None, engine: object, ingredients: Ingredients
    ) -> tuple[Any, str]:
        """Learn the policy, as ``learns_policy`` says, and tell from what it was learned."""
        assert self.ranking is not None
        learned: tuple[Any, str] = resolve_name(self.learns_policy)(
            data, engine, self.ranking(ingredients)
        )
        return learned

    def build(self, ingredients: Ingredients) -> Method:
        """Return the method with its published settings, or ours where none were published."""
        if self.learns and ingredients.learned is None:
            raise InputError(f"{self.name} needs a ranking that was learned beforehand")
        if self.learns_policy and ingredients.policy is None:
            raise InputError(f"{self.name} needs a policy that was learned beforehand")
        return Method(
            self.name,
            self.ranking(ingredients) if self.ranking else None,
            self._policy_class()(**self.options) if self.policy else ingredients.policy,
            resolve_name(self.decoding)() if self.decoding else None,
            self.generates,
        )

    def _policy_class(self) -> Any:
        return resolve_name(self.policy) if ":" in self.policy else POLICIES[self.policy]

    def settings(
        self, method: Method, depth: int, critical: Sequence[int] | None = None
    ) -> list[Method]:
        """Return the settings that are tried; only the method itself if nothing is tuned.

        Parameters
        ----------
        method : Method
            As `build` returned it.
        depth : int
            Decoder layers of the model.
        critical : sequence of int, optional
            Its critical layers.
        """
        if self.grid is None:
            return [method]
        return self.grid(method, tuning.three_places(depth, critical))


def fused(ingredients: Ingredients) -> Ranking:
    """Rank by the fused score."""
    return Fused(ingredients.weights, ingredients.documents)


def voting(ingredients: Ingredients) -> Ranking:
    """Let as many pairs vote as are fetched for a model, or more where more documents are read."""
    return Voters(ingredients.weights, max(defaults.VOTE_DOCUMENTS, ingredients.documents))
