"""The loop: accumulation is exact, the trajectory is transformers', recording changes nothing, resuming changes nothing."""

import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate import Accelerator
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from ftft.data.examples import Examples
from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule
from ftft.engine.checkpoint import CheckpointFolder
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.predict import predict, predict_batches
from ftft.engine.settings import StopSettings, TrainSettings
from ftft.engine.stopping import EarlyStopping
from ftft.errors import Interrupted, UserError
from ftft.methods.contract import Models
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.tasks.contract import Prepared
from ftft.tasks.text_classification import TextClassification

N, CLASSES = 70, 3


def tiny_model(dropout=0.0, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        num_labels=CLASSES,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="eager",
    )
    return BertForSequenceClassification(config).to(dtype)


def tiny_data(n=N, seed=0):
    source = np.random.default_rng(seed)
    lengths = source.integers(3, 20, n).astype(np.int32)
    examples = Examples(
        ids=pa.array([f"x{i}" for i in range(n)]),
        inputs={},
        labels=source.integers(0, CLASSES, n),
        label_names=("a", "b", "c"),
        fingerprint="f",
    )
    tokens = source.integers(5, 50, lengths.sum()).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return Prepared(examples, lengths, {"input_ids": tokens, "offsets": offsets, "pad_token_id": 0})


def training(model, data, *, steps=12, batch_size=16, seed=0, rate=1e-2, optimizer=None, **changes):
    settings = TrainSettings(batch_size=batch_size, precision="fp32", **changes.pop("settings", {}))
    rows = np.arange(len(data))
    return Training(
        models=Models(model),
        task=TextClassification(max_length=24),
        data=data,
        schedule=changes.pop("schedule", None) or BatchSchedule(rows, data.lengths, batch_size, steps, seed),
        objective=changes.pop("objective", CrossEntropy()),
        optimizer=optimizer or torch.optim.AdamW(model.parameters(), lr=rate, eps=1e-8),
        settings=settings,
        precision="fp32",
        accelerator=Accelerator(cpu=True),
        **changes,
    )


def buffer(data):
    return DynamicsBuffer(data.examples.ids, data.examples.labels.astype(np.int32), num_classes=CLASSES)


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("micro", [1, 3, 5])
def test_accumulated_micro_batches_take_the_step_of_the_large_batch(micro):
    data, results = tiny_data(), []
    for size in (None, micro):
        model = tiny_model(dtype=torch.float64)
        weights = np.linspace(0.5, 1.5, len(data))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        run = training(model, data, steps=6, optimizer=optimizer, weights=weights, settings={"micro_batch_size": size})
        outcome = TrainingLoop(run).run()
        results.append((outcome.losses, weights_of(model)))
    (losses, states), (micro_losses, micro_states) = results
    assert np.abs(np.array(losses) - np.array(micro_losses)).max() < 1e-12
    assert max(float((states[name] - micro_states[name]).abs().max()) for name in states) < 1e-12


class FixedOrderTrainer(Trainer):
    """transformers' Trainer on the very batches our loop used."""

    batches: list
    losses: list

    def get_train_dataloader(self):
        return torch.utils.data.DataLoader(self.batches, batch_size=None, shuffle=False)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.losses.append(float((result[0] if return_outputs else result).detach()))
        return result


def test_losses_follow_transformers_trainer_for_fifty_steps(tmp_path):
    data, steps, rate = tiny_data(), 50, 5e-3
    ours = tiny_model()
    run = training(ours, data, steps=steps, rate=rate, settings={"warmup": 0.1, "schedule": "linear", "clip": 1.0})
    run.optimizer = torch.optim.AdamW(ours.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    plan = [batch for epoch in range(20) for batch in run.schedule.plan(epoch)][:steps]
    outcome = TrainingLoop(run).run()

    theirs = tiny_model()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=steps,
        learning_rate=rate,
        warmup_steps=5,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        optim="adamw_torch",
        adam_epsilon=1e-8,
        weight_decay=0.0,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        per_device_train_batch_size=16,
    )
    trainer = FixedOrderTrainer(model=theirs, args=arguments, train_dataset=[0] * len(data))
    task = TextClassification(max_length=24)
    trainer.batches = [{**(batch := task.collate(data, rows)).inputs, "labels": batch.labels} for rows in plan]
    trainer.losses = []
    trainer.train()
    assert len(trainer.losses) == steps == len(outcome.losses)
    assert np.abs(np.array(trainer.losses) - np.array(outcome.losses)).max() < 1e-6
    assert outcome.losses[-1] < outcome.losses[0] - 0.02, "the comparison means nothing if nothing is learned"


