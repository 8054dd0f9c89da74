"""``/v1/chat/completions``: as OpenAI's clients and LlamaIndex's send it."""

from __future__ import annotations

import json

import openai
import pytest
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike

from mrrag_llamaindex.integration.answers.ask import ask
from mrrag_llamaindex.serving.http.chat_schemas import SOURCES_MARK


@pytest.fixture
def openai_client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0) as client:
        yield client


def asked(corpus, number=0, question=None):
    return {
        "role": "user",
        "content": [
            {"type": "text", "text": question or corpus.question},
            {"type": "image_url", "image_url": {"url": corpus.data_url(number)}},
        ],
    }


@pytest.mark.slow
def test_an_answer_is_the_one_of_the_process_and_names_its_sources(openai_client, service, corpus):
    answer = openai_client.chat.completions.create(model="phantom", messages=[asked(corpus)])
    expected = ask(service.index, service.llm, corpus.images[0], corpus.question).as_dict()
    choice = answer.choices[0]
    assert choice.message.content == expected["answer"]
    assert choice.finish_reason == "stop"
    facts = answer.model_extra["mrrag"]
    assert facts["sources"] == expected["sources"]
    assert facts["p_yes"] == expected["p_yes"]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == 2  # the word, and the end


def test_a_stream_says_the_same_in_pieces(openai_client, corpus):
    request = {"model": "phantom", "messages": [asked(corpus)]}
    whole = openai_client.chat.completions.create(**request)
    chunks = list(
        openai_client.chat.completions.create(
            **request, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert reasons[-1] == "stop"
    assert not any(reasons[:-1])
    assert chunks[-1].usage == whole.usage
    facts = next(chunk.model_extra["mrrag"] for chunk in chunks if "mrrag" in chunk.model_extra)
    assert facts["sources"] == whole.model_extra["mrrag"]["sources"]


def test_sources_as_text_are_asked_for_by_field_or_by_model_and_never_return(openai_client, corpus):
    messages = [asked(corpus)]
    by_model = openai_client.chat.completions.create(model="phantom:sources", messages=messages)
    by_field = openai_client.chat.completions.create(
        model="phantom", messages=messages, extra_body={"mrrag": {"sources": "markdown"}}
    )
    text = by_model.choices[0].message.content
    assert by_field.choices[0].message.content == text
    for row in by_model.model_extra["mrrag"]["sources"]:
        assert f"`{row['pair_id']}`" in text
    streamed = openai_client.chat.completions.create(
        model="phantom:sources", messages=messages, stream=True
    )
    assert "".join(one.choices[0].delta.content or "" for one in streamed if one.choices) == text

    def follow_up(earlier):
        turns = [*messages, {"role": "assistant", "content": earlier}, asked(corpus)]
        return openai_client.chat.completions.create(model="phantom", messages=turns).usage

    assert follow_up(text) == follow_up(text.partition(SOURCES_MARK)[0].strip())


def conversation(corpus, first, second):
    """Ask a question about one image, and another one about a second image."""
    return [
        asked(corpus, first),
        {"role": "assistant", "content": "yes"},
        asked(corpus, second, "Is there a nodule?"),
    ]


@pytest.mark.slow
def test_turns_about_another_image_never_reach_the_prompt(conversational, corpus):
    with openai.OpenAI(base_url=f"{conversational}/v1", api_key="-", max_retries=0) as client:

        def tokens_and_left_out(messages):
            answer = client.chat.completions.create(model="llava", messages=messages)
            return answer.usage.prompt_tokens, answer.model_extra["mrrag"]["left_out_turns"]

        alone, _ = tokens_and_left_out([asked(corpus, 0, "Is there a nodule?")])
        same, left_out = tokens_and_left_out(conversation(corpus, 0, 0))
        assert same > alone
        assert left_out == 0
        other, left_out = tokens_and_left_out(conversation(corpus, 1, 0))
        assert other == alone
        assert left_out == 1
        # The image of the first message is in force until another comes.
        text_only = {"role": "user", "content": "Is there a nodule?"}
        follow_up = [*conversation(corpus, 0, 0)[:2], text_only]
        assert tokens_and_left_out(follow_up) == (same, 0)


def test_what_would_change_the_answer_is_refused_by_name(openai_client, corpus):
    for name, value in {
        "temperature": 0.7,
        "top_p": 0.5,
        "n": 2,
        "stop": ["."],
        "logprobs": True,
        "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    }.items():
        with pytest.raises(openai.BadRequestError) as refused:
            openai_client.chat.completions.create(
                model="phantom", messages=[asked(corpus)], **{name: value}
            )
        assert refused.value.param == name
        assert refused.value.code == "unsupported_parameter"
    with pytest.raises(openai.BadRequestError, match="beam_width"):
        openai_client.chat.completions.create(
            model="phantom", messages=[asked(corpus)], extra_body={"beam_width": 3}
        )
    with pytest.raises(openai.UnprocessableEntityError, match="neighbours"):
        openai_client.chat.completions.create(
            model="phantom", messages=[asked(corpus)], extra_body={"mrrag": {"neighbours": 3}}
        )
    harmless = {"user": "me", "seed": 3, "temperature": 0, "top_p": 1, "presence_penalty": 0}
    openai_client.chat.completions.create(model="phantom", messages=[asked(corpus)], **harmless)


@pytest.mark.parametrize("name", ["images", "image", "attachments"])
def test_an_image_in_a_field_that_is_none_is_refused(openai_client, corpus, name):
    """It would be passed over, and the question answered about the patient before."""
    messages = conversation(corpus, 0, 0)
    messages[-1] = {"role": "user", "content": "Is there a nodule?", name: [corpus.data_url()]}
    with pytest.raises(openai.BadRequestError) as refused:
        openai_client.chat.completions.create(model="phantom", messages=messages)
    assert refused.value.param == f"messages.2.{name}"


def test_no_option_of_a_stream_is_passed_over(openai_client, corpus):
    def stream(**options):
        return openai_client.chat.completions.create(
            model="phantom", messages=[asked(corpus)], stream=True, stream_options=options
        )

    *_, last = stream(include_usage=True, include_obfuscation=False)
    assert last.usage.total_tokens
    with pytest.raises(openai.UnprocessableEntityError, match="include_sources"):
        stream(include_sources=True)


def test_of_several_limits_of_tokens_each_is_kept(conversational, corpus):
    with openai.OpenAI(base_url=f"{conversational}/v1", api_key="-", max_retries=0) as client:
        for first, second in ((2, 6), (6, 2)):
            answer = client.chat.completions.create(
                model="llava",
                messages=[asked(corpus)],
                max_completion_tokens=first,
                extra_body={"mrrag": {"max_new_tokens": second}},
            )
            assert answer.usage.completion_tokens == 2


def test_errors_have_the_shape_of_openai(openai_client, corpus):
    create = openai_client.chat.completions.create
    with pytest.raises(openai.NotFoundError) as refused:
        create(model="gpt-4", messages=[asked(corpus)])
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        create(model="phantom", messages=[{"role": "user", "content": "Hello"}], stream=True)
    assert refused.value.code == "image_required"
    by_address = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    with pytest.raises(openai.BadRequestError) as refused:
        create(model="phantom", messages=[{"role": "user", "content": by_address}])
    assert refused.value.code == "image_not_sent"
    with pytest.raises(openai.BadRequestError, match="neither text nor image_url"):
        create(model="phantom", messages=[{"role": "user", "content": [{"type": "input_audio"}]}])
    two = asked(corpus)
    two["content"].append(asked(corpus, 1)["content"][1])
    with pytest.raises(openai.BadRequestError, match="2 images"):
        create(model="phantom", messages=[two])


def test_models_are_listed(openai_client):
    assert [model.id for model in openai_client.models.list()] == ["phantom", "phantom:sources"]


def test_a_limit_of_tokens_is_kept_and_said(conversational, corpus):
    with openai.OpenAI(base_url=f"{conversational}/v1", api_key="-", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="llava", messages=[asked(corpus)], max_completion_tokens=2
        )
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == 2
        # What may be longer than the server lets it be, as clients send it by default.
        answer = client.chat.completions.create(
            model="llava", messages=[asked(corpus)], max_tokens=4096
        )
        assert (answer.choices[0].finish_reason, answer.usage.completion_tokens) == ("length", 8)


def test_llamaindex_openai_like_answers_with_an_image(server, service, corpus):
    llm = OpenAILike(model="phantom", api_base=f"{server}/v1", api_key="unused", is_chat_model=True)
    message = ChatMessage(
        role="user",
        blocks=[TextBlock(text=corpus.question), ImageBlock(path=corpus.images[0])],
    )
    expected = ask(service.index, service.llm, corpus.images[0], corpus.question)
    assert llm.chat([message]).message.content == expected.text
    pieces = list(llm.stream_chat([message]))
    assert pieces[-1].message.content == expected.text


def test_events_are_plain_sse(client, corpus):
    body = {"model": "phantom", "messages": [asked(corpus)], "stream": True}
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert all(json.loads(line.removeprefix("data: "))["id"] for line in lines[:-1])
