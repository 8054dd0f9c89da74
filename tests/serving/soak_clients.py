"""What the clients of the soak do; each job checks what comes back."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

TOLERANCE = 1e-3
"""Of scores and probabilities: rows of a batch are rounded otherwise than single ones."""

JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Case:
    """One question about one patient, and how it is answered when nobody else asks.

    Attributes
    ----------
    patient, question
    image : bytes
    sources : tuple of (str, float)
        Pairs and scores.
    p_yes : float
    text : str
    """

    patient: str
    question: str
    image: bytes
    sources: tuple[tuple[str, float], ...] = ()
    p_yes: float = 0.0
    text: str = ""

    @property
    def data_url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.image).decode()

    def crossed(self, answer: dict[str, Any]) -> bool:
        """Whether an answer is any other than this case's own."""
        found = [(one["pair_id"], one["score"]) for one in answer["sources"]]
        return (
            [pair for pair, _ in found] != [pair for pair, _ in self.sources]
            or any(
                abs(score - own) > TOLERANCE
                for (_, score), (_, own) in zip(found, self.sources, strict=True)
            )
            or abs(answer["p_yes"] - self.p_yes) > TOLERANCE
        )


@dataclass
class Ledger:
    """What all clients have seen."""

    jobs: Counter[str] = field(default_factory=Counter)
    crossings: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    cut: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def done(self, job: str) -> None:
        with self.lock:
            self.jobs[job] += 1

    def crossing(self, job: str, case: Case) -> None:
        with self.lock:
            self.crossings.append(f"{job} about {case.patient}")

    def error(self, what: str) -> None:
        with self.lock:
            self.errors[what] += 1


