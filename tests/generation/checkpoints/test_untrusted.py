"""Nothing in a checkpoint's folder runs, hangs or ends the process; each fault is one line."""

from __future__ import annotations

import json
import pickle
import shutil
import time
from pathlib import Path

import pytest

from mrrag_llamaindex import defaults
from mrrag_llamaindex.doctor.examine import examine
from mrrag_llamaindex.errors import ModelError
from mrrag_llamaindex.generation.checkpoints.loading import load_model
from mrrag_llamaindex.generation.checkpoints.template_trial import try_template

WEIGHTS = "model.safetensors"
MESSAGES = {"messages": [{"role": "user", "content": "x"}], "bos_token": "<s>"}


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(defaults.PHANTOM_FOLDER / "llava", tmp_path / "model"))


def refused(folder: Path, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(str(folder), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 5, 100, 0.5, 0.999])
def test_weights_that_are_cut_off(folder, part) -> None:
    content = (folder / WEIGHTS).read_bytes()
    size = part if isinstance(part, int) else int(part * len(content))
    (folder / WEIGHTS).write_bytes(content[:size])
    assert "model.safetensors is damaged" in refused(folder)
    assert any("model.safetensors" in check.text for check in examine(str(folder)).checks)


@pytest.mark.parametrize(
    "name",
    [
        *("../outside.safetensors", "/etc/x.safetensors", "a\\b.safetensors"),
        *("x" * 5000 + ".safetensors", "a\0b.safetensors", "\ud800.safetensors"),
    ],
    ids=["up", "absolute", "backslash", "long", "character 0", "half a character"],
)
def test_index_leads_nowhere_else(folder, name) -> None:
    (folder / WEIGHTS).rename(folder.parent / "outside.safetensors")
    index = {"weight_map": {"lm_head.weight": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "not a weight file of this folder" in refused(folder)


@pytest.mark.parametrize(
    "change", [{"image_mean": None}, {"image_mean": {}}, {"rescale_factor": "x"}]
)
def test_a_processor_that_fails_on_its_first_image(folder, change) -> None:
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    config["image_processor"].update(change)
    path.write_text(json.dumps(config))
    assert "could not be loaded" in refused(folder)


@pytest.mark.parametrize("allow_pickle", [False, True])
def test_pickles_run_nothing(folder, allow_pickle) -> None:
    (folder / WEIGHTS).unlink()
    trace = folder.parent / "ran"
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(trace)))
    refused(folder, allow_pickle=allow_pickle)
    assert not trace.exists()


def test_code_of_the_folder_is_neither_run_nor_offered(folder, monkeypatch) -> None:
    trace = folder.parent / "ran"
    (folder / "evil.py").write_text(f"open({str(trace)!r}, 'w')\nclass C: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        config = json.loads((folder / name).read_text())
        kinds = ("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor")
        config["auto_map"] = dict.fromkeys(kinds, "evil.C")
        config["auto_map"]["AutoTokenizer"] = ["evil.C", "evil.C"]
        config |= {"tokenizer_class": "C", "processor_class": "C"}
        (folder / name).write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    refused(folder)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["[" * 100_000, "{", '{"a": ' + "9" * 5000 + "}"])
def test_json_that_no_loader_should_see(folder, name, content) -> None:
    (folder / name).write_text(content)
    assert name in refused(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 99999999999 }}",
        "{% set n = namespace(x='xx') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}"
        "{% endfor %}",
        "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}",
        "{{ '%9999999999d' % 1 }}",
    ],
)
def test_template_that_would_not_end_is_stopped(template) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match="does not end"):
        try_template(template, MESSAGES, "m", seconds=4)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[INST] {{ m['content'] | trim }} [/INST]{% endfor %}",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% if loop.last %}{% break %}{% endif %}{% endfor %}",
        "{{ strftime_now('%Y') }}{{ messages | tojson(indent=2) }}",
        "{{ raise_exception('no system turns') }}",
        "{% unknown %}",
    ],
)
def test_templates_that_end_are_left_to_the_one_who_renders_them(template) -> None:
    try_template(template, MESSAGES, "m")
