"""Over HTTP an answer is that of the model here, or an error that says why not."""

from __future__ import annotations

import json
import threading
import time

import pytest

from mrrag_llamaindex.errors import BusyError, ModelError, SteeringError
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.registry import POLICIES
from mrrag_llamaindex.steering.wire.request_plan import ARGUMENT, RequestPlan
from tests.loopback import dripping

DOCUMENTS = (
    PromptDocument("a", "shows effusion", 0.9),
    PromptDocument("b", "no effusion", 0.1),
)


QUESTION = PromptRequest("effusion", DOCUMENTS)
PLAIN = PromptRequest("effusion", DOCUMENTS[:1])


def compare(mine, theirs) -> None:
    assert mine.text == theirs.text
    assert mine.p_yes == pytest.approx(theirs.p_yes, abs=1e-6)
    assert mine.p_no == pytest.approx(theirs.p_no, abs=1e-6)
    for name in (
        "document_ids",
        "lambdas",
        "dropped",
        "steering",
        "image_read",
        "prompt_tokens",
        "unknown_tokens",
        "answer_tokens",
        "cut_off",
    ):
        assert getattr(mine, name) == getattr(theirs, name), name


@pytest.mark.parametrize("policy", [None, *(name for name in POLICIES if name != "pai")])
@pytest.mark.parametrize("with_image", [True, False])
def test_answers_are_those_of_the_model_here(reach, engine, films, policy, with_image):
    chosen = None if policy is None else POLICIES[policy]()
    images = [films[0] if with_image else None, films[1] if with_image else None]
    far = reach()
    mine = far.generate([QUESTION, PLAIN], images, policy=chosen, max_new_tokens=3)
    theirs = engine.generate([QUESTION, PLAIN], images, policy=chosen, max_new_tokens=3)
    for one, other in zip(mine, theirs, strict=True):
        compare(one, other)


def test_the_plan_travels_whole_and_only_where_there_is_one(reach, server, engine, films):
    reach().generate([QUESTION, PLAIN], [films[0]] * 2, policy=IFA(strength=2.0, layers=(2,)))
    sent = {len(one["token_ids"]): one["sampling_params"] for one in server.seen}
    steered, plain = (sent[length] for length in sorted(sent, reverse=True))
    plan = RequestPlan.read(steered["extra_args"][ARGUMENT])
    prompt = engine.prompt(QUESTION, engine.read_image(films[0]))
    assert plan.spans == prompt.spans
    assert plan.layers == (2,)
    assert plan.lambdas == (1.0, 0.0)
    assert "extra_args" not in plain  # one document: nothing to prefer
    assert steered["temperature"] == 0


def test_a_stream_gives_the_answer_in_pieces_and_its_facts_at_the_end(reach, engine, films):
    stream = reach().stream(QUESTION, films[0], policy=IFA())
    pieces = list(stream)
    (theirs,) = engine.generate([QUESTION], [films[0]], policy=IFA())
    assert "".join(pieces).strip() == theirs.text
    compare(stream.answer, theirs)


def test_a_stream_that_is_closed_takes_its_request_back(reach, server, films, wait_for):
    server.seconds = 0.5
    far = reach()
    stream = far.stream(QUESTION, films[0], policy=IFA())
    reader = threading.Thread(target=list, args=(stream,))
    reader.start()
    wait_for(lambda: server.at_once == 1)
    stream.close()
    reader.join()
    wait_for(lambda: server.at_once == 0 and far.stats.cancelled == 1)
    assert (far.stats.cancelled, far.stats.answered, far.stats.running) == (1, 0, 0)
    assert stream.answer is None


def test_a_server_without_the_plugin_is_refused_before_anything_is_asked(reach, server):
    server.plugin = False
    with pytest.raises(ModelError, match=r"without this package's plugin.*MRRAG_VLLM=1 vllm serve"):
        reach()
    assert not server.seen


def test_a_plugin_that_goes_is_noticed_with_the_next_plan(reach, server, films):
    far = reach()
    server.plugin = False
    with pytest.raises(SteeringError, match="without this package's plugin"):
        far.generate([QUESTION], [films[0]], policy=IFA())
    assert far.generate([QUESTION], [films[0]])  # plain attention needs none


def test_rows_that_were_not_steered_are_an_error(reach, server, films):
    server.unsteered = True
    with pytest.raises(SteeringError, match="did not steer"):
        reach().generate([QUESTION], [films[0]], policy=IFA())


def test_another_tokenizer_is_refused(reach, server):
    server.shift = 1
    with pytest.raises(ModelError, match="tokenizer is not that of model 'phantom'"):
        reach()


def test_another_count_of_image_tokens_is_an_error_before_an_answer(reach, server, films):
    far = reach()
    server.longer = 1
    with pytest.raises(ModelError, match="read another prompt"):
        far.generate([QUESTION], [films[0]])
    pieces = []
    with pytest.raises(ModelError, match="read another prompt"):
        pieces.extend(far.stream(QUESTION, films[0]))
    assert not pieces


def test_tokens_that_are_not_taken_name_the_option(reach, server):
    server.enabled = False
    with pytest.raises(ModelError, match="--enable-scale-out"):
        reach()


