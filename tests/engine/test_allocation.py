"""Freed memory stays with the process while it trains, goes back afterwards, and changes nothing that is computed."""

import contextlib
import gc

import psutil
import pytest
import torch

from ftft.engine import allocation
from ftft.engine.allocation import kept_memory

MEGABYTE = 2**20
BLOCK = 160 * MEGABYTE

glibc_only = pytest.mark.skipif(allocation._glibc() is None, reason="only glibc is told to keep memory")


def resident():
    return psutil.Process().memory_info().rss


def fill_and_free():
    block = torch.ones(BLOCK // 4)
    del block
    gc.collect()


@pytest.fixture
def before():
    """Resident memory when nothing that is free is held."""
    with kept_memory():
        pass
    return resident()


@glibc_only
def test_freed_blocks_stay_inside_and_go_back_on_leaving(before):
    with kept_memory():
        fill_and_free()
        kept = resident() - before
    left = resident() - before
    assert kept > BLOCK / 2
    assert left < BLOCK / 4


@glibc_only
def test_freed_blocks_go_back_on_leaving_by_an_exception(before):
    with contextlib.suppress(ZeroDivisionError), kept_memory():
        fill_and_free()
        raise ZeroDivisionError
    assert resident() - before < BLOCK / 4


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
