"""The untrained networks of every kind, as transformers' own architectures.

Dropout is off while pretraining, which sees most of its text once; the saved configuration of an encoder has the 0.1 that its
architecture is published with, for fine-tuning on little data. Decoders have none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ftft.models.heads import seeded
from ftft.pretraining.kinds import Kind

if TYPE_CHECKING:
    from transformers import (
        BertForMaskedLM,
        ElectraForMaskedLM,
        ElectraForPreTraining,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

DROPOUT = ("hidden_dropout_prob", "attention_probs_dropout_prob")
FINE_TUNING_DROPOUT = 0.1


def new_decoder(kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A Llama with tied embeddings and grouped keys and values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=kind.hidden,
        intermediate_size=kind.feed_forward,
        num_hidden_layers=kind.layers,
        num_attention_heads=kind.heads,
        num_key_value_heads=kind.key_value_heads,
        max_position_embeddings=kind.block,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with seeded(seed):
        return LlamaForCausalLM(config)


def new_encoder(kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> BertForMaskedLM:
    """A BERT with its head for masked tokens, tied to the embeddings."""
    from transformers import BertConfig, BertForMaskedLM

    with seeded(seed):
        return BertForMaskedLM(BertConfig(**_encoder(kind, tokenizer)))


def new_electra(kind: Kind, tokenizer: PreTrainedTokenizerFast, seed: int) -> tuple[ElectraForPreTraining, ElectraForMaskedLM]:
    """(discriminator, generator). They share the whole embedding layer (tokens, positions, types and their normalisation, as
    the authors' code does), and the generator's output is tied to its tokens."""
    from transformers import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining

    usual = {**_encoder(kind, tokenizer), "embedding_size": kind.embedding}
    assert kind.generator_hidden is not None
    small = {"hidden_size": kind.generator_hidden, "intermediate_size": 4 * kind.generator_hidden}
    heads = max(1, kind.generator_hidden * kind.heads // kind.hidden)
    with seeded(seed):
        discriminator = ElectraForPreTraining(ElectraConfig(**usual))
        generator = ElectraForMaskedLM(ElectraConfig(**usual | small | {"num_attention_heads": heads}))
    generator.electra.embeddings = discriminator.electra.embeddings
    generator.generator_lm_head.weight = discriminator.electra.embeddings.word_embeddings.weight
    return discriminator, generator


def ready_to_save(model: Any) -> Any:
    """The model with the dropout its users fine-tune with."""
    for name in DROPOUT:
        if hasattr(model.config, name):
            setattr(model.config, name, FINE_TUNING_DROPOUT)
    return model.eval()


def _encoder(kind: Kind, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": kind.hidden,
        "intermediate_size": kind.feed_forward,
        "num_hidden_layers": kind.layers,
        "num_attention_heads": kind.heads,
        "max_position_embeddings": kind.block,
        "pad_token_id": tokenizer.pad_token_id,
        **dict.fromkeys(DROPOUT, 0.0),
    }
