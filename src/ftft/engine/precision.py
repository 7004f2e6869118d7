"""Which device a process computes on, and in which number format its matrix products run."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["fp32", "bf16", "fp64"]

WORTHWHILE = 1.2  # bf16 has to be this much faster to be chosen: below, its rounding buys nothing


def device_here() -> torch.device:
    """What a process alone computes on: the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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


def weights_in(precision: str) -> torch.dtype:
    """What the weights are kept in: bf16 is of the products alone."""
    return torch.float64 if precision == "fp64" else torch.float32


def resolve(precision: Literal["auto", "fp32", "bf16", "fp64"], device: torch.device) -> Precision:
    """The precision a setting means on this device: ``auto`` is bf16 where that is native and measurably faster."""
    if precision != "auto":
        return precision
    if not has_native_bf16(device):
        return "fp32"
    return "bf16" if device.type != "cpu" or speedup_of_bf16() >= WORTHWHILE else "fp32"


def speedup_of_bf16(rounds: int = 7) -> float:
    """How many times faster this processor's bf16 matrix product is than its fp32 one (median of interleaved pairs).

    A flag in the processor's description does not say it: among processors with avx512_bf16 but without AMX, products
    in bf16 have been measured at 0.6 of the speed of fp32, and elsewhere at twice it.
    """
    # The shape of a small encoder's feed-forward layer on a batch of 32 x 32 tokens, and its transpose in the backward.
    inputs, weight = torch.zeros(1024, 384), torch.zeros(1536, 384)
    pairs = [(inputs, weight), (inputs.bfloat16(), weight.bfloat16())]

    def seconds(pair: tuple[torch.Tensor, torch.Tensor]) -> float:
        started = time.perf_counter()
        for _ in range(4):
            torch.nn.functional.linear(*pair)
        return time.perf_counter() - started

    for pair in pairs:
        seconds(pair)
    return statistics.median(seconds(pairs[0]) / seconds(pairs[1]) for _ in range(rounds))


@contextlib.contextmanager
def autocast(precision: Precision, device: torch.device) -> Iterator[None]:
    """Run the matrix products inside in bfloat16 where the precision says so; parameters stay in float32."""
    if precision != "bf16":
        yield
        return
    with torch.autocast(device.type, dtype=torch.bfloat16):
        yield
