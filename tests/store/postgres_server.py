"""A real PostgreSQL with pgvector on the loopback address, for tests and benchmarks.

The programs are those of the package pgserver, or those in the folder that ``MRRAG_POSTGRES`` names
(one with ``bin/postgres``). Nothing of the machine's own PostgreSQL is touched.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback import free_port

PASSWORD = "a secret/of:the@owner"
"""Of the superuser ``postgres``; with what must be escaped in a URL."""


def installation() -> Path | None:
    """Folder that holds ``bin/postgres``; None if there is none."""
    if "MRRAG_POSTGRES" in os.environ:
        return Path(os.environ["MRRAG_POSTGRES"])
    spec = importlib.util.find_spec("pgserver")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0]) / "pginstall"


class PostgresServer:
    """A server with data of its own, which `close` removes."""

    def __init__(self) -> None:
        source = installation()
        assert source is not None
        self._home = Path(tempfile.mkdtemp(prefix="mrrag-postgres-"))
        self._programs = source
        self._identity: dict[str, Any] = {}
        if os.getuid() == 0:  # PostgreSQL does not run as root, nor may others look everywhere
            self._identity = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            self._programs = self._home / "site" / "pgserver" / source.name
            shutil.copytree(source, self._programs)
            for libraries in source.parent.parent.glob("*pgserver*.libs"):  # found beside it
                shutil.copytree(libraries, self._home / "site" / libraries.name)
            self._home.chmod(0o755)
        self.data = self._home / "data"
        self.data.mkdir(mode=0o700)
        if self._identity:
            shutil.chown(self.data, "nobody", "nogroup")
        secret = self._home / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb", "--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}",
            "--encoding=UTF8", "--locale=C", "--no-sync", f"--pgdata={self.data}",
        )  # fmt: skip
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url(
        self, user: str = "postgres", password: str = PASSWORD, database: str = "postgres"
    ) -> str:
        """Address of a database on it."""
        from urllib.parse import quote

        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, after whatever has happened to it, and wait until it answers."""
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": "",
            "shared_buffers": "256MB",
            "maintenance_work_mem": "256MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "bin" / "postgres", "-D", self.data, *options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                cwd="/", **self._identity,
            )  # fmt: skip
        import psycopg

        for _ in range(300):
            assert self._process.poll() is None, (self._home / "log").read_text()[-2000:]
            try:
                psycopg.connect(self.url(), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise AssertionError("the server did not answer within 30 s")

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the superuser, each for itself."""
        import psycopg  # of an extra, and this module is loaded for all tests

        with psycopg.connect(self.url(database=database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)  # type: ignore[arg-type]

    def kill(self) -> None:
        """End all its processes at once, as a failing machine does."""
        self._signal_all(signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def pause(self) -> None:
        """Let it hang: it keeps its connections and answers nothing."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal_all(signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its data."""
        if self._process is not None and self._process.poll() is None:
            self.resume()
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def _signal_all(self, number: int) -> None:
        """Each backend is the leader of a group of its own."""
        import psutil

        assert self._process is not None
        try:
            parent = psutil.Process(self._process.pid)
            everyone = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for process in everyone:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._programs / "bin" / program, *arguments],
            capture_output=True, text=True, cwd="/", **self._identity,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def started() -> Iterator[PostgresServer]:
    """Yield a server, and close it; skips the test where there is none."""
    if installation() is None:
        pytest.skip("no PostgreSQL: pgserver has no wheel here, and MRRAG_POSTGRES names none")
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL with pgvector on the loopback address."""
    yield from started()


@pytest.fixture(scope="module")
def mortal() -> Iterator[PostgresServer]:
    """A server that only the tests of one file use, and kill."""
    yield from started()
