"""Intruder dimensions: what counts, what does not, and what the layers of a model are."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from ftft.methods.evaluate.intruder_dimensions import IntruderDimensions, largest_cosines, linear_weights

NAME = "bert.encoder.layer.1.intermediate.dense.weight"


@dataclass
class Pair:
    """A model before and after training."""

    before: torch.nn.Module
    after: torch.nn.Module

    def model(self) -> torch.nn.Module:
        return self.after

    def base(self) -> torch.nn.Module:
        return self.before


def found(pair: Pair, **settings: Any) -> dict[str, Any]:
    return dict(IntruderDimensions(**settings).evaluate(pair, seed=0))  # type: ignore[arg-type]


@pytest.fixture
def pair(tiny_model: Callable[..., Any]) -> Pair:
    """A wide model, in which a random direction is far from most others."""
    model = tiny_model("bert", hidden_size=96, intermediate_size=128).double()
    return Pair(model, copy.deepcopy(model))


def change(pair: Pair, delta: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        weight = pair.after.get_parameter(NAME)
        weight.add_(delta(weight))
    return weight


def unit(size: int, seed: int) -> torch.Tensor:
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vector / vector.norm()


def test_an_untouched_model_has_none_and_says_so(pair: Pair) -> None:
    figures = found(pair)
    assert (figures["count"], figures["looked_at"], figures["changed"], figures["layers"]) == (0, 0, 0, 18)
    assert figures["sentence"] == "no intruder dimensions: training changed none of 18 linear layers"


def test_a_scaled_weight_has_none(pair: Pair) -> None:
    change(pair, lambda weight: 2.5 * weight)
    figures = found(pair)
    assert (figures["count"], figures["looked_at"], figures["changed"]) == (0, 10, 1)
    assert figures["by_layer"][NAME]["lowest_cosine"] == pytest.approx(1.0, abs=1e-9)


def test_a_large_random_direction_is_one(pair: Pair) -> None:
    change(pair, lambda weight: 50 * weight.norm() * torch.outer(unit(len(weight), 1), unit(weight.shape[1], 2)))
    figures = found(pair)
    assert figures["by_layer"][NAME]["count"] == figures["count"] == 1
    assert "1 intruder dimension among 10 high singular vectors of 1 of 18 linear layers" in figures["sentence"]


def test_more_of_the_first_direction_is_none(pair: Pair) -> None:
    def along(weight: torch.Tensor) -> torch.Tensor:
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        return 50 * s[0] * torch.outer(u[:, 0], vh[0])

    change(pair, along)
    assert found(pair)["count"] == 0


def test_only_a_new_right_vector_is_none(pair: Pair) -> None:
    """As in the released code, left vectors alone are compared."""

    def crossed(weight: torch.Tensor) -> torch.Tensor:
        u, s, _ = torch.linalg.svd(weight, full_matrices=False)
        return 50 * s[0] * torch.outer(u[:, 0], unit(weight.shape[1], 3))

    change(pair, crossed)
    assert found(pair, top_k=1)["count"] == 0


def test_counts_rise_with_epsilon_and_k(pair: Pair) -> None:
    change(pair, lambda weight: 0.7 * weight.std() * torch.randn_like(weight))
    by_epsilon = [found(pair, epsilon=epsilon)["count"] for epsilon in (0.1, 0.4, 0.6, 0.8, 1.0)]
    by_k = [found(pair, top_k=k, epsilon=0.8)["count"] for k in (1, 5, 20, 96)]
    assert by_epsilon == sorted(by_epsilon) and by_epsilon[0] == 0 and by_epsilon[-1] == 10
    assert by_k == sorted(by_k) and by_k[-1] > by_k[0]
    assert found(pair, top_k=500)["looked_at"] == 96, "not more than there are"


def test_the_definition_by_hand() -> None:
    base = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))[:, :2]  # directions e1 and e2
    tuned = torch.tensor([[0.0, 0.0], [4.0, 0.0], [3.0, 0.0]], dtype=torch.float64)  # one vector, (0, 0.8, 0.6)
    directions = torch.linalg.svd(base, full_matrices=False).U
    assert largest_cosines(tuned, directions, 1).tolist() == pytest.approx([0.8])


def test_random_directions_are_far_in_wide_matrices_and_near_in_small_ones(tiny_model: Callable[..., Any]) -> None:
    shares = []
    for size in (16, 256):
        model = tiny_model("bert", hidden_size=size, intermediate_size=size)
        after = copy.deepcopy(model)
        with torch.no_grad():
            for parameter in after.parameters():
                parameter.mul_(1.5)
        figures = found(Pair(model, after))
        assert figures["count"] == 0
        shares.append(figures["random"] / figures["looked_at"])
    assert shares[0] < 0.6 and shares[1] == 1.0


def test_the_linear_layers_of_the_blocks_are_looked_at_whatever_their_storage(tiny_model: Callable[..., Any]) -> None:
    assert {name for name, _ in linear_weights(tiny_model("bert"))} >= {NAME}
    assert not any("embedding" in name or "classifier" in name for name, _ in linear_weights(tiny_model("bert")))
    shapes = {name.rsplit(".", 2)[1]: tuple(weight.shape) for name, weight in linear_weights(tiny_model("gpt2"))}
    assert shapes["c_attn"] == (48, 16) and shapes["c_fc"] == (64, 16), "out by in"


def test_both_towers_of_a_model_of_images_and_texts_are_looked_at(tiny_clip_folder: Callable[..., Any]) -> None:
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(tiny_clip_folder()).double()
    after = copy.deepcopy(model)
    names = [f"{tower}.encoder.layers.2.mlp.fc1.weight" for tower in ("text_model", "vision_model")]
    with torch.no_grad():
        for name in names:
            after.get_parameter(name).mul_(1.5)
    figures = found(Pair(model, after))
    assert set(figures["by_layer"]) == set(names) and figures["count"] == 0
    assert figures["layers"] == 2 * 3 * 6, "four projections of the attention and two of the MLP, three layers a tower"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_in_half_precision_are_compared_in_float32(pair: Pair, dtype: torch.dtype) -> None:
    """The released loader rounds the base alone; a decomposition in half precision there is none."""
    change(pair, lambda weight: 0.7 * weight.std() * torch.randn_like(weight))
    halved = Pair(*(copy.deepcopy(model).to(dtype) for model in (pair.before, pair.after)))
    widened = Pair(*(copy.deepcopy(model).float() for model in (halved.before, halved.after)))
    assert found(halved, epsilon=0.8) == found(widened, epsilon=0.8)


# -- peft's mitigation, whose count is ours --------------------------------------------------------------------------

RANK = 3


@pytest.fixture
def with_lora(tiny_model: Callable[..., Any]) -> Any:
    """A LoRA model in float64 whose factors bring intruders, and as many directions of the base's own."""
    from ftft.methods.adapt.lora import LoRA

    adapted = LoRA(rank=RANK, targets=["up", "down"]).adapt(
        tiny_model("bert", hidden_size=96, intermediate_size=128).double(), None
    )
    with torch.no_grad():
        for number, one in enumerate(adapted.pairs):
            one.down.copy_(torch.stack([unit(one.down.shape[1], 10 * number + k) for k in range(RANK)]))
            one.up.copy_(4 * torch.stack([unit(len(one.up), 100 + 10 * number + k) for k in range(RANK)], dim=1))
    return adapted


