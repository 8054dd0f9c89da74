"""Save two frozen encoders with real pretrained weights as folders, without a network.

    python tests/benchmarks/make_encoders.py FOLDER
    mrrag eval --data vqa-rad --root VQA-RAD \\
        --image-encoder FOLDER/mobilenet-v2 --text-encoder FOLDER/all-minilm-l6-v2

MobileNetV2 (ImageNet) and all-MiniLM-L6-v2, see ``tests/real_towers.py``. The second is what
``mrrag eval --data vqa-rad`` takes by default from the hub; the first has the architecture of its
default, and other weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests import real_towers

NAMES = ("mobilenet-v2", "all-minilm-l6-v2")


def make(folder: Path) -> tuple[Path, Path]:
    """Write both; returns their folders."""
    image, text = (folder / name for name in NAMES)
    for path, backbone in (
        (image, real_towers.image_backbone()),
        (text, real_towers.text_backbone()),
    ):
        path.mkdir(parents=True, exist_ok=True)
        backbone.save(path)
    return image, text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    if missing := real_towers.missing_weights():
        raise SystemExit(missing)
    for path in make(options.folder):
        print(path)


if __name__ == "__main__":
    main()
