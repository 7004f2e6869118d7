"""Which number format the matrix products run in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp64"]


def has_native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere autocast to it only costs time."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            flags = next((line for line in stream if line.startswith(("flags", "Features"))), "")
    except OSError:
        return False
    # avx512_bf16 and amx_bf16 on x86; bf16 on arm64.
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.split())


def resolve(precision: Literal["auto", "fp32", "bf16", "fp64"], device: torch.device) -> Precision:
    """The precision a setting means on this device."""
    if precision != "auto":
        return precision
    return "bf16" if has_native_bf16(device) else "fp32"


@contextlib.contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the matrix products inside in bfloat16 where the precision says so; parameters stay in float32."""
    if precision != "bf16":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield
