"""The recorder on transformers.Trainer: exactly the training forward passes, and nothing changed by watching."""

from __future__ import annotations

import copy

import datasets
import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from ftft.bridges.memory import read_state, state_file
from ftft.bridges.recorder import DynamicsRecorder
from ftft.dynamics.parquet import read_dynamics
from ftft.errors import UserError

N, CLASSES = 37, 3


class LossTrainer(Trainer):
    """Keeps the loss of every micro-batch."""

    def training_step(self, model, inputs, num_items_in_batch=None):
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.__dict__.setdefault("losses", []).append(loss.item())
        return loss


class OwnLossTrainer(LossTrainer):
    """A custom loss that pops the labels, never returns outputs, changes them in place, and runs further passes."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        with torch.no_grad():
            model(**inputs)
        logits = model(**inputs).logits
        again = model(**inputs).logits
        loss = torch.nn.functional.cross_entropy(logits, labels) + 0.1 * (logits - again).square().mean()
        logits.data.mul_(0)
        return loss


def arguments(folder, **changed) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": 4, "num_train_epochs": 3, "use_cpu": True, "report_to": [], "disable_tqdm": True,
        "save_strategy": "no", "logging_strategy": "no", "learning_rate": 1e-2, "seed": 3,
    } | changed  # fmt: skip
    return TrainingArguments(str(folder), **settings)


def oracle(model, batch_of_steps=None) -> list[dict[int, np.ndarray]]:
    """Row -> logits of the first training forward of each micro-batch, epoch by epoch, from what the model itself saw."""
    epochs: list[dict[int, np.ndarray]] = [{}]
    last = None
    for grad, training, ids, logits in model.passes:
        batch = tuple(ids[:, 0].tolist())
        if not grad or not training or batch == last:
            continue
        last = batch
        if len(epochs[-1]) == N:
            epochs.append({})
        for token, values in zip(batch, logits.numpy(), strict=True):
            epochs[-1].setdefault(token - 5, values)
    return epochs


def assert_equals_oracle(dynamics, model, epochs: int = 3) -> None:
    expected = oracle(model)
    assert dynamics.epochs == tuple(range(epochs)) and len(expected) == epochs
    for epoch, seen in enumerate(expected):
        assert set(np.flatnonzero(dynamics.seen[epoch])) == set(seen)
        for row, logits in seen.items():
            np.testing.assert_array_equal(dynamics.logits[epoch, row], logits)


CASES = {
    "plain": ({}, LossTrainer),
    "accumulation": ({"gradient_accumulation_steps": 3}, LossTrainer),
    "label_smoothing": ({"label_smoothing_factor": 0.2}, LossTrainer),
    "workers": ({"dataloader_num_workers": 2}, LossTrainer),
    "grouped": ({"train_sampling_strategy": "group_by_length"}, LossTrainer),
    "all_columns_kept": ({"remove_unused_columns": False}, LossTrainer),
    "own_loss": ({}, OwnLossTrainer),
}


@pytest.mark.parametrize("case", CASES)
def test_records_exactly_the_training_forward_and_changes_nothing(case, tmp_path, rows, pad_rows, make_classifier):
    changed, kind = CASES[case]
    runs = {}
    for watched in (False, True):
        model = make_classifier()
        trainer = kind(model, arguments(tmp_path, **changed), train_dataset=rows, data_collator=pad_rows)
        recorder = DynamicsRecorder().attach(trainer) if watched else None
        trainer.train()
        runs[watched] = model, trainer.losses, recorder
    assert len(runs[True][1]) == 30
    assert runs[True][1] == runs[False][1]
    for one, other in zip(runs[True][0].parameters(), runs[False][0].parameters(), strict=True):
        assert torch.equal(one, other)
    dynamics = runs[True][2].dynamics()
    assert dynamics.seen.all() and dynamics.seen.shape == (3, N)
    assert dynamics.ids.to_pylist() == rows["guid"]
    assert dynamics.gold.tolist() == rows["label"]
    assert_equals_oracle(dynamics, runs[True][0])


def test_loss_function_given_to_the_trainer(tmp_path, rows, pad_rows, make_classifier):
    def focal(outputs, labels, num_items_in_batch=None):
        return (torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none") ** 2).sum() / num_items_in_batch

    model = make_classifier()
    trainer = Trainer(model, arguments(tmp_path), train_dataset=rows, data_collator=pad_rows, compute_loss_func=focal)
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train()
    assert_equals_oracle(recorder.dynamics(), model)


@pytest.mark.parametrize("mode", ["online", "epoch_end"])
def test_partial_epoch_is_masked_and_named(mode, tmp_path, rows, pad_rows, make_classifier):
    model = make_classifier()
    trainer = Trainer(model, arguments(tmp_path, max_steps=13), train_dataset=rows, data_collator=pad_rows)
    recorder = DynamicsRecorder(mode=mode).attach(trainer)
    trainer.train()
    dynamics = recorder.dynamics()
    assert dynamics.seen.sum(axis=1).tolist() == [N, 12 if mode == "online" else N]
    assert dynamics.metadata["partial_epochs"] == [1]
    if mode == "online":
        assert_equals_oracle(dynamics, model, epochs=2)


def test_evaluating_on_the_train_set_is_possible_and_not_recorded(tmp_path, rows, pad_rows, make_classifier):
    model = make_classifier()
    trainer = Trainer(
        model,
        arguments(tmp_path, eval_strategy="steps", eval_steps=3),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=pad_rows,
    )
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train()
    trainer.predict(trainer.train_dataset)
    assert_equals_oracle(recorder.dynamics(), model)
    assert trainer.train_dataset is rows and trainer.data_collator is pad_rows


def test_epoch_end_is_the_evaluation_mode_pass_and_leaves_training_bit_identical(tmp_path, rows, pad_rows, make_classifier):
    class Snapshots(TrainerCallback):
        def on_epoch_end(self, args, state, control, model=None, **kwargs):
            snapshots.append(copy.deepcopy(model).eval())

    losses = []
    for mode in (None, "epoch_end"):
        snapshots: list = []
        trainer = LossTrainer(
            make_classifier(), arguments(tmp_path, dataloader_num_workers=1), train_dataset=rows, data_collator=pad_rows,
            callbacks=[Snapshots()],
        )  # fmt: skip
        recorder = DynamicsRecorder(mode=mode).attach(trainer) if mode else None
        trainer.train()
        losses.append(trainer.losses)
    assert losses[0] == losses[1]
    dynamics = recorder.dynamics()
    assert dynamics.seen.all() and dynamics.epochs == (0, 1, 2)
    for epoch, model in enumerate(snapshots):
        batch = pad_rows(list(rows))
        with torch.no_grad():
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        np.testing.assert_allclose(dynamics.logits[epoch], logits.numpy(), atol=1e-6)
    cost = dynamics.metadata["cost"]
    assert cost["examples"] == 3 * N and cost["flops"] > 0 and cost["seconds"] > 0
    assert cost["tokens"] == 3 * sum(len(ids) for ids in rows["input_ids"])


class StopAt(TrainerCallback):
    """Ends training after a step, as a killed run's last checkpoint would find it."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(("mode", "stop"), [("online", 7), ("online", 10), ("epoch_end", 10), ("epoch_end", 14)])
