"""A small server that speaks vLLM's interface of tokens over the phantom, and has faults to order.

What it answers is computed by the model in transformers from what was sent: tokens, image and plan,
and nothing else. So an answer that equals that of an engine here was sent whole.
"""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from mrrag_llamaindex.errors import SteeringError
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prompt.request import Prompt
from mrrag_llamaindex.generation.runner import BatchCall
from mrrag_llamaindex.steering.wire.request_plan import from_extra_args
from mrrag_llamaindex.steering.wire.request_report import RequestReport


class TokenServer(ThreadingHTTPServer):
    """See the module; faults are attributes.

    Attributes
    ----------
    plugin : bool
        Whether plans are read.
    enabled : bool
        Whether prompts are taken in tokens.
    key : str
        What clients must show.
    shift : int
        Added to every token of the tokenizer.
    longer : int
        Image tokens that it makes beside those that there should be.
    stops_short : bool
        Ends the connection behind the first token.
    fails : str
        What it says of a request in place of its last token.
    unsteered : bool
        Reports that no row was steered.
    blind : bool
        Tells no probabilities.
    logits : bool
        Tells logits in place of log-probabilities.
    refuses : str
        What it says to every question, before an answer.
    seconds : float
        Before each token.
    seen : list of dict
        Bodies of the requests for tokens.
    at_once, most_at_once : int
        Requests at work.
    """

    daemon_threads = True

    def __init__(self, engine: LlavaEngine) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.engine = engine
        self.plugin = self.enabled = True
        self.key = self.fails = ""
        self.shift = self.longer = 0
        self.stops_short = self.unsteered = self.blind = self.logits = False
        self.refuses = ""
        self.seconds = 0.0
        self.window = 2048
        self.seen: list[dict[str, Any]] = []
        self.at_once = self.most_at_once = 0
        self.hung_up = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.hung_up += 1  # a client that went away


class _Refused(Exception):  # noqa: N818
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: TokenServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(self._models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self._answer(lambda: {"tokens": self._tokens(body["prompt"])})
        elif self.path == "/inference/v1/generate":
            self._generate(body)
        else:
            self._answer(lambda: _raise(_Refused(404, "Not Found")))

    def _models(self) -> dict[str, Any]:
        return {"data": [{"id": "phantom", "max_model_len": self.server.window}]}

    def _tokens(self, text: str) -> list[int]:
        ids = self.server.engine.tokenizer(text)["input_ids"]
        return [token + self.server.shift for token in ids]

    def _answer(self, make: Any) -> None:
        try:
            if self.server.key and self.headers["Authorization"] != f"Bearer {self.server.key}":
                raise _Refused(401, "Unauthorized")
            status, told = 200, make()
        except _Refused as refused:
            status, told = refused.status, {"error": {"message": str(refused)}}
        text = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _generate(self, body: dict[str, Any]) -> None:
        server = self.server
        if not server.enabled:
            return self._answer(lambda: _raise(_Refused(403, "Scale-out endpoints are disabled")))
        try:
            plan = from_extra_args(body["sampling_params"].get("extra_args"))
        except SteeringError as error:
            if server.plugin:
                message = str(error)
                return self._answer(lambda: _raise(_Refused(400, message)))
        if server.refuses and body.get("stream"):
            return self._answer(lambda: _raise(_Refused(400, server.refuses)))
        if not body.get("stream"):
            return self._answer(lambda: {"choices": []})
        with server.lock:
            server.seen.append(body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            self._stream(body, plan if server.plugin else None)
        finally:
            with server.lock:
                server.at_once -= 1

    def _stream(self, body: dict[str, Any], plan: Any) -> None:
        server, sampling = self.server, body["sampling_params"]
        ids, image = self._read(body)
        tokens, told = self._computed(ids, image, plan, sampling)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for place, token in enumerate(tokens):
            time.sleep(server.seconds)
            last = place == len(tokens) - 1
            if last and server.fails:
                self._event({"error": {"message": server.fails}})
                break
            top = [{"token_id": t, "logprob": p} for t, p in told.items()] if not place else []
            # As vLLM does: the chosen token first, and no more entries than were asked for.
            top = [{"token_id": token, "logprob": told.get(token, -1.0)}] + [
                item for item in top if item["token_id"] != token
            ]
            step = {
                "token_id": token,
                "logprob": told.get(token, -1.0),
                "top_logprobs": top[: sampling["logprobs"]],
            }
            choice = {
                "token_ids": [token],
                "logprobs": None if server.blind else {"content": [step]},
                "finish_reason": ("stop" if token in sampling["stop_token_ids"] else "length")
                if last
                else None,
                "stop_reason": self._report(plan, place) if last and plan is not None else None,
            }
            self._event({"choices": [choice]} | ({} if place else {"prompt_token_ids": ids}))
            if server.stops_short:
                return
        self._event({"choices": [], "usage": {"prompt_tokens": len(ids)}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, told: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(told)}\n\n".encode())
        self.wfile.flush()

    def _report(self, plan: Any, decoded: int) -> str:
        start, stop = plan.rows
        rows = 0 if self.server.unsteered else stop - start
        steps = dict.fromkeys(plan.layers, decoded) if plan.every_step else {}
        return RequestReport(rows=dict.fromkeys(plan.layers, rows), steps=steps).dump()

    def _read(self, body: dict[str, Any]) -> tuple[list[int], Any]:
        engine = self.server.engine
        ids = list(body["token_ids"])
        if "content_parts" not in body:
            return ids, None
        (part,) = body["content_parts"]
        data = base64.b64decode(part["url"].removeprefix("data:image/png;base64,"))
        prepared = engine.read_image(Image.open(io.BytesIO(data)).copy())
        mark = engine.tokenizer.convert_tokens_to_ids("<image>")
        assert ids.count(mark) == 1
        place = ids.index(mark)
        ids[place : place + 1] = [mark] * (prepared.tokens + self.server.longer)
        return ids, prepared

    def _computed(self, ids: list[int], image: Any, plan: Any, sampling: Any) -> Any:
        engine = self.server.engine
        if self.server.longer:
            return [5], {}
        asked = sampling["logprob_token_ids"]
        steering = None if plan is None else plan.build()
        logits = engine.runner.logits([tuple(ids)], [image], steering=steering)[0, -1]
        values = logits if self.server.logits else logits.log_softmax(-1)
        prompt = Prompt("", tuple(ids), (), (), (), (0, 1), None, (), 0)
        steering = None if plan is None else plan.build()
        probe = FirstTokenProbe([], [])
        call = BatchCall([prompt], [image], steering, probe, sampling["max_tokens"])
        (row,) = engine.runner.run(call).tolist()
        return row, {token: float(values[token]) for token in {*asked, row[0]}}


def _raise(error: Exception) -> None:
    raise error
