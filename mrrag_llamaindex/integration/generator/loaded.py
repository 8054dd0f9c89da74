"""A generator with its loaded model: what may change then, and how it is copied and sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index.core.bridge.pydantic import PrivateAttr
from typing_extensions import Self

from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.influence.hiding import require_explainable
from mrrag_llamaindex.generation.interface import Engine
from mrrag_llamaindex.integration.generator.engines import load_engine
from mrrag_llamaindex.integration.generator.settings import LIMITS, GeneratorSettings
from mrrag_llamaindex.integration.inputs.options import unknown_option


class LoadedGenerator(GeneratorSettings):
    """Settings and the model that they describe.

    Copies share the model, and what is pickled are the settings.

    Parameters
    ----------
    engine : Engine or {"transformers", "vllm"}, optional
        A generator that is loaded already, or what is to run the model: ``runtime`` in short.
    **data
        The fields of `GeneratorSettings`.
    """

    _engine: Engine = PrivateAttr()
    _engine_given: bool = PrivateAttr(False)

    def __init__(self, *, engine: Engine | str | None = None, **data: Any) -> None:
        if isinstance(engine, str):
            engine, data = None, {**data, "runtime": engine}
        super().__init__(**data)
        self._engine_given = engine is not None
        self._engine = load_engine(self) if engine is None else self._with_own_limits(engine)

    @property
    def engine(self) -> Engine:
        """The loaded generator."""
        return self._engine

    def _with_own_limits(self, engine: Engine) -> Engine:
        """Give an engine the limits that were stated, and take the others from it."""
        stated = {name: getattr(self, name) for name in LIMITS if name in self.model_fields_set}
        engine = engine.with_limits(**stated) if stated else engine
        self.__dict__.update(
            max_documents=engine.prompts.max_documents,
            max_new_tokens=engine.max_new_tokens,
            batch_size=engine.batch_size,
            max_queue=engine.max_queue,
            queue_timeout=engine.queue_timeout,
        )
        return engine

    def __setattr__(self, name: str, value: Any) -> None:
        """Take another value for a field of a loaded model, or refuse it by name."""
        if "_engine" not in (getattr(self, "__pydantic_private__", None) or {}):
            super().__setattr__(name, value)  # while it is constructed
            return
        if name in type(self).model_fields:
            value = self.checked(name, value)
        if name in LIMITS:
            self._engine = self._engine.with_limits(**{name: value})
        if name == "explain" and value:
            require_explainable(self._engine)
        super().__setattr__(name, value)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy over the same loaded model, with some fields changed.

        Raises
        ------
        ModelError
            If a field is none of ours, does not take its value, or says how a model is loaded.
        """
        copy = super().model_copy()
        for name, value in (update or {}).items():
            if name not in type(self).model_fields:
                raise ModelError(
                    str(unknown_option(name, self.class_name(), type(self).model_fields))
                )
            setattr(copy, name, value)
        return copy

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy over the same loaded model."""
        return self.model_copy()

    def __reduce__(self) -> tuple[Any, ...]:
        """Write the settings alone, for a process that loads the model anew."""
        if self._engine_given:
            raise ModelError(
                "this MRRAGLLaVA was given a loaded engine, which its settings do not describe, so "
                "it cannot be sent to another process: make it there"
            )
        return _loaded_anew, (type(self), self.settings())


def _loaded_anew(kind: type[LoadedGenerator], settings: dict[str, Any]) -> LoadedGenerator:
    return kind(**settings)