def test_resumed_dynamics_equal_straight_ones(mode, stop, tmp_path, rows, pad_rows, make_classifier):
    settings = {"save_strategy": "steps", "save_steps": stop}
    tables = []
    for name, parts in (("straight", [None]), ("resumed", [stop, None])):
        folder = tmp_path / name
        for part in parts:
            trainer = Trainer(
                make_classifier(), arguments(folder, **settings), train_dataset=rows, data_collator=pad_rows,
                callbacks=[] if part is None else [StopAt(part)],
            )  # fmt: skip
            recorder = DynamicsRecorder(mode=mode).attach(trainer)
            resumes = len(parts) == 2 and part is None
            trainer.train(resume_from_checkpoint=str(folder / f"checkpoint-{stop}") if resumes else None)
            if part is not None and mode == "epoch_end":
                # The checkpoint was saved before the epoch's end was called.
                _, arrays = read_state(state_file(folder / f"checkpoint-{stop}", 0))
                assert arrays.get("buffer.epochs", np.array([])).tolist() == ([] if stop == 10 else [0])
        tables.append(recorder.dynamics())
    straight, resumed = tables
    assert straight.epochs == resumed.epochs == (0, 1, 2)
    np.testing.assert_array_equal(straight.seen, resumed.seen)
    np.testing.assert_array_equal(straight.logits, resumed.logits)
    np.testing.assert_array_equal(straight.gold, resumed.gold)
    assert resumed.metadata["partial_epochs"] == []


