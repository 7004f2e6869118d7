"""The states of all global random generators, as a tree that ``ftft.state.tree`` saves."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """The states of ``random``, ``numpy.random`` and torch on the CPU, and of torch on CUDA where CUDA is there.

    ``{"python": random.getstate(), "numpy": dict, "torch": uint8 tensor, "cuda": {device index: uint8 tensor}}``.
    With several processes only the current device's CUDA state is taken: touching another process's device
    would cost memory there.
    """
    cuda: dict[int, torch.Tensor] = {}
    if torch.cuda.is_available():
        devices = [torch.cuda.current_device()] if _many_processes() else range(torch.cuda.device_count())
        cuda = {device: torch.cuda.get_rng_state(device) for device in devices}
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": cuda,
    }


def restore(tree: dict[str, Any]) -> list[str]:
    """Set every generator to what :func:`capture` saw; returns a sentence for each state this machine has no place for."""
    random.setstate(tree["python"])
    np.random.set_state(tree["numpy"])
    torch.set_rng_state(tree["torch"])
    present = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = []
    for device, state in tree["cuda"].items():
        if device < present:
            torch.cuda.set_rng_state(state, device)
        else:
            missing.append(f"the random state of CUDA device {device} was saved, and this machine has no such device")
    return missing


def _many_processes() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
