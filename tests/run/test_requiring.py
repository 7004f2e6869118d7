"""What cannot be put together is refused before any stage is trained, and without reading weights where shapes say enough."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ftft.errors import UserError
from ftft.run.checking import check_models_and_data
from ftft.run.runner import run_recipe


@pytest.mark.parametrize(
    ("methods", "sentence"),
    [
        (
            {"adapt": {"name": "lora", "targets": ["fused"]}},
            'adapt.targets: BertForSequenceClassification has no projection "fused"',
        ),
        (
            {"adapt": {"name": "corda", "targets": ["fused"]}},
            'adapt.targets: BertForSequenceClassification has no projection "fused"',
        ),
        ({"adapt": {"name": "peft", "type": "lily"}}, "adapt: peft's LILY cannot be merged into plain weights"),
        ({"optimize": {"name": "lisa", "layers": 9}}, "optimize.layers is 9, but 3 blocks of"),
        (
            {"optimize": {"name": "torch_optimizer", "optimizer": "AdamX"}},
            'optimize: torch.optim has no optimizer "AdamX"; did you mean "Adam"?',
        ),
        (
            {"adapt": "lora", "optimize": {"name": "peft_optimizer", "optimizer": "lorafa", "options": {"rank": 4}}},
            'optimize.options: lorafa has no option "rank"',
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_later_stage_whose_methods_do_not_fit_its_model_is_refused_before_the_first(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any], methods: dict[str, Any], sentence: str
) -> None:
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"erm": {}, "later": methods})
    for asked in (lambda: list(check_models_and_data(recipe)), lambda: run_recipe(recipe)):
        with pytest.raises(UserError, match=re.escape(f"stages.later.{sentence}")):
            asked()
    assert not list((tmp_path / "runs").rglob("*.safetensors"))


@pytest.mark.parametrize(
    "methods",
    [
        {"adapt": "lora_ga", "optimize": "lora_pro"},
        {"adapt": "corda"},
        {"adapt": "lift"},
        {"adapt": "s2ft"},
        {"adapt": {"name": "peft", "type": "vera", "options": {"r": 4}}},
        {"optimize": {"name": "lisa", "layers": 1}},
        {"optimize": "mezo"},
        {"objective": "asft", "optimize": "sgd"},
    ],
    ids=lambda methods: " ".join(str(one["name"] if isinstance(one, dict) else one) for one in methods.values()),
)
def test_what_fits_is_found_to_without_reading_weights(
    tmp_path: Path,
    tiny_bert_folder: Path,
    tiny_recipe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    methods: dict[str, Any],
) -> None:
    def never(*arguments: Any, **settings: Any) -> Any:
        raise AssertionError("the weights are read")

    monkeypatch.setattr("ftft.models.loading.load_model", never)
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"it": methods})
    assert list(check_models_and_data(recipe))[-1] == "the recipe is sound"


def test_a_library_that_cannot_do_without_numbers_is_asked_again_with_them(
    tmp_path: Path, tiny_bert_folder: Path, tiny_recipe: Callable[..., Any]
) -> None:
    """peft's adamss clusters the directions of the weights with scikit-learn."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    options = {"r": 4, "num_subspaces": 2, "subspace_rank": 1}
    recipe = tiny_recipe(tmp_path, tiny_bert_folder, {"it": {"adapt": {"name": "peft", "type": "adamss", "options": options}}})
    assert list(check_models_and_data(recipe))[-1] == "the recipe is sound"
