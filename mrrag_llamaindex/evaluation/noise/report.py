"""The outcome of a noise study as points, losses and settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mrrag_llamaindex.evaluation.methods.tuning import Tuned
from mrrag_llamaindex.evaluation.noise.result import Contestant, NoiseResult
from mrrag_llamaindex.steering.policies.registry import OFF


@dataclass(frozen=True, eq=False)
class NoiseReport:
    """A study and how it was made.

    Attributes
    ----------
    result : NoiseResult
    tuning : tuple of Tuned
    validation : dict
        Seed and number of the validation questions.
    fusion : dict or None
        Where the weights of MCR's scores come from; None if they were not used.
    about : dict
        Further fields of the JSON: which data, what relevant means there, what was left out.
    """

    result: NoiseResult
    tuning: tuple[Tuned[Contestant], ...]
    validation: dict[str, Any]
    fusion: dict[str, Any] | None
    about: dict[str, Any] = field(default_factory=dict)

    def points(self) -> list[dict[str, Any]]:
        """Return one dict per policy, scores, kind of noise and level."""
        result, points = self.result, []
        for key in result.cells:
            policy, scores, adversarial, irrelevant = key
            accuracy, ci = result.accuracy(key)
            share, share_ci = result.attention(key, "noise_attention")
            points.append(
                {
                    "policy": policy,
                    "scores": scores,
                    "noise": irrelevant / result.documents,
                    "accuracy": accuracy,
                    "ci": ci,
                    "noise_attention": share,
                    "noise_attention_ci": share_ci,
                    "noise_attention_all_layers": result.attention(key, "everywhere")[0],
                    "noise_attention_answer_row": result.attention(key, "at_answer")[0],
                    "adversarial": adversarial,
                    "n": len(result.owners),
                }
            )
        return points

    def kinds(self) -> tuple[bool, ...]:
        """Return which kinds of noise there are: of other patients, contradicting the truth."""
        return tuple(sorted({key[2] for key in self.result.cells}))

    def losses(self) -> list[dict[str, Any]]:
        """Return what plain RAG loses between no noise and half noise."""
        losses = []
        for adversarial in self.kinds():
            value, ci = self.result.loss(adversarial=adversarial)
            losses.append({"adversarial": adversarial, "loss": value, "ci": ci})
        return losses

    def recovered(self) -> list[dict[str, Any]]:
        """Return what each policy wins back of that at half noise, with intervals."""
        result, rows = self.result, []
        for adversarial in self.kinds():
            for c in result.contestants:
                if c.policy == OFF:
                    continue
                key = (c.policy, c.scores, adversarial, result.half)
                gain, gain_ci = result.difference(key, (OFF, c.scores, adversarial, result.half))
                share, ci = result.recovered(c.policy, c.scores, adversarial=adversarial)
                rows.append(
                    {
                        "policy": c.policy,
                        "scores": c.scores,
                        "adversarial": adversarial,
                        "recovered": share,
                        "ci": ci,
                        "gain": gain,
                        "gain_ci": gain_ci,
                    }
                )
        return rows

    def settings(self) -> list[dict[str, Any]]:
        """Return the chosen settings, and what they reached on validation questions."""
        off = next((item.accuracy for item in self.tuning if item.setting.policy == OFF), None)
        return [
            {
                "policy": item.setting.policy,
                "scores": item.setting.scores,
                "value": getattr(formula, formula.tuned),
                "layers": list(formula.layers or ()),
                "accuracy": item.accuracy,
                "off": off,
                "tried": len(item.tries),
            }
            for item in self.tuning
            if (formula := item.setting.formula) is not None
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return what ``mrrag noise --json`` prints, but for the path of its picture."""
        return {
            "points": self.points(),
            "loss": self.losses(),
            "recovered": self.recovered(),
            "tuning": {"settings": self.settings(), **self.validation},
            "fusion": self.fusion,
            "documents": self.result.documents,
            "attention_layers": list(self.result.layers),
            "n": len(self.result.owners),
            "seed": self.result.seed,
            **self.about,
        }
