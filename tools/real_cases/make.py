r"""Make the real cases that are shipped: a part of VQA-RAD at most 3 MB large.

    python tests/benchmarks/make_encoders.py ENCODERS
    python tools/real_cases/make.py VQA-RAD --image-encoder ENCODERS/mobilenet-v2 \
        --text-encoder ENCODERS/all-minilm-l6-v2

Images are drawn by the seed, as many of each part of the body as in the whole set, and made
smaller. Vectors are the encoders' features, centred and reduced to 128 numbers (PCA of all training
features). The weights of the two terms, the temperature and the number of pairs are chosen on all
training questions, not on the shipped ones alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from mrrag_llamaindex.evaluation.data.readers.vqa_rad import read_all_questions, statement
from mrrag_llamaindex.evaluation.votes.choice import choose, tried_weights
from mrrag_llamaindex.evaluation.votes.features import Features, centred, encode
from mrrag_llamaindex.evaluation.votes.shipped import CASES, SETTING, VECTORS, text_key
from mrrag_llamaindex.evaluation.votes.tables import RAW_TERMS, vote_tables
from mrrag_llamaindex.towers.backbones.image import TransformersImageBackbone
from mrrag_llamaindex.towers.backbones.text import TransformersTextBackbone

DIMENSION = 128
SIDE = 320
MOST_BYTES = 3_000_000
ATTRIBUTION = """# Where these files come from

`images/` and `trainset.json`, `testset.json` are a part of **VQA-RAD**: J. J. Lau, S. Gayen,
A. Ben Abacha, D. Demner-Fushman, *A dataset of clinically generated visual questions and answers
about radiology images*, Scientific Data 5, 180251 (2018), doi:10.1038/sdata.2018.251; published
under CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/). The images are from MedPix.

- `images/*.jpg`: {images} of the 315 images under their own names, reduced to {side} pixels and
  encoded anew.
- `trainset.json`, `testset.json`: all {questions} questions about these images, in both parts of
  the official split, as they are.
- `vectors.safetensors`: features of images and texts by {encoders}, centred and reduced to
  {dimension} numbers; `setting.json`: weights chosen on all of VQA-RAD's training questions. Both
  were made by `tools/real_cases/make.py` (seed {seed}).

Not for diagnosis: teaching cases, with answers by clinicians who saw one image each.
"""


def drawn(rows: list[dict[str, str]], count: int, seed: int) -> list[str]:
    """Names of images, as many of each organ as in the whole set."""
    organs = {row["image_name"]: row["image_organ"] for row in rows}
    share = Counter(organs.values())
    rng = np.random.default_rng(seed)
    names: list[str] = []
    for organ, number in sorted(share.items()):
        own = sorted(name for name, other in organs.items() if other == organ)
        wanted = round(count * number / len(organs))
        names += [own[n] for n in rng.permutation(len(own))[:wanted].tolist()]
    return sorted(names)


def reduced(rows: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Centre and project on the first principal directions of the reference."""
    mean = reference.mean(axis=0)
    directions = np.linalg.svd(reference - mean, full_matrices=False)[2][:DIMENSION]
    return (centred(rows, reference) @ directions.T).astype(np.float16)


def setting(features: Features, seed: int) -> dict[str, object]:
    """Weights of the two terms in their own units, and how many pairs vote."""
    tables = vote_tables(features, seed, heads=False)
    best = choose(tables.closed_training, tried_weights(len(RAW_TERMS)))
    weights = np.array(best.setting.weights) / tables.closed_scales
    size = weights.max()
    names = ("image_image", "text_text")
    return {
        "weights": dict(zip(names, (weights / size).round(4).tolist(), strict=True)),
        "temperature": round(best.setting.temperature / float(size), 4),
        "documents": best.setting.k,
        "training_accuracy": round(best.accuracy, 4),
    }


def main() -> None:
    """Make the files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path)
    parser.add_argument("--image-encoder", required=True)
    parser.add_argument("--text-encoder", required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    files = {name: json.loads((options.root / name).read_bytes()) for name in
             ("trainset.json", "testset.json")}  # fmt: skip
    names = drawn([row for rows in files.values() for row in rows], options.images, options.seed)
    whole = read_all_questions(options.root)
    features = encode(
        *(whole.training, whole.test),
        TransformersImageBackbone.load(options.image_encoder),
        TransformersTextBackbone.load(options.text_encoder),
    )
    shutil.rmtree(CASES, ignore_errors=True)
    (CASES / "images").mkdir(parents=True)
    for name in names:
        with Image.open(options.root / "images" / name) as image:
            small = image.convert("L")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            small.save(CASES / "images" / name, quality=80, optimize=True)
    questions = 0
    for file, rows in files.items():
        kept = [row for row in rows if row["image_name"] in names]
        questions += len(kept)
        (CASES / file).write_text(json.dumps(kept, indent=0) + "\n", encoding="utf-8")
    of_image = {Path(str(item.image)).name: row for item, row in
                zip(features.questions, features.image_of, strict=True)}  # fmt: skip
    count = features.training
    used = np.unique(features.image_of[:count])
    images = reduced(features.images, features.images[used])
    texts: dict[str, np.ndarray] = {}
    queries = centred(features.queries, features.queries[:count])
    statements = centred(features.statements, features.statements)
    both = np.concatenate([queries[:count], statements])
    directions = np.linalg.svd(both, full_matrices=False)[2][:DIMENSION]
    for number, item in enumerate(features.questions):
        if Path(str(item.image)).name in names:
            texts[text_key(item.question)] = queries[number] @ directions.T
            if number < count:
                texts[text_key(statement(item))] = statements[number] @ directions.T
    encoders = f"{Path(options.image_encoder).name} and {Path(options.text_encoder).name}"
    save_file(
        {
            "images": np.stack([images[of_image[name]] for name in names]),
            "texts": np.stack(list(texts.values())).astype(np.float16),
        },
        CASES / VECTORS,
        {"images": json.dumps(names), "texts": json.dumps(list(texts)), "encoders": encoders},
    )
    chosen = setting(features, options.seed)
    (CASES / SETTING).write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    (CASES / "ATTRIBUTION.md").write_text(
        ATTRIBUTION.format(
            images=len(names), side=SIDE, questions=questions, encoders=encoders,
            dimension=DIMENSION, seed=options.seed,
        ),
        encoding="utf-8",
    )  # fmt: skip
    size = sum(path.stat().st_size for path in CASES.rglob("*") if path.is_file())
    print(f"{len(names)} images, {questions} questions, {len(texts)} texts: {size / 1e6:.2f} MB")
    print(json.dumps(chosen))
    if size > MOST_BYTES:
        raise SystemExit(f"more than {MOST_BYTES / 1e6:g} MB: draw fewer images")


if __name__ == "__main__":
    main()
