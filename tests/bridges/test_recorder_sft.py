"""The recorder on TRL's SFTTrainer: statistics per sequence, equal to those computed from the logits by hand."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch

trl = pytest.importorskip("trl")
from transformers import Trainer, TrainingArguments  # noqa: E402

from ftft.bridges.outputs import STATISTICS, observe_outputs  # noqa: E402
from ftft.bridges.recorder import DynamicsRecorder  # noqa: E402
from ftft.errors import UserError  # noqa: E402

N = 11


@pytest.fixture
def pairs() -> datasets.Dataset:
    g = np.random.default_rng(0)

    def words(count: int) -> str:
        return " ".join(f"w{i}" for i in g.integers(0, 40, count))

    return datasets.Dataset.from_dict(
        {"prompt": [words(2 + i % 3) + " " for i in range(N)], "completion": [words(1 + i % 4) + " [EOS]" for i in range(N)]}
    )


def arguments(folder, **changed):
    settings = {
        "per_device_train_batch_size": 3, "num_train_epochs": 2, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "no", "learning_rate": 1e-2, "gradient_checkpointing": False,
        "bf16": False, "dataset_num_proc": None,
    } | changed  # fmt: skip
    return trl.SFTConfig(str(folder), **settings)


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The statistics of one sequence: logits [L, V], labels [L], next-token prediction, in float64."""
    p = torch.softmax(logits[:-1].double(), dim=1)
    target = labels[1:]
    here = (target != -100).nonzero()[:, 0]
    gold = p[here, target[here]]
    return {
        "mean_log_probability": gold.log().mean().item(),
        "probability": gold.log().mean().exp().item(),
        "token_accuracy": (p[here].argmax(1) == target[here]).double().mean().item(),
        "entropy": -(p[here] * p[here].log()).sum(1).mean().item(),
    }


@pytest.fixture
def train(tmp_path, make_tokenizer, make_decoder):
    """Run a trainer with or without the recorder: (trainer, recorder, losses, first-epoch statistics by hand)."""

    def run(dataset, *, watched=True, mode="online", id_column=None, kind=trl.SFTTrainer, rate=0.0, **changed):
        class Losses(kind):
            def training_step(self, model, inputs, num_items_in_batch=None):
                loss = super().training_step(model, inputs, num_items_in_batch)
                self.__dict__.setdefault("losses", []).append(loss.item())
                return loss

        trainer = Losses(
            make_decoder(), arguments(tmp_path, learning_rate=rate, **changed), train_dataset=dataset,
            processing_class=make_tokenizer(bert=False),
        )  # fmt: skip
        recorder = DynamicsRecorder(mode=mode, id_column=id_column).attach(trainer) if watched else None
        trainer.train()
        return trainer, recorder

    return run


def expected(trainer) -> list[dict[str, float]]:
    """By hand with the trainer's model as it is (trained with learning rate 0), one row at a time."""
    out = []
    for row in trainer.train_dataset:
        with torch.no_grad():
            logits = trainer.model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        out.append(by_hand(logits, torch.tensor(row["labels"])))
    return out


def assert_statistics(dynamics, rows: list[dict[str, float]]) -> None:
    assert dynamics.gold is None and dynamics.logits is None and dynamics.seen.all()
    for name in STATISTICS:
        for epoch in range(len(dynamics.epochs)):
            np.testing.assert_allclose(dynamics.statistics[name][epoch], [row[name] for row in rows], atol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    "changed", [{}, {"gradient_accumulation_steps": 2}, {"loss_type": "dft"}, {"label_smoothing_factor": 0.1}]
)
@pytest.mark.filterwarnings("ignore:.*label_smoothing.*")
def test_statistics_equal_those_by_hand(changed, train, pairs):
    trainer, recorder = train(pairs, **changed)
    dynamics = recorder.dynamics()
    assert dynamics.ids.to_pylist() == [f"row-{i}" for i in range(N)]
    assert_statistics(dynamics, expected(trainer))


def test_epoch_end_statistics_and_cost(train, pairs):
    trainer, recorder = train(pairs, mode="epoch_end")
    dynamics = recorder.dynamics()
    assert_statistics(dynamics, expected(trainer))
    assert dynamics.metadata["cost"]["examples"] == 2 * N and dynamics.metadata["cost"]["flops"] > 0


