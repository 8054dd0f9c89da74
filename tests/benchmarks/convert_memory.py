"""Peak memory of opening an original LLaVA checkpoint: converted to a folder, loaded in memory.

    python tests/benchmarks/convert_memory.py --gigabytes 2

A random checkpoint in the original layout (``llava_mistral``; hidden 2048, 16 query and 4 key
heads of 128, as many layers as the size takes, CLIP ViT-L/14-336 dimensions, bfloat16) in shards
of about an eighth of the whole. Every measurement runs in a process of its own; the peak is the
highest resident size (VmHWM, reset just before) minus the size after all imports, beside the bytes
of the weights. Pages of mapped files count as resident here, although the system can take them
back. ``baseline`` reads every tensor of the checkpoint at once and keeps it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from mrrag_llamaindex.generation.checkpoints.conversion.original import convert_checkpoint
from mrrag_llamaindex.generation.checkpoints.llava_original.opening import open_original
from mrrag_llamaindex.steering.attention.model_class import steerable_class

HIDDEN, INTERMEDIATE, VOCABULARY = 2048, 5632, 32000
TOWER = "model.vision_tower.vision_tower.vision_model."


def shapes(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the original layout."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        begin = f"model.layers.{layer}."
        yield begin + "input_layernorm.weight", (HIDDEN,)
        yield begin + "post_attention_layernorm.weight", (HIDDEN,)
        for name, rows in (("q", 2048), ("k", 512), ("v", 512)):
            yield f"{begin}self_attn.{name}_proj.weight", (rows, HIDDEN)
        yield begin + "self_attn.o_proj.weight", (HIDDEN, 2048)
        for name in ("gate", "up"):
            yield f"{begin}mlp.{name}_proj.weight", (INTERMEDIATE, HIDDEN)
        yield begin + "mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)
    for part, width in (("0", 1024), ("2", HIDDEN)):
        yield f"model.mm_projector.{part}.weight", (HIDDEN, width)
        yield f"model.mm_projector.{part}.bias", (HIDDEN,)
    yield TOWER + "embeddings.class_embedding", (1024,)
    yield TOWER + "embeddings.patch_embedding.weight", (1024, 3, 14, 14)
    yield TOWER + "embeddings.position_embedding.weight", (577, 1024)
    norms = ["pre_layrnorm", "post_layernorm"]
    norms += [f"encoder.layers.{n}.layer_norm{k}" for n in range(24) for k in (1, 2)]
    for name, kind in itertools.product(norms, ("weight", "bias")):
        yield f"{TOWER}{name}.{kind}", (1024,)
    for layer in range(24):
        begin = f"{TOWER}encoder.layers.{layer}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{begin}self_attn.{name}.weight", (1024, 1024)
            yield f"{begin}self_attn.{name}.bias", (1024,)
        for name, rows, width in (("fc1", 4096, 1024), ("fc2", 1024, 4096)):
            yield f"{begin}mlp.{name}.weight", (rows, width)
            yield f"{begin}mlp.{name}.bias", (rows,)


def write(folder: Path, gigabytes: float, seed: int) -> tuple[int, int, int]:
    """Write the checkpoint shard by shard; (bytes, layers, files)."""

    def size(layers: int) -> int:
        return sum(2 * torch.Size(shape).numel() for _, shape in shapes(layers))

    layers = max(1, round((gigabytes * 1e9 - size(0)) / (size(1) - size(0))))
    total, index, part, held, number = size(layers), {}, {}, 0, 0
    generator = torch.Generator().manual_seed(seed)

    def flush() -> None:
        nonlocal part, held, number
        number += 1
        save_file(part, folder / f"model-{number:05}-of-99999.safetensors", {"format": "pt"})
        index.update(dict.fromkeys(part, f"model-{number:05}-of-99999.safetensors"))
        part, held = {}, 0

    for name, shape in shapes(layers):
        part[name] = torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)
        held += part[name].nbytes
        if held > total / 8:
            flush()
    flush()
    config = {
        "model_type": "llava_mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "max_position_embeddings": 32768,
        "sliding_window": None,
        "torch_dtype": "bfloat16",
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_hidden_size": 1024,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "pad",
    }
    (folder / "config.json").write_text(json.dumps(config))
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    write_tokenizer(folder)
    return total, layers, number


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of bytes; only its length matters here."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaTokenizer

    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [f"w{number}" for number in range(VOCABULARY - len(names))]
    vocabulary = {name: number for number, name in enumerate(names)}
    tokenizer = LlamaTokenizer(vocab=vocabulary, merges=[], add_bos_token=True)
    tokenizer.save_pretrained(folder)
    assert isinstance(Tokenizer.from_file(str(folder / "tokenizer.json")).model, models.BPE)


def resident(field: str) -> int:
    """Read VmRSS or VmHWM of this process, in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"no {field} in /proc/self/status: memory is measured on Linux only")


def baseline(src: Path, dst: Path) -> Any:
    files = sorted(src.glob("model-*.safetensors"))
    return [{k: v.clone() for k, v in load_file(file).items()} for file in files]


def to_folder(src: Path, dst: Path) -> Any:
    biggest = max(file.stat().st_size for file in src.glob("model-*.safetensors"))
    return convert_checkpoint(src, dst, shard_bytes=biggest)


def in_memory(dtype: torch.dtype | None) -> Callable[[Path, Path], Any]:
    def load(src: Path, dst: Path) -> Any:
        opened = open_original(src)
        model = steerable_class(transformers.LlavaForConditionalGeneration).from_pretrained(
            None,
            config=opened.config,
            state_dict=dict(opened.tensors),
            dtype=dtype or opened.config.dtype,
        )
        # Values that need no conversion are still in the mapped file: touch every page.
        return model, [value.flatten()[::1024].sum().item() for value in model.parameters()]

    return load


VARIANTS = ("baseline", "folder", "memory, bfloat16", "memory, float32")


def run(variant: str, src: Path, dst: Path, results: Any) -> None:
    """Run in a fresh process: (peak bytes above the start, seconds)."""
    work = {
        "baseline": baseline,
        "folder": to_folder,
        "memory, bfloat16": in_memory(None),
        "memory, float32": in_memory(torch.float32),
    }[variant]
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    open_original(src)  # imports what all need; reads headers only
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
    started = time.perf_counter()
    kept = work(src, dst)
    results.put((resident("VmHWM") - before, time.perf_counter() - started))
    del kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="where to write; default: a temporary folder")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="convert_memory_", dir=options.work))
    try:
        src = folder / "original"
        src.mkdir()
        total, layers, files = write(src, options.gigabytes, options.seed)
        print(
            f"weights {total / 1e9:.2f} GB bfloat16, {layers} layers, {files} files, "
            f"torch {torch.__version__}, transformers {transformers.__version__}, "
            f"{platform.machine()}"
        )
        print(f"{'what':<20}{'peak GB':>9}{'to weights':>12}{'seconds':>9}")
        context = multiprocessing.get_context("spawn")
        for variant in VARIANTS:
            results: Any = context.SimpleQueue()
            arguments = (variant, src, folder / "converted", results)
            process = context.Process(target=run, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"{variant}: the run failed")
            peak, seconds = results.get()
            held = total * (2 if "float32" in variant else 1)
            print(f"{variant:<20}{peak / 1e9:>9.2f}{peak / held:>12.2f}{seconds:>9.1f}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
