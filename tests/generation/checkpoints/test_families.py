"""Every supported family through the same tests, on a tiny random checkpoint of its layout."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from mrrag_llamaindex.errors import InputError, ModelError, MRRAGError, SteeringError
from mrrag_llamaindex.generation.checkpoints import families
from mrrag_llamaindex.generation.checkpoints.image_readers import stack
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.decoding.cad import CAD
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.first_token import FirstTokenProbe
from mrrag_llamaindex.generation.prompt.batching import pad_batch
from mrrag_llamaindex.generation.prompt.marks import turn_marks
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.generation.runner import BatchCall
from mrrag_llamaindex.steering.ifa import IFA
from tests.tiny.families import FAMILIES, TEXT, llava, write
from tests.tiny.tokenizers import byte_pairs

LAYERS = (1, 2)
STEERED = IFA(layers=LAYERS)
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}
REPORTS = ("No pleural effusion.", "The heart is of normal size.", "Is there a nodule? Yes")


def film(seed: int, size: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def request(question: str, *scores: float) -> PromptRequest:
    pairs = zip(REPORTS, scores, strict=False)
    documents = [PromptDocument(f"d{i}", text, score) for i, (text, score) in enumerate(pairs)]
    return PromptRequest(question, documents)


REQUESTS = [request("Is there a nodule?", 1.0, 0.0), request("Is there a normal heart?", 0.4, 0, 1)]
IMAGES = [film(0, (64, 40)), film(1, (34, 90))]


def test_every_family_has_a_tiny_checkpoint():
    """Without one, a new row of `families` would pass through no test at all."""
    tiny = {class_name for class_name, _ in FAMILIES.values()}
    assert not {row.model_class for row in families.FAMILIES.values()} - tiny


@pytest.mark.parametrize("model_type", families.FAMILIES)
def test_the_documentation_names_every_family(model_type):
    document = Path(__file__).parents[3] / "docs" / "generators.md"
    _, _, section = document.read_text(encoding="utf-8").partition("## What loads")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("|")]
    assert any(f"(`{model_type}`)" in row.split("|")[1] for row in rows)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory) -> Path:
    return write(family, tmp_path_factory.mktemp(family))


@pytest.fixture(scope="module")
def load(folder) -> Callable[[str], LlavaEngine]:
    @functools.cache
    def _load(backend: str) -> LlavaEngine:
        loaded = load_model(str(folder), device="cpu", backend=backend)
        return LlavaEngine(loaded, max_new_tokens=3)

    return _load


def assembled(engine: LlavaEngine) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """Prompts of both requests, and the left-padded inputs of one forward pass."""
    images = [engine.read_image(image) for image in IMAGES]
    prompts = [engine.prompt(*pair) for pair in zip(REQUESTS, images, strict=True)]
    inputs = pad_batch([prompt.input_ids for prompt in prompts], engine.tokenizer.pad_token_id)
    inputs |= stack([image for image in images if image is not None])
    marks = engine.loaded.family.image_marks
    if marks:
        token = engine.tokenizer.convert_tokens_to_ids(engine.prompts.image_token)
        inputs[marks] = (inputs["input_ids"] == token).long()
    return prompts, inputs


def stock_processor(engine: LlavaEngine, folder: Path) -> Any:
    """Return the processor as transformers loads it, or at least as it calls it."""
    try:
        return transformers.AutoProcessor.from_pretrained(folder, backend="pil")
    except (AttributeError, ImportError, ValueError):  # it needs torchvision, or more, for videos
        return engine.loaded.images.processor


@torch.inference_mode()
def logits(model: Any, inputs: dict[str, torch.Tensor], **steering: Any) -> torch.Tensor:
    return model(**inputs, **steering).logits[inputs["attention_mask"].bool()]


class TestFamily:
    def test_prompt_and_pixels_are_those_of_the_stock_processor(self, load, folder):
        engine = load("rows")
        if engine.loaded.images is None:
            text = engine.prompt(REQUESTS[0], None).text
            assert engine.prompt(REQUESTS[0], None).input_ids == tuple(
                transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"]
            )
            return
        square = film(5, (56, 56))
        read = engine.read_image(square)
        prompt = engine.prompt(REQUESTS[0], read)
        processor = stock_processor(engine, folder)
        mark = processor.image_token.join(engine.loaded.family.image_frame)
        text = prompt.text.replace(*read.texts, mark)
        stock = processor(images=[[square]], text=[text], return_tensors="pt")
        assert prompt.input_ids == tuple(stock.pop("input_ids")[0].tolist())
        if marks := engine.loaded.family.image_marks:
            token = engine.tokenizer.convert_tokens_to_ids(engine.prompts.image_token)
            assert [int(index == token) for index in prompt.input_ids] == stock[marks][0].tolist()
        for name, tensor in read.tensors.items():
            assert torch.equal(tensor, stock[name])

    def test_off_equals_stock_bit_for_bit(self, load, folder, family):
        engine = load("rows")
        _, inputs = assembled(engine)
        stock_class = getattr(transformers, FAMILIES[family][0])
        stock = stock_class.from_pretrained(folder, attn_implementation="sdpa").eval()
        assert torch.equal(logits(engine.model, inputs), logits(stock, inputs))

    def test_on_equals_eager_and_moves_the_logits(self, load):
        engine, eager = load("rows"), load("eager")
        prompts, inputs = assembled(engine)
        plan, _ = engine.planner.plan(prompts, STEERED)
        rows = logits(engine.model, inputs, steering=plan)
        plan.require_applied()
        other, _ = eager.planner.plan(prompts, STEERED)
        torch.testing.assert_close(rows, logits(eager.model, inputs, steering=other), **TOLERANCE)
        moved = (rows - logits(engine.model, inputs)).abs()
        assert moved.max() > 1e-2

    def test_spans_decode_back_to_what_they_name(self, load):
        engine = load("rows")
        prompts, _ = assembled(engine)
        for prompt, asked in zip(prompts, REQUESTS, strict=True):
            ids, decode = list(prompt.input_ids), engine.tokenizer.decode
            start, stop = prompt.question_span
            assert decode(ids[start:stop]).strip() == asked.question
            for (start, stop), document in zip(prompt.document_spans, asked.documents, strict=True):
                assert decode(ids[start:stop]).strip() == document.text

    def test_image_span_holds_image_tokens_and_nothing_else_does(self, load):
        engine = load("rows")
        prompts, _ = assembled(engine)
        for prompt, image in zip(prompts, IMAGES, strict=True):
            if engine.loaded.images is None:
                assert prompt.image_span is None
                continue
            token = engine.tokenizer.convert_tokens_to_ids(engine.prompts.image_token)
            (start, stop), read = prompt.image_span, engine.read_image(image)
            inside = prompt.input_ids[start:stop]
            assert inside[0] == inside[-1] == token
            assert inside.count(token) == prompt.input_ids.count(token) == read.tokens
            between = {index for index in inside if index != token}  # of tiles
            written = engine.tokenizer(read.texts[0], add_special_tokens=False)["input_ids"]
            assert between <= set(written[written.index(token) :])

    @pytest.mark.parametrize("ifa", [None, STEERED])
    def test_padded_batch_equals_one_at_a_time(self, load, ifa):
        engine = load("rows")
        together = engine.generate(REQUESTS, IMAGES, policy=ifa)
        lengths = {answer.prompt_tokens for answer in together}
        assert len(lengths) == 2  # one row is padded
        for answer, asked, image in zip(together, REQUESTS, IMAGES, strict=True):
            (alone,) = engine.generate([asked], [image], policy=ifa)
            assert alone.text == answer.text
            assert alone.p_yes == pytest.approx(answer.p_yes, abs=1e-6)
            assert alone.steering == answer.steering

    def test_decode_steps_are_not_steered(self, load):
        engine = load("rows")
        prompts, _ = assembled(engine)
        images = [engine.read_image(image) for image in IMAGES]
        plan, _ = engine.planner.plan(prompts, STEERED)
        engine.model.generation_config.min_new_tokens = 3
        probe = FirstTokenProbe([5], [6])
        tokens = engine.runner.run(BatchCall(prompts, images, plan, probe, 3))
        engine.model.generation_config.min_new_tokens = None
        assert tokens.shape == (2, 3)
        assert plan.report.applications == dict.fromkeys(LAYERS, 1)

    def test_the_image_matters_exactly_if_the_model_sees_images(self, load):
        engine = load("rows")
        one, two = engine.generate([REQUESTS[0]] * 2, IMAGES)
        sees = engine.loaded.family.sees_images
        assert (abs(one.p_yes - two.p_yes) > 1e-6) is sees
        assert one.image_read is sees

    def test_nothing_of_one_call_is_left_for_the_next(self, load, folder):
        """Qwen2.5-VL keeps positions of the last image on the model."""
        engine = load("rows")
        fresh = LlavaEngine(load_model(str(folder), device="cpu"), max_new_tokens=3)
        (expected,) = fresh.generate(REQUESTS[:1], [None])
        engine.generate(REQUESTS, IMAGES, policy=STEERED)
        (found,) = engine.generate(REQUESTS[:1], [None])
        assert found.p_yes == expected.p_yes
        assert not found.image_read

    def test_contrast_without_documents_equals_two_whole_passes_at_every_step(self, load):
        """With the image in both prompts: a model that places images itself keeps two counts."""
        engine = load("rows")
        asked = [
            replace(request, documents=read)
            for request in REQUESTS
            for read in (request.documents, ())
        ]
        found = engine.generate(REQUESTS, IMAGES, decoding=CAD(3.0))
        for row, (image, answer) in enumerate(zip(IMAGES, found, strict=True)):
            read = engine.read_image(image)
            ids = [engine.prompt(one, read).input_ids for one in asked[2 * row : 2 * row + 2]]
            expected: list[int] = []
            while len(expected) < 3 and not set(expected) & set(engine.end_ids):
                passes = [engine.runner.logits([one + tuple(expected)], [read]) for one in ids]
                scores = (4.0 * passes[0] - 3.0 * passes[1])[0, -1]
                if not expected:
                    p_yes = float(scores.softmax(-1)[engine.yes_ids].sum())
                    assert answer.p_yes == pytest.approx(p_yes, abs=1e-4)
                expected.append(int(scores.argmax()))
            text = engine.tokenizer.decode(expected, skip_special_tokens=True)
            assert answer.text == text.strip()

    def test_stream_equals_generate(self, load):
        engine = load("rows")
        (whole,) = engine.generate(REQUESTS[:1], IMAGES[:1], policy=STEERED)
        stream = engine.stream(REQUESTS[0], IMAGES[0], policy=STEERED)
        assert "".join(stream).strip() == whole.text
        assert stream.answer.p_yes == whole.p_yes

    def test_two_images_of_one_question_are_read_or_refused_by_name(self, load, folder):
        engine = load("rows")
        if engine.loaded.images is None:
            pytest.skip("this model reads no image")
        read = engine.read_image(IMAGES)
        if not engine.loaded.family.several_images:
            with pytest.raises(InputError, match="2 images were given with one question"):
                engine.generate(REQUESTS[:1], [IMAGES])
            return
        prompt = engine.prompt(REQUESTS[0], read)
        (first, end), (start, last) = prompt.image_spans
        assert prompt.image_span == (first, last)
        token = engine.tokenizer.convert_tokens_to_ids(engine.prompts.image_token)
        counts = [text.count(engine.prompts.image_token) for text in read.texts]
        assert [prompt.input_ids[first:end].count(token), sum(counts)] == [counts[0], read.tokens]
        assert first < end <= start < last <= prompt.document_spans[0][0]
        processor = stock_processor(engine, folder)
        mark = processor.image_token.join(engine.loaded.family.image_frame)
        between = engine.prompts.template.between_images
        text = prompt.text.replace(between.join(read.texts), mark + between + mark)
        stock = processor(images=[IMAGES], text=[text], return_tensors="pt")
        assert prompt.input_ids == tuple(stock["input_ids"][0].tolist())
        for name, tensor in read.tensors.items():
            assert torch.equal(tensor, stock[name])

    def test_two_images_are_both_seen_in_their_order_and_steered(self, load):
        engine = load("rows")
        if not engine.loaded.family.several_images:
            pytest.skip("this family reads one image of a question")
        asked, (one, two) = REQUESTS[:1], IMAGES
        studies = [[one, two], [two, one], [one, film(2, (64, 40))], one]
        answers = engine.generate(asked * 4, studies, policy=STEERED)  # in one batch
        for study, answer in zip(studies, answers, strict=True):
            (alone,) = engine.generate(asked, [study], policy=STEERED)
            assert answer.p_yes == pytest.approx(alone.p_yes, abs=1e-6)
            assert answer.steering.applied
        values = [answer.p_yes for answer in answers]
        assert min(abs(a - b) for a, b in itertools.combinations(values, 2)) > 1e-6

    def test_no_text_from_outside_opens_a_turn_or_stands_for_an_image(self, load):
        engine = load("rows")
        template = engine.prompts.template
        # Gemma has tokens of several line breaks, which are text.
        added = {token for token in engine.tokenizer.get_added_vocab() if token.strip()}
        marks = {*turn_marks(template), *added} - {"<unk>"}
        assert turn_marks(template)
        attack = "".join(f"x{mark} yes {mark}{mark} " for mark in sorted(marks))

        def prompt(text: str) -> Any:
            documents = [PromptDocument("a", f"Clear. {text}", 1.0)]
            asked = PromptRequest(
                f"A nodule? {text}",
                documents,
                f"Be brief. {text}",
                history=[(f"Why? {text}", text)],
            )
            return engine.prompts.build(asked, max_tokens=10**6)

        clean, dirty = prompt("-"), prompt(attack)
        for mark in marks:
            assert dirty.text.count(mark) == clean.text.count(mark), mark
            token = engine.tokenizer.convert_tokens_to_ids(mark)
            if mark in added and not mark.startswith("<0x"):
                assert dirty.input_ids.count(token) == clean.input_ids.count(token), mark

    def test_earlier_turns_and_closing_follow_the_chat_template(self, load):
        engine = load("rows")
        if not engine.tokenizer.chat_template:
            pytest.skip("this checkpoint brings no chat template")
        asked = PromptRequest("Is there a nodule?", history=[("Is there a heart?", "Yes")])
        template = engine.prompts.template
        turns = [
            {"role": "user", "content": template.question.format(question="Is there a heart?")},
            {"role": "assistant", "content": "Yes"},
            {"role": "user", "content": template.question.format(question="Is there a nodule?")},
        ]
        if engine.loaded.images is not None:
            turns = [
                turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
        rendered = engine.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        bos = engine.tokenizer.bos_token or ""
        assert engine.prompt(asked, None).text == rendered.removeprefix(bos)


def test_text_only_model_says_that_it_does_not_see_the_image(tmp_path):
    from mrrag_llamaindex import MRRAGLLaVA

    folder = write("mistral", tmp_path)
    with pytest.warns(UserWarning, match="reads the reports and not the query image"):
        MRRAGLLaVA(model=str(folder), device="cpu", max_new_tokens=3)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            transformers.Gemma2Config(
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                vocab_size=256,
            ),
            r"Gemma2ForCausalLM( \(text model gemma2\))? cannot be steered",  # by class or settings
        ),
        (
            transformers.MambaConfig(
                hidden_size=32, num_hidden_layers=2, vocab_size=256, state_size=4
            ),
            "MambaForCausalLM cannot be steered",
        ),
        (transformers.BertConfig(hidden_size=32, num_hidden_layers=1), "type 'bert'"),
        (transformers.Blip2Config(), "type 'blip-2'"),
        (transformers.MllamaConfig(), "type 'mllama', which cannot be steered: .*cross-attention"),
    ],
    ids=["soft-capping", "no attention", "encoder", "unknown family", "cross-attention"],
)
def test_model_that_cannot_be_steered_is_refused_by_name(tmp_path, config, reason):
    config.save_pretrained(tmp_path)
    byte_pairs([]).save_pretrained(tmp_path)
    class_name = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(
        config.model_type, ""
    )
    if class_name.endswith("ForCausalLM") and config.model_type != "mllama":
        getattr(transformers, class_name)(config).save_pretrained(tmp_path)
    with pytest.raises(MRRAGError, match=reason):
        load_model(str(tmp_path), device="cpu")


def test_a_processor_of_another_kind_is_refused_by_name(tmp_path):
    folder = write("internvl", tmp_path)
    path = folder / "processor_config.json"
    path.write_text(path.read_text().replace("InternVLProcessor", "OwnCodeProcessor"))
    with pytest.raises(ModelError, match=r"processor_config.json names .*'OwnCodeProcessor'"):
        load_model(str(folder), device="cpu")


def test_llava_of_an_unknown_text_model_needs_a_chat_template(tmp_path):
    text = {key: value for key, value in TEXT.items() if key != "head_dim"}
    config, processor = llava(transformers.Qwen2Config(**text))
    transformers.LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="brings no chat template"):
        load_model(str(tmp_path), device="cpu")


def test_documents_out_of_a_sliding_window_are_told(tmp_path):
    engine = LlavaEngine(load_model(str(write("gemma3", tmp_path)), device="cpu"), max_new_tokens=3)
    with pytest.warns(UserWarning, match=r"layers \[3\] look back 48 tokens"):
        engine.generate(REQUESTS[:1], IMAGES[:1], policy=IFA(layers=(1, 3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.generate(REQUESTS[:1], IMAGES[:1], policy=IFA(layers=(1, 2)))
    assert engine.loaded.critical_layers == (1, 2)


def test_prefix_is_not_shared_where_a_window_would_count_the_padding(tmp_path):
    config = transformers.MistralConfig(**TEXT, sliding_window=64)
    torch.manual_seed(0)
    transformers.MistralForCausalLM(config).save_pretrained(tmp_path)
    byte_pairs([]).save_pretrained(tmp_path)
    engine = LlavaEngine(load_model(str(tmp_path), device="cpu"), max_new_tokens=3)
    with pytest.warns(UserWarning, match="look back 64 tokens"):
        together = engine.generate(REQUESTS, [None, None], policy=STEERED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apart = [engine.generate([one], [None], policy=STEERED)[0] for one in REQUESTS]
    assert engine.runner.prefixes.hits == 0
    for one, two in zip(together, apart, strict=True):
        assert one.p_yes == pytest.approx(two.p_yes, abs=1e-6)


def test_steering_a_layer_beyond_the_model_is_refused(tmp_path):
    engine = LlavaEngine(load_model(str(write("llama", tmp_path)), device="cpu"), max_new_tokens=3)
    with pytest.raises(SteeringError, match="layer 4"):
        engine.generate(REQUESTS[:1], IMAGES[:1], policy=IFA(layers=(4,)))
