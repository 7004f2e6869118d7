"""Which precision `auto` means: bf16 only where it is native and was measured to be faster."""

import pytest
import torch

from ftft.engine import precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "native, speedup, expected", [(True, 1.9, "bf16"), (True, 0.6, "fp32"), (True, 1.05, "fp32"), (False, 2.0, "fp32")]
)
def test_auto_chooses_bf16_only_where_it_is_native_and_faster(monkeypatch, native, speedup, expected):
    monkeypatch.setattr(precision, "has_native_bf16", lambda device: native)
    monkeypatch.setattr(precision, "speedup_of_bf16", lambda: speedup)
    assert precision.resolve("auto", CPU) == expected


def test_a_named_precision_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(precision, "speedup_of_bf16", lambda: pytest.fail("nothing is to be measured"))
    assert [precision.resolve(name, CPU) for name in ("fp32", "bf16", "fp64")] == ["fp32", "bf16", "fp64"]


def test_autocast_runs_products_in_bf16_and_leaves_parameters_alone():
    layer = torch.nn.Linear(4, 4)
    with precision.autocast("bf16", CPU):
        assert layer(torch.zeros(1, 4)).dtype == torch.bfloat16
    with precision.autocast("fp32", CPU):
        assert layer(torch.zeros(1, 4)).dtype == torch.float32
    assert layer.weight.dtype == torch.float32


def test_measuring_gives_a_positive_ratio():
    assert precision.speedup_of_bf16(rounds=1) > 0