def test_recording_changes_neither_losses_nor_weights():
    data, results = tiny_data(), []
    for mode in (None, "online", "epoch_end"):
        model = tiny_model(dropout=0.2)
        torch.manual_seed(7)
        run = training(model, data, steps=13, dynamics=buffer(data) if mode else None, dynamics_mode=mode or "online")
        results.append((TrainingLoop(run).run().losses, weights_of(model)))
    for losses, states in results[1:]:
        assert losses == results[0][0]
        assert_equal_weights(states, results[0][1])


def test_online_dynamics_are_the_logits_before_each_update():
    data = tiny_data()
    model = tiny_model()
    record, schedule = buffer(data), BatchSchedule(np.arange(N), data.lengths, 16, 10, 0)
    seen = {}
    task = TextClassification(max_length=24)

    class Watching(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    optimizer = Watching(model.parameters(), lr=0.5)
    loop = TrainingLoop(
        training(model, data, steps=10, optimizer=optimizer, dynamics=record, schedule=schedule, settings={"warmup": 0.0})
    )
    original = loop._train_step

    def before(rows, epoch):
        with torch.no_grad():
            model.train()
            logits = task.forward(model, task.collate(data, rows))
        seen.update({(epoch, int(row)): values.numpy() for row, values in zip(rows, logits)})
        original(rows, epoch)

    loop._train_step = before
    loop.run()
    dynamics = record.dynamics()
    assert dynamics.epochs == (0, 1)
    assert dynamics.seen.all()
    for (epoch, row), values in seen.items():
        np.testing.assert_allclose(dynamics.logits[epoch, row], values, atol=1e-6)


def test_partial_last_epoch_is_kept_with_its_mask():
    data, model = tiny_data(), tiny_model()
    record = buffer(data)
    TrainingLoop(training(model, data, steps=7, dynamics=record)).run()  # 5 steps an epoch
    dynamics = record.dynamics()
    assert dynamics.seen[0].all()
    assert 16 <= dynamics.seen[1].sum() <= 32


def test_epoch_end_dynamics_are_those_of_the_model_then_and_are_charged():
    data, model = tiny_data(), tiny_model(dropout=0.3)
    record = buffer(data)
    run = training(model, data, steps=5, dynamics=record, dynamics_mode="epoch_end")
    TrainingLoop(run).run()
    expected = predict(model, run.task, data)
    logits = record.dynamics().logits[0]
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert run.ledger.effective["scoring"].examples == N
    assert run.ledger.effective["scoring"].flops > 0


class StopAt:
    """Sends the process an interrupt after a step, as Ctrl-C would."""

    def __init__(self, *steps):
        self.steps = list(steps)

    def __call__(self, event):
        if event["event"] == "step" and event["step"] in self.steps:
            self.steps.remove(event["step"])
            os.kill(os.getpid(), signal.SIGINT)


def full_run(folder, data, notify=lambda event: None, dropout=0.2, mode="online"):
    model = tiny_model(dropout=dropout)
    torch.manual_seed(11)
    record, task = buffer(data), TextClassification(max_length=24)
    run = training(
        model,
        data,
        steps=17,
        dynamics=record,
        dynamics_mode=mode,
        folder=folder,
        notify=notify,
        keep_best=True,
        stopping=EarlyStopping(StopSettings(patience=50)),
        settings={"evaluate_every": 4},
    )
    run.stop_score = lambda scores: scores["v"]["accuracy"]
    run.validate = lambda current: {
        "v": {"accuracy": float((predict(current, task, data).argmax(1) == data.examples.labels).mean())}
    }
    outcome = TrainingLoop(run).run()
    return outcome, weights_of(model), record.dynamics(), run


@pytest.mark.parametrize("mode", ["online", "epoch_end"])
def test_interrupted_and_resumed_equals_undisturbed_bit_for_bit(tmp_path, mode):
    data = tiny_data()
    straight, weights, dynamics, run = full_run(tmp_path / "a", data, mode=mode)
    stops = StopAt(3, 8, 16)
    for _ in range(3):
        with pytest.raises(Interrupted):
            full_run(tmp_path / "b", data, stops, mode=mode)
    resumed, resumed_weights, resumed_dynamics, resumed_run = full_run(tmp_path / "b", data, stops, mode=mode)
    assert resumed.resumed_from == 16
    assert resumed.losses == straight.losses
    assert resumed.history == straight.history
    assert_equal_weights(resumed_weights, weights)
    assert np.array_equal(resumed_dynamics.logits, dynamics.logits) and np.array_equal(resumed_dynamics.seen, dynamics.seen)
    for phase, cost in run.ledger.effective.items():
        again = resumed_run.ledger.effective[phase]
        assert (again.flops, again.examples, again.tokens, again.steps) == (
            cost.flops,
            cost.examples,
            cost.tokens,
            cost.steps,
        ), phase


def test_work_lost_to_a_kill_is_booked_as_repeated(tmp_path):
    data = tiny_data()
    for stop in (StopAt(4), StopAt(9)):
        with pytest.raises(Interrupted):
            full_run(tmp_path, data, stop)
    # As if the process had been killed between the two: the later checkpoint was never written, its work is in the journal.
    shutil.rmtree(tmp_path / "checkpoints" / "step_00000009")
    outcome, _, _, run = full_run(tmp_path, data)
    assert outcome.resumed_from == 4
    assert run.ledger.repeated["training"].steps == 5
    assert run.ledger.effective["training"].steps == 17
    assert run.ledger.repeated["training"].flops > 0


def test_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path):
    data, warnings = tiny_data(), []
    straight, weights, _, _ = full_run(tmp_path / "a", data)
    for stop in (StopAt(6), StopAt(12)):
        with pytest.raises(Interrupted):
            full_run(tmp_path / "b", data, stop)
    newest = tmp_path / "b" / "checkpoints" / "step_00000012" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    model, record = tiny_model(dropout=0.2), buffer(data)
    torch.manual_seed(11)
    run = training(model, data, steps=17, dynamics=record, folder=tmp_path / "b", warn=warnings.append)
    outcome = TrainingLoop(run).run()
    assert outcome.resumed_from == 6
    assert any("step 12" in sentence for sentence in warnings)
    assert outcome.losses == straight.losses
    assert_equal_weights(weights_of(model), weights)