def test_resuming_without_recorded_dynamics_or_with_other_data_is_refused(tmp_path, rows, pad_rows, make_classifier):
    settings = {"save_strategy": "steps", "save_steps": 5, "max_steps": 5}

    def trainer(dataset):
        return Trainer(make_classifier(), arguments(tmp_path, **settings), train_dataset=dataset, data_collator=pad_rows)

    trainer(rows).train()
    again = trainer(rows)
    DynamicsRecorder().attach(again)
    with pytest.raises(UserError, match="holds no recorded dynamics"):
        again.train(resume_from_checkpoint=True)
    recorded = trainer(rows)
    DynamicsRecorder().attach(recorded)
    recorded.train()
    other = trainer(rows.select(range(36, -1, -1)))
    DynamicsRecorder().attach(other)
    with pytest.raises(UserError, match="other examples"):
        other.train(resume_from_checkpoint=True)


class TorchRows(torch.utils.data.Dataset):
    def __init__(self, dataset) -> None:
        self.items = list(dataset)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict:
        return dict(self.items[row])


def shapes_of_datasets(rows):
    order = np.random.default_rng(1).permutation(N)
    return {
        "torch": (TorchRows(rows), None, [f"row-{i}" for i in range(N)], range(N)),
        "torch_id": (TorchRows(rows), "guid", rows["guid"], range(N)),
        "list": (list(rows), None, [f"row-{i}" for i in range(N)], range(N)),
        "shuffled": (rows.select(order), None, [rows["guid"][i] for i in order], order),
        "formatted": (rows.with_format("torch", columns=["input_ids", "label"]), None, rows["guid"], range(N)),
        "no_ids": (rows.remove_columns("guid"), None, [f"row-{i}" for i in range(N)], range(N)),
    }


@pytest.mark.parametrize("kind", ["torch", "torch_id", "list", "shuffled", "formatted", "no_ids"])
def test_datasets_of_every_kind(kind, tmp_path, rows, pad_rows, make_classifier):
    dataset, column, ids, order = shapes_of_datasets(rows)[kind]
    model = make_classifier()
    trainer = Trainer(model, arguments(tmp_path, num_train_epochs=1), train_dataset=dataset, data_collator=pad_rows)
    recorder = DynamicsRecorder(id_column=column).attach(trainer)
    trainer.train()
    dynamics = recorder.dynamics()
    assert dynamics.ids.to_pylist() == list(ids)
    expected = oracle(model)[0]
    for place, row in enumerate(order):
        np.testing.assert_array_equal(dynamics.logits[0, place], expected[int(row)])
        assert dynamics.gold[place] == rows["label"][int(row)]


def test_id_column_must_exist_and_be_unique(tmp_path, rows, pad_rows, make_classifier):
    def attach(dataset, column):
        trainer = Trainer(make_classifier(), arguments(tmp_path), train_dataset=dataset, data_collator=pad_rows)
        return DynamicsRecorder(id_column=column).attach(trainer)

    with pytest.raises(UserError, match='no column "giud"; did you mean "guid"'):
        attach(rows, "giud")
    with pytest.raises(UserError, match="stands in several rows"):
        attach(rows, "text")
    with pytest.raises(UserError, match='the key "name"'):
        attach(TorchRows(rows), "name")
    twice = rows.remove_columns("guid").add_column("id", ["same"] * N)
    assert attach(twice, None)._id_source == "row"


def test_iterable_dataset_needs_an_id_column(tmp_path, rows, pad_rows, make_classifier):
    def trainer():
        return Trainer(
            make_classifier(),
            arguments(tmp_path, max_steps=20),
            train_dataset=rows.to_iterable_dataset(),
            data_collator=pad_rows,
        )

    with pytest.raises(UserError, match="iterable train dataset has no row positions"):
        DynamicsRecorder().attach(trainer())
    one = trainer()
    recorder = DynamicsRecorder(id_column="guid").attach(one)
    one.train()
    dynamics = recorder.dynamics()
    assert dynamics.ids.to_pylist() == rows["guid"]  # in the order of the stream
    assert dynamics.seen.all() and dynamics.epochs == (0, 1)
    assert_equals_oracle(dynamics, one.model, epochs=2)


