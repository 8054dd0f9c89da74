"""The noise study: what is asked, where attention goes, and what is won back."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mrrag_llamaindex import defaults
from mrrag_llamaindex.errors import InputError, ModelError
from mrrag_llamaindex.evaluation.data.parsing import leading
from mrrag_llamaindex.evaluation.methods.tuning import each_part
from mrrag_llamaindex.evaluation.noise.attention_share import (
    document_masses,
    document_shares,
    noise_share,
)
from mrrag_llamaindex.evaluation.noise.prefix_sweep import PrefixSweep, Variant
from mrrag_llamaindex.evaluation.noise.question import NoiseQuestion
from mrrag_llamaindex.evaluation.noise.readings import Readings
from mrrag_llamaindex.evaluation.noise.report import NoiseReport
from mrrag_llamaindex.evaluation.noise.result import Cell, Contestant, NoiseResult
from mrrag_llamaindex.evaluation.noise.study import run_noise, tune
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.engine import LlavaEngine
from mrrag_llamaindex.generation.prompt.request import PromptDocument, PromptRequest
from mrrag_llamaindex.steering.ifa import IFA
from mrrag_llamaindex.steering.policies.hard_mask import HardMask
from mrrag_llamaindex.steering.policies.pai import PAI
from mrrag_llamaindex.steering.policies.pasta import PASTA
from mrrag_llamaindex.steering.policies.registry import OFF, POLICIES
from mrrag_llamaindex.steering.policies.uniform import Uniform

pytestmark = pytest.mark.usefixtures("one_thread")

REPORTS = (
    "No effusion. There is a nodule.",
    "There is an effusion. No edema. The image shows cardiomegaly.",
    "No sign of mild effusion. No fracture.",
    "Positive for effusion.",
)
ASKED = ("Is there an effusion?", "Do you see a nodule or edema?", "Is there any edema?")


@pytest.fixture(scope="module")
def sweep() -> PrefixSweep:
    loaded = load_model(defaults.PHANTOM, device="cpu", backend="eager")
    return PrefixSweep(LlavaEngine(loaded, max_new_tokens=2), batch_size=2)


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (192, 192, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def requests() -> tuple[list[PromptRequest], list[Image.Image], list[tuple[float, ...]]]:
    """Three prompts of different lengths, the second with a longer question."""
    texts = (REPORTS[:2], REPORTS[1:3], REPORTS[2:])
    asked = [
        PromptRequest(question, tuple(PromptDocument(str(n), t) for n, t in enumerate(pair)))
        for question, pair in zip(ASKED, texts, strict=True)
    ]
    return asked, [picture(n) for n in range(3)], [(1.0, 0.0), (0.25, 1.0), (0.0, 1.0)]


def question(number: int = 0, count: int = 2, **changes) -> NoiseQuestion:
    def made(kind: str, scores) -> tuple[PromptDocument, ...]:
        return tuple(PromptDocument(f"{kind}{n}", REPORTS[n], s) for n, s in enumerate(scores))

    fields = {
        "question_id": f"q{number}",
        "patient_id": f"p{number}",
        "question": ASKED[0],
        "image": picture(number),
        "truth": "yes" if number % 2 else "no",
        "relevant": made("r", (0.9, 0.8)[:count]),
        "irrelevant": made("i", (0.2, 0.4)[:count]),
        "contradicting": made("c", (0.3, 0.1)[:count]),
        "order": (1, 0)[:count] if count == 2 else (0,),
    }
    return NoiseQuestion(**{**fields, **changes})


# ---- what is asked


def test_noise_fills_the_first_places_and_the_order_shuffles_them():
    asked = question()
    assert [d.document_id for d in asked.offered(0)] == ["r1", "r0"]
    assert [d.document_id for d in asked.offered(1)] == ["r1", "i0"]
    assert [d.document_id for d in asked.offered(2, adversarial=True)] == ["c1", "c0"]
    assert asked.marked(1) == (False, True)
    assert [d.document_id for d in asked.request(1).documents] == ["r1", "i0"]
    assert asked.request(1).question == ASKED[0]


def test_order_names_the_place_of_each_document():
    made = tuple(PromptDocument(f"r{n}", "No edema.") for n in range(3))
    asked = question(relevant=made, irrelevant=made, contradicting=(), order=(1, 2, 0))
    assert [d.document_id for d in asked.offered(0)] == ["r2", "r0", "r1"]


def test_true_relevance_is_one_and_zero_and_mcr_is_min_max():
    asked = question()
    assert asked.lambdas("true", 1) == (1.0, 0.0)
    assert asked.lambdas("true", 0) == (1.0, 1.0)
    assert asked.lambdas("mcr", 0) == (0.0, 1.0)  # .8 and .9, whatever is true
    assert asked.lambdas("mcr", 1, adversarial=True) == (1.0, 0.0)


@pytest.mark.parametrize(
    "changes",
    [{"irrelevant": ()}, {"contradicting": (PromptDocument("c", "No edema."),)}, {"order": (0, 0)}],
)
def test_unequal_documents_and_no_permutation_are_refused(changes):
    with pytest.raises(InputError, match="q0"):
        question(**changes)


def test_missing_scores_are_an_error_not_a_zero():
    asked = question(relevant=(PromptDocument("a", "No edema."), PromptDocument("b", "No edema.")))
    with pytest.raises(InputError, match="MCR score"):
        asked.lambdas("mcr", 1)


# ---- where attention goes


def test_masses_by_hand():
    """Two heads; two rows behind a prefix of two columns; documents [0, 1) and [1, 3)."""
    first = torch.tensor([[0.5, 0.1, 0.2, 0.2], [0.2, 0.2, 0.2, 0.4]])
    second = torch.tensor([[0.1, 0.3, 0.2, 0.4], [0.0, 0.6, 0.2, 0.2]])
    masses = document_masses([torch.stack([first, second])[None]], [[(0, 1), (1, 3)]], [(2, 3)])
    assert masses.shape == (1, 2, 1, 2)
    np.testing.assert_allclose(masses[0, 0, 0], [0.3, 0.4], atol=1e-6)  # row of the question
    np.testing.assert_allclose(masses[0, 1, 0], [0.1, 0.6], atol=1e-6)  # last row


def test_shares_sum_over_the_chosen_layers_only():
    masses = np.zeros((2, 2, 3, 2))
    masses[0, 0] = [[0.1, 0.3], [0.3, 0.3], [9.0, 0.0]]
    masses[0, 1] = 1.0
    shares = document_shares(masses, (0, 1))
    np.testing.assert_allclose(shares[0], [0.4, 0.6])
    np.testing.assert_allclose(document_shares(masses, (0, 1), "answer")[0], [0.5, 0.5])
    assert np.isnan(shares[1]).all()  # no document gets any attention
    noise = noise_share(shares, np.array([[True, False], [True, False]]))
    assert noise[0] == pytest.approx(0.4)
    assert np.isnan(noise[1])


def by_hand(sweep: PrefixSweep, request: PromptRequest, image, lambdas, strength: float):
    """Attention of layer 0 to each document from its own weights: rotate, boost, mask, softmax."""
    engine = sweep.engine
    read = engine.read_image(image)
    prompt = engine.prompt(request, read)
    layer = engine.model.model.language_model.layers[0].self_attn
    seen = {}

    def keep(module, arguments, keywords):
        seen.update(keywords)

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.inference_mode():
        ids = torch.tensor([prompt.input_ids])
        engine.model(input_ids=ids, attention_mask=torch.ones_like(ids), **read.tensors)
        handle.remove()
        hidden, (cos, sin) = seen["hidden_states"], seen["position_embeddings"]
        size = layer.head_dim
        query, key = (
            part(hidden).view(1, ids.shape[1], -1, size).transpose(1, 2)
            for part in (layer.q_proj, layer.k_proj)
        )

        def rotated(x):
            left, right = x[..., : size // 2], x[..., size // 2 :]
            return x * cos + torch.cat([-right, left], dim=-1) * sin

        query, key = (
            rotated(query),
            rotated(key).repeat_interleave(query.shape[1] // key.shape[1], dim=1),
        )
        logits = (query @ key.transpose(2, 3))[0] * size**-0.5
        start, stop = prompt.question_span
        for (first, last), value in zip(prompt.document_spans, lambdas, strict=True):
            block = logits[:, start:stop, first:last]
            logits[:, start:stop, first:last] = block + strength * value * block.abs()
        future = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).triu(1)
        weights = logits.masked_fill(future, -torch.inf).softmax(-1).mean(0)
        rows = weights[start:stop].mean(0)
        return [float(rows[first:last].sum()) for first, last in prompt.document_spans]


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_masses_equal_a_softmax_by_hand(sweep, strength):
    asked, images, lambdas = requests()
    policy = IFA(strength=strength, layers=(0,))
    (found,) = sweep.ask(asked, images, [Variant(policy, lambdas)])
    for row, (request, image) in enumerate(zip(asked, images, strict=True)):
        expected = by_hand(sweep, request, image, lambdas[row], strength)
        np.testing.assert_allclose(found.masses[row, 0, 0], expected, atol=2e-6)
    shares = document_shares(found.masses, range(sweep.depth))
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)


# ---- one prefix for all policies


POLICY = [
    None,
    IFA(layers=(1,)),
    IFA(strength=2.0, layers=(0, 2)),
    HardMask(layers=(0, 1, 2, 3)),
    Uniform(layers=(1,)),
    PASTA(layers=(1, 2)),
    PAI(guidance=1.0, alpha=0.5),
]


def test_a_sweep_answers_as_the_engine_does(sweep):
    """The other backend, whole prompts, generation: the same probabilities for every policy."""
    asked, images, _ = requests()
    lambdas = [(1.0, 0.0), (0.0, 1.0), (0.0, 1.0)]  # what the engine makes of these as scores
    found = sweep.ask(asked, images, [Variant(policy, lambdas) for policy in POLICY])
    engine = LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=1)
    told = [
        replace(
            request,
            documents=tuple(
                replace(d, score=v) for d, v in zip(request.documents, values, strict=True)
            ),
        )
        for request, values in zip(asked, lambdas, strict=True)
    ]
    for policy, readings in zip(POLICY, found, strict=True):
        answers = engine.generate(told, images, policy=policy, max_new_tokens=1)
        for row, answer in enumerate(answers):
            assert readings.p_yes[row] == pytest.approx(answer.p_yes, abs=1e-5), policy
            assert readings.p_no[row] == pytest.approx(answer.p_no, abs=1e-5), policy
            assert readings.verdicts[row] == leading(answer.text), policy
    moved = [np.abs(r.p_yes - found[0].p_yes).max() for r in found[1:]]
    assert all(change > 1e-6 for change in moved)


def test_more_policies_take_no_more_prefills(sweep):
    asked, images, lambdas = requests()
    counts = []
    for many in (1, 5):
        before = sweep.prefills, sweep.passes
        sweep.ask(asked, images, [Variant(IFA(layers=(1,)), lambdas)] * many)
        counts.append((sweep.prefills - before[0], sweep.passes - before[1]))
    # Two prompts have one-token questions, the third has a longer one: two batches.
    assert counts == [(2, 2), (2, 10)]


def test_a_masked_document_gets_no_attention(sweep):
    asked, images, lambdas = requests()
    every = tuple(range(sweep.depth))
    found = sweep.ask(asked, images, [Variant(HardMask(layers=every), lambdas)])[0]
    shares = document_shares(found.masses, every)
    np.testing.assert_allclose(shares, np.array(lambdas) >= 0.5)


def test_what_a_sweep_cannot_compare_is_refused(sweep):
    asked, images, lambdas = requests()
    for policy in (HardMask(mode="drop"), PAI(guidance=1.1)):
        with pytest.raises(InputError, match="outside of attention"):
            sweep.ask(asked, images, [Variant(policy, lambdas)])
    fewer = replace(asked[0], documents=asked[0].documents[:1])
    with pytest.raises(InputError, match="as many documents"):
        sweep.ask([fewer, *asked[1:]], images, [])
    with pytest.raises(InputError, match="one list of lambdas"):
        sweep.ask(asked, images, [Variant(None, lambdas[:2])])
    with pytest.raises(ModelError, match="eager"):
        PrefixSweep(LlavaEngine(load_model(defaults.PHANTOM, device="cpu"), max_new_tokens=2))


# ---- the study


def cell(*right: float, attention: float = 0.5) -> Cell:
    shares = np.full(len(right), attention)
    return Cell(np.array(right, dtype=float), shares, shares, shares, shares)


def result(clean, off, own) -> NoiseResult:
    contestants = (Contestant(OFF, "true", None), Contestant("ifa", "true", IFA()))
    cells = {
        (OFF, "true", False, 0): cell(*clean),
        (OFF, "true", False, 1): cell(*off),
        ("ifa", "true", False, 1): cell(*own),
    }
    owners = tuple(f"p{n}" for n in range(len(clean)))
    return NoiseResult(2, contestants, owners, (1,), cells, seed=0)


def test_recovered_share_by_hand():
    many = 10
    found = result([1, 1, 1, 1] * many, [1, 1, 0, 0] * many, [1, 0, 1, 1] * many)
    loss, (low, high) = found.loss()
    assert loss == 0.5
    assert low < 0.5 < high
    share, (low, high) = found.recovered("ifa", "true")
    assert share == 0.5  # two won, one lost, of two
    assert low < 0.5 < high < 1.0


def test_all_or_nothing_won_back_is_no_certainty():
    """Of 40 patients none may have shown what 3.84 / (40 + 3.84) = .088 of all would do."""
    unseen = 1.959964**2 / (40 + 1.959964**2)
    clean, off = [1] * 40, [1, 1, 1, 0] * 10
    share, ends = result(clean, off, clean).recovered("ifa", "true")
    assert share == 1.0
    assert ends == pytest.approx((1 - unseen / 0.25, 1.0))  # no accuracy is above 1
    share, ends = result(clean, off, off).recovered("ifa", "true")
    assert share == 0.0
    assert ends == pytest.approx((-unseen / 0.25, unseen / 0.25))


def test_no_loss_has_no_share_to_win_back():
    assert result([1, 0], [1, 0], [1, 1]).recovered("ifa", "true") == (None, None)
    share, ends = result([1, 1, 0, 1], [1, 0, 1, 0], [1, 1, 1, 1]).recovered("ifa", "true")
    assert share == 2.0
    assert ends is None  # in some samples of patients there is no loss


def test_report_by_hand():
    """Plain RAG loses a quarter to other patients' documents, and half to contradicting ones."""
    contestants = (Contestant(OFF, "true", None), Contestant("ifa", "true", IFA()))
    right = {
        (OFF, False): [(1, 1, 1, 1), (1, 1, 1, 0), (0, 0, 0, 1)],
        ("ifa", False): [(1, 1, 1, 1), (1, 1, 1, 1), (0, 0, 0, 1)],
        (OFF, True): [(1, 1, 1, 1), (1, 1, 0, 0), (0, 0, 0, 0)],
        ("ifa", True): [(1, 1, 1, 1), (1, 0, 0, 0), (0, 0, 0, 0)],
    }
    cells = {
        (policy, "true", hostile, level): cell(*values)
        for (policy, hostile), levels in right.items()
        for level, values in enumerate(levels)
    }
    found = NoiseResult(2, contestants, ("a", "b", "c", "d"), (1,), cells, seed=0)
    report = NoiseReport(found, (), {}, None, {"data": "hand"})
    assert [(row["adversarial"], row["loss"]) for row in report.losses()] == [
        (False, 0.25),
        (True, 0.5),
    ]
    assert [
        (row["policy"], row["adversarial"], row["gain"], row["recovered"])
        for row in report.recovered()
    ] == [("ifa", False, 0.25, 1.0), ("ifa", True, -0.25, -0.5)]
    points = report.points()
    assert {point["noise"] for point in points} == {0.0, 0.5, 1.0}
    (one,) = [
        point["accuracy"]
        for point in points
        if (point["policy"], point["adversarial"], point["noise"]) == ("ifa", True, 0.5)
    ]
    assert one == 0.25
    told = report.as_dict()
    assert (told["data"], told["n"], told["documents"]) == ("hand", 4, 2)


