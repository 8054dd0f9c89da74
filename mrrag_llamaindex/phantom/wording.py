"""Words of synthetic reports and questions: templates, and the closed vocabulary behind them.

The polarity of a finding always stands before its name ("no ... effusion", "shows ... edema",
"... or pneumothorax", "... and edema"). That is a simplification which lets a model of under
a million parameters learn to read within minutes; real reports are not like this.
"""

from __future__ import annotations

import numpy as np

from mrrag_llamaindex.phantom.findings import FINDINGS

ABSENT_WORDS = ("no", "without", "negative", "or")
"""Words that say "absent" of the finding that follows."""

PRESENT_WORDS = ("is", "shows", "demonstrates", "positive", "and")
"""Words that say "present" of the finding that follows."""

ADJECTIVES = ("small", "mild", "moderate", "subtle", "new", "stable", "left", "right", "focal")

_FILLER = """
a an any the this that these there here it its s of for in on at to by from as are be
was were been has have had does do did can could you we i me tell see seen show please
evidence sign signs image images radiograph film study view x ray xray chest scan
frontal portable single exam examination patient patients report reports finding findings
impression comparison lung lungs pleural pulmonary rib heart base apex side present
visible detected large acute chronic definite suspected query question answer
"""

FILLER_WORDS = frozenset((*ADJECTIVES, *_FILLER.split()))
"""Words that the phantom's tokenizer drops: they carry no information in this synthetic world."""

_ABSENT = (
    "No {name}.",
    "There is no {name}.",
    "No evidence of {name}.",
    "No sign of {adjective} {name}.",
    "Negative for {name}.",
    "The lungs are without {name}.",
)
_PRESENT = (
    "There is {noun}.",
    "There is {article} {adjective} {name}.",
    "The image shows {noun}.",
    "The film demonstrates {noun}.",
    "Positive for {name}.",
    "The study shows {article} {adjective} {name}.",
)
_OPENINGS = ("", "", "Chest radiograph.", "Frontal view.", "Portable chest x-ray.", "Findings:")
_QUESTIONS = (
    "Is there {noun}?",
    "Is there any {name}?",
    "Does the image show {noun}?",
    "Do you see {noun}?",
    "Is there evidence of {name}?",
    "Can you see {noun} in this image?",
)


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def _sentence(rng: np.random.Generator, group: list[int], present: bool) -> str:
    finding = FINDINGS[group[0]]
    text = _choice(rng, _PRESENT if present else _ABSENT).format(
        name=finding.name,
        noun=finding.noun,
        article="a" if finding.article else "",
        adjective=_choice(rng, ADJECTIVES),
    )
    text = " ".join(text.split())
    for index in group[1:]:
        joined = f" and {FINDINGS[index].noun}" if present else f" or {FINDINGS[index].name}"
        text = text[:-1] + joined + "."
    return text


def write_report(rng: np.random.Generator, findings: tuple[bool, ...], mentioned: list[int]) -> str:
    """Write the synthetic report that mentions the given findings, in a random order.

    Parameters
    ----------
    rng : numpy.random.Generator
        Source of the wording.
    findings : tuple of bool
        Truth, one per entry of `FINDINGS`.
    mentioned : list of int
        Indices into `FINDINGS`.

    Returns
    -------
    str
        English sentences; neighbours of equal polarity are sometimes joined by "or" / "and".
    """
    order = [int(i) for i in rng.permutation(mentioned)]
    groups: list[list[int]] = []
    for index in order:
        if groups and findings[groups[-1][0]] == findings[index] and rng.random() < 0.35:
            groups[-1].append(index)
        else:
            groups.append([index])
    sentences = [_choice(rng, _OPENINGS)] + [_sentence(rng, g, findings[g[0]]) for g in groups]
    return " ".join(s for s in sentences if s)


def write_question(rng: np.random.Generator | None, finding: int) -> str:
    """Write the yes/no question about a finding; without a generator, the plain "Is there"."""
    template = _QUESTIONS[0] if rng is None else _choice(rng, _QUESTIONS)
    return template.format(name=FINDINGS[finding].name, noun=FINDINGS[finding].noun)
