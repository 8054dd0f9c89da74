"""Sets of questions about images in one file for each part: SLAKE, PathVQA, PMC-VQA, OmniMedVQA.

As with VQA-RAD, there are no reports: what is retrieved are the training questions with their
answers, and everything about an image (or, where it can be told, about its case) is kept from its
own evidence.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from string import ascii_uppercase
from typing import Any

from mrrag_llamaindex.errors import InputError
from mrrag_llamaindex.evaluation.data.data_set import (
    MISSING_IMAGE,
    NEITHER,
    NO_OPTION,
    NO_OWNER,
    OTHER_LANGUAGE,
    UNREADABLE,
    Asked,
    EvaluationSet,
    Problem,
    labelled,
    yes_or_no,
)
from mrrag_llamaindex.evaluation.data.readers.files import (
    QUESTION_FILE,
    Images,
    PathLike,
    check_root,
    unique_rows,
)
from mrrag_llamaindex.evaluation.data.readers.table import read_evidence
from mrrag_llamaindex.mcr.vote import normal_answer
from mrrag_llamaindex.store.ingest.question_table import GoldQuestion
from mrrag_llamaindex.store.pair import Pair

Options = tuple[str, ...]


@dataclass(frozen=True)
class Fields:
    """What a row of a question file holds; `problem` and why, if it cannot be asked."""

    image: object
    question: object
    answer: object
    options: Options = ()
    problem: tuple[str, str] | None = None


@dataclass(frozen=True)
class VqaLayout:
    """One such data set on disk.

    Parameters
    ----------
    name : str
    questions, training : tuple of str
        Files below the root, in this order; a ``*`` stands for anything. Of `questions` all files
        of the first name that fits are read, of `training` likewise; there may be none.
    images : tuple of str
        Folders looked into below the root, in this order.
    id_field : str
        Of the row's own id; empty: it has none.
    fields : callable
        From a row to `Fields`.
    owner : callable
        From the image's name to whom it shows, as far as the name tells.
    """

    name: str
    questions: tuple[str, ...]
    training: tuple[str, ...]
    images: tuple[str, ...]
    id_field: str
    fields: Callable[[Mapping[str, Any]], Fields]
    owner: Callable[[str], str]


def read_vqa(
    layout: VqaLayout,
    root: PathLike,
    *,
    questions: PathLike | None = None,
    reports: PathLike | None = None,
    images: PathLike | None = None,
    rule: str = "leading",
    answers_only: bool = False,
    asked: Asked | None = None,
) -> EvaluationSet:
    """Read one of these data sets.

    Parameters
    ----------
    layout : VqaLayout
    root, questions, images, rule, answers_only, asked
        See `questions.read_layout`.
    reports
        A table of pairs, as ``mrrag ingest`` takes it; by default the pairs are those of the
        training questions, where their files are there.

    Raises
    ------
    InputError
        See `questions.read_layout`.
    """
    folder = check_root(root)
    asked = asked or yes_or_no(rule)
    sources = [Path(questions)] if questions else _found(folder, layout.questions)
    if not sources:
        raise InputError(
            f"no question file below {folder.name!r}; looked for {', '.join(layout.questions)}. "
            f"Name yours with {QUESTION_FILE}"
        )
    image_files = None if answers_only else Images.below(folder, images, layout.images)
    pairs, problems = read_evidence(reports, images)
    if image_files and reports is None:
        training = [path for path in _found(folder, layout.training) if path not in sources]
        known, problems, texts = _read(layout, training, image_files)
        pairs = [_pair(item, texts.get(item.question_id, ())) for item in known]
    kept, more, options = _read(layout, sources, image_files)
    choice = asked.task == "choice"
    return labelled(
        *(layout.name, kept, pairs, [*problems, *more]),
        asked=asked,
        file=sources[0].name if len(sources) == 1 else "questions",
        answers_only=answers_only,
        options=options if choice else None,
    )


def with_options(question: str, options: Options) -> str:
    """Return a question with its options, one a line.

    Examples
    --------
    >>> print(with_options("Which organ?", ("liver", "lung")))
    Which organ?
    A. liver
    B. lung
    """
    lines = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, options, strict=False)]
    return "\n".join([question.strip(), *lines])


def _found(root: Path, names: tuple[str, ...]) -> list[Path]:
    for name in names:
        if found := sorted(path for path in root.glob(name) if path.is_file()):
            return found
    return []


def _read(
    layout: VqaLayout, sources: list[Path], images: Images | None
) -> tuple[list[GoldQuestion], list[Problem], dict[str, Options]]:
    problems: list[Problem] = []
    options: dict[str, Options] = {}
    kept: dict[str, GoldQuestion] = {}

    def parse(row: dict[str, Any], name: str, where: str) -> GoldQuestion | Problem:
        fields = layout.fields(row)
        item = _question(layout, fields, name, where, images)
        if isinstance(item, GoldQuestion) and fields.options and name not in options:
            options[name] = fields.options
        return item

    for source in sources:
        for _, _, item in unique_rows(source, layout.id_field, parse, problems, set(kept)):
            kept[item.question_id] = item
    return list(kept.values()), problems, options


def _question(
    layout: VqaLayout, fields: Fields, name: str, where: str, images: Images | None
) -> GoldQuestion | Problem:
    if fields.problem is not None:
        return Problem(fields.problem[0], where, fields.problem[1])
    question, answer, path = fields.question, fields.answer, fields.image
    if not isinstance(question, str) or not question.strip():
        return Problem(UNREADABLE, where, "it has no question")
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        answer = str(answer)
    if not isinstance(answer, str) or not answer.strip():
        return Problem(NEITHER, where, "the answer is not text")
    inside = _inside(path)
    if inside is None:
        return Problem(MISSING_IMAGE, where, "it names no image below the image folder")
    image = inside if images is None else images.find(inside)
    if image is None:
        return Problem(MISSING_IMAGE, where, "its image is not where it should be")
    owner = layout.owner(inside)
    if not owner:
        return Problem(NO_OWNER, where, "its image does not tell what it belongs to")
    text = with_options(question, fields.options)
    return GoldQuestion(name, image, text, answer.strip(), patient_id=owner)


def _inside(path: object) -> str | None:
    """Return a relative path that stays inside its folder, else None."""
    if not isinstance(path, str) or not path.strip():
        return None
    pure = PurePosixPath(path.strip().replace("\\", "/"))
    return None if pure.is_absolute() or ".." in pure.parts else str(pure)


def _pair(item: GoldQuestion, options: Options) -> Pair:
    """Return a training question as a pair: its statement, and the answer in its metadata."""
    question, answer = item.question, item.answer
    if options:
        question = question.splitlines()[0]
        answer = options[ascii_uppercase.index(answer)] if answer in ascii_uppercase else answer
    statement = f"{question} {answer}"
    return Pair(
        item.image, statement, f"train-{item.question_id}", item.patient_id, {"answer": answer}
    )


# ---- the data sets


def _slake(row: Mapping[str, Any]) -> Fields:
    other = row.get("q_lang", "en") != "en"
    problem = (OTHER_LANGUAGE, "only English questions are asked") if other else None
    return Fields(row.get("img_name"), row.get("question"), row.get("answer"), problem=problem)


def _path_vqa(row: Mapping[str, Any]) -> Fields:
    image = row.get("image")
    if isinstance(image, str) and not PurePosixPath(image).suffix:
        image = f"{image}.jpg"
    if isinstance(image, str) and "/" not in image and "_" in image:
        image = f"{image.partition('_')[0]}/{image}"  # images/train/train_0001.jpg
    return Fields(image, row.get("question"), row.get("answer"))


def _pmc_vqa(row: Mapping[str, Any]) -> Fields:
    given = [row.get(f"Choice {letter}") for letter in "ABCD"]
    label = row.get("Answer_label") or row.get("Answer")
    return _choice(row.get("Figure_path"), row.get("Question"), given, label)


def _omnimedvqa(row: Mapping[str, Any]) -> Fields:
    given = [row.get(f"option_{letter}") for letter in "ABCD"]
    return _choice(row.get("image_path"), row.get("question"), given, row.get("gt_answer"))


def _choice(image: object, question: object, given: list[object], answer: object) -> Fields:
    """Return the fields of a row with options; the answer is a letter or the text of an option."""
    texts = [re.sub(r"^\s*[A-D]\s*[:.)]\s*", "", item).strip() for item in _texts(given)]
    if len(texts) < 2:
        reason = "it has fewer than two options"
        return Fields(image, question, answer, problem=(NO_OPTION, reason))
    if isinstance(answer, str) and answer.strip().upper() not in list(
        ascii_uppercase[: len(texts)]
    ):
        plain = [normal_answer(text) for text in texts]
        said = normal_answer(re.sub(r"^\s*[A-D]\s*[:.)]\s*", "", answer))
        if plain.count(said) != 1:
            reason = "its answer is none of its options, or several"
            return Fields(image, question, answer, problem=(NO_OPTION, reason))
        answer = ascii_uppercase[plain.index(said)]
    letter = answer.strip().upper() if isinstance(answer, str) else answer
    return Fields(image, question, letter, tuple(texts))


def _texts(given: list[object]) -> list[str]:
    """Return the options up to the first that is not there."""
    texts: list[str] = []
    for item in given:
        if not isinstance(item, str) or not item.strip():
            break
        texts.append(item)
    return texts


SLAKE = VqaLayout(
    "slake",
    ("test.json",),
    ("train.json",),
    ("imgs", "."),
    "qid",
    _slake,
    lambda image: image.partition("/")[0],  # xmlab102/source.jpg
)

PATH_VQA = VqaLayout(
    "path-vqa",
    ("qas/test/test_qa.json", "qas/test/test_qa.jsonl", "test_qa.json", "test.jsonl"),
    ("qas/train/train_qa.json", "qas/train/train_qa.jsonl", "train_qa.json", "train.jsonl"),
    ("images", "."),
    "",
    _path_vqa,
    lambda image: PurePosixPath(image).stem,
)

PMC_VQA = VqaLayout(
    "pmc-vqa",
    ("test_clean.csv", "test.csv", "test_2.csv"),
    ("train.csv", "train_2.csv"),
    ("images", "figures", "."),
    "",
    _pmc_vqa,
    lambda image: PurePosixPath(image).name.partition("_")[0],  # PMC1064097_F1.jpg: its article
)

OMNIMEDVQA = VqaLayout(
    "omnimedvqa",
    ("QA_information/Open-access/*.json", "*.json"),
    (),
    (".",),
    "question_id",
    _omnimedvqa,
    lambda image: image,
)
