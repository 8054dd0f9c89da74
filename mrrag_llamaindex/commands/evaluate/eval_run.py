"""From data, towers and a model to the answers of every method: the work of ``mrrag eval``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex.commands import console
from mrrag_llamaindex.commands.progress import layers_note, progress_with_time_left

if TYPE_CHECKING:
    from mrrag_llamaindex.evaluation.data.data_set import EvaluationSet, Problem
    from mrrag_llamaindex.evaluation.data.embedded_set import EmbeddedSet
    from mrrag_llamaindex.evaluation.data.parts import Parts
    from mrrag_llamaindex.evaluation.run.records import Evaluation, HarnessSettings
    from mrrag_llamaindex.generation.engine import LlavaEngine
    from mrrag_llamaindex.mcr.weights_file import AnyWeights
    from mrrag_llamaindex.store.protocol import PairStore
    from mrrag_llamaindex.towers.protocol import DualTower


def load_engine(
    model: str,
    *,
    documents: int,
    max_new_tokens: int,
    batch_size: int,
    device: str,
    quantization: str | None,
    vision_tower: str,
    allow_pickle: bool,
) -> tuple[LlavaEngine, str]:
    """Load the model with the critical layers that are known of it, and say whose they are."""
    from mrrag_llamaindex.generation.checkpoints.loading import load_model
    from mrrag_llamaindex.generation.checkpoints.profile_store import with_known_layers
    from mrrag_llamaindex.generation.engine import LlavaEngine

    loaded = load_model(
        model,
        device=device,
        quantization=quantization,
        vision_tower=vision_tower,
        allow_pickle=allow_pickle,
    )
    known = with_known_layers(loaded)
    note = layers_note(known, kept=known is not loaded)
    console.say("note", note)
    engine = LlavaEngine(
        known, max_documents=documents, max_new_tokens=max_new_tokens, batch_size=batch_size
    )
    return engine, note


def run_methods(
    sets: Sequence[EvaluationSet],
    towers: DualTower,
    engine: LlavaEngine,
    settings: HarnessSettings,
    weights: AnyWeights | None,
    out: Path | None,
    validation: float,
    synthetic: bool,
) -> tuple[Evaluation, Parts, list[Problem]]:
    """Embed, learn, tune and answer; without ``weights`` they are learned.

    The problems are those of pairs and questions that the towers could not read.
    """
    from mrrag_llamaindex.evaluation.data.parts import Parts, split_parts
    from mrrag_llamaindex.evaluation.methods.learning import learn
    from mrrag_llamaindex.evaluation.run.harness import Harness

    stores: list[PairStore] = []
    try:
        for _ in sets:
            stores.append(_store(towers, None if synthetic else out))
        embedded = _embedded(sets, towers, stores)
        if synthetic:
            fit, tune, *tests = embedded
            parts = Parts(tuple(tests), fit, tune)
        else:
            parts = split_parts(embedded[0], validation, settings.seed, learns=weights is None)
        with progress_with_time_left("questions mined") as advance:
            learned = learn(
                parts.fit,
                stores[0],
                towers,
                engine,
                facts_from=embedded[0],
                weights=weights,
                wanted=settings.methods,
                folder=out,
                seed=settings.seed,
                progress=lambda done, total, resumed: advance("fusion", done, total, resumed),
            )
        with progress_with_time_left("answers") as advance:
            harness = Harness(engine, towers.identity, settings, folder=out, progress=advance)
            found = harness.run(parts.tests, learned, parts.tune)
        return found, parts, [problem for part in embedded for problem in _unreadable(part)]
    finally:
        for store in stores:
            store.close()


def _embedded(
    sets: Sequence[EvaluationSet], towers: DualTower, stores: Sequence[PairStore]
) -> list[EmbeddedSet]:
    from mrrag_llamaindex.evaluation.data.set_embedding import embed_set

    sizes = [len(item.pairs) + len(item.questions) for item in sets]
    made: list[EmbeddedSet] = []
    with progress_with_time_left("vectors") as advance:
        for number, (item, store) in enumerate(zip(sets, stores, strict=True)):
            before = sum(sizes[:number])

            def told(done: int, _: int, before: int = before) -> None:
                advance("towers", before + done, sum(sizes), 0)

            made.append(embed_set(item, towers, store, progress=told))
    return made


def _unreadable(data: EmbeddedSet) -> list[Problem]:
    from mrrag_llamaindex.evaluation.data.data_set import UNREADABLE, Problem

    return [
        Problem(UNREADABLE, f"{data.name} {item.identifier!r}", item.reason)
        for item in data.left_out
    ]


def _store(towers: DualTower, out: Path | None) -> PairStore:
    from mrrag_llamaindex.store.protocol import PairStore

    where: Any = "memory" if out is None else out / "store"
    return PairStore.open_or_create(
        where,
        towers_identity=towers.identity,
        towers_source=towers.source,
        dimension=towers.dimension,
    )
