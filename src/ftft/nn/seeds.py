"""Seeds for the draws of a numbered step or interval: a function of both numbers alone, so that an interrupted run, and every
process of one, draws the same."""

from __future__ import annotations

import hashlib


def numbered_seed(seed: int, number: int) -> int:
    """A seed in [0, 2**63) for the ``number``-th draw of a run seeded by ``seed``; no two of them are related."""
    digest = hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
