"""The beam search of OPERA: beams as rows of one batch, and the way back from over-trust."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from mrrag_llamaindex.generation.decoding.opera import IMAGE_STEPS, OPERA
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prefix_cache import fork
from mrrag_llamaindex.generation.prompt.request import Prompt

if TYPE_CHECKING:
    from mrrag_llamaindex.generation.decoding.opera_runner import OperaRunner


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
    """One search: the beams, what they came from, and what is forbidden where."""

    def __init__(
        self,
        runner: OperaRunner,
        opera: OPERA,
        prompt: Prompt,
        prompt_cache: DynamicCache,
        limit: int,
    ) -> None:
        self.runner, self.opera, self.limit = runner, opera, limit
        self.prompt_cache, self.length = prompt_cache, len(prompt.input_ids)
        self.image = slice(*(prompt.image_span or (0, 0)))
        self.forbidden: defaultdict[int, set[int]] = defaultdict(set)
        self.past: list[_Beams] = []
        self.cache = fork(prompt_cache, 1, runner.model.config)

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
        following, row = self.runner.forward(tokens.flatten(), self.cache)

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
        keep = min(max(2, 1 + len(self.runner.ends)) * opera.beams, len(totals))
        scores, ranked = totals.topk(keep)
        finished = list(beams.finished)
        chosen: list[int] = []
        for rank, (score, index) in enumerate(zip(scores.tolist(), ranked.tolist(), strict=True)):
            token = int(tokens.flatten()[index])
            if token in self.runner.ends or step + 1 == self.limit:
                if rank < opera.beams and score > -torch.inf:
                    words = [*beams.tokens[index // width].tolist(), token]
                    finished.append((score / (step + 1), words))
            elif len(chosen) < opera.beams and score > -torch.inf:
                chosen.append(index)
        finished = sorted(finished, key=lambda item: -item[0])[: opera.beams]
        picked = torch.tensor(chosen, dtype=torch.long, device=logits.device)
        parents = picked // width
        told = [
            [*beams.columns[parent], *([] if columns is None else [int(columns[index])])]
            for parent, index in zip(parents.tolist(), chosen, strict=True)
        ]
        after = _Beams(
            torch.cat([beams.tokens[parents], tokens.flatten()[picked, None]], dim=1),
            totals[picked],
            attention[picked],
            told,
            finished,
        )
        if not chosen or self._is_settled(after):
            return after, logits, True
        self.cache.batch_select_indices(picked)
        return after, following[picked], False

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
        self.cache = fork(self.prompt_cache, len(before.tokens), self.runner.model.config)
        return before, self.runner.reread(before.tokens, self.cache)
