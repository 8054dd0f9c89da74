"""Train the shipped weights from scratch, from a checkout of the repository.

``python -m tools.phantom_training.train --out DIR`` writes ``DIR/llava`` and ``DIR/towers``, in the
layout of ``mrrag_llamaindex/phantom/weights``; about half an hour on two idle cores. The result
depends on the seed, and in its last digits on the torch release and the processor.
``python -m mrrag_llamaindex.phantom.sets.check`` measures the shipped ones. ``--scale 0.01`` runs
every step of the way in a minute or two, for whoever changes the training; such weights know
nothing.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tools.phantom_training.critical_layers import best_layers
from tools.phantom_training.model import save_llava
from tools.phantom_training.train_llava import scaled, train_llava
from tools.phantom_training.train_towers import PATIENTS, READING_STEPS, STEPS, train_towers


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Train the synthetic towers and generator from scratch."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets llava/ and towers/")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["llava", "towers"], help="train one of the two")
    parser.add_argument("--scale", type=float, default=1.0, help="share of steps and patients")
    options = parser.parse_args()
    seed, scale = options.seed, options.scale
    if seed < 0 or not 0 < scale <= 1:
        parser.error("the seed must not be negative, and the scale above 0 and at most 1")
    if options.only != "towers":
        folder = options.out / "llava"
        model = train_llava(seed, scale=scale, log=_log)
        save_llava(model, folder, critical_layers=[0], note="not yet found")
        if scale == 1:  # a model that answers nothing right has no layers to find
            layers, note = best_layers(str(folder), seed=seed)
            _log(note)
            save_llava(model, folder, critical_layers=layers, note=note)
    if options.only != "llava":
        steps = scaled(READING_STEPS, scale), scaled(STEPS, scale)
        towers = train_towers(seed, steps=steps, patients=scaled(PATIENTS, scale), log=_log)
        towers.save(options.out / "towers")


if __name__ == "__main__":
    main()
