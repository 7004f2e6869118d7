"""EVA starts A from the principal directions of each layer's inputs and has its ranks where these explain most."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from ftft.errors import UserError
from ftft.methods.adapt.eva import EVA, whitened_once
from ftft.methods.peft_layers import WRAPPED, projections

INPUTS = {"input_ids": torch.tensor([[2, 9, 11, 14, 3]]), "attention_mask": torch.ones(1, 5, dtype=torch.long)}
EXAMPLES, RANK = 40, 4
WHOLE = {"rank": RANK, "batch_size": EXAMPLES}  # every batch holds all examples: the PCA is that of these


def plain_name(pair):
    return pair.weight.removeprefix(WRAPPED).removesuffix(".base_layer.weight")


def principal(model, calibration, names):
    """Of each layer's inputs, padding left out: (directions [k, n], singular values [k], share of the variance [k])."""
    seen = {}

    def look(name):
        return lambda _, given: seen.update({name: given[0].detach()})

    handles = [model.get_submodule(name).register_forward_pre_hook(look(name)) for name in names]
    (batch,) = calibration.batches(1, EXAMPLES)
    calibration.forward(model, batch)
    for handle in handles:
        handle.remove()
    mask, found = batch.inputs["attention_mask"].bool(), {}
    assert not mask.all()
    for name, given in seen.items():
        rows = given[mask]
        _, values, right = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
        found[name] = (right, values, values.square() / values.square().sum())
    return found


def ranks_by_hand(found, rank, rho):
    """How many of the largest shares of all layers fall in each."""
    shares = [(float(one), name) for name, (_, _, all_shares) in found.items() for one in all_shares[: round(rho * rank)]]
    shares.sort(reverse=True)
    counted = Counter(name for _, name in shares[: rank * len(found)])
    return {name: counted[name] for name in found}


def by_input(ranks):
    """Query, key and value have one input, and their ranks where the budget ends are a draw."""
    return sorted(
        (name.replace("query", "qkv").replace("key", "qkv").replace("value", "qkv"), rank) for name, rank in ranks.items()
    )


@pytest.mark.parametrize(("rank", "rho"), [(4, 2.0), (1, 6.0), (2, 1.5)])
def test_ranks_go_where_the_shares_of_variance_are_largest(tiny_model, calibration, rank, rho):
    model = tiny_model("bert").double()
    names = projections(model)
    expected = ranks_by_hand(principal(model, calibration(EXAMPLES), names), rank, rho)
    said = model(**INPUTS).logits
    adapted = EVA(**{**WHOLE, "rank": rank}, rho=rho).adapt(model, calibration(EXAMPLES))
    ranks = dict.fromkeys(names, 0) | {plain_name(pair): len(pair.down) for pair in adapted.pairs}
    assert by_input(ranks) == by_input(expected)
    assert sum(ranks.values()) == rank * len(names) and max(ranks.values()) <= rho * rank
    assert len(set(ranks.values())) > 1
    assert torch.equal(adapted.model.eval()(**INPUTS).logits, said)
    assert {pair.scaling for pair in adapted.pairs} == {16.0 / rank}


def test_with_rho_1_all_layers_have_one_rank(tiny_model, calibration):
    model = tiny_model("bert").double()
    adapted = EVA(rank=RANK, rho=1.0).adapt(model, calibration())
    assert [len(pair.down) for pair in adapted.pairs] == [RANK] * 18


def test_a_layer_whose_inputs_vary_in_all_directions_alike_keeps_its_plain_weight(tiny_model, calibration):
    model = tiny_model("bert").double()
    last = model.bert.encoder.layer[2].output.dense
    generator, flat = torch.Generator().manual_seed(0), {}

    def whiten(_, given):
        shape = given[0].shape
        if shape not in flat:
            flat[shape] = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (flat[shape],)

    last.register_forward_pre_hook(whiten)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = EVA(**{**WHOLE, "rank": 1}, rho=8.0).adapt(model, calibration(EXAMPLES))
    lost = "bert.encoder.layer.2.output.dense"
    assert lost not in {plain_name(pair) for pair in adapted.pairs} and 2 < len(adapted.pairs) < 18
    assert adapted.model.get_submodule(WRAPPED + lost) is last and not last.weight.requires_grad
    merged = adapted.merged()
    assert merged.keys() == before.keys() and all(torch.equal(value, before[name]) for name, value in merged.items())


def test_how_large_a_layers_inputs_are_has_no_say_in_its_rank(tiny_model, calibration):
    """The shares are of each layer's own variance: a layer whose inputs vary little keeps its rank."""
    ranks = []
    for factor in (1.0, 1e-3):
        model = tiny_model("bert").double()
        model.bert.encoder.layer[2].output.dense.register_forward_pre_hook(lambda _, given, by=factor: (by * given[0],))
        adapted = EVA(**WHOLE).adapt(model, calibration(EXAMPLES))
        ranks.append({plain_name(pair): len(pair.down) for pair in adapted.pairs})
    assert ranks[0] == ranks[1] and "bert.encoder.layer.2.output.dense" in ranks[0]