class Client:
    """One client of a server, which does one random job after the other.

    Parameters
    ----------
    port : int
    cases : list of Case
    seed : int
    ledger : Ledger
    """

    def __init__(self, port: int, cases: list[Case], seed: int, ledger: Ledger) -> None:
        self.port, self.cases, self.ledger = port, cases, ledger
        self.random = random.Random(seed)
        self.jobs: list[Callable[[Case], None]] = [
            *[self.ask] * 4,
            *[self.chat] * 2,
            *[self.stream] * 3,
            *[self.cut_off_stream] * 2,
            self.hang_up,
            self.explain,
            self.bad_file,
            self.bad_field,
            self.retrieve,
        ]

    def run(self, stop: threading.Event) -> None:
        """Work until the event is set."""
        while not stop.is_set():
            job, case = self.random.choice(self.jobs), self.random.choice(self.cases)
            try:
                job(case)
            except Exception as error:
                self.ledger.error(f"{job.__name__}: {type(error).__name__}: {error}"[:300])
            self.ledger.done(job.__name__)

    def post(self, path: str, body: Any) -> tuple[int, bytes]:
        connection = self.open(path, body)
        try:
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def open(self, path: str, body: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        text = body if isinstance(body, bytes) else json.dumps(body)
        connection.request("POST", path, text, JSON)
        return connection

    def expect(self, job: str, status: int, body: bytes, wanted: int) -> bool:
        if status == wanted:
            return True
        code = ""
        with contextlib.suppress(ValueError, KeyError, TypeError):
            code = json.loads(body)["error"]["code"]
        self.ledger.error(f"{job}: status {status} {code}, not {wanted}")
        return False

    def asked(self, case: Case, **options: Any) -> dict[str, Any]:
        return {"question": case.question, "image": case.data_url, **options}

    def conversation(self, case: Case, **options: Any) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": case.question},
            {"type": "image_url", "image_url": {"url": case.data_url}},
        ]
        return {"model": "phantom", "messages": [{"role": "user", "content": parts}], **options}

    def ask(self, case: Case, **options: Any) -> None:
        status, body = self.post("/v1/ask", self.asked(case, **options))
        if self.expect("ask", status, body, 200) and case.crossed(json.loads(body)):
            self.ledger.crossing("ask", case)

    def explain(self, case: Case) -> None:
        self.ask(case, explain=True)

    def retrieve(self, case: Case) -> None:
        status, body = self.post("/v1/retrieve", self.asked(case))
        if self.expect("retrieve", status, body, 200):
            found = [one["pair_id"] for one in json.loads(body)["documents"]]
            if found != [pair for pair, _ in case.sources]:
                self.ledger.crossing("retrieve", case)

    def chat(self, case: Case) -> None:
        status, body = self.post("/v1/chat/completions", self.conversation(case))
        if self.expect("chat", status, body, 200) and case.crossed(json.loads(body)["mrrag"]):
            self.ledger.crossing("chat", case)

    def stream(self, case: Case) -> None:
        status, body = self.post("/v1/chat/completions", self.conversation(case, stream=True))
        if not self.expect("stream", status, body, 200):
            return
        events = [line[6:] for line in body.decode().splitlines() if line.startswith("data: ")]
        if not events or events[-1] != "[DONE]":
            self.ledger.error("stream: it ended without [DONE]")
            return
        facts = [event["mrrag"] for event in map(json.loads, events[:-1]) if "mrrag" in event]
        if len(facts) != 1:
            self.ledger.error(f"stream: {events[-2][:200]}")
        elif case.crossed(facts[0]):
            self.ledger.crossing("stream", case)

    def cut_off_stream(self, case: Case) -> None:
        """Hang up after the first bytes of the answer."""
        connection = self.open("/v1/chat/completions", self.conversation(case, stream=True))
        answer = connection.getresponse()
        answer.read(self.random.choice([1, 40, 200]))
        connection.close()
        self.ledger.cut += 1

    def hang_up(self, case: Case) -> None:
        """Ask, and do not wait for the answer."""
        connection = self.open("/v1/ask", self.asked(case))
        time.sleep(self.random.choice([0, 0.01, 0.05]))
        connection.close()
        self.ledger.cut += 1

    def bad_file(self, case: Case) -> None:
        """Send what is no image: noise, half a file, text, nothing."""
        noise = self.random.randbytes(2000)
        sent = self.random.choice([noise, case.image[: len(case.image) // 2], b"hello", b""])
        image = base64.b64encode(sent).decode()
        status, body = self.post("/v1/ask", self.asked(case) | {"image": image})
        self.refused("bad_file", status, body, case)

    def bad_field(self, case: Case) -> None:
        """Send an option that is none, a number out of range, or no JSON."""
        wrong: Any = self.random.choice([{"temperature": 2}, {"k": 0}, None])
        body = b"{" if wrong is None else self.asked(case, **wrong)
        self.refused("bad_field", *self.post("/v1/ask", body), case)

    def refused(self, job: str, status: int, body: bytes, case: Case) -> None:
        if not 400 <= status < 500 or status in (404, 429):
            self.expect(job, status, body, 400)
        elif case.question.encode() in body or not json.loads(body)["error"]["message"]:
            self.ledger.error(f"{job}: the error repeats the question, or says nothing")


def never_read(port: int, case: Case, stop: threading.Event, ledger: Ledger) -> None:
    """Ask for streams through a socket with a small buffer, and never read a byte of them."""
    client = Client(port, [case], 0, ledger)
    while not stop.is_set():
        body = json.dumps(client.conversation(case, stream=True)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(("127.0.0.1", port))
            with contextlib.suppress(OSError):  # the server has given it up, as it should
                connection.sendall((head.encode() + body) * 20)
            stop.wait(20)
        ledger.done("never_read")


def reference(port: int, cases: list[Case]) -> list[Case]:
    """Ask every question alone."""
    client, alone = Client(port, cases, 0, Ledger()), []
    for case in cases:
        status, body = client.post("/v1/ask", client.asked(case))
        assert status == 200, (status, body[:500])
        answer = json.loads(body)
        sources = tuple((one["pair_id"], one["score"]) for one in answer["sources"])
        alone.append(
            Case(
                case.patient, case.question, case.image, sources, answer["p_yes"], answer["answer"]
            )
        )
    return alone
