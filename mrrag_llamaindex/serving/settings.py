"""How a server is reached, and what it takes."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from mrrag_llamaindex.errors import InputError

TOKEN_VARIABLE = "MRRAG_TOKEN"
"""Environment variable with the token, of servers and of ``mrrag ask --server``."""

LEAST_TOKEN = 16
"""Characters of the shortest token: shorter ones can be guessed."""


@dataclass(frozen=True)
class Settings:
    """Settings of one server.

    Parameters
    ----------
    host : str
        Address to listen at.
    port : int
        0: any free one.
    token : str, optional
        What clients must show. Needed for every address but loopback.
    allowed_hosts : tuple of str
        Further names by which clients may call the server, behind a proxy for example.
    upload_bytes : int
        Largest body of a request.
    running : int
        Requests that are worked on at once; those that the model answers share its batches.
    waiting : int
        Requests that may wait beside them; further ones are refused (429).
    seconds : float
        Longest that a request may take (503).
    body_seconds : float
        Longest that a request's body may take to arrive, and a reader may leave a part of the
        response unread.

    Raises
    ------
    InputError
        If the address is not loopback and there is no token, or a number is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    upload_bytes: int = 64 * 2**20
    running: int = 32
    waiting: int = 64
    seconds: float = 120.0
    body_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise InputError(f"port is {self.port}; it must be between 0 and 65535")
        for name in ("upload_bytes", "running", "seconds", "body_seconds"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.waiting < 0:
            raise InputError(f"waiting is {self.waiting}; it must be at least 0")
        if self.token is None and not self.loopback:
            raise InputError(
                f"{self.host} can be reached from other machines, so clients must show a token: "
                f"give --token, or set {TOKEN_VARIABLE}"
            )
        token = self.token
        plain = token is None or (token.isascii() and token.isprintable())
        if token is not None and (len(token) < LEAST_TOKEN or not plain):
            raise InputError(
                f"the token must have at least {LEAST_TOKEN} characters, printable ASCII: make "
                "one with python -c 'import secrets; print(secrets.token_urlsafe())'"
            )

    @property
    def loopback(self) -> bool:
        """Whether the address can be reached from this machine alone."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