def test_directions_are_those_around_the_mean(tiny_model, calibration):
    model, name = tiny_model("bert").double(), "bert.encoder.layer.1.intermediate.dense"
    shift = torch.zeros(16, dtype=torch.float64)
    shift[5] = 100.0  # nearly all of the inputs' square, and none of their variance
    model.get_submodule(name).register_forward_pre_hook(lambda _, given: (given[0] + shift,))
    right, _, _ = principal(model, calibration(EXAMPLES), [name])[name]
    (pair,) = (one for one in EVA(**WHOLE).adapt(model, calibration(EXAMPLES)).pairs if plain_name(one) == name)
    assert abs(float(pair.down[0] @ right[0])) > 0.99
    assert abs(float(pair.down[0, 5])) < 0.9


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_a_holds_the_principal_directions_and_b_is_zero(tiny_model, calibration, architecture):
    model = tiny_model(architecture).double()
    model.config.pad_token_id = 0
    found = principal(model, calibration(EXAMPLES), projections(model))
    model.train()
    adapted = EVA(**WHOLE).adapt(model, calibration(EXAMPLES))
    assert model.training and adapted.pairs
    for pair in adapted.pairs:
        assert pair.down.dtype == torch.float64 and not pair.up.any()
        unit = torch.eye(len(pair.down), dtype=torch.float64)
        torch.testing.assert_close(pair.down @ pair.down.T, unit, rtol=0, atol=1e-4)
        cosine = (pair.down * found[plain_name(pair)][0][: len(pair.down)]).sum(1).abs()
        assert cosine.min() > 0.99, (pair.weight, cosine)
    trainable = {name for name, one in adapted.model.named_parameters() if one.requires_grad and "lora_" not in name}
    assert all("classifier" in name or "score" in name for name in trainable) and trainable


def test_the_scale_of_a_layer_can_follow_its_rank(tiny_model, calibration):
    pairs = EVA(**WHOLE, adjust_scaling=False, alpha=6.0).adapt(tiny_model("bert"), calibration(EXAMPLES)).pairs
    assert all(pair.scaling == 6.0 / len(pair.down) for pair in pairs) and len({pair.scaling for pair in pairs}) > 1


def test_whitened_rows_are_divided_by_the_root_of_their_singular_value_once(tiny_model, calibration):
    model = tiny_model("bert").double()
    found = principal(model, calibration(EXAMPLES), projections(model))
    pairs = EVA(**WHOLE, whiten=True).adapt(model, calibration(EXAMPLES)).pairs
    assert sum("attention.self" in pair.weight for pair in pairs) == 9
    for pair in pairs:
        values = found[plain_name(pair)][1][: len(pair.down)]
        # two batches of the same examples were seen: their singular values are sqrt(2) times those of one
        torch.testing.assert_close(pair.down.norm(dim=1) ** -2, 2**0.5 * values, rtol=1e-3, atol=0)


def test_rows_that_were_whitened_once_stay_as_they_are():
    unit = torch.eye(3, 5, dtype=torch.float64)
    values = torch.tensor([9.0, 4.0, 2.0], dtype=torch.float64).unsqueeze(1)
    shared = unit / values.sqrt() ** torch.tensor([[3.0], [2.0], [1.0]])  # ranks 3, 2, 1 and 0 of one input
    rows = {"a": shared[:3], "b": shared[:2], "c": shared[:1], "d": shared[:0], "e": (unit / values.sqrt())[:2]}
    for name, rank in {"a": 3, "b": 2, "c": 1, "d": 0, "e": 2}.items():
        torch.testing.assert_close(whitened_once(rows)[name], (unit / values.sqrt())[:rank], rtol=0, atol=1e-12)


def hooks_of(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def test_it_stops_where_the_directions_do_not_settle_and_can_be_tried_again(tiny_model, calibration):
    model, given = tiny_model("bert").train(), calibration()
    with pytest.raises(
        UserError, match=r"adapt.batches is 3, and after so many .* of 8 examples .* have not settled; give"
    ) as e:
        EVA(rank=RANK, batch_size=8, tau=1.0, batches=3).adapt(model, given)
    assert "\n" not in str(e.value) and hooks_of(model) == 0 and model.training
    assert given.ledger.effective["calibration"].examples == (1 + 3) * 8
    assert len(EVA(rank=RANK).adapt(model, given).pairs) > 0


def test_a_smaller_tau_is_reached_sooner(tiny_model, calibration):
    looked = []
    for tau in (0.99, 0.5):
        given = calibration()
        EVA(rank=RANK, batch_size=8, tau=tau).adapt(tiny_model("bert"), given)
        looked.append(given.ledger.effective["calibration"].examples)
    assert looked[0] > looked[1]


def test_short_batches_are_passed_over_and_refused_where_there_are_no_others(tiny_model, calibration):
    with pytest.raises(UserError, match=r"adapt.batch_size is 1, .* hold at most 14 tokens where EVA needs 2 rho r = 16"):
        EVA(rank=RANK, batch_size=1).adapt(tiny_model("bert"), calibration())
    given = calibration()
    lengths = [int(batch.inputs["attention_mask"].sum()) for batch in given.batches(500, 1)]
    assert min(lengths) < 8 < max(lengths)
    pairs = EVA(rank=2, batch_size=1, tau=0.9).adapt(tiny_model("bert"), given).pairs
    assert sum(len(pair.down) for pair in pairs) == 2 * 18


def test_a_layer_too_narrow_is_refused(tiny_model, calibration):
    with pytest.raises(UserError, match=r"adapt.rank is 5 and adapt.rho 2, .* at least 2 rho r = 20 inputs and .*query has 16"):
        EVA(rank=5).adapt(tiny_model("bert"), calibration())
