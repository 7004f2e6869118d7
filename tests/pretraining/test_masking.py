"""The masks: how many tokens are chosen, which never are, and what the model sees in their place."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ftft.pretraining.masking import choose, corrupt

VOCABULARY, SPECIAL, MASK = 50, 5, 4
IS_SPECIAL = torch.arange(VOCABULARY) < SPECIAL


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_blocks(count: int, length: int, seed: int) -> torch.Tensor:
    """[CLS] (2), ordinary tokens with some [SEP] (3) among them, [SEP]."""
    blocks = torch.randint(SPECIAL, VOCABULARY, (count, length), generator=generator(seed))
    blocks[torch.rand(blocks.shape, generator=generator(seed + 1)) < 0.1] = 3
    blocks[:, 0], blocks[:, -1] = 2, 3
    return blocks


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(3, 80), st.integers(0, 2**31))
def test_the_share_of_every_block_is_chosen_and_no_special_token(count: int, length: int, seed: int) -> None:
    blocks = some_blocks(count, length, seed)
    chosen = choose(blocks, IS_SPECIAL, generator(seed))
    assert not (chosen & IS_SPECIAL[blocks]).any()
    for row, marked in zip(blocks, chosen):
        ordinary = int((row >= SPECIAL).sum())
        wanted = min(ordinary, max(1, round(0.15 * ordinary)))
        assert int(marked.sum()) == wanted


def test_every_ordinary_position_is_chosen_alike() -> None:
    blocks = torch.full((40_000, 22), 7)
    blocks[:, 0], blocks[:, -1] = 2, 3
    rates = choose(blocks, IS_SPECIAL, generator(3)).double().mean(dim=0)
    assert rates[0] == rates[-1] == 0
    deviation = (0.15 * 0.85 / len(blocks)) ** 0.5
    assert (rates[1:-1] - 0.15).abs().max() < 4.5 * deviation


def test_chosen_tokens_are_masked_exchanged_and_left_8_1_1() -> None:
    blocks = some_blocks(2000, 128, 11)
    chosen = choose(blocks, IS_SPECIAL, generator(12))
    seen = corrupt(blocks, chosen, MASK, IS_SPECIAL, generator(13))
    assert torch.equal(seen[~chosen], blocks[~chosen])
    before, after = blocks[chosen], seen[chosen]
    count, ordinary = len(before), VOCABULARY - SPECIAL
    # One random token in 45 is the token itself.
    for share, found in (
        (0.8, after == MASK),
        (0.1 * (1 - 1 / ordinary), (after != MASK) & (after != before)),
        (0.1 + 0.1 / ordinary, after == before),
    ):
        assert abs(float(found.double().mean()) - share) < 4.5 * (share * (1 - share) / count) ** 0.5
    exchanged = after[(after != MASK) & (after != before)]
    assert exchanged.min() >= SPECIAL  # never a special token
    spread = torch.bincount(exchanged, minlength=VOCABULARY)[SPECIAL:].double()
    expected = len(exchanged) / ordinary
    assert (spread - expected).abs().max() < 5 * expected**0.5


def test_the_same_numbers_give_the_same_masks_and_others_do_not() -> None:
    blocks = some_blocks(4, 64, 1)
    first, again, other = (choose(blocks, IS_SPECIAL, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again) and not torch.equal(first, other)