def test_ending_early_leaves_the_very_checkpoint_of_the_whole_run(tmp_path):
    """The learning rate and the batches are those of the whole plan; the last step is evaluated."""
    data, seen = tiny_data(), {}
    whole = training(tiny_model(dropout=0.1), data, steps=12, settings={"evaluate_every": 3})

    def validate(current):
        seen[loop.step] = weights_of(current)
        return {"v": {"accuracy": 0.5}}

    whole.validate = validate
    torch.manual_seed(1)
    loop = TrainingLoop(whole)
    straight = loop.run()
    events = []
    part = training(
        tiny_model(dropout=0.1),
        data,
        steps=12,
        folder=tmp_path,
        settings={"end_at": 0.5, "evaluate_every": 4},
        notify=events.append,
    )
    part.validate = lambda current: {"v": {"accuracy": 0.5}}
    torch.manual_seed(1)
    outcome = TrainingLoop(part).run()
    assert (outcome.steps, outcome.planned, outcome.stopped_early) == (6, 12, False)
    assert [entry["step"] for entry in outcome.history] == [4, 6]
    assert outcome.losses == straight.losses[:6]
    assert_equal_weights(weights_of(part.models.main), seen[6])
    assert {event["steps"] for event in events if event["event"] == "step"} == {6}


def test_resuming_under_other_conditions_warns_and_is_marked(tmp_path):
    data, warnings = tiny_data(), []
    model = tiny_model()
    run = training(model, data, steps=8, folder=tmp_path, notify=StopAt(4))
    with pytest.raises(Interrupted):
        TrainingLoop(run, environment={"threads": 2}).run()
    again = training(tiny_model(), data, steps=8, folder=tmp_path, warn=warnings.append)
    outcome = TrainingLoop(again, environment={"threads": 3}).run()
    assert outcome.resume_differences and "threads" in outcome.resume_differences[0]
    assert any("may differ" in sentence for sentence in warnings)