def test_a_key_is_taken_from_the_environment(reach, server, films, monkeypatch):
    server.key = "abc"
    with pytest.raises(ModelError, match="VLLM_API_KEY") as caught:
        reach()
    assert "abc" not in str(caught.value)
    monkeypatch.setenv("VLLM_API_KEY", "abc")
    assert reach()


@pytest.mark.parametrize("fault", ["stops_short", "fails", "blind"])
def test_faults_of_the_server_are_one_error_each(reach, server, films, fault):
    far = reach()
    setattr(server, fault, "the engine is out of blocks" if fault == "fails" else True)
    said = {
        "stops_short": "went away in the middle",
        "fails": "did not answer this request: the engine is out of blocks",
        "blind": "did not tell the probabilities|gave no token",
    }
    with pytest.raises(ModelError, match=said[fault]):
        far.generate([QUESTION], [films[0]], policy=IFA())
    setattr(server, fault, "" if fault == "fails" else False)
    assert far.generate([QUESTION], [films[0]], policy=IFA())


def test_nobody_there_and_what_is_no_address(reach, server):
    address = server.address
    for wrong in ("127.0.0.1:8000", "ftp://x", "http://", "http://u:p@h:1", "http://h:99999999"):
        with pytest.raises(ModelError, match="not of the form"):
            reach(wrong)
    server.shutdown()
    server.server_close()
    with pytest.raises(ModelError, match="cannot be reached"):
        reach(address)


def test_the_address_of_openais_clients_is_taken(reach, server):
    assert reach(server.address + "/v1/").device == f"the vLLM server at {server.address}"


def test_a_slow_server_is_given_up(reach, server, films):
    far = reach(seconds=0.4)
    server.seconds = 5.0
    began = time.monotonic()
    with pytest.raises(ModelError, match=r"within 0.4 seconds.*request_timeout"):
        far.generate([QUESTION], [films[0]])
    assert time.monotonic() - began < 4
    assert far.stats.failed == 1


@pytest.mark.parametrize("status", [None, 200, 500])
def test_a_server_that_never_ends_its_first_answer_is_given_up(reach, monkeypatch, status):
    monkeypatch.setattr("mrrag_llamaindex.generation.vllm.over_http._SHORT_SECONDS", 0.3)

    with dripping(40, length=100_000, status=status) as url:
        began = time.monotonic()
        with pytest.raises(ModelError, match=r"the vLLM server at .* did not"):
            reach(url)
        assert time.monotonic() - began < 1.5


@pytest.mark.slow
def test_as_many_are_asked_at_once_as_was_said(reach, server, films):
    server.seconds = 0.05
    reach(batch_size=3).generate([QUESTION] * 12, [films[0]] * 12)
    assert server.most_at_once == 3


@pytest.mark.slow
def test_a_full_line_refuses_and_a_long_wait_ends(reach, server, films):
    far = reach(batch_size=1, max_queue=1, queue_timeout=0.2)
    server.seconds = 1.0
    streams = [far.stream(QUESTION, films[0]) for _ in range(3)]
    first, *others = (iter(stream) for stream in streams)
    said: list[BaseException] = []

    def read(pieces) -> None:
        try:
            next(pieces)
        except ModelError as error:
            said.append(error)

    threads = [threading.Thread(target=read, args=(one,)) for one in (first, *others)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    for stream in streams:
        stream.close()
    assert [type(one) for one in said] == [BusyError, BusyError]
    assert {one.timed_out for one in said} == {True, False}
    assert (far.stats.refused, far.stats.timed_out) == (1, 1)


def test_a_smaller_window_of_the_server_is_the_prompts_own(reach, server, films):
    server.window = 300
    assert reach().window == 300
    with pytest.raises(ModelError, match="window of 300"):
        reach(max_new_tokens=290)


def test_copies_with_other_limits_share_the_connection(reach, films):
    far = reach()
    other = far.with_limits(max_new_tokens=2, max_documents=1)
    (answer,) = other.generate([QUESTION], [films[0]])
    assert answer.answer_tokens <= 2
    assert answer.document_ids == ("a",)
    assert far.stats == other.stats


def test_nothing_of_a_patient_stands_in_an_error(reach, server, films):
    far = reach()
    server.fails = "no"
    with pytest.raises(ModelError) as caught:
        far.generate([QUESTION], [films[0]], policy=IFA())
    assert "effusion" not in str(caught.value)
    assert json.dumps(DOCUMENTS[0].text) not in str(caught.value)


@pytest.mark.parametrize(
    "quoted",
    [
        "{'type': 'x', 'loc': 'body', 'msg': 'none', 'input': 'no effusion', 'ctx': {}}",
        "1 error: wrong [type=x, input_value='no effusion', input_type=str]",
        "token_ids [17, 4, 93, 5, 8] are none",
        "no image: data:image/png;base64,iVBORw0KGgo",
    ],
)
def test_what_a_server_quotes_of_a_request_is_left_out(reach, server, films, quoted):
    far = reach()
    server.refuses = f"Bad Request: {quoted}"
    with pytest.raises(ModelError, match="Bad Request") as caught:
        far.generate([QUESTION], [films[0]], policy=IFA())
    for private in ("effusion", "17, 4", "93, 5", "iVBOR"):
        assert private not in str(caught.value)


def test_logits_are_not_taken_for_log_probabilities(reach, server, films):
    far = reach()
    server.logits = True
    with pytest.raises(ModelError, match="logprobs-mode"):
        far.generate([QUESTION], [films[0]])