def deltas(model: Any, name: str) -> dict[str, torch.Tensor]:
    from peft.tuners.lora import LoraLayer

    return {
        place: layer.get_delta_weight(name).detach() for place, layer in model.named_modules() if isinstance(layer, LoraLayer)
    }


def reduced(adapted: Any, share: float) -> tuple[dict[str, torch.Tensor], list[str]]:
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    said: list[str] = []
    model = copy.deepcopy(adapted.model)
    reduce_intruder_dimension(model, new_adapter_name="less", mitigation_lambda=share, logging_sink=said.append)
    return deltas(model, "less"), said


def test_pefts_mitigation_finds_the_intruders_that_are_counted_here(with_lora: Any, tiny_model: Callable[..., Any]) -> None:
    before = tiny_model("bert", hidden_size=96, intermediate_size=128).double()
    after = copy.deepcopy(before)
    after.load_state_dict(with_lora.merged())
    figures = found(Pair(before, after))
    _, said = reduced(with_lora, 1.0)
    theirs = dict(line.removeprefix("base_model.model.").split(": ", 1) for line in said if ":" in line)
    ours = {
        name.removesuffix(".weight"): f"Intruders: {one['count']}" if one["count"] else "No intruders"
        for name, one in figures["by_layer"].items()
    }
    assert theirs == ours and figures["count"] > 0 and len(ours) == 6


def test_pefts_mitigation_keeps_the_share_that_its_docstring_says_it_takes(with_lora: Any) -> None:
    """At 1 the new adapter adds what the old one did; at 0 the intruders are gone, as far as rank r can say it."""
    old = deltas(with_lora.model, "default")
    kept, _ = reduced(with_lora, 1.0)
    for name, delta in old.items():
        assert int(torch.linalg.matrix_rank(kept[name])) == RANK
        torch.testing.assert_close(kept[name], delta, rtol=0, atol=1e-10)
    gone, _ = reduced(with_lora, 0.0)
    for name, delta in old.items():
        layer = with_lora.model.get_submodule(name)
        weight = layer.get_base_layer().weight.detach()
        u, s, vh = torch.linalg.svd(weight + delta, full_matrices=False)
        intruders = largest_cosines(weight + delta, torch.linalg.svd(weight, full_matrices=False).U, 10) < 0.5
        removed = sum(s[j] * torch.outer(u[:, j], vh[j]) for j in range(10) if intruders[j])
        u, s, vh = torch.linalg.svd(delta - removed, full_matrices=False)
        expected = u[:, :RANK] * s[:RANK] @ vh[:RANK]  # its rank is above r, and is cut to it
        assert bool(intruders.any()) and not torch.allclose(expected, delta, atol=1e-2)
        torch.testing.assert_close(gone[name], expected, rtol=0, atol=1e-8)
