"""Tensors as a value: what a policy learned, so that the policy can still be a key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch


class TensorValue:
    """Named tensors that are compared, hashed and shown by a digest of their contents.

    Parameters
    ----------
    **tensors : torch.Tensor
        Copied to the CPU as float32; they are not to be changed.

    Raises
    ------
    ValueError
        If one holds NaN or infinite values.

    Examples
    --------
    >>> one, other = TensorValue(a=torch.ones(2)), TensorValue(a=torch.ones(2))
    >>> one == other, one == TensorValue(a=torch.zeros(2)), len(one.digest)
    (True, False, 12)
    """

    def __init__(self, **tensors: torch.Tensor) -> None:
        self.tensors: Mapping[str, torch.Tensor] = {
            name: tensor.detach().to("cpu", torch.float32).contiguous()
            for name, tensor in tensors.items()
        }
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            if not bool(torch.isfinite(tensor).all()):
                raise ValueError(f"{name} holds NaN or infinite values")
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().tobytes())
        self.digest = digest.hexdigest()[:12]

    def __getitem__(self, name: str) -> torch.Tensor:
        """Return one of the tensors."""
        return self.tensors[name]

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.digest})"
