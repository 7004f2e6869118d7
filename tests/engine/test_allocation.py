"""Freed memory stays with the process while it trains, goes back afterwards, and changes nothing that is computed."""

import os
import subprocess
import sys

import pytest
import torch

from ftft.engine import allocation
from ftft.engine.allocation import kept_memory

MEGABYTE = 2**20
BLOCK = 160 * MEGABYTE

glibc_only = pytest.mark.skipif(allocation._glibc() is None, reason="only glibc is told to keep memory")

MEASURE = f"""
import contextlib, gc, psutil, torch
from ftft.engine.allocation import kept_memory

def resident():
    return psutil.Process().memory_info().rss

def fill_and_free():
    block = torch.ones({BLOCK} // 4)
    del block
    gc.collect()

with kept_memory():
    pass
before = resident()
"""


def measured(lines: str) -> list[int]:
    """The numbers that `lines` print in a process of their own.

    A process in which an allocation ever failed allocates from another of malloc's arenas, which never holds a block
    of this size: what ran earlier in this one would decide.
    """
    command = [sys.executable, "-c", MEASURE + lines]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


@glibc_only
def test_freed_blocks_stay_inside_and_go_back_on_leaving():
    kept, left = measured(
        """
with kept_memory():
    fill_and_free()
    print(resident() - before)
print(resident() - before)
"""
    )
    assert kept > BLOCK / 2
    assert left < BLOCK / 4


@glibc_only
def test_freed_blocks_go_back_on_leaving_by_an_exception():
    (left,) = measured(
        """
with contextlib.suppress(ZeroDivisionError), kept_memory():
    fill_and_free()
    raise ZeroDivisionError
print(resident() - before)
"""
    )
    assert left < BLOCK / 4


def test_does_nothing_without_glibc(monkeypatch):
    monkeypatch.setattr(allocation.sys, "platform", "darwin")
    assert allocation._glibc() is None
    with kept_memory():
        pass


def test_gradients_are_the_same_to_the_last_bit():
    def gradients():
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Embedding(5000, 64), torch.nn.Linear(64, 512), torch.nn.Dropout(0.1))
        for _ in range(3):
            layers.zero_grad()
            layers(torch.arange(4096)).square().mean().backward()
        return [parameter.grad for parameter in layers.parameters()]

    plain = gradients()
    with kept_memory():
        kept = gradients()
    assert all(torch.equal(one, other) for one, other in zip(plain, kept))
