"""Save a FrozenTower with real pretrained encoders, its heads fitted on covid-cxr.

    python tests/benchmarks/make_covid_tower.py FOLDER --leave-out 17 --seed 0

FOLDER stands alone afterwards and serves as ``--towers``:

    mrrag ingest metadata.csv --images images --store STORE --towers FOLDER \\
        --columns pair_id=filename,image=filename,report=clinical_notes,patient_id=patientid

Encoders: MobileNetV2 (ImageNet) and all-MiniLM-L6-v2, see ``tests/real_towers.py``. They have
never seen a radiograph, and 200 pairs are few: good for trying the whole path on real input, not
for reading films.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mrrag_llamaindex.towers.kinds.frozen import FrozenTower
from tests import real_towers
from tests.benchmarks.covid_data import CovidData
from tests.head_fitting import HeadTraining


def make(data: Path, left_out: list[str], seed: int) -> FrozenTower:
    """Build the towers; the patients in ``left_out`` do not enter the fit."""
    covid = CovidData.read(data)
    unknown = set(left_out) - set(covid.patients)
    if unknown:
        raise SystemExit(f"no such patient in {data}: {', '.join(sorted(unknown))}")
    image, text = real_towers.image_backbone(), real_towers.text_backbone()
    heads = covid.fit_without(
        set(left_out),
        covid.image_features(image),
        covid.text_features(text),
        HeadTraining(seed=seed),
    )
    return FrozenTower(image, text, heads)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=real_towers.covid_folder())
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="PATIENT")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if missing := real_towers.missing_weights():
        raise SystemExit(missing)
    if not (options.data / "metadata.csv").is_file():
        raise SystemExit(f"no covid-cxr data in {options.data}; set MRRAG_COVID_CXR")
    tower = make(options.data, options.leave_out, options.seed)
    tower.save(options.folder, copy_backbones=True)
    print(f"{tower.identity} saved in {tower.source}")
    print(json.dumps({"left_out": options.leave_out, "seed": options.seed, **tower.record}))


if __name__ == "__main__":
    main()
