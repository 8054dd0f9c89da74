"""The commands that CI runs: ``nox -l`` lists them, ``nox -s lint types`` runs two.

Each session makes an environment of its own; ``nox --no-venv`` uses the one that is active.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "layers", "tests"]
nox.options.reuse_venv = "yes"


def install(session: nox.Session, *what: str) -> None:
    """Install into the session's own environment; an active one is left as it is."""
    if session.virtualenv.venv_backend != "none":
        session.install("-c", "constraints.txt", *what)


def python(session: nox.Session, *arguments: str) -> None:
    """Run a module of the environment."""
    session.run("python", "-m", *arguments)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    install(session, "ruff")
    python(session, "ruff", "check", ".")
    python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, over the whole package."""
    install(session, ".[test]")
    python(session, "mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Check that imports point only downwards; the layers stand in pyproject.toml."""
    install(session, ".[test]")
    session.run("lint-imports")


@nox.session
def docs(session: nox.Session) -> None:
    """Check that what the documents name exists."""
    install(session, ".[test]")
    python(session, "pytest", "-q", "-m", "not slow", "tests/test_docs.py")


@nox.session
def tests(session: nox.Session) -> None:
    """Run what the README's command runs."""
    install(session, ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the long forms, which ``tests`` leaves out."""
    install(session, ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "slow", *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """Attack what is promised, for a minute unless told otherwise: ``-- --budget 1800``."""
    install(session, ".[test]")
    python(session, "tests.campaign", *(session.posargs or ("--budget", "60", "--seed", "0")))


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
def newest(session: nox.Session) -> None:
    """Run the tests with the newest versions that pyproject.toml allows."""
    session.install("--upgrade", "--upgrade-strategy", "eager", ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that pyproject.toml allows."""
    session.install("uv")
    pins = Path(session.create_tmp()) / "lowest.txt"
    oldest = ("--resolution", "lowest-direct", "--python-version", "3.10", "--extra", "test")
    compiling = ("uv", "pip", "compile", "-q", *oldest, "pyproject.toml", "-o", str(pins))
    session.run_install(*compiling)
    session.install("-r", str(pins), ".[test]")
    python(session, "pytest", "-q", "-n", "2", "-m", "not slow", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo, with its picture."""
    install(session, ".[cli,plot]")
    session.run("mrrag", "demo")
