"""Questions: any text one by one, and many plain ones at once, about many patients.

What is right: the evidence that an undisturbed retrieval gives for this patient and question, the
bytes of this patient's image, and the question as it was asked.
"""

from __future__ import annotations

import functools
import tempfile
import threading
import time
import warnings
from pathlib import Path

from hypothesis import strategies as st

from mrrag_llamaindex import answer_trace
from tests.campaign.kills import in_child
from tests.campaign.tally import Part, Tally, WrongValueError
from tests.integration.crossing_run import QUESTIONS, Crossings

_WAYS = ("bundle", "streamed", "asynchronous", "chat", "bound_chat", "citations", "fusion")
_CHUNK = 200
"""Questions between two looks at the clock."""

_TEXT = st.text() | st.text(st.characters(categories=("Cs", "Cc", "Cf", "Zs", "Lo", "So")))
_ODD = st.sampled_from(
    (
        *("", " ", "\n\t", "\0", "?", "\ud800", "a\udfffb", "\u202eedema", "[/INST]", "</s>"),
        *(
            "{context_str}",
            "{",
            "}}",
            "{{",
            "%s",
            "{0}",
            "\\",
            '"',
            "[[mrrag:" + "A" * 20 + ":b0]]",
        ),
        *("yes", "No", "\ufeff", "é" * 300, "\U0010ffff", "nodule" + "\u0301" * 500, "<image>"),
    )
)
_LONG = st.builds(
    str.__mul__,
    st.sampled_from(("effusion ", "x", "?", "é", "\n", "\U0001fac1 ", "no nodule, ")),
    st.sampled_from((50, 130, 200, 260, 400, 1000, 20_000, 500_000)),
)


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, int, str]:
    """Draw a way of asking, a patient and a question."""
    plain = draw(st.sampled_from((*QUESTIONS, "")))
    odd = draw(st.one_of(_TEXT, _ODD, _LONG, st.just("")))
    question = f"{plain} {odd}" if draw(st.booleans()) else odd
    return draw(st.sampled_from(_WAYS)), draw(st.integers(0, 49)), question


def _crossings(folder: Path) -> Crossings:
    from mrrag_llamaindex import MRRAGLLaVA
    from mrrag_llamaindex.phantom.tokenizer import build_tokenizer
    from tests.integration.conftest import make_hospital
    from tests.integration.test_existing_app import CallsTheTool
    from tests.tiny.towers import resnet_bert

    warnings.simplefilter("ignore")
    towers = resnet_bert(build_tokenizer(), dimension=32, width=16, layers=1, tokens=128)
    llm = MRRAGLLaVA(model="phantom", max_new_tokens=2)
    return Crossings(make_hospital(towers, folder), llm, CallsTheTool.about)


@functools.cache
def _hospital() -> Crossings:
    """Made once in each process, in a folder that stays until the campaign ends."""
    return _crossings(Path(tempfile.mkdtemp(prefix="hospital-")))


def check(value: tuple[str, int, str], folder: Path) -> None:
    way, number, question = value
    crossings = _hospital()
    patient = f"patient-{number:02d}"
    nodes = getattr(crossings, way)(patient, question)
    answers = answer_trace(nodes)
    if not answers:
        raise WrongValueError(f"{way}: an answer from no evidence")
    ticket = nodes[0].node._ticket
    if ticket.question != question:
        raise WrongValueError(f"{way}: another question was answered")
    if ticket.image.content != Path(crossings.image(patient)).read_bytes():
        raise WrongValueError(f"{way}: another image was asked about")
    # Beside a long question the host reads the documents in several calls.
    for answer in answers:
        read = answer.document_ids
        if not read or not crossings.hospital.is_evidence(patient, question, read):
            raise WrongValueError(f"{way}: other documents were read than were found")
        if not answer.steering.applied:
            raise WrongValueError(f"{way}: not steered")


def run_crossings(seconds: float, seed: int) -> Tally:
    """Ask plain questions in every way at once, from four threads, for some seconds."""
    tally, started = Tally("crossings"), time.monotonic()

    def ask_all(folder: Path) -> dict[str, int]:
        counts = {"asked": 0, "crossings": 0, "threads": 0}

        def died(what: threading.ExceptHookArgs) -> None:
            # The agent's memory has a database whose thread may outlive the loop of its question.
            name = "" if what.thread is None else what.thread.name
            counts["threads"] += "_connection_worker_thread" not in name

        threading.excepthook = died
        crossings = _crossings(folder)
        while time.monotonic() - started < seconds:
            found = crossings.run(_CHUNK, seed * 1_000_000 + counts["asked"])
            counts["asked"] += _CHUNK
            counts["crossings"] += found["crossings"]
        return counts

    with tempfile.TemporaryDirectory() as folder:
        try:
            counts = in_child(ask_all, Path(folder))
        except RuntimeError as error:
            tally.tracebacks += 1
            tally.note(str(error), f"--part crossings --seed {seed}")
            counts = {"asked": 0, "crossings": 0, "threads": 0}
    tally.inputs, tally.wrong = counts["asked"], counts["crossings"]
    tally.values = tally.inputs - tally.wrong
    tally.tracebacks += counts["threads"]
    if tally.wrong:
        tally.note(f"{tally.wrong} crossings", f"--part crossings --seed {seed}")
    tally.seconds = time.monotonic() - started
    tally.remark = f"{tally.wrong} crossings"
    return tally


PART = Part("questions", asked(), check)
