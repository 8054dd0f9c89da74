"""The plan of one request: which prompt, which rows and columns, which layers, what formula."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import to_jsonable_python
from typing_extensions import Self

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.plan import SteeringPlan
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.steering.policy import SteeringPolicy
from mrrag_llamaindex.steering.spans import PromptSpans
from mrrag_llamaindex.steering.wire.message import Message

ARGUMENT = "mrrag_steering"
"""Name of the request's argument that holds a plan."""

MOST_TOKENS = 1_048_576
MOST_ITEMS = 4_096

Token = Annotated[int, Field(ge=0, le=MOST_TOKENS)]
Span = tuple[Token, Token]

_APART = {"layers", "guidance"}
"""Fields of a policy that do not travel: layers are the plan's, guidance is no attention."""


class RequestPlan(Message):
    """Where and how the attention of one prompt is to be steered.

    Attributes
    ----------
    policy : str
        Its name in `POLICIES`.
    options : dict
        Fields of the policy that are not at their default.
    layers : tuple of int
        Decoder layers to steer; the sender knows which are the critical ones.
    length : int
        Tokens of the prompt, after image expansion. The engine must count as many.
    documents, question, image
        Token spans (start, stop), see `PromptSpans`.
    lambdas : tuple of float
        In [0, 1], one per document.

    Raises
    ------
    pydantic.ValidationError
        If spans, lambdas, policy and layers do not fit together, or nothing would be steered.

    Examples
    --------
    >>> from mrrag_llamaindex.steering.ifa import IFA
    >>> spans = PromptSpans(documents=((2, 5), (5, 9)), question=(10, 12), length=14)
    >>> plan = RequestPlan.of(spans, (0.0, 1.0), IFA(question_rows="question"), (3,))
    >>> plan.rows, plan.layers
    ((10, 12), (3,))
    >>> RequestPlan.read(plan.dump()) == plan
    True
    """

    policy: str
    options: Annotated[dict[str, Any], Field(default_factory=dict, max_length=16)]
    layers: Annotated[tuple[Token, ...], Field(min_length=1, max_length=MOST_ITEMS)]
    length: Annotated[int, Field(gt=0, le=MOST_TOKENS)]
    documents: Annotated[tuple[Span, ...], Field(max_length=MOST_ITEMS)] = ()
    lambdas: Annotated[tuple[float, ...], Field(max_length=MOST_ITEMS)] = ()
    question: Span
    image: Span | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        try:
            plan = self.build()
        except SteeringError as error:
            raise ValueError(str(error)) from None
        if plan.layers != set(self.layers):
            raise ValueError(f"layers are not those of the policy's options, {sorted(plan.layers)}")
        if not plan.is_active:
            raise ValueError("nothing would be steered: leave the plan out")
        return self

    @classmethod
    def of(
        cls,
        spans: PromptSpans,
        lambdas: Sequence[float],
        policy: SteeringPolicy,
        layers: Sequence[int],
    ) -> RequestPlan:
        """Make the plan of one prompt.

        Parameters
        ----------
        spans : PromptSpans
            Of the prompt after image expansion.
        lambdas : sequence of float
            One per document.
        policy : SteeringPolicy
            Its own layers, where it has any, are those of `layers`.
        layers : sequence of int
            The layers to steer, as `Planner.layers` returns them.

        Raises
        ------
        SteeringError
            If nothing would be steered, the policy is none of `POLICIES`, or it does something
            outside of attention, such as guidance.
        """
        if policy.guidance != 1:
            raise SteeringError(
                f"{type(policy).__name__} uses guidance, which is no steering of attention and "
                "not part of a request's plan; set guidance=1"
            )
        try:
            return cls(
                policy=_name(policy),
                options=_options(policy),
                layers=tuple(layers),
                length=spans.length,
                documents=spans.documents,
                lambdas=tuple(lambdas),
                question=spans.question,
                image=spans.image,
            )
        except ValidationError as error:
            raise SteeringError(error.errors(include_input=False)[0]["msg"]) from None

    def build(self) -> SteeringPlan:
        """Lay the plan over a batch of one prompt.

        Raises
        ------
        SteeringError
            If its parts do not fit together.
        """
        policy = _policy(self.policy, self.options)
        return SteeringPlan.build([self.spans], [self.lambdas], policy, self.layers, self.length)

    @property
    def spans(self) -> PromptSpans:
        """The spans as steering takes them."""
        return PromptSpans(self.documents, self.question, self.length, self.image)

    @property
    def rows(self) -> tuple[int, int]:
        """Span of the prompt's rows that are steered; they lie at or behind the question."""
        return _policy(self.policy, self.options).rows(self.spans)

    @property
    def every_step(self) -> bool:
        """Whether the rows of generated tokens are steered, too."""
        return _policy(self.policy, self.options).every_step

    @property
    def digest(self) -> bytes:
        """SHA-256 of all that the plan says: equal plans steer equally."""
        return hashlib.sha256(self.dump().encode()).digest()


def to_extra_args(plan: RequestPlan) -> dict[str, str]:
    """Return a plan as arguments of a request: ``extra_args`` in process, ``vllm_xargs`` in HTTP.

    Examples
    --------
    >>> plan = RequestPlan(policy="uniform", layers=(0,), length=4, documents=((0, 2),),
    ...     lambdas=(0.0,), question=(2, 4))
    >>> from_extra_args(to_extra_args(plan)) == plan
    True
    """
    return {ARGUMENT: plan.dump()}


def from_extra_args(arguments: Mapping[str, Any] | None) -> RequestPlan | None:
    """Read the plan among the arguments of a request; None if there is none.

    Raises
    ------
    SteeringError
        If it is not a plan of this version, or an argument begins like ours and is not.
    """
    own = {name for name in arguments or () if name.startswith("mrrag")}
    if not arguments or not own:
        return None
    if own != {ARGUMENT}:
        raise SteeringError(f"of the arguments named mrrag..., only {ARGUMENT} is known")
    return RequestPlan.read(arguments[ARGUMENT])


def _policy(name: str, options: Mapping[str, Any]) -> SteeringPolicy:
    """Make a policy of what was sent."""
    if name not in POLICIES:
        raise SteeringError(f"the policy is none of {', '.join(POLICIES)}")
    cls = POLICIES[name]
    known = {field.name for field in fields(cls)} - _APART  # type: ignore[arg-type]
    if not known >= set(options):
        raise SteeringError(f"options of {name} are {', '.join(sorted(known))}")
    try:
        return _adapter(cls).validate_python(dict(options))
    except ValueError:
        raise SteeringError(f"an option of {name} has a value that it cannot have") from None


@cache
def _adapter(cls: type[SteeringPolicy]) -> TypeAdapter[SteeringPolicy]:
    return TypeAdapter(cls)


def _name(policy: SteeringPolicy) -> str:
    for name, cls in POLICIES.items():
        if cls is type(policy):
            return name
    raise SteeringError(
        f"{type(policy).__name__} is none of {', '.join(POLICIES)}: a serving engine steers those"
    )


def _options(policy: SteeringPolicy) -> dict[str, Any]:
    """Fields of a policy that are not at their default."""
    default = type(policy)()
    values = {
        field.name: getattr(policy, field.name)
        for field in fields(policy)  # type: ignore[arg-type]
        if field.name not in _APART
    }
    changed = {name: value for name, value in values.items() if value != getattr(default, name)}
    return dict(to_jsonable_python(changed))
