"""Choose a torch device: the one that is asked for, or an error."""

from __future__ import annotations

from mrrag_llamaindex.errors import MRRAGError


def resolve_device(device: str, error: type[MRRAGError]) -> str:
    """Turn ``"auto"`` into CUDA where present, else CPU; check any other choice.

    Parameters
    ----------
    device : str
        ``"auto"``, or a torch device such as ``"cpu"``, ``"cuda:1"``, ``"mps"``.
    error : type
        Class of the error raised.

    Raises
    ------
    MRRAGError
        Of class ``error``, if the device is not on this machine. There is no fallback.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as cause:
        raise error(
            f"device {device!r} is not available here; name another one, for example "
            'device="cpu", or device="auto"'
        ) from cause
    return device
