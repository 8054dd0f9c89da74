"""OPERA's search: beams over one prompt, with the attention that each new token pays."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import DynamicCache

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.decoding.opera_settings import IMAGE_STEPS, OperaSettings
from mrrag_llamaindex.generation.prefix_cache import fork
from mrrag_llamaindex.steering.attention.cache_argument import CACHE
from mrrag_llamaindex.steering.plan import SteeringPlan

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.first_token import FirstTokenProbe
    from mrrag_llamaindex.generation.prompt.request import Prompt


class AttentionRecorder:
    """A policy that changes nothing and keeps the logits that it is shown."""

    def __init__(self) -> None:
        self._logits: torch.Tensor | None = None

    def steer(self, logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Keep the logits (batch, heads in one axis or two, rows, columns) and return them."""
        self._logits = logits
        return logits

    def last_row(self) -> torch.Tensor:
        """Attention of the last row: maximum over heads, renormalised; float32 (batch, columns)."""
        if self._logits is None:
            raise SteeringError("the last layer handed out no attention; load another model")
        heads = self._logits[..., -1, :].flatten(1, -2).float().softmax(dim=-1)
        highest = heads.amax(dim=1)
        return highest / highest.sum(dim=-1, keepdim=True)


@dataclass
class _Beams:
    """Running sequences, best first.

    ``tokens`` int64 (beams, t), ``scores`` (beams,), ``attention`` (beams, t, t) among response
    tokens, ``columns`` the highest column of every step after the first ten.
    """

    tokens: torch.Tensor
    scores: torch.Tensor
    attention: torch.Tensor
    columns: list[list[int]]
    finished: list[tuple[float, list[int]]] = field(default_factory=list)