def test_undefined_attention_is_left_out():
    found = result([1, 1], [1, 0], [1, 1])
    nothing = np.array([np.nan, 0.25])
    found.cells["ifa", "true", False, 1] = Cell(
        nothing, nothing, nothing * np.nan, nothing, nothing
    )
    assert found.attention(("ifa", "true", False, 1), "noise_attention") == (0.25, None)
    assert found.attention(("ifa", "true", False, 1), "everywhere") == (None, None)


def readings(verdicts, masses) -> Readings:
    nothing = np.zeros(len(verdicts))
    return Readings(tuple(verdicts), nothing, nothing, masses)


def test_a_cell_by_hand():
    """Two questions, two layers, two documents; q0's noise is document 1, q1's (turned) 0."""
    masses = np.zeros((2, 2, 2, 2))
    masses[:, 0, 0] = [0.1, 0.3]  # question rows, layer 0
    masses[:, 0, 1] = [0.4, 0.0]
    masses[:, 1, 0] = [0.2, 0.2]  # last row, layer 0
    masses[:, 1, 1] = [0.0, 0.9]
    asked = [question(0), question(1, order=(0, 1))]
    found = Cell.of(readings(("no", "no"), masses), asked, 1, [0])
    assert found.right.tolist() == [1.0, 0.0]  # the truth is no, then yes
    np.testing.assert_allclose(found.noise_attention, [0.75, 0.25])
    np.testing.assert_allclose(found.everywhere, [0.3 / 0.8, 0.5 / 0.8])
    np.testing.assert_allclose(found.at_answer, [0.5, 0.5])
    other = Cell.of(readings(("no", "other"), masses), asked, 1, [1])
    assert other.right.tolist() == [1.0, 0.0]
    np.testing.assert_allclose(other.at_answer, [1.0, 0.0])