def test_loss_that_is_not_a_number_stops_and_keeps_the_checkpoint(tmp_path):
    data, model = tiny_data(), tiny_model()
    run = training(model, data, steps=12, folder=tmp_path, settings={"checkpoint_seconds": 0.0})
    loop = TrainingLoop(run)
    original = loop._train_step

    def step(rows, epoch):
        if loop.step == 5:
            with torch.no_grad():
                model.classifier.weight.fill_(float("nan"))
        original(rows, epoch)

    loop._train_step = step
    # The weights of step 5 gave that loss, so theirs is not the last good checkpoint.
    with pytest.raises(UserError, match=r"loss became nan at step 6 .* checkpoint of step 4 is kept.*learning_rate"):
        loop.run()
    kept = CheckpointFolder(tmp_path / "checkpoints").newest_valid()
    assert kept is not None and kept.step == 4
    assert all(torch.isfinite(value).all() for value in kept.trees["model"].values())


def test_early_stopping_ends_the_run_and_keeps_the_best_weights(tmp_path):
    data, model = tiny_data(), tiny_model()
    scores = iter([0.5, 0.6, 0.55, 0.58, 0.9])
    states = {}
    run = training(
        model,
        data,
        steps=50,
        folder=tmp_path,
        keep_best=True,
        stopping=EarlyStopping(StopSettings(patience=2)),
        settings={"evaluate_every": 3},
    )

    def validate(current):
        states[loop.step] = weights_of(current)
        return {"v": {"accuracy": next(scores)}}

    run.validate, run.stop_score = validate, lambda found: found["v"]["accuracy"]
    loop = TrainingLoop(run)
    outcome = loop.run()
    assert (outcome.steps, outcome.best_step, outcome.stopped_early) == (12, 6, True)
    best = CheckpointFolder(tmp_path / "checkpoints" / "best").load(6).trees["model"]
    assert_equal_weights(best, states[6])
    assert run.ledger.effective["training"].steps == 12, "the steps spent waiting are charged"


def test_predictions_are_in_the_order_of_the_data_whatever_the_batches():
    data, model = tiny_data(), tiny_model()
    task = TextClassification(max_length=24)
    one = predict(model, task, data, batch_size=1)
    many = predict(model, task, data, batch_size=33)
    np.testing.assert_allclose(one, many, atol=1e-6)
    assert model.training, "the model's mode is restored"
    rows = np.array([5, 2, 60])
    picked = {
        int(row): values
        for batch, outputs in predict_batches(model, task, data, rows=rows)
        for row, values in zip(batch.rows, task.predictions(outputs, batch))
    }
    for row in rows:
        np.testing.assert_allclose(picked[int(row)], many[row], atol=1e-6)


