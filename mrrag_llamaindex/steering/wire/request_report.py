"""What a serving engine did with the plan of one request."""

from __future__ import annotations

from pydantic import Field

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.steering.wire.message import Message
from mrrag_llamaindex.steering.wire.request_plan import RequestPlan


class RequestReport(Message):
    """What steering did in one request.

    Attributes
    ----------
    rows : dict of int to int
        By layer, rows of the prompt that were steered in this request.
    cached : int
        Rows whose keys and values came from blocks that a request with the same plan had left, and
        which no layer had to run again.
    steps : dict of int to int
        By layer, rows of generated tokens that were steered: with policies that act there.
    """

    rows: dict[int, int]
    cached: int = 0
    steps: dict[int, int] = Field(default_factory=dict)

    def require(self, plan: RequestPlan) -> None:
        """Check that every layer steered all that the plan names.

        Raises
        ------
        SteeringError
            If it did not.
        """
        start, stop = plan.rows
        wanted = stop - start - self.cached
        short = {n: self.rows.get(n, 0) for n in plan.layers if self.rows.get(n, 0) != wanted}
        if short or wanted < 0:
            counts = ", ".join(f"{layer}: {count} of {wanted}" for layer, count in short.items())
            raise SteeringError(
                f"the server did not steer as it was asked (rows by layer: {counts})"
            )
        steps = {self.steps.get(layer) for layer in plan.layers}
        if plan.every_step and (None in steps or len(steps) > 1):
            raise SteeringError(
                "the server did not steer the rows of the answer's tokens in every layer, as it "
                f"was asked (rows by layer: {self.steps})"
            )

    @classmethod
    def of(cls, stop_reason: object, plan: RequestPlan) -> RequestReport:
        """Read the report of a request that ended, and check it against the plan that was sent.

        Parameters
        ----------
        stop_reason
            The engine's ``stop_reason`` of the request's only answer: of ``outputs[0]`` in process,
            of ``choices[0]`` over HTTP (of a stream: in its last chunk). A steered request has its
            report there; a request that failed, the reason in words.
        plan : RequestPlan

        Raises
        ------
        SteeringError
            If there is no report, or steering did not happen as planned.
        """
        if stop_reason is None:
            raise SteeringError(
                "the server did not say how it steered this request: it runs without this "
                "package's plugin. Start it with MRRAG_VLLM=1 and the arguments that "
                "docs/serving.md names"
            )
        if not isinstance(stop_reason, str) or not stop_reason.startswith("{"):
            raise SteeringError(f"the server did not steer this request: {stop_reason}")
        report = cls.read(stop_reason)
        report.require(plan)
        return report