def test_more_examples_in_a_stream_than_room_was_made_for(tmp_path, pad_rows, make_classifier):
    n = 2500
    stream = datasets.Dataset.from_dict(
        {
            "id": [f"é{i}" for i in range(n)],
            "input_ids": [[5 + i % 40, 7] for i in range(n)],
            "label": [i % 3 for i in range(n)],
        }
    ).to_iterable_dataset()
    args = arguments(tmp_path, max_steps=5, per_device_train_batch_size=500)
    trainer = Trainer(make_classifier(), args, train_dataset=stream, data_collator=pad_rows)
    recorder = DynamicsRecorder(id_column="id").attach(trainer)
    trainer.train()
    dynamics = recorder.dynamics()
    assert dynamics.ids.to_pylist() == [f"é{i}" for i in range(n)]
    assert dynamics.seen.all() and dynamics.gold.tolist() == [i % 3 for i in range(n)]
    assert np.isfinite(dynamics.logits).all() and (dynamics.logits != 0).all()


def test_many_classes_keep_the_gold_and_the_largest_other_logit(tmp_path, rows, pad_rows, make_classifier):
    model = make_classifier(classes=5)
    trainer = Trainer(model, arguments(tmp_path, num_train_epochs=1), train_dataset=rows, data_collator=pad_rows)
    recorder = DynamicsRecorder(max_classes=4, folder=tmp_path / "out").attach(trainer)
    trainer.train()
    dynamics = read_dynamics(tmp_path / "out" / "dynamics.parquet")
    for row, logits in oracle(model)[0].items():
        gold = rows["label"][row]
        np.testing.assert_array_equal(dynamics.pair_logits[0, row], [logits[gold], np.delete(logits, gold).max()])
    np.testing.assert_array_equal(dynamics.pair_logits, recorder.dynamics().pair_logits)


def test_what_cannot_be_recorded_is_refused_in_one_sentence(tmp_path, rows, pad_rows, make_classifier):
    class OtherLoader(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(torch.utils.data.DataLoader(rows, batch_size=4, collate_fn=pad_rows))

    class NoForward(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            return sum(parameter.sum() for parameter in model.parameters())

    def train(kind=Trainer, classes=CLASSES, dataset=rows, collator=pad_rows):
        args = arguments(tmp_path, max_steps=2)
        trainer = kind(make_classifier(classes=classes), args, train_dataset=dataset, data_collator=collator)
        DynamicsRecorder().attach(trainer)
        trainer.train()

    with pytest.raises(UserError, match="rows are unknown"):
        train(OtherLoader)
    with pytest.raises(UserError, match="no forward pass with gradients over the 4 examples"):
        train(NoForward)
    with pytest.raises(UserError, match="regression"):
        train(classes=1, collator=lambda items: pad_rows(items) | {"labels": torch.rand(len(items))})
    with pytest.raises(UserError, match="not one class per example"):
        train(collator=lambda items: pad_rows(items) | {"labels": torch.rand(len(items), CLASSES)})
    with pytest.raises(UserError, match="did you mean"):
        DynamicsRecorder(mode="epochend")
    with pytest.raises(UserError, match="not attached"):
        DynamicsRecorder().dynamics()


def test_one_recorder_per_trainer_and_detaching_gives_the_trainer_back(tmp_path, rows, pad_rows, make_classifier):
    trainer = LossTrainer(make_classifier(), arguments(tmp_path), train_dataset=rows, data_collator=pad_rows)
    before, callbacks = set(vars(trainer)), len(trainer.callback_handler.callbacks)
    recorder = DynamicsRecorder().attach(trainer)
    with pytest.raises(UserError, match="attached to a trainer already"):
        recorder.attach(trainer)
    with pytest.raises(UserError, match="has a recorder already"):
        DynamicsRecorder().attach(trainer)
    with pytest.raises(UserError, match="nothing has been recorded yet"):
        recorder.dynamics()
    recorder.detach()
    assert set(vars(trainer)) == before and len(trainer.callback_handler.callbacks) == callbacks
    trainer.train()
    assert len(trainer.losses) == 30


def test_examples_without_a_class_are_left_unseen(tmp_path, rows, pad_rows, make_classifier):
    labels = [-100 if row % 5 == 0 else label for row, label in enumerate(rows["label"])]
    dataset = rows.remove_columns("label").add_column("label", labels)
    trainer = Trainer(make_classifier(), arguments(tmp_path, num_train_epochs=1), train_dataset=dataset, data_collator=pad_rows)
    recorder = DynamicsRecorder().attach(trainer)
    trainer.train()
    np.testing.assert_array_equal(recorder.dynamics().seen[0], [row % 5 != 0 for row in range(N)])