class OperaSearch:
    """One search: the beams, what they came from, and what is forbidden where.

    The last layer's attention comes through the steering hook, of the rows asked for only: the
    other rows and layers keep the stock kernel, and no attention matrix is returned.

    Parameters
    ----------
    model : PreTrainedModel
    opera : OperaSettings
    prompt : Prompt
        With an image.
    prompt_cache : DynamicCache
        Its keys and values, of batch 1; never written to.
    limit : int
        Longest answer, in tokens.
    """

    def __init__(
        self,
        model: Any,
        opera: OperaSettings,
        prompt: Prompt,
        prompt_cache: DynamicCache,
        limit: int,
    ) -> None:
        self.model, self.opera, self.limit = model, opera, limit
        text = model.config.get_text_config(decoder=True)
        self.last_layer = int(text.num_hidden_layers) - 1
        ends = model.generation_config.eos_token_id
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())
        self.prompt_cache, self.length = prompt_cache, len(prompt.input_ids)
        self.image = slice(*(prompt.image_span or (0, 0)))
        self.forbidden: defaultdict[int, set[int]] = defaultdict(set)
        self.past: list[_Beams] = []
        self.cache = fork(prompt_cache, 1, model.config)

    def run(self, logits: torch.Tensor, probe: FirstTokenProbe) -> list[int]:
        """Search until no running beam can beat a finished one; return the best's tokens."""
        place = logits.device
        beams = _Beams(
            torch.zeros(1, 0, dtype=torch.long, device=place),
            torch.zeros(1, device=place),
            torch.zeros(1, 0, 0, device=place),
            [[]],
        )
        while True:
            del self.past[beams.tokens.shape[1] :]
            self.past.append(beams)
            beams, logits, ended = self._step(beams, logits, probe)
            if ended:
                return max(beams.finished, key=lambda item: item[0])[1]
            beams, logits = self._turned_back(beams, logits)

    def _step(
        self, beams: _Beams, logits: torch.Tensor, probe: FirstTokenProbe
    ) -> tuple[_Beams, torch.Tensor, bool]:
        opera, (count, step) = self.opera, beams.tokens.shape
        for token in self.forbidden[step]:
            logits[:, token] = -torch.inf
        width = min(opera.candidates, logits.shape[-1])
        highest, tokens = logits.topk(width, dim=-1)  # (beams, N)
        self.cache.batch_repeat_interleave(width)
        following, row = self._try(tokens.flatten())

        attention = torch.zeros(count * width, step + 1, step + 1, device=logits.device)
        attention[:, :step, :step] = beams.attention.repeat_interleave(width, dim=0)
        attention[:, step] = row[:, self.length :]
        if step < IMAGE_STEPS:
            penalty, columns = -row[:, self.image].sum(dim=-1), None
        else:
            penalty, columns = opera.over_trust(attention)
        highest = highest - opera.weight * penalty.view(count, width)
        if step == 0:
            probe(tokens, logits.scatter(1, tokens, highest))  # type: ignore[arg-type]

        totals = (beams.scores[:, None] + highest.log_softmax(dim=-1)).flatten()
        keep = min(max(2, 1 + len(self.ends)) * opera.beams, len(totals))
        scores, ranked = totals.topk(keep)
        finished = list(beams.finished)
        leaders: list[int] = []
        for rank, (score, index) in enumerate(zip(scores.tolist(), ranked.tolist(), strict=True)):
            token = int(tokens.flatten()[index])
            if token in self.ends or step + 1 == self.limit:
                if rank < opera.beams and score > -torch.inf:
                    words = [*beams.tokens[index // width].tolist(), token]
                    finished.append((score / (step + 1), words))
            elif len(leaders) < opera.beams and score > -torch.inf:
                leaders.append(index)
        finished = sorted(finished, key=lambda item: -item[0])[: opera.beams]
        survivors = torch.tensor(leaders, dtype=torch.long, device=logits.device)
        parents = survivors // width
        columns_so_far = [
            [*beams.columns[parent], *([] if columns is None else [int(columns[index])])]
            for parent, index in zip(parents.tolist(), leaders, strict=True)
        ]
        after = _Beams(
            torch.cat([beams.tokens[parents], tokens.flatten()[survivors, None]], dim=1),
            totals[survivors],
            attention[survivors],
            columns_so_far,
            finished,
        )
        if not leaders or self._is_settled(after):
            return after, logits, True
        self.cache.batch_select_indices(survivors)
        return after, following[survivors], False

    def _is_settled(self, beams: _Beams) -> bool:
        """Whether every place is taken by an answer that the running ones cannot beat."""
        best = float(beams.scores[0]) / beams.tokens.shape[1]
        full = len(beams.finished) == self.opera.beams
        return full and best <= min(score for score, _ in beams.finished)

    def _turned_back(self, beams: _Beams, logits: torch.Tensor) -> tuple[_Beams, torch.Tensor]:
        """Go back, if the leading beam's highest column says so."""
        place = self.opera.place_to_return_to(beams.columns[0])
        if place is None or place >= beams.tokens.shape[1]:
            return beams, logits
        if len(self.forbidden[place]) >= self.opera.candidates:
            return beams, logits
        self.forbidden[place].add(int(beams.tokens[0, place]))
        before = self.past[place]
        self.cache = fork(self.prompt_cache, len(before.tokens), self.model.config)
        return before, self._read(before.tokens)

    def _try(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Read one token per row; return logits and the row's attention, see above."""
        recorder, rows = AttentionRecorder(), len(tokens)
        plan = SteeringPlan(
            torch.ones(rows, 1),
            torch.ones(rows, 1, dtype=torch.bool),
            frozenset({self.last_layer}),
            policy=recorder,
            every_step=True,
        )
        return self._read(tokens[:, None], plan), recorder.last_row()

    def _read(self, tokens: torch.Tensor, plan: SteeringPlan | None = None) -> torch.Tensor:
        """Read tokens (rows, n) behind the cache; logits of the last one, float32."""
        # No row is padded, so the model needs no mask but the causal one, which it builds.
        output = self.model(
            input_ids=tokens,
            **{CACHE: self.cache},
            use_cache=True,
            logits_to_keep=1,
            steering=plan,
        )
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits
