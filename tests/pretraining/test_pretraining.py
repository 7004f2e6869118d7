"""Whole runs of tiny kinds: the loss falls, models load, a resumed run is a straight one, other settings are refused."""

from __future__ import annotations

import math
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftft.errors import Interrupted, UserError
from ftft.files import FolderLock, read_json
from ftft.pretraining import loop, masking, models, running
from ftft.pretraining.kinds import KINDS, Kind
from ftft.pretraining.objectives import Causal
from ftft.pretraining.running import Settings, pretrain

ENCODERS = ("tiny-mlm", "tiny-electra")


def settings_of(text: Path, kind: str, **changes: Any) -> Settings:
    return replace(Settings(texts=(text,), kind=kind, out=text.parent / kind, steps=8, vocabulary=300), **changes)


class InterruptAt:
    """Sends this process Ctrl-C when a step has ended."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def kinds(tiny_kinds: dict[str, Kind]) -> dict[str, Kind]:
    return tiny_kinds


@pytest.mark.parametrize("kind", ["tiny-decoder", *ENCODERS])
def test_a_resumed_run_is_a_straight_one_bit_for_bit(kind: str, text_file: Path, kinds: dict[str, Kind]) -> None:
    straight = settings_of(text_file, kind)
    first = pretrain(straight)
    resumed = replace(straight, out=straight.out.with_name("resumed"))
    for stop in (3, 4):
        with pytest.raises(Interrupted, match=f"interrupted at step {stop} of 8, which is saved"):
            pretrain(resumed, notify=InterruptAt(stop))
        assert not resumed.out.exists()
    seen: list[dict[str, Any]] = []
    second = pretrain(resumed, notify=seen.append)
    assert [one["step"] for one in seen if one["event"] == "step"] == [5, 6, 7, 8]
    assert [one["step"] for one in seen if one["event"] == "resumed"] == [4]
    for name in ("held_out", "losses", "data", "plan"):
        assert first[name] == second[name], name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (straight.out, resumed.out))
    assert ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)
    assert (straight.out / "tokenizer.json").read_bytes() == (resumed.out / "tokenizer.json").read_bytes()
    assert not resumed.work.exists() and not straight.work.exists()


@pytest.mark.parametrize("kind", ["tiny-decoder", *ENCODERS])
def test_a_run_that_broke_off_goes_on_from_its_last_checkpoint_bit_for_bit(
    kind: str, text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What breaks saves nothing: all that the resumed run knows is the checkpoint that was due before."""
    straight = settings_of(text_file, kind)
    pretrain(straight)
    broken = replace(straight, out=straight.out.with_name("broken"))
    train = loop.train

    def saving_after_every_step(run: loop.Run) -> dict[str, float]:
        run.checkpoint_seconds = 0.0
        return train(run)

    def breaks(event: dict[str, Any]) -> None:
        if event["event"] == "step" and event["step"] == 5:
            raise RuntimeError("broken off")

    monkeypatch.setattr(loop, "train", saving_after_every_step)
    with pytest.raises(RuntimeError, match="broken off"):
        pretrain(broken, notify=breaks)
    seen: list[dict[str, Any]] = []
    pretrain(broken, notify=seen.append)
    assert [one["step"] for one in seen if one["event"] == "resumed"] == [4]
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (straight.out, broken.out))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_second_run_beside_the_first_leaves_its_work_alone(text_file: Path, kinds: dict[str, Kind]) -> None:
    """While the tokenizer is learnt there is nothing yet by which an unfinished run is known."""
    settings = settings_of(text_file, "tiny-decoder")
    with FolderLock(settings.work):
        (settings.work / "tokenizer").mkdir()
        (settings.work / "tokenizer" / "tokenizer.json").write_text("half of it")
        with pytest.raises(UserError, match="is already working in"):
            pretrain(settings)
        assert (settings.work / "tokenizer" / "tokenizer.json").read_text() == "half of it"
        assert (settings.work / FolderLock.FILE).is_file()


def test_a_run_that_comes_to_the_lock_when_the_other_has_finished_trains_nothing(
    text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(text_file, "tiny-decoder")

    class AnotherIsFirst(FolderLock):
        def __enter__(self) -> FolderLock:
            monkeypatch.setattr(running, "FolderLock", FolderLock)
            pretrain(settings)
            return super().__enter__()

    monkeypatch.setattr(running, "FolderLock", AnotherIsFirst)
    seen: list[dict[str, Any]] = []
    assert pretrain(settings, notify=seen.append)["was_finished"] and not seen
    assert not settings.work.exists()


def test_what_a_killed_run_left_beside_its_saved_model_is_removed(text_file: Path, kinds: dict[str, Kind]) -> None:
    settings = settings_of(text_file, "tiny-decoder")
    pretrain(settings)
    (settings.work / "checkpoints").mkdir(parents=True)
    (settings.work / "prepared.json").write_text("{}")
    with pytest.raises(UserError, match="holds a finished model of seed 0"):
        pretrain(replace(settings, seed=1))
    assert settings.work.exists()
    assert pretrain(settings)["was_finished"]
    assert not settings.work.exists() and (settings.out / "model.safetensors").is_file()


def test_the_report_counts_the_tokens_that_were_seen(
    text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven steps are two passes of three batches, of which the last is a part of one, and a batch."""
    lines = text_file.read_text(encoding="utf-8").splitlines(keepends=True)
    text_file.write_text("".join(lines[:55]), encoding="utf-8")
    seen: list[int] = []
    step = loop._step

    def noted(run: loop.Run, optimizer: Any, number: int, rows: Any) -> dict[str, float]:
        seen.append(len(rows))
        return step(run, optimizer, number, rows)

    monkeypatch.setattr(loop, "_step", noted)
    events: list[dict[str, Any]] = []
    report = pretrain(settings_of(text_file, "tiny-decoder", steps=7), notify=events.append)
    blocks = next(one["blocks"] for one in events if one["event"] == "pretraining")
    assert 16 < blocks < 24 and sum(seen) == 2 * blocks + 8
    assert report["tokens_seen"] == sum(seen) * 32 and report["epochs"] == sum(seen) / blocks
    card = (text_file.parent / "tiny-decoder" / "README.md").read_text(encoding="utf-8")
    assert f"({sum(seen) * 32:,} tokens, {sum(seen) / blocks:.2f} passes)" in card


def test_blocks_seen_are_those_of_the_steps_taken() -> None:
    for blocks, batch in ((1, 8), (8, 8), (9, 8), (23, 4)):
        sizes = [min(batch, blocks - start) for start in range(0, blocks, batch)] * 9
        for steps in range(1, len(sizes)):
            assert loop.blocks_seen(steps, blocks, batch) == sum(sizes[:steps]), (steps, blocks, batch)


def test_the_card_says_what_the_run_was_made_with(
    text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in ((loop, "WARMUP", 0.25), (masking, "CHOSEN", 0.3), (models, "FINE_TUNING_DROPOUT", 0.2)):
        monkeypatch.setattr(module, name, value)
    for kind in ENCODERS:
        pretrain(settings_of(text_file, kind, steps=4))
        card = (text_file.parent / kind / "README.md").read_text(encoding="utf-8")
        assert "25 % warm-up" in card and "over the 30 % of the tokens" in card and "configuration sets 0.2" in card


@pytest.mark.parametrize("kind", ["tiny-decoder", *ENCODERS])
def test_the_loss_falls_on_a_text_with_a_rule(kind: str, text_file: Path, kinds: dict[str, Kind]) -> None:
    report = pretrain(settings_of(text_file, kind, steps=80))
    start, end = report["held_out"]["start"], report["held_out"]["end"]
    assert end["bits_per_byte"] < 0.75 * start["bits_per_byte"]
    if kind == "tiny-electra":
        share = end["replaced"]
        assert 0.02 < share < 0.16 and end["discriminator_loss"] < 0.75 * start["discriminator_loss"]
    card = (text_file.parent / kind / "README.md").read_text(encoding="utf-8")
    for part in (report["data"]["train"]["sha256"], "80 steps", "seed 0", f"{end['bits_per_byte']:.4f}"):
        assert part in card
    everything = card + (text_file.parent / kind / "ftft.json").read_text(encoding="utf-8")
    assert "barks" not in everything and str(text_file.parent) not in everything


def test_a_decoder_loads_in_transformers_and_goes_on_with_a_text(text_file: Path, kinds: dict[str, Kind]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ftft.models.loading import load_saved

    settings = settings_of(text_file, "tiny-decoder", steps=80)
    report = pretrain(settings)
    tokenizer = AutoTokenizer.from_pretrained(settings.out)
    model = AutoModelForCausalLM.from_pretrained(settings.out)
    assert type(model).__name__ == "LlamaForCausalLM" and model.num_parameters() == report["parameters"]
    assert model.config.pad_token_id == tokenizer.pad_token_id and model.config.eos_token_id == tokenizer.eos_token_id
    inputs = tokenizer("the old dog", return_tensors="pt")
    written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert len(tokenizer.decode(written[0])) > len("the old dog")
    ours, processor = load_saved(settings.out, "causal_language_model")
    assert processor.pad_token_id == tokenizer.pad_token_id and processor.model_max_length == 32
    assert ours.num_parameters() == model.num_parameters()


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_loads_in_transformers_and_for_fine_tuning(kind: str, text_file: Path, kinds: dict[str, Kind]) -> None:
    from transformers import AutoModel, AutoTokenizer

    from ftft.models.loading import load_classifier
    from ftft.models.settings import ModelSettings

    settings = settings_of(text_file, kind)
    report = pretrain(settings)
    tokenizer, model = AutoTokenizer.from_pretrained(settings.out), AutoModel.from_pretrained(settings.out)
    hidden = model(**tokenizer(["the old dog", "a cat sat"], padding=True, return_tensors="pt")).last_hidden_state
    assert hidden.shape[0] == 2 and hidden.shape[2] == 32 and torch.isfinite(hidden).all()
    assert tokenizer.mask_token_id is not None and model.config.hidden_dropout_prob == 0.1
    stored = load_file(settings.out / "model.safetensors")
    prefix = "bert" if kind == "tiny-mlm" else "electra"
    name = "encoder.layer.1.output.dense.weight"
    assert torch.equal(model.state_dict()[name], stored[f"{prefix}.{name}"])
    assert not any("generator" in one for one in stored)
    loaded = load_classifier(ModelSettings(path=str(settings.out)), ["no", "yes"])
    assert loaded.description["head"] == "new" and loaded.description["model_type"] == prefix
    assert report["plan"]["kind"] == kind


def test_held_out_text_of_the_users_choice_is_measured_on(text_file: Path, kinds: dict[str, Kind]) -> None:
    other = text_file.with_name("other.txt")
    other.write_text("zzzz qqqq xxxx\n" * 60, encoding="utf-8")
    near, far = settings_of(text_file, "tiny-decoder"), settings_of(text_file, "tiny-decoder", held_out=other)
    far = replace(far, out=far.out.with_name("far"))
    own, strange = pretrain(near), pretrain(far)
    assert strange["data"]["held_out"]["documents"] == 1 and "held_out" not in own["data"]
    assert strange["held_out"]["end"]["bits_per_byte"] > own["held_out"]["end"]["bits_per_byte"]
    assert strange["epochs"] < own["epochs"]  # nothing of the text is held out


def test_a_finished_model_is_left_as_it_is_and_other_settings_are_refused(text_file: Path, kinds: dict[str, Kind]) -> None:
    settings = settings_of(text_file, "tiny-decoder")
    pretrain(settings)
    before = (settings.out / "model.safetensors").stat().st_mtime_ns
    seen: list[dict[str, Any]] = []
    assert pretrain(settings, notify=seen.append)["was_finished"] and not seen
    for changed, told in (
        (replace(settings, seed=1), "holds a finished model of seed 0 (now 1)"),
        (replace(settings, steps=9), "of steps 8 (now 9)"),
        (replace(settings, held_out=text_file), "of other held-out text"),
    ):
        with pytest.raises(UserError, match=re.escape(told)):
            pretrain(changed)
    text_file.write_text("another text\n" * 400)
    with pytest.raises(UserError, match="of other texts; remove it, or name another folder"):
        pretrain(settings)
    assert (settings.out / "model.safetensors").stat().st_mtime_ns == before


def test_an_unfinished_run_of_other_settings_is_refused_and_kept(text_file: Path, kinds: dict[str, Kind]) -> None:
    settings = settings_of(text_file, "tiny-decoder")
    with pytest.raises(Interrupted):
        pretrain(settings, notify=InterruptAt(2))
    with pytest.raises(UserError, match=re.escape("holds an unfinished run of vocabulary 300 (now 290)")):
        pretrain(replace(settings, vocabulary=290))
    assert read_json(settings.work / "prepared.json", kind="pretraining")["plan"]["vocabulary"] == 300
    assert pretrain(settings)["plan"]["steps"] == 8


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"short", "the text is too short: tiny-decoder learns from blocks of 32 tokens"), (b"\xff", "line 1 is not valid UTF-8")],
)
def test_nothing_is_left_of_a_run_that_cannot_begin(
    content: bytes, sentence: str, tmp_path: Path, kinds: dict[str, Kind]
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(sentence)):
        pretrain(settings_of(path, "tiny-decoder"))
    assert [one.name for one in tmp_path.iterdir()] == ["text.txt"]


def test_a_loss_that_is_no_number_stops_with_a_sentence(
    text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "tiny-decoder", replace(kinds["tiny-decoder"], learning_rate=1e30))
    with pytest.raises(UserError, match=r"infinite or NaN at step \d of 8"):
        pretrain(settings_of(text_file, "tiny-decoder"))


def test_every_step_has_masks_and_a_learning_rate_of_its_own(
    text_file: Path, kinds: dict[str, Kind], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The masks never come back; the rate rises over one step of 20 and falls as a cosine; vectors are not decayed."""
    seen: list[tuple[int, float]] = []
    made: list[Any] = []
    loss, new = Causal.loss, loop.optimizer_of

    def noted_loss(self: Causal, blocks: Any, generator: Any) -> Any:
        if torch.is_grad_enabled():
            seen.append((generator.initial_seed(), made[0].param_groups[0]["lr"]))
        return loss(self, blocks, generator)

    def noted_optimizer(run: loop.Run) -> Any:
        made.append(new(run))
        return made[0]

    monkeypatch.setattr(Causal, "loss", noted_loss)
    monkeypatch.setattr(loop, "optimizer_of", noted_optimizer)
    pretrain(settings_of(text_file, "tiny-decoder", steps=20))
    assert len({seed for seed, _ in seen}) == len(seen) == 20
    peak = kinds["tiny-decoder"].learning_rate
    expected = [0.0, *(peak * 0.5 * (1 + math.cos(math.pi * step / 19)) for step in range(19))]
    assert [rate for _, rate in seen] == pytest.approx(expected, rel=1e-9)
    decayed, others = made[0].param_groups
    assert decayed["weight_decay"] == 0.01 and all(one.ndim >= 2 for one in decayed["params"])
    assert others["weight_decay"] == 0.0 and others["params"] and all(one.ndim < 2 for one in others["params"])


def test_minutes_are_a_plan_and_no_clock() -> None:
    for kind in KINDS.values():
        assert kind.steps_for(20) == kind.steps and kind.steps_for(10) == round(kind.steps / 2) and kind.steps_for(1e-9) == 1
