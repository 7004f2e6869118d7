"""What is minimised while pretraining, on blocks [B, L] of tokens without padding.

    causal    mean over positions t > 1 of -log p(x_t | x_<t)
    masked    mean over the chosen positions of -log p(x_t | corrupted x)                         (BERT, section 3.1)
    replaced  mean over the chosen positions of -log p_G(x_t | masked x)
              + 50 * mean over all real positions of the binary cross-entropy of D(x~)_t against [x~_t != x_t]

In the third x~ has at the chosen positions what is drawn from the generator's p_G, through which no gradient flows, and D is
the discriminator (ELECTRA, Clark et al. 2020, section 2 and table 6). A drawn token that happens to be the right one counts as
real.

All random numbers come from a generator on the processor that the caller seeds from the step's number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from ftft.pretraining.kinds import Kind, Objective
from ftft.pretraining.masking import choose, corrupt
from ftft.pretraining.models import new_decoder, new_electra, new_encoder
from ftft.pretraining.tokenizing import bytes_of_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DISCRIMINATOR_WEIGHT = 50.0
Sums = dict[str, float]  # over the positions of some blocks; see ``figures``


class Pretraining(torch.nn.Module):
    """A model with its objective. ``model`` is what is saved; ``loss`` gives the parts, the minimised ``loss`` among them."""

    model: Any

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        super().__init__()
        special = torch.zeros(len(tokenizer), dtype=torch.bool)
        special[tokenizer.all_special_ids] = True
        self.special = special
        self.sizes = torch.from_numpy(bytes_of_tokens(tokenizer))

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def loss(self, blocks: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        raise NotImplementedError

    def sums(self, blocks: torch.Tensor, generator: torch.Generator) -> Sums:
        """What the held-out figures are made of: ``nats`` and ``bytes`` of the predicted tokens, and more."""
        raise NotImplementedError

    def _bytes(self, tokens: torch.Tensor) -> float:
        return float(self.sizes[tokens.cpu()].sum())


class Causal(Pretraining):
    """A decoder that tells the next token."""

    def __init__(self, kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        super().__init__(tokenizer)
        self.model = new_decoder(kind, tokenizer, seed)

    def loss(self, blocks: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        blocks = blocks.to(self.device)
        logits = self.model(input_ids=blocks, use_cache=False).logits[:, :-1]
        return {"loss": cross_entropy(logits.flatten(0, 1).float(), blocks[:, 1:].flatten())}

    def sums(self, blocks: torch.Tensor, generator: torch.Generator) -> Sums:
        predicted = blocks[:, 1:]
        loss = float(self.loss(blocks, generator)["loss"])
        return {"nats": loss * predicted.numel(), "tokens": predicted.numel(), "bytes": self._bytes(predicted)}


class Masked(Pretraining):
    """An encoder that tells the chosen tokens; its head looks at these positions only."""

    def __init__(self, kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        super().__init__(tokenizer)
        self.mask = int(tokenizer.mask_token_id)
        self.model = new_encoder(kind, tokenizer, seed)

    def _loss(self, blocks: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = choose(blocks, self.special, generator)
        seen = corrupt(blocks, chosen, self.mask, self.special, generator).to(self.device)
        hidden = self.model.bert(input_ids=seen).last_hidden_state[chosen.to(self.device)]
        return cross_entropy(self.model.cls(hidden).float(), blocks[chosen].to(self.device)), blocks[chosen]

    def loss(self, blocks: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return {"loss": self._loss(blocks, generator)[0]}

    def sums(self, blocks: torch.Tensor, generator: torch.Generator) -> Sums:
        loss, targets = self._loss(blocks, generator)
        return {"nats": float(loss) * len(targets), "tokens": len(targets), "bytes": self._bytes(targets)}


class Replaced(Pretraining):
    """A discriminator that tells which tokens a small generator has put there; both learn together."""

    def __init__(self, kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        super().__init__(tokenizer)
        self.mask = int(tokenizer.mask_token_id)
        self.pad = int(tokenizer.pad_token_id)
        self.model, self.generator = new_electra(kind, tokenizer, seed)

    def _forward(self, blocks: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        chosen = choose(blocks, self.special, generator)
        noise = -torch.empty(int(chosen.sum()), len(self.special)).exponential_(generator=generator).log()  # Gumbel
        blocks, where = blocks.to(self.device), chosen.to(self.device)
        hidden = self.generator.electra(input_ids=blocks.masked_fill(where, self.mask)).last_hidden_state[where]
        told = self.generator.generator_lm_head(self.generator.generator_predictions(hidden)).float()
        drawn = (told.detach() + noise.to(self.device)).argmax(dim=1)
        seen = blocks.masked_scatter(where, drawn)
        return {
            "generator_logits": told,
            "targets": blocks[where],
            "discriminator_logits": self.model(input_ids=seen).logits.float(),
            "replaced": seen != blocks,
            "real": blocks != self.pad,
        }

    def loss(self, blocks: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return replaced_token_loss(**self._forward(blocks, generator))

    def sums(self, blocks: torch.Tensor, generator: torch.Generator) -> Sums:
        found = self._forward(blocks, generator)
        parts = replaced_token_loss(**found)
        real, replaced, count = found["real"], found["replaced"], len(found["targets"])
        called = found["discriminator_logits"] > 0
        return {
            "nats": float(parts["generator"]) * count,
            "tokens": count,
            "bytes": self._bytes(found["targets"]),
            "positions": float(real.sum()),
            "discriminator_nats": float(parts["discriminator"]) * float(real.sum()),
            "replaced": float(replaced.sum()),
            "found": float((called & replaced).sum()),
            "called": float((called & real).sum()),
        }


OBJECTIVES: dict[Objective, type[Causal] | type[Masked] | type[Replaced]] = {
    "causal": Causal,
    "masked": Masked,
    "replaced": Replaced,
}


def replaced_token_loss(
    generator_logits: torch.Tensor,
    targets: torch.Tensor,
    discriminator_logits: torch.Tensor,
    replaced: torch.Tensor,
    real: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """ELECTRA's ``generator``, ``discriminator`` and their weighted sum ``loss``, each a scalar.

    ``generator_logits`` [M, V] and ``targets`` int64 [M] at the chosen positions; ``discriminator_logits`` [B, L], ``replaced``
    bool [B, L] and ``real`` bool [B, L] (not padding).
    """
    generator = cross_entropy(generator_logits, targets)
    discriminator = binary_cross_entropy_with_logits(discriminator_logits[real], replaced[real].to(discriminator_logits.dtype))
    return {
        "loss": generator + DISCRIMINATOR_WEIGHT * discriminator,
        "generator": generator,
        "discriminator": discriminator,
    }


def figures(sums: Mapping[str, float]) -> dict[str, float]:
    """Held-out figures from summed :data:`Sums`.

    ``bits_per_byte``: bits the predicted tokens cost (for ELECTRA: its generator) over the bytes they stand for; ``loss``: nats
    a predicted token. For ELECTRA also ``discriminator_loss`` (nats a position), ``replaced`` (their share), ``recall`` and
    ``precision`` of finding them.
    """
    result = {
        "bits_per_byte": sums["nats"] / math.log(2) / max(1.0, sums["bytes"]),
        "loss": sums["nats"] / max(1.0, sums["tokens"]),
    }
    if "positions" in sums:
        result |= {
            "discriminator_loss": sums["discriminator_nats"] / sums["positions"],
            "replaced": sums["replaced"] / sums["positions"],
            "recall": sums["found"] / max(1.0, sums["replaced"]),
            "precision": sums["found"] / max(1.0, sums["called"]),
        }
    return result
