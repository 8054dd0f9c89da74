"""The files in deploy/ say what is there: paths, extras, commands, options, routes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from mrrag_llamaindex.commands.app import app
from mrrag_llamaindex.serving.settings import TOKEN_VARIABLE, Settings

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Instruction and arguments of every line of the Dockerfile, continued lines joined."""
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines()]


def arguments(instructions, name: str) -> list[str]:
    return [rest for kind, rest in instructions if kind == name]


@pytest.fixture(scope="module")
def served_options() -> set[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mrrag_llamaindex.cli", "serve", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "COLUMNS": "200", "PYTHONPATH": str(ROOT), "TERM": "dumb"},
    )
    return set(re.findall(r"--[a-z][\w-]*", done.stdout))


def test_every_instruction_is_one(instructions):
    known = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "USER", "ENV", "EXPOSE", "HEALTHCHECK"}
    assert {kind for kind, _ in instructions} == known | {"ENTRYPOINT", "CMD"}


def test_the_base_is_pinned_and_within_what_the_package_takes(instructions):
    (base,) = arguments(instructions, "FROM")
    version = re.fullmatch(r"python:3\.(\d+)-slim-\w+", base)
    least = re.search(r'requires-python = ">=3\.(\d+)', (ROOT / "pyproject.toml").read_text())
    assert version
    assert least
    assert int(version[1]) >= int(least[1])


def test_what_it_copies_is_there_and_enough_to_build_the_package(instructions):
    copied = []
    for line in arguments(instructions, "COPY"):
        *sources, _ = line.split()
        copied += sources
    assert all((ROOT / source).exists() for source in copied), copied
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = [re.search(r'^readme = "(.*)"', project, re.M)[1]]
    needed += re.findall(r'"([\w.]+)"', re.search(r"^license-files = \[(.*)\]", project, re.M)[1])
    assert {"pyproject.toml", "hatch_build.py", "mrrag_llamaindex", *needed} <= set(copied)


def test_what_it_installs_is_declared(instructions):
    assert '".[${EXTRAS}]"' in " ".join(arguments(instructions, "RUN"))
    (extras,) = re.findall(r"EXTRAS=([\w,]+)", " ".join(arguments(instructions, "ARG")))
    composed = re.search(r"EXTRAS: ([\w,]+)", (DEPLOY / "compose.yml").read_text())[1]
    extras += f",{composed}"
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras.split(","))
    assert {"cli", "serve"} <= set(extras.split(","))


def test_it_does_not_run_as_root(instructions):
    kinds = [kind for kind, _ in instructions]
    (user,) = arguments(instructions, "USER")
    assert int(user) > 0
    assert kinds.index("USER") < kinds.index("ENTRYPOINT")
    assert f"useradd --system --uid {user} " in " ".join(arguments(instructions, "RUN"))


def test_its_command_has_options_that_exist(instructions, served_options):
    (entry,), (rest,) = arguments(instructions, "ENTRYPOINT"), arguments(instructions, "CMD")
    command = [*json.loads(entry), *json.loads(rest)]
    assert command[:2] == ["mrrag", "serve"]
    assert {part for part in command if part.startswith("--")} <= served_options
    assert f"environment variable {TOKEN_VARIABLE}" in (DEPLOY / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def composed() -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((DEPLOY / "compose.yml").read_text(encoding="utf-8"))


def test_services_that_are_composed_call_what_exists(composed):
    known = typer.main.get_command(app).commands
    for name, service in composed["services"].items():
        if name == "qdrant":
            continue
        command, *words = service["command"]
        known[command].make_context(command, words)
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"]


def test_only_loopback_reaches_what_is_composed_and_nobody_qdrant(composed):
    services = composed["services"]
    assert "ports" not in services["qdrant"]
    assert composed["networks"]["inside"]["internal"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_its_health_check_asks_a_route_without_a_token(instructions):
    from mrrag_llamaindex.serving.http.guards import _OPEN

    (check,) = arguments(instructions, "HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:8000(/\w+)", check)
    assert path
    assert path[1] in _OPEN


def test_the_units_command_has_options_that_exist(served_options):
    unit = (DEPLOY / "mrrag.service").read_text(encoding="utf-8")
    command = shlex.split(re.search(r"^ExecStart=(.*)", unit, re.M)[1])
    assert command[1] == "serve"
    assert {part for part in command if part.startswith("--")} <= served_options
    assert TOKEN_VARIABLE in unit


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
def test_systemd_takes_the_unit(tmp_path):
    unit = (DEPLOY / "mrrag.service").read_text(encoding="utf-8")
    copy = tmp_path / "mrrag.service"
    copy.write_text(unit.replace("/opt/mrrag/bin/mrrag", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_proxy_lets_through_what_the_server_takes():
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    settings = Settings()
    size = re.search(r"client_max_body_size\s+(\d+)m;", text)
    wait = re.search(r"proxy_read_timeout\s+(\d+)s;", text)
    assert size
    assert wait
    assert int(size[1]) * 2**20 == settings.upload_bytes
    assert int(wait[1]) > settings.seconds