class Recorder:
    """Stands for a sweep: keeps what is asked, with which lambdas, and reads nothing."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[tuple[str | None, tuple[float, ...]]]]] = []

    def ask(self, requests, images, variants):
        (request,) = requests
        names = [document.document_id for document in request.documents]
        kinds = [(type(v.policy).__name__, v.lambdas[0]) for v in variants]
        self.asked.append((names, kinds))
        masses = np.ones((1, 2, 4, len(names)))
        return [readings(["no"], masses) for _ in variants]


def test_every_level_is_asked_with_its_own_documents_and_each_policy_with_its_scores():
    recorder = Recorder()
    formula = IFA()
    contestants = [
        Contestant(OFF, "true", None),
        Contestant("ifa", "true", formula),
        Contestant(OFF, "mcr", None),
        Contestant("ifa", "mcr", formula),
        Contestant("hard-mask", "mcr", HardMask()),
    ]
    found = run_noise(recorder, [question()], contestants, layers=[1])
    levels = [(names, [kind for _, kind in kinds[1:]]) for names, kinds in recorder.asked]
    # The prompt's order is 1, 0; MCR's scores are r .9 .8, i .2 .4, c .3 .1, and min-max makes them
    # 1 and 0.
    assert levels == [
        (["r1", "r0"], [(1.0, 1.0), (0.0, 1.0), (0.0, 1.0)]),
        (["r1", "i0"], [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]),
        (["i1", "i0"], [(0.0, 0.0), (1.0, 0.0), (1.0, 0.0)]),
        (["r1", "c0"], [(1.0, 0.0), (1.0, 0.0), (1.0, 0.0)]),
        (["c1", "c0"], [(0.0, 0.0), (0.0, 1.0), (0.0, 1.0)]),
    ]
    # Plain attention is the same whatever the scores: asked once.
    assert [kind for kind, _ in recorder.asked[0][1]] == ["NoneType", "IFA", "IFA", "HardMask"]
    assert len(found.cells) == 5 * 2 * 3


def test_study_of_the_phantom(sweep):
    """Every level of both kinds of noise; off is the same whatever the scores."""
    asked = [question(number) for number in range(6)]
    contestants = [
        Contestant(OFF, "true", None),
        Contestant(OFF, "mcr", None),
        Contestant("ifa", "true", IFA(strength=2.0, layers=(0, 1, 2, 3))),
        Contestant("hard-mask", "true", HardMask()),
    ]
    done: list[tuple[int, int]] = []
    found = run_noise(
        sweep, asked, contestants, layers=[1], advance=lambda *step: done.append(step)
    )
    assert len(found.cells) == 4 * 2 * 3
    assert done[-1] == (6, 6)
    at = found.half
    for hostile in (False, True):
        shares = {
            name: found.attention((name, "true", hostile, at), "noise_attention")[0]
            for name in (OFF, "ifa", "hard-mask")
        }
        assert shares["hard-mask"] == 0.0
        assert shares["ifa"] < shares[OFF] - 0.05
        assert found.attention((OFF, "true", hostile, 0), "everywhere")[0] == 0.0
        assert found.attention((OFF, "true", hostile, 2), "everywhere")[0] == pytest.approx(1.0)
        off = [found.cells[OFF, kind, hostile, at].right for kind in ("true", "mcr")]
        np.testing.assert_array_equal(*off)


def test_odd_numbers_and_a_missing_baseline_are_refused(sweep):
    one = question(count=1)
    with pytest.raises(InputError, match="even"):
        run_noise(sweep, [one], [Contestant(OFF, "true", None)], layers=[1])
    with pytest.raises(InputError, match="plain attention"):
        run_noise(sweep, [question()], [Contestant("ifa", "true", IFA())], layers=[1])


# ---- tuning


def test_layer_sets_of_a_small_and_a_deep_model():
    assert each_part(4, [1]) == [(1,), (0, 1, 2, 3), (0,), (2,), (3,)]
    deep = each_part(32, [9, 8])
    assert deep[0] == (8, 9)
    assert deep[1] == tuple(range(32))
    assert sorted(layer for part in deep[2:] for layer in part) == list(range(32))


@pytest.mark.slow
def test_every_policy_has_the_same_budget_and_the_best_setting_wins(sweep):
    asked = [question(number) for number in range(4)]
    names = [OFF, *POLICIES]
    tuned = tune(sweep, asked, names, ("mcr",))
    assert [(t.setting.policy, t.setting.scores) for t in tuned] == [
        (name, "mcr") for name in names
    ]
    assert {len(t.tries) for t in tuned if t.setting.policy != OFF} == {15}
    assert all(t.setting.formula is None for t in tuned if t.setting.policy == OFF)
    for item in tuned[1:3]:
        policy = POLICIES[item.setting.policy]().attention_only()
        assert getattr(item.setting.formula, policy.tuned) in policy.three_values
        requests_ = [q.request(1) for q in asked]
        lambdas = [q.lambdas(item.setting.scores, 1) for q in asked]
        variants = [
            Variant(policy.at(value, layers), lambdas)
            for value in policy.three_values
            for layers in each_part(sweep.depth, sweep.engine.loaded.critical_layers)
        ]
        found = sweep.ask(requests_, [q.image for q in asked], variants)
        right = [
            np.mean([v == q.truth for v, q in zip(r.verdicts, asked, strict=True)]) for r in found
        ]
        assert item.accuracy == max(right)


Setting = tuple[float, tuple[int, ...], tuple[float, ...]]
"""Strength, layers, and lambdas of the first question."""


class Oracle:
    """Stands for a sweep of two layers, over questions whose truth is no.

    How sure each setting is of that is written down; some say yes all the same.
    """

    depth = 2
    engine = SimpleNamespace(loaded=SimpleNamespace(critical_layers=(1,)))

    def __init__(self, sure: dict[Setting, float], wrong: set[Setting]) -> None:
        self.sure, self.wrong = sure, wrong
        self.noise: set[int] = set()

    def ask(self, requests, images, variants):
        for request in requests:
            self.noise.add(sum(d.document_id.startswith("i") for d in request.documents))
        found = []
        for variant in variants:
            policy = variant.policy
            key = () if policy is None else (policy.strength, policy.layers, variant.lambdas[0])
            p_no = np.full(len(requests), self.sure.get(key, 0.5))
            verdicts = ("yes" if key in self.wrong else "no",) * len(requests)
            found.append(Readings(verdicts, 1 - p_no, p_no, np.ones((len(requests), 2, 4, 2))))
        return found


def test_tuning_is_at_half_noise_and_equals_are_decided_by_the_truths_probability():
    poor = (PromptDocument("r0", "", 0.1), PromptDocument("r1", "", 0.1))  # MCR prefers the noise
    asked = [question(n, order=(0, 1), truth="no", relevant=poor) for n in (0, 2)]
    true, mcr = (asked[0].lambdas(kind, 1) for kind in ("true", "mcr"))
    assert (true, mcr) == ((0.0, 1.0), (1.0, 0.0))
    wrong = (1.0, (0, 1), true)
    sure = {(2.0, (0,), true): 0.9, (0.5, (0, 1), mcr): 0.8, (1.0, (1,), true): 0.1, wrong: 0.99}
    oracle = Oracle(sure, {wrong})  # accuracy comes first
    tuned = tune(oracle, asked, (OFF, "ifa"), ("true", "mcr"))
    assert oracle.noise == {1}
    assert {(t.setting.policy, t.setting.scores): t.setting.formula for t in tuned} == {
        (OFF, "true"): None,
        ("ifa", "true"): IFA(strength=2.0, layers=(0,)),
        (OFF, "mcr"): None,
        ("ifa", "mcr"): IFA(strength=0.5, layers=(0, 1)),
    }
    assert {t.accuracy for t in tuned} == {1.0}