def test_evaluation_is_in_batches_of_like_lengths():
    data = tiny_data(n=200)
    shapes = [batch.shape for batch, _ in predict_batches(tiny_model(), TextClassification(max_length=24), data, batch_size=16)]
    assert [size for size, _ in shapes] == [16] * 12 + [8]
    rounded = np.minimum(-(-data.lengths // 8) * 8, 24)  # widths are multiples of 8
    padded = sum(size * width for size, width in shapes)
    assert rounded.sum() <= padded < 1.1 * rounded.sum()
    assert padded < 0.8 * 200 * rounded.max()  # what batches in the data's own order would take


def test_label_smoothing_does_not_change_what_is_recorded():
    data = tiny_data()
    records = []
    for smoothing in (0.0, 0.2):
        model, record = tiny_model(), buffer(data)
        run = training(model, data, steps=1, dynamics=record, objective=replace(CrossEntropy(), label_smoothing=smoothing))
        TrainingLoop(run).run()
        records.append(record.dynamics().logits)
    assert np.array_equal(*records)


def test_weights_that_are_not_finite_are_neither_measured_nor_saved(tmp_path):
    data, model, measured = tiny_data(), tiny_model(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e38)
    settings = {"clip": None, "warmup": 0.0, "evaluate_every": 1, "schedule": "constant", "checkpoint_seconds": 1e-9}
    run = training(model, data, steps=9, folder=tmp_path, optimizer=optimizer, settings=settings)
    run.validate = lambda current: measured.append(weights_of(current)) or {"v": {"accuracy": 0.5}}
    with pytest.raises(UserError, match=r"(weights became infinite or NaN|loss became (nan|inf)) at step \d of 9"):
        TrainingLoop(run).run()
    assert all(torch.isfinite(value).all() for weights in measured for value in weights.values())
    kept = CheckpointFolder(tmp_path / "checkpoints")
    assert all(torch.isfinite(value).all() for step in kept.steps() for value in kept.load(step).trees["model"].values())

    def spoil(event):
        if event["event"] == "step" and event["step"] == 9:
            with torch.no_grad():
                model.classifier.bias.fill_(float("inf"))

    model = tiny_model()
    run = training(model, data, steps=9, folder=tmp_path / "last", notify=spoil)
    with pytest.raises(UserError, match="weights became infinite or NaN at step 9 of 9 .*no checkpoint had been due"):
        TrainingLoop(run).run()
    assert CheckpointFolder(tmp_path / "last" / "checkpoints").steps() == []


def test_a_resume_under_other_conditions_stays_marked_through_later_ones(tmp_path):
    data, outcome = tiny_data(), None
    for threads, stop in ((2, 3), (3, 5), (3, None)):
        run = training(tiny_model(), data, steps=8, folder=tmp_path, notify=StopAt(stop))
        loop = TrainingLoop(run, environment={"threads": threads})
        if stop is None:
            outcome = loop.run()
        else:
            with pytest.raises(Interrupted):
                loop.run()
    assert outcome.resumed_from == 5 and outcome.resume_differences == ["the number of threads was 2 and is 3 now"]


def improving_run(folder, data, *, steps=12, stop=None, warn=lambda sentence: None):
    """Each evaluation (every second step) is better than the one before; one resume checkpoint a step."""
    run = training(
        tiny_model(),
        data,
        steps=steps,
        folder=folder,
        keep_best=True,
        stopping=EarlyStopping(StopSettings(patience=50)),
        settings={"evaluate_every": 2, "checkpoint_seconds": 1e-9},
        notify=StopAt(stop),
        warn=warn,
    )
    loop = TrainingLoop(run)
    run.validate = lambda current: {"v": {"accuracy": loop.step / 100}}
    run.stop_score = lambda scores: scores["v"]["accuracy"]
    return loop


def test_the_best_weights_of_every_resume_checkpoint_are_kept(tmp_path):
    with pytest.raises(Interrupted):
        improving_run(tmp_path, tiny_data(), stop=8).run()
    saved, best = CheckpointFolder(tmp_path / "checkpoints"), CheckpointFolder(tmp_path / "checkpoints" / "best")
    assert (saved.steps(), best.steps()) == ([7, 8], [6, 8]), "the checkpoint of step 7 counts on the best one of step 6"
    (saved.path(8) / "model.json").unlink()
    outcome = improving_run(tmp_path, tiny_data()).run()
    assert (outcome.resumed_from, outcome.best_step) == (7, 12) and best.load(12)


def test_a_resume_checkpoint_whose_best_weights_are_damaged_is_passed_over(tmp_path):
    warnings = []
    with pytest.raises(Interrupted):
        improving_run(tmp_path, tiny_data(), stop=8).run()
    weights = CheckpointFolder(tmp_path / "checkpoints" / "best").path(8) / "model.safetensors"
    os.truncate(weights, 100)
    outcome = improving_run(tmp_path, tiny_data(), warn=warnings.append).run()
    assert outcome.resumed_from == 7 and outcome.best_step == 12
    assert len(warnings) == 1 and "step 8 is passed over" in warnings[0] and "best" in warnings[0]


def test_a_step_that_is_saved_is_not_saved_again(tmp_path):
    run = training(tiny_model(), tiny_data(), steps=4, folder=tmp_path, settings={"checkpoint_seconds": 1e-9})
    loop, steps = TrainingLoop(run), []
    save = loop.checkpoints.save
    loop.checkpoints.save = lambda step, *rest, **more: steps.append(step) or save(step, *rest, **more)
    loop.run()
    assert steps == [1, 2, 3, 4]


def test_an_interruption_while_the_last_checkpoint_is_saved_is_heeded(tmp_path):
    run = training(tiny_model(), tiny_data(), steps=4, folder=tmp_path)
    loop = TrainingLoop(run)
    save = loop.checkpoints.save

    def interrupted(step, *rest, **more):
        os.kill(os.getpid(), signal.SIGTERM)
        return save(step, *rest, **more)

    loop.checkpoints.save = interrupted
    with pytest.raises(Interrupted, match="interrupted at step 4 of 4, which is saved"):
        loop.run()
    assert TrainingLoop(training(tiny_model(), tiny_data(), steps=4, folder=tmp_path)).run().resumed_from == 4


def test_a_process_that_ignores_interruptions_goes_on(tmp_path):
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        run = training(tiny_model(), tiny_data(), steps=4, folder=tmp_path, notify=StopAt(2))
        assert TrainingLoop(run).run().steps == 4
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)
