"""Where the network runs."""

from __future__ import annotations

from emocache.errors import BadOption


def choose_device(name: str) -> str:
    """Resolve ``auto`` to the fastest device here, and check any other.

    raises: BadOption if the device is not there
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadOption(f"--device {name!r} is not usable here ({reason}); auto takes the fastest that is") from None
    return name
