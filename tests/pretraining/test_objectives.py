"""The three objectives against their formulas."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ftft.pretraining.kinds import KINDS, VOCABULARY, Kind
from ftft.pretraining.masking import choose
from ftft.pretraining.models import new_decoder
from ftft.pretraining.objectives import Causal, Masked, Replaced, figures, replaced_token_loss
from ftft.pretraining.tokenizing import bytes_of_tokens


def numbers(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_blocks(tokenizer: Any, encoder: bool, count: int = 6, length: int = 32) -> torch.Tensor:
    special = len(tokenizer.all_special_ids)
    blocks = torch.randint(special, len(tokenizer), (count, length), generator=numbers(9))
    if encoder:
        blocks[:, 0], blocks[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
    return blocks


def inputs_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """What the model is given from now on, call by call."""
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["input_ids"]), with_kwargs=True
    )
    return seen


def test_the_parts_of_electras_loss_are_those_of_the_paper() -> None:
    """In float64 with numpy: the generator's mean over the chosen positions, the discriminator's over all real ones."""
    source = np.random.default_rng(0)
    told, targets = source.normal(size=(7, 11)) * 3, source.integers(0, 11, 7)
    logits, replaced, real = source.normal(size=(3, 5)) * 4, source.random((3, 5)) < 0.3, source.random((3, 5)) < 0.7
    assert 0 < real.sum() < real.size
    log_p = told - np.log(np.exp(told).sum(axis=1, keepdims=True))
    generator = -np.mean([log_p[row, target] for row, target in enumerate(targets)])
    p = 1 / (1 + np.exp(-logits))
    discriminator = -np.mean([math.log(p[i, j] if replaced[i, j] else 1 - p[i, j]) for i, j in zip(*real.nonzero())])
    arrays = (told, targets, logits, replaced, real)
    found = replaced_token_loss(*(torch.from_numpy(np.asarray(array)) for array in arrays))
    assert found["loss"].dtype == torch.float64
    assert float(found["generator"]) == pytest.approx(generator, rel=1e-12)
    assert float(found["discriminator"]) == pytest.approx(discriminator, rel=1e-12)
    assert float(found["loss"]) == pytest.approx(generator + 50 * discriminator, rel=1e-12)


@pytest.fixture
def electra(tiny_kinds: dict[str, Kind], tokenizers_of_text: Callable[[str], Any]) -> Replaced:
    return Replaced(tiny_kinds["tiny-electra"], tokenizers_of_text("replaced"), seed=0)


def test_the_discriminators_loss_is_that_of_transformers(electra: Replaced, tokenizers_of_text: Callable[[str], Any]) -> None:
    blocks = some_blocks(tokenizers_of_text("replaced"), encoder=True)
    found = electra._forward(blocks, numbers(1))
    seen = blocks.clone()
    chosen = choose(blocks, electra.special, numbers(1))
    noise = -torch.empty(int(chosen.sum()), len(electra.special)).exponential_(generator=_after(blocks)).log()
    seen[chosen] = (found["generator_logits"].detach() + noise).argmax(dim=1)
    theirs = electra.model(input_ids=seen, labels=(seen != blocks).long())
    assert torch.equal(found["replaced"], seen != blocks) and found["real"].all()
    assert float(replaced_token_loss(**found)["discriminator"].detach()) == pytest.approx(float(theirs.loss.detach()), rel=1e-5)


def _after(blocks: torch.Tensor) -> torch.Generator:
    """The random numbers as they are when the positions have been chosen."""
    generator = numbers(1)
    torch.rand(blocks.shape, generator=generator)
    return generator


def test_generator_and_discriminator_share_their_embeddings_and_nothing_else(electra: Replaced) -> None:
    ours, theirs = electra.model.electra, electra.generator.electra
    assert theirs.embeddings is ours.embeddings
    assert electra.generator.generator_lm_head.weight is ours.embeddings.word_embeddings.weight
    shared = {id(one) for one in electra.model.parameters()} & {id(one) for one in electra.generator.parameters()}
    assert shared == {id(one) for one in ours.embeddings.parameters()}


def test_no_gradient_of_the_discriminator_reaches_the_generator(
    electra: Replaced, tokenizers_of_text: Callable[[str], Any]
) -> None:
    blocks = some_blocks(tokenizers_of_text("replaced"), encoder=True)
    electra.loss(blocks, numbers(1))["discriminator"].backward()
    own = [one for name, one in electra.generator.named_parameters() if "embeddings." not in name]
    assert all(one.grad is None for one in own)
    assert electra.model.electra.embeddings.word_embeddings.weight.grad is not None
    electra.loss(blocks, numbers(1))["generator"].backward()
    assert all(one.grad is not None for one in own if one is not electra.model.electra.embeddings.word_embeddings.weight)


def test_replacements_are_drawn_from_the_generator_and_a_right_one_counts_as_real(
    electra: Replaced, tokenizers_of_text: Callable[[str], Any]
) -> None:
    """With a bias that makes one token take three quarters of the draws."""
    tokenizer = tokenizers_of_text("replaced")
    bias = electra.generator.generator_lm_head.bias
    favourite = len(tokenizer) - 1
    with torch.no_grad():
        electra.generator.generator_predictions.LayerNorm.weight.zero_()  # every position tells the same
        bias.zero_()
        bias[favourite] = math.log(3 * (len(tokenizer) - 1))
    blocks = some_blocks(tokenizer, encoder=True, count=400)
    blocks[:, 5:10] = favourite
    found = electra._forward(blocks, numbers(2))
    chosen = choose(blocks, electra.special, numbers(2))
    assert torch.equal(found["targets"], blocks[chosen]) and not (found["replaced"] & ~chosen).any()
    was = blocks == favourite
    for where, share in ((chosen & was, 0.25), (chosen & ~was, 1.0)):
        rate, count = float(found["replaced"][where].double().mean()), int(where.sum())
        slack = 4.5 * (share * (1 - share) / count) ** 0.5 + 3 / len(tokenizer)
        assert abs(rate - share) < slack, (share, rate, count)


def test_the_generator_sees_only_masks_where_it_is_to_tell(electra: Replaced, tokenizers_of_text: Callable[[str], Any]) -> None:
    blocks = some_blocks(tokenizers_of_text("replaced"), encoder=True)
    seen = inputs_of(electra.generator.electra)
    electra.loss(blocks, numbers(3))
    chosen = choose(blocks, electra.special, numbers(3))
    assert (seen[0][chosen] == electra.mask).all() and torch.equal(seen[0][~chosen], blocks[~chosen])


def test_the_masked_loss_is_that_of_transformers_on_the_chosen_positions(
    tiny_kinds: dict[str, Kind], tokenizers_of_text: Callable[[str], Any]
) -> None:
    tokenizer = tokenizers_of_text("masked")
    objective = Masked(tiny_kinds["tiny-mlm"], tokenizer, seed=0)
    blocks = some_blocks(tokenizer, encoder=True)
    seen = inputs_of(objective.model.bert)
    ours = float(objective.loss(blocks, numbers(4))["loss"].detach())
    chosen = choose(blocks, objective.special, numbers(4))
    assert (seen[0][chosen] == tokenizer.mask_token_id).float().mean() > 0.5
    theirs = objective.model(input_ids=seen[0], labels=blocks.masked_fill(~chosen, -100)).loss
    assert ours == pytest.approx(float(theirs.detach()), rel=1e-5)


def test_the_causal_loss_is_that_of_transformers_and_its_bits_are_over_the_bytes(
    tiny_kinds: dict[str, Kind], tokenizers_of_text: Callable[[str], Any]
) -> None:
    tokenizer = tokenizers_of_text("causal")
    objective = Causal(tiny_kinds["tiny-decoder"], tokenizer, seed=0)
    blocks = some_blocks(tokenizer, encoder=False)
    with torch.no_grad():
        theirs = float(objective.model(input_ids=blocks, labels=blocks).loss)
        found = figures(objective.sums(blocks, numbers()))
    sizes = bytes_of_tokens(tokenizer)
    total = sizes[blocks[:, 1:].numpy()].sum()
    assert found["loss"] == pytest.approx(theirs, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(theirs * blocks[:, 1:].numel() / math.log(2) / total, rel=1e-5)


def test_the_discriminators_figures_count_what_it_finds() -> None:
    sums = {"nats": 10.0, "tokens": 5, "bytes": 8, "positions": 40, "discriminator_nats": 20, "replaced": 4, "found": 3}
    found = figures(sums | {"called": 6})
    assert found["discriminator_loss"] == 0.5 and found["replaced"] == 0.1
    assert found["recall"] == 0.75 and found["precision"] == 0.5


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("decoder-1m", 0.95e6, 1.05e6), ("decoder-5m", 4.75e6, 5.25e6)],
)
def test_decoders_have_the_size_of_their_name(
    name: str, least: float, most: float, tokenizers_of_text: Callable[[str], Any]
) -> None:
    tokenizer = copy.deepcopy(tokenizers_of_text("causal"))
    tokenizer.add_tokens([f"<{number}>" for number in range(VOCABULARY - len(tokenizer))])
    with torch.device("meta"):
        model = new_decoder(KINDS[name], tokenizer, 0)
    assert model.config.vocab_size == VOCABULARY
    assert least <= sum(one.numel() for one in model.parameters()) <= most