@pytest.mark.parametrize("mode", ["online", "epoch_end"])
def test_loss_is_bit_identical_with_the_recorder(mode, train, pairs):
    plain, _ = train(pairs, watched=False, rate=1e-2)
    watched, _ = train(pairs, mode=mode, rate=1e-2)
    assert watched.losses == plain.losses and len(plain.losses) == 8


def test_ids_survive_shuffled_and_dropped_rows(train, pairs):
    named = pairs.add_column("id", [f"q{i}" for i in range(N)])
    # The longest prompts fill max_length alone: the trainer drops those rows, and shuffles the rest.
    trainer, recorder = train(named, max_length=4, shuffle_dataset=True)
    dynamics = recorder.dynamics()
    assert 0 < len(dynamics) < N
    assert dynamics.ids.to_pylist() == trainer.train_dataset["id"] != sorted(trainer.train_dataset["id"])
    assert_statistics(dynamics, expected(trainer))


def test_lost_rows_are_refused_in_one_sentence(train, pairs):
    with pytest.raises(UserError, match="shuffle_dataset=True has reordered the rows"):
        train(pairs, shuffle_dataset=True)
    with pytest.raises(UserError, match="SFTTrainer has dropped 3 rows without a target within max_length=4"):
        train(pairs, max_length=4)
    with pytest.raises(UserError, match="packing=True joins several examples"):
        train(pairs.add_column("id", [str(i) for i in range(N)]), packing=True, packing_strategy="wrapped", max_length=16)
    with pytest.raises(UserError, match="padding_free=True joins a batch"):
        train(pairs, padding_free=True, max_length=None)


def test_other_trl_trainers_are_refused(tmp_path, make_decoder, make_tokenizer):
    config = trl.DPOConfig(str(tmp_path), use_cpu=True, report_to=[], bf16=False)
    data = datasets.Dataset.from_dict({"prompt": ["w1 "] * 2, "chosen": ["w2"] * 2, "rejected": ["w3"] * 2})
    trainer = trl.DPOTrainer(
        make_decoder(), ref_model=make_decoder(), args=config, train_dataset=data, processing_class=make_tokenizer(bert=False)
    )
    with pytest.raises(UserError, match="not to TRL's DPOTrainer"):
        DynamicsRecorder().attach(trainer)


def test_lora_adapter(tmp_path, pairs, make_decoder, make_tokenizer):
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = trl.SFTTrainer(
        make_decoder(), arguments(tmp_path, learning_rate=0.0, num_train_epochs=1), train_dataset=pairs,
        processing_class=make_tokenizer(bert=False), peft_config=lora,
    )  # fmt: skip
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train()
    assert_statistics(recorder.dynamics(), expected(trainer))


def test_language_model_on_the_plain_trainer(tmp_path, make_decoder):
    g = np.random.default_rng(1)
    data = datasets.Dataset.from_dict({"input_ids": g.integers(5, 45, (N, 6)).tolist()})
    data = data.add_column("labels", [[-100, -100, *ids[2:]] for ids in data["input_ids"]])
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, num_train_epochs=1, use_cpu=True, report_to=[], learning_rate=0.0,
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(make_decoder(), args, train_dataset=data)
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train()
    assert_statistics(recorder.dynamics(), expected(trainer))


def test_sequence_statistics_skip_sequences_without_targets_and_slice_large_vocabularies(monkeypatch):
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 5, 7), torch.randint(0, 7, (3, 5))
    labels[1] = -100
    labels[2, :3] = -100
    whole = observe_outputs({"logits": logits}, labels, size=3, shifts=True)
    monkeypatch.setattr("ftft.tasks.sequences.ELEMENTS_AT_ONCE", 14)
    sliced = observe_outputs({"logits": logits}, labels, size=3, shifts=True)
    assert whole.counted.tolist() == [True, False, True]
    for row in (0, 2):
        for name, value in by_hand(logits[row], labels[row]).items():
            assert whole.values[name][row].item() == pytest.approx(value, abs=1e-6)
            assert sliced.values[name][row].item() == pytest.approx(value, abs=1e-6)
    assert observe_outputs({"logits": logits}, labels, size=4, shifts=True) is None
