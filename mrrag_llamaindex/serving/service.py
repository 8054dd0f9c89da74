"""`Service`: the store, the towers and the generator that all requests of a server share."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import ImageError, InputError, StoreError
from mrrag_llamaindex.images.query_image import QueryImage, require_few
from mrrag_llamaindex.integration.answers.retrieval import retrieve
from mrrag_llamaindex.integration.answers.streaming import AnswerStream, stream
from mrrag_llamaindex.integration.index import MRRAGIndex
from mrrag_llamaindex.integration.llm import MRRAGLLaVA
from mrrag_llamaindex.serving.schemas import AskOptions, RetrievalOptions
from mrrag_llamaindex.store.learned_files import learned_state
from mrrag_llamaindex.store.protocol import PairStore

if TYPE_CHECKING:
    from PIL import Image

    from mrrag_llamaindex.images.options import ReadingOptions
    from mrrag_llamaindex.integration.answers.ask import AskResult
    from mrrag_llamaindex.integration.tickets.host_call import Turn
    from mrrag_llamaindex.store.hits import PairRecord


IMAGE_PIXELS = 50_000_000
"""Pixels of the largest query image of a server, unless it is told otherwise: a mammogram has 30
million, and forty requests at once may hold one each."""

_DECODED_AT_ONCE = 2


class Cancelled(Exception):  # noqa: N818 (nothing went wrong)
    """Nobody waits for the answer any more."""


class PairError(InputError):
    """There is no such pair, or it has no image."""


class LearnedError(StoreError):
    """What was learned for the store since the server started cannot be used."""


class Service:
    """Answers from one store by one model.

    Its methods block, are called from any number of threads at once, and keep nothing of a request:
    requests meet in the scheduler of the generator's engine, as all calls of `MRRAGLLaVA` do.

    Parameters
    ----------
    index : MRRAGIndex
    llm : MRRAGLLaVA
    name : str, optional
        What clients call the model. Default: the last part of the model's name or folder.
    image_pixels : int
        Largest query image. Decoding itself is bounded as everywhere, see `load_image`.

    Attributes
    ----------
    index, llm, name
    """

    def __init__(
        self,
        index: MRRAGIndex,
        llm: MRRAGLLaVA,
        *,
        name: str | None = None,
        image_pixels: int = IMAGE_PIXELS,
    ) -> None:
        self.index = index
        self.llm = llm
        self.name = name or Path(llm.model).name
        self._image_pixels = image_pixels
        self._given: tuple[Any, Any] | None = None  # weights and calibration, where `load` knows
        self._learned: tuple[object, ...] = ()
        self._taking = threading.Lock()
        self._decoding = threading.BoundedSemaphore(_DECODED_AT_ONCE)

    @classmethod
    def load(
        cls,
        store: str | Path,
        *,
        weights: str | Path | None = None,
        calibration: Any = None,
        device: str = "auto",
        name: str | None = None,
        image_pixels: int = IMAGE_PIXELS,
        **generator: Any,
    ) -> Service:
        """Open a store, and load its towers and a generator.

        Parameters
        ----------
        store : path or URL
        weights, calibration, device
            As for `MRRAGIndex.from_store`.
        name, image_pixels
            As for the class.
        **generator
            The fields of `MRRAGLLaVA`.

        Raises
        ------
        MRRAGError
        """
        pairs = PairStore.open(store)
        learned = learned_state(pairs)  # before it is read: never too late
        try:
            index = MRRAGIndex.from_store(
                pairs, weights=weights, calibration=calibration, device=device
            )
        except BaseException:
            pairs.close()
            raise
        if generator.get("api_base") is None:  # towers run here in any case
            generator["device"] = device
        llm = MRRAGLLaVA(**generator)
        service = cls(index, llm, name=name, image_pixels=image_pixels)
        service._given, service._learned = (weights, calibration), learned
        return service

    def current(self) -> MRRAGIndex:
        """Return the index, with the weights and the calibration that the store has now.

        Those that `load` was given stay.

        Raises
        ------
        LearnedError
            If those of the store belong to something else.
        StoreError
            If the store does not answer.
        """
        if self._given is None or (state := learned_state(self.index.store)) == self._learned:
            return self.index
        with self._taking:
            weights, given = self._given
            try:
                self.index = MRRAGIndex(
                    self.index.store,
                    self.index.towers,
                    None if weights is None else self.index.weights,
                    given if given is None or given is False else self.index.calibration,
                )
            except InputError as error:
                raise LearnedError(
                    f"what was learned for the store has changed and cannot be used: {error}"
                ) from None
            self._learned = state
        return self.index

    def check(self) -> None:
        """Raise `StoreError` if no question can be answered, because of the store."""
        self.index.store.check_open()
        self.current()

    @property
    def device(self) -> str:
        """The device of the generator."""
        return self.llm.engine.device

    @property
    def reads_several(self) -> bool:
        """Whether a question may have several images here."""
        return self.llm.engine.reads_several

    def require_images(self, count: int) -> None:
        """Check, before they are read, that a question may have so many images.

        Raises
        ------
        ImageError
            If no question may.
        InputError
            If the model reads one.
        """
        self.llm.engine.require_images(count)
        require_few(count)

    def read_image(
        self,
        data: bytes | QueryImage | Sequence[bytes],
        reading: ReadingOptions | None = None,
    ) -> QueryImage:
        """Read and decode an uploaded image, few at a time: one may take half a gigabyte to decode.

        Several are those of one study, see `QueryImage.study`.

        Raises
        ------
        ImageError
            If it cannot be used, or is larger than the server takes.
        """
        sent = [data] if isinstance(data, bytes | QueryImage) else data
        image = QueryImage.study([QueryImage.read(one, reading) for one in sent])
        for view in image.views:
            with self._decoding:
                width, height = view.rgb.size
            if width * height > self._image_pixels:
                raise ImageError(
                    f"{view.what}: {width} x {height} pixels are more than this server takes "
                    f"({self._image_pixels:,})"
                )
        return image

    def stream(
        self,
        image: QueryImage,
        question: str,
        options: AskOptions | None = None,
        *,
        history: Sequence[Turn] = (),
        left_over: int = 0,
        instructions: str = "",
    ) -> AnswerStream:
        """Retrieve, and answer piece by piece; ``source_nodes`` of the stream are known at once.

        Parameters
        ----------
        image : QueryImage
        question : str
        options : AskOptions, optional
        history, left_over, instructions
            Of a conversation, see `integration.answers.streaming.stream`.

        Raises
        ------
        MRRAGError
        """
        options = options or AskOptions()
        limit = options.max_new_tokens or self.llm.max_new_tokens
        return stream(
            self.current(),
            self._generator(options),
            image,
            question,
            history=history,
            left_over=left_over,
            instructions=instructions,
            max_new_tokens=min(limit, self.llm.max_new_tokens),
            **options.for_retriever(),
        )

    def ask(
        self,
        image: QueryImage,
        question: str,
        options: AskOptions | None = None,
        *,
        cancelled: threading.Event | None = None,
        **conversation: Any,
    ) -> AskResult:
        """Answer at once.

        Parameters
        ----------
        image, question, options, **conversation
            As for `stream`.
        cancelled : threading.Event, optional
            Set it, and the work stops.

        Raises
        ------
        Cancelled
            If it was set.
        MRRAGError
        """
        answer = self.stream(image, question, options, **conversation)
        for _ in answer:
            if cancelled is not None and cancelled.is_set():
                raise Cancelled
        assert answer.result is not None
        return answer.result

    def retrieve(
        self, image: QueryImage | None, question: str, options: RetrievalOptions | None = None
    ) -> list[dict[str, Any]]:
        """Return the documents of a question, best first: what `retrieve` returns.

        Raises
        ------
        MRRAGError
        """
        options = options or RetrievalOptions()
        return retrieve(self.current(), image, question, **options.for_retriever())

    def pair(self, pair_id: str) -> PairRecord:
        """Return what is stored of a pair.

        Raises
        ------
        PairError
        """
        found = self.index.store.get([pair_id])
        if pair_id not in found:
            raise PairError("the store holds no pair of this id")
        return found[pair_id]

    def pair_image(self, pair_id: str, reading: ReadingOptions | None = None) -> Image.Image:
        """Return the image of a pair, decoded: of a DICOM file too, and nothing but its pixels.

        Raises
        ------
        PairError
            If there is none, or its image file is none, is gone or is damaged.
        """
        path = self.pair(pair_id).image_path
        if path is None:
            raise PairError("this pair has no image file")
        try:
            return QueryImage.read(path, reading).rgb
        except ImageError:
            raise PairError("the image file of this pair is gone, or cannot be read") from None

    def _generator(self, options: AskOptions) -> MRRAGLLaVA:
        changed: dict[str, Any] = {}
        if not options.ifa:
            changed["policy"] = None
        if options.explain != self.llm.explain:
            changed["explain"] = options.explain
        return self.llm.model_copy(update=changed) if changed else self.llm


def demo_service(out: Path, **generator: Any) -> Service:
    """Return a service over the synthetic studies of ``mrrag demo``, which are made in ``out``."""
    from mrrag_llamaindex.phantom.demo import build_demo

    generator = {"model": defaults.PHANTOM, **generator}
    return Service.load(build_demo(out).store, **generator)
