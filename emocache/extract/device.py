"""Where the network runs, and what it computes fast there."""

from __future__ import annotations

from emocache.errors import BadOption
from emocache.spec import Encoder


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


def fast_in_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32, and not only stores it in less room.

    NVIDIA from Ampere on; processors with AMX or AVX-512 BF16.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device == "cpu":
        able = torch.cpu.get_capabilities()
        return bool(able.get("amx_bf16") or able.get("avx512_bf16"))
    return False


def is_slow(dtype: str, device: str) -> bool:
    """Whether a device is not known to compute faster in `dtype` than in float32.

    A processor without the arithmetic converts back and forth, and takes longer instead.
    """
    if dtype == "float32" or device.startswith("mps"):
        return False
    if dtype == "bfloat16":
        return not fast_in_bfloat16(device)
    import torch

    able = torch.cpu.get_capabilities()
    return device == "cpu" and not (able.get("amx_fp16") or able.get("avx512_fp16"))


def compute_dtype(encoder: Encoder, asked: str) -> str:
    """The dtype that an encoder computes in when `asked` is wanted: its only one, whatever is asked for.

    raises: BadOption if it has several, and not that one
    """
    if len(encoder.dtypes) == 1:
        return encoder.dtypes[0]
    if asked not in encoder.dtypes:
        raise BadOption(f"--dtype {asked}: {encoder.name} computes in {', '.join(encoder.dtypes)}; take one of them")
    return asked
