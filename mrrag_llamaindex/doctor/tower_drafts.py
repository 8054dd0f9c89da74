"""Towers without memory: what each kind would become, from settings and headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from mrrag_llamaindex.doctor.diagnosis import Check
from mrrag_llamaindex.errors import TowerError
from mrrag_llamaindex.files.hub import find_folder
from mrrag_llamaindex.files.json_files import check_json_files, read_json
from mrrag_llamaindex.generation.checkpoints.weight_files import WeightFiles, survey_weights
from mrrag_llamaindex.towers.folders import TOWER_FILE, WAYS_ON, read_tokenizer, reading
from mrrag_llamaindex.towers.image_preparation import ImagePreparation
from mrrag_llamaindex.towers.open_clip.clip import ClipLayout
from mrrag_llamaindex.towers.open_clip.folder import OpenClipFolder
from mrrag_llamaindex.towers.open_clip.library import LibraryLayout, kind_of_open_clip
from mrrag_llamaindex.towers.open_clip.names import WEIGHTS
from mrrag_llamaindex.towers.open_clip.vit_bert import VitBertLayout
from mrrag_llamaindex.towers.text_windows import token_limit

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Draft:
    """What towers would be.

    Attributes
    ----------
    kind : str
    dimension : int
        n, of the common space.
    pair_numbers : int
        That a store keeps for a pair.
    image_size : tuple of int or None
        Height and width that the image encoder reads; None where it depends on the image.
    tokens : int
        That the text encoder reads at once.
    long_text : str
    parameters : mapping of str to int
        By part.
    stored_bytes : int
        Of the weight files that are here.
    checks : tuple of Check
    """

    kind: str
    dimension: int
    pair_numbers: int
    image_size: tuple[int, int] | None
    tokens: int
    long_text: str
    parameters: Mapping[str, int]
    stored_bytes: int
    checks: tuple[Check, ...]


def draft_open_clip(folder: Path, source: str) -> Draft:
    """Draft towers in the layout of open_clip."""
    with reading("towers in the layout of open_clip", source):
        stored = OpenClipFolder.read(folder)
        tokenizer = read_tokenizer(folder)
        kind = "open-clip"
        check = Check("tensors", "ok", "every stored tensor has its place in the model")
        who = kind_of_open_clip(stored)
        if who == "clip":
            config = ClipLayout.of(stored).config
            kind = "clip"
            size, dimension = config["vision_config"]["image_size"], config["projection_dim"]
            tokens = config["text_config"]["max_position_embeddings"]
        elif who == "vit-bert":
            layout = VitBertLayout.of(stored)
            size, dimension = layout.image_config["image_size"], layout.dimension
            tokens = layout.tokens
        else:
            own = LibraryLayout.of(stored)
            size, dimension, tokens = own.image_size, own.dimension, own.tokens
            text = f"of {own.trunk}, built by open_clip (extra open-clip), not compared with it"
            check = Check("tensors", "note", text)
    return Draft(
        kind,
        dimension,
        2 * dimension,
        (size, size),
        min(tokens, int(tokenizer.model_max_length)),
        "mean",
        _counted(
            stored.shapes,
            {"image": ("visual.",), "text": ("text", "token_", "transformer.", "ln_final.")},
        ),
        (folder / WEIGHTS).stat().st_size,
        (check,),
    )


def draft_dual(folder: Path, source: str) -> Draft:
    """Draft a dual encoder of transformers."""
    import transformers

    auto: Any = transformers.AutoModel  # without annotations in the library
    with reading("a dual encoder with its tokenizer and image processor", source):
        check_json_files(folder)
        config = transformers.AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
        with torch.device("meta"):
            model = auto.from_config(config, trust_remote_code=False).eval()
        for method in ("get_image_features", "get_text_features"):
            if not hasattr(model, method):
                raise TowerError(f"a model of type {config.model_type!r} has no {method}")
        tokenizer = read_tokenizer(folder)
        images = ImagePreparation.load(folder)
        tokens = token_limit(config, tokenizer)
        ids = torch.ones(1, min(8, tokens), dtype=torch.int64, device="meta")
        with torch.no_grad():
            output = model.get_text_features(input_ids=ids)
        dimension = int(getattr(output, "pooler_output", output).shape[-1])
        pixels = images([Image.new("RGB", (600, 500))])["pixel_values"]
    files = survey_weights(folder)
    height, width = pixels.shape[-2:]
    return Draft(
        str(config.model_type),
        dimension,
        2 * dimension,
        (int(height), int(width)) if pixels.ndim == 4 else None,
        tokens,
        "mean",
        _counted(
            {name: tuple(value.shape) for name, value in model.named_parameters()},
            {"image": ("vision", "visual"), "text": ("text",)},
        ),
        files.nbytes,
        tuple(_of_files(files, source, _missing(model, files))),
    )


def draft_resnet_bert(folder: Path, data: Mapping[str, Any]) -> Draft:
    """Draft whole towers that were trained here."""
    files = survey_weights(folder)
    shapes = {name: tensor.shape for name, tensor in files.tensors.items()}
    return Draft(
        "resnet-bert",
        int(data["dimension"]),
        2 * int(data["dimension"]),
        _square(data["images"]),
        int(data["texts"]["limit"]),
        str(data["texts"]["long_text"]),
        _counted(shapes, {"image": ("image_",), "text": ("text_",)}),
        files.nbytes,
        tuple(_of_files(files, str(folder))),
    )


def draft_frozen(folder: Path, data: Mapping[str, Any]) -> Draft:
    """Draft heads on frozen encoders, which may lie elsewhere."""
    from mrrag_llamaindex.files.safetensors_header import read_header
    from mrrag_llamaindex.towers.projection_head import empty_head

    heads = folder / "heads.safetensors"
    with reading("heads", str(folder)):
        shapes = {entry.key: entry.shape for entry in read_header(heads)}
    image, text = data["image_backbone"], data["text_backbone"]
    parameters = {"heads": sum(_counted(shapes, {}).values())}
    size = heads.stat().st_size
    checks: list[Check] = []
    for part, reference in (("image", image), ("text", text)):
        files, found = _backbone(folder, part, reference)
        checks += found
        size += files.nbytes
        stored = {name: tensor.shape for name, tensor in files.tensors.items()}
        parameters[part] = sum(_counted(stored, {}).values())
    dimension = empty_head(data["image_head"]).dimension
    raw = data.get("raw")
    numbers = 2 * dimension + (raw["image"]["length"] + raw["text"]["length"] if raw else 0)
    texts = text.get("texts", {})
    return Draft(
        "frozen",
        dimension,
        numbers,
        _square(image.get("images", {})),
        int(texts.get("limit", 0)),
        str(texts.get("long_text", "mean")),
        parameters,
        size,
        tuple(checks),
    )


def read_own(folder: Path) -> Mapping[str, Any]:
    """Read ``tower.json``."""
    with reading("towers", str(folder)):
        data: Mapping[str, Any] = read_json(folder / TOWER_FILE)
    return data


def _backbone(
    folder: Path, part: str, reference: Mapping[str, Any]
) -> tuple[WeightFiles, list[Check]]:
    what, source = f"{part} encoder", str(reference.get("source", ""))
    if reference.get("type") == "torchxrayvision":
        text = f"{source}: read by torchxrayvision (extra xray), not looked into, not counted"
        return WeightFiles(), [Check(what, "note", text)]
    if reference.get("type") != "transformers":
        text = f"of type {reference.get('type')!r}, which is not read here"
        return WeightFiles(), [Check(what, "problem", text)]
    try:
        place = (
            folder / source
            if source.startswith("./")
            else find_folder(source, what=what, ways_on=WAYS_ON, error=TowerError, weights=False)
        )
    except TowerError as error:
        return WeightFiles(), [Check(what, "problem", str(error))]
    files = survey_weights(place)
    return files, [
        Check(f"{what}, {one.what}", one.state, f"{source}: {one.text}")
        for one in _of_files(files, source if source[:2] != "./" else str(place))
    ]


def _of_files(files: WeightFiles, source: str, missing: Iterable[str] = ()) -> list[Check]:
    faults = [*files.problems, *(f"{name} is not in the folder" for name in files.absent)]
    if not files.sizes and not faults:
        if Path(source).expanduser().is_dir():
            return [Check("weights", "problem", "the folder holds none; download it completely")]
        return [Check("weights", "note", "yet to be downloaded, and not looked into")]
    absent = sorted(missing)
    if absent and not files.pickled and not faults:
        faults.append(f"{len(absent)} tensors are missing or misshaped, {absent[0]!r} first")
    if faults:
        return [Check("weights", "problem", fault) for fault in faults]
    said = "not looked into" if files.pickled else "as long as their headers say"
    return [Check("weights", "ok", f"{len(files.sizes)} file(s), {said}")]


def _missing(model: Any, files: WeightFiles) -> list[str]:
    """Let transformers match what is stored with the model, on the meta device."""
    if files.pickled or not files.tensors:
        return []
    _, report = type(model).from_pretrained(
        None,
        config=model.config,
        state_dict={
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
            for name, tensor in files.tensors.items()
        },
        device_map={"": "meta"},
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    misshaped = [str(one) for one in report.get("mismatched_keys", ())]
    return [*map(str, report["missing_keys"]), *misshaped]


def _square(images: Mapping[str, Any]) -> tuple[int, int] | None:
    cropped = images.get("crop_size") if images.get("do_center_crop") else None
    size = cropped or images.get("size") or {}
    side = size.get("shortest_edge")
    height, width = size.get("height", side), size.get("width", side)
    return None if height is None or width is None else (int(height), int(width))


def _counted(shapes: Shapes, parts: Mapping[str, tuple[str, ...]]) -> dict[str, int]:
    """Numbers by part, by the beginning of the names; "other" for the rest."""
    counts = dict.fromkeys((*parts, "other"), 0)
    for name, shape in shapes.items():
        part = next((key for key, starts in parts.items() if name.startswith(starts)), "other")
        counts[part] += torch.Size(shape).numel()
    return counts
