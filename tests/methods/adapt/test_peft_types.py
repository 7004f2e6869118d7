"""Every type of adapter that the installed peft has begins as the model was and merges, or is refused before it is trained."""

from __future__ import annotations

import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from ftft.errors import UserError
from ftft.methods.adapt.peft import Peft

INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
TYPES = sorted(str(getattr(one, "value", one)).lower() for one in PEFT_TYPE_TO_CONFIG_MAPPING)
NEEDED = {  # where peft's defaults are too large for the tiny model, or name nothing
    "c3a": {"block_size": 8},
    "fourierft": {"n_frequency": 20},
    "ln_tuning": {"target_modules": ["LayerNorm"]},
    "miss": {"r": 8},
    "psoft": {"r": 4},
    "road": {"group_size": 8},
    "shira": {"r": 2},
    "trainable_tokens": {"token_indices": [9, 11]},
    "vblora": {"vector_length": 8, "num_vectors": 10},
    "waveft": {"n_frequency": 20},
}
OTHERWISE = {"c3a", "fourierft", "unilora", "vblora"}  # these do not begin as the model was
PROMPTS = {"cartridge", "multitask_prompt_tuning", "p_tuning", "prefix_tuning", "prompt_tuning"}
REFUSED = dict.fromkeys(
    PROMPTS | {"lily", "osf", "poly", "shadow"}, "cannot be merged into plain weights.*; choose an adapter that can"
) | {
    "adalora": "peft's adalora changes its ranks by calls after each step that are not made here, .* use lora, or eva",
    "adaption_prompt": "peft cannot put ADAPTION_PROMPT on Bert",
    "cpt": "only supports task_type",
    "psoft": "PSOFT init requires float32",  # and the tests' model is in float64
    "xlora": "peft cannot put XLORA on Bert",
}


def noised(model):
    """Trained, as far as algebra can tell."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                source = torch.Generator().manual_seed(len(name))
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=source, dtype=parameter.dtype))


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind not in REFUSED])
def test_it_begins_as_the_model_was_and_merges(tiny_model, kind):
    plain = tiny_model("bert").double()
    expected = plain(**INPUTS).logits
    adapted = Peft(type=kind, options=NEEDED.get(kind, {})).adapt(tiny_model("bert").double(), None)
    at_start = adapted.model.eval()(**INPUTS).logits
    # Some make their constants in float32.
    assert bool((at_start - expected).abs().max() < 1e-6) == (kind not in OTHERWISE)
    noised(adapted.model)
    said = adapted.model(**INPUTS).logits
    assert not torch.allclose(said, at_start, rtol=0, atol=1e-3)
    before = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    plain.load_state_dict(adapted.merged())
    torch.testing.assert_close(plain(**INPUTS).logits, said, rtol=0, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in adapted.model.state_dict().items())


@pytest.mark.parametrize("kind", [kind for kind in TYPES if kind in REFUSED])
def test_what_would_fail_after_training_is_refused_before(tiny_model, kind):
    with pytest.raises(UserError, match=REFUSED[kind]) as caught:
        Peft(type=kind, options=NEEDED.get(kind, {})).adapt(tiny_model("bert").double(), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("lora", {"init_lora_weights": "eva"}, '"eva" begins with what data say, .* use adapt: {name: eva}'),
        ("lora", {"init_lora_weights": "lora_ga"}, "use adapt: {name: lora_ga}"),
        ("LoRA", {"init_lora_weights": "corda"}, "use adapt: {name: corda}"),
        ("adamss", {"use_asa": True}, "peft's adamss with use_asa changes its ranks by calls .* leave use_asa out"),
        ("lora", {"layer_replication": [[0, 2], [1, 3]]}, "layers that layer_replication repeats cannot be merged"),
        (
            "lora",
            {"modules_to_save": ["pooler"]},
            "would keep bert.pooler.dense.weight in another place, .*modules_to_save",
        ),
        ("lora", {"trainable_token_indices": [1]}, "would keep bert.embeddings.word_embeddings.weight in another place"),
    ],
)
def test_options_that_would_not_do_what_they_are_named_for_are_refused(tiny_model, kind, options, message):
    with pytest.raises(UserError, match=message) as caught:
        Peft(type=kind, options=options).adapt(tiny_model("bert"), None)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"use_dora": True}])
def test_other_beginnings_of_lora_compute_what_the_model_did_and_merge(tiny_model, options):
    """In float32, for which peft decomposes the weights."""
    plain = tiny_model("bert").eval()
    expected = plain(**INPUTS).logits
    adapted = Peft(options={"r": 4, **options}).adapt(tiny_model("bert"), None)
    torch.testing.assert_close(adapted.model.eval()(**INPUTS).logits, expected, rtol=0, atol=1e-5)
    noised(adapted.model)
    said = adapted.model(**INPUTS).logits
    plain.load_state_dict(adapted.merged())
    assert not torch.allclose(said, expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(plain(**INPUTS).logits, said, rtol=0, atol=1e-5)


def test_types_that_change_no_projections_keep_pefts_choice_of_modules(tiny_model):
    adapted = Peft(type="ln_tuning").adapt(tiny_model("llama"), None)
    trained = {name for name, one in adapted.model.named_parameters() if one.requires_grad and "score" not in name}
    assert trained and all("norm" in name for name in trained)
    adapted = Peft(type="trainable_tokens", options={"token_indices": [9]}).adapt(tiny_model("llama"), None)
    trained = {name for name, one in adapted.model.named_parameters() if one.requires_grad and "score" not in name}
    assert len(trained) == 1 and "embed_tokens" in trained.pop()


def test_finding_out_whether_it_merges_leaves_the_weights_bit_for_bit(tiny_model):
    """Of an adapter that is not zero at the start, in float32: adding and taking away leaves rounding behind."""
    before = tiny_model("bert").state_dict()
    adapted = Peft(type="fourierft", options=NEEDED["fourierft"]).adapt(tiny_model("bert"), None)
    frozen = adapted.model.state_dict()
    wrapped = {name: value for name, value in frozen.items() if ".base_layer.weight" in name}
    assert len(wrapped) == 18
    for name, value in wrapped.items():
        assert torch.equal(value, before[name.removeprefix("base_model.model.").replace(".base_layer", "")]), name
