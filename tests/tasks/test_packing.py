"""Packed, every sequence is what it is alone: its loss, its gradient, what is recorded of it; and a model that mixes them is
refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2LMHeadModel, LlamaForCausalLM, MistralConfig, MistralForCausalLM, OPTConfig, OPTForCausalLM

from ftft.dynamics.buffer import DynamicsBuffer
from ftft.engine.batches import BatchSchedule
from ftft.engine.loop import Training, TrainingLoop
from ftft.engine.settings import TrainSettings
from ftft.errors import UserError
from ftft.methods.contract import Models
from ftft.methods.objective.asft import ASFT
from ftft.methods.objective.cross_entropy import CrossEntropy
from ftft.models.packing import require_separate
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.packing import SEQUENCE, first_fit, owners
from ftft.tasks.sequences import IGNORED, STATISTICS

PROMPTS = ["the film was", "a", "the dog runs outside and the cat", "", "people sit", "the place", "good", "b c d e"]
COMPLETIONS = ["good", "very funny film", "sleeps", "nobody is happy", "inside a place", "is", "bad", "f g"]
N = len(PROMPTS)
TASK = CausalLanguageModelling(max_length=64)


@pytest.fixture(scope="module")
def data(tokenizer, answered):
    return TASK.prepare(answered(PROMPTS, COMPLETIONS), tokenizer)


def decoder(tiny_model, architecture):
    torch.manual_seed(0)
    if architecture == "mistral":  # sees the last four tokens alone
        config = tiny_model("llama").config
        kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim")
        settings = {name: getattr(config, name) for name in kept}
        made = MistralForCausalLM(MistralConfig(**settings, intermediate_size=32, initializer_range=0.2, sliding_window=4))
    else:
        kind = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel}[architecture]
        made = kind(tiny_model(architecture).config)
    return made.double().eval()


def test_first_fit_takes_the_longest_first_and_leaves_no_room_for_two_rows_in_one():
    layout = first_fit(np.array([3, 8, 2, 5, 4], dtype=np.int32), 8)
    assert layout.row.tolist() == [1, 0, 2, 1, 2] and layout.start.tolist() == [5, 0, 4, 0, 0] and layout.rows == 3
    generator = np.random.default_rng(0)
    for _ in range(50):
        lengths = generator.integers(1, 20, size=generator.integers(1, 40)).astype(np.int32)
        layout = first_fit(lengths, int(lengths.max()))
        used = np.zeros((layout.rows, lengths.max()), dtype=int)
        for row, start, length in zip(layout.row, layout.start, lengths):
            used[row, start : start + length] += 1
        assert used.max() == 1 and used.sum() == lengths.sum()  # none overlaps, none is cut
        assert all((used[row] == 1)[: used[row].sum()].all() for row in range(layout.rows)), "no gap before the padding"
        full = used.sum(axis=1)
        assert sum(full <= lengths.max() / 2) <= 1, "two half-empty rows would have been one"


def test_a_packed_batch_holds_the_tokens_and_targets_of_the_padded_one(data):
    rows = np.array([6, 2, 0, 5, 3])
    weights = np.array([1.0, 2.0, 0.5, 1.0, 3.0])
    padded, packed = TASK.collate(data, rows, weights), TASK.pack(data, rows, weights)
    assert packed.ids == padded.ids and torch.equal(packed.rows, padded.rows) and torch.equal(packed.weights, padded.weights)
    assert len(packed) == 5 and packed.shape[0] < padded.shape[0] and packed.shape[1] == padded.shape[1]
    assert set(packed.inputs) == {"input_ids", "position_ids"}
    assert torch.equal(TASK.units(packed), TASK.units(padded))
    for example in range(5):
        theirs = padded.extra["targets"][example]
        mine = packed.extra["targets"][(owners(packed) == example) & (packed.extra["targets"] != IGNORED)]
        assert torch.equal(mine, theirs[theirs != IGNORED])
    positions = packed.inputs["position_ids"]
    assert int(positions.max()) == int(data.lengths[rows].max()) - 1 and (positions[:, 0] == 0).all()
    assert torch.equal(owners(padded), torch.arange(5)[:, None].expand_as(padded.extra["targets"]))
    assert SEQUENCE not in padded.extra


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [("llama", "sdpa"), ("gpt2", "sdpa"), ("mistral", "sdpa"), ("llama", "eager"), ("gpt2", "eager")],
)
def test_losses_and_records_are_those_of_the_rows_alone(tiny_model, data, architecture, attention):
    model = decoder(tiny_model, architecture)
    model.set_attn_implementation(attention)
    exact = 1e-10 if attention == "sdpa" else 1e-6  # transformers' eager attention takes its softmax in float32
    packed = TASK.pack(data, np.arange(N))
    assert packed.shape[0] < N
    outputs = TASK.forward(model, packed)
    losses, recorded, kept = (
        TASK.per_example_loss(outputs, packed),
        TASK.record(outputs, packed),
        TASK.predictions(outputs, packed),
    )
    for row in range(N):
        alone = TASK.collate(data, np.array([row]))
        said = TASK.forward(model, alone)
        torch.testing.assert_close(losses[row], TASK.per_example_loss(said, alone)[0], rtol=0, atol=exact)
        for name, value in TASK.record(said, alone).items():
            torch.testing.assert_close(recorded[name][row], value[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(kept[row], TASK.predictions(said, alone)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("objective", [CrossEntropy(label_smoothing=0.1), ASFT(anchor=0.5)])
def test_a_training_is_the_same_packed_and_padded(tiny_model, data, objective):
    """Losses, weights and dynamics by id of six steps, in whole batches and in micro-batches; and it costs less."""
    results = []
    for pack, micro in ((False, None), (True, None), (True, 4)):
        model, frozen = decoder(tiny_model, "llama"), decoder(tiny_model, "llama").requires_grad_(False)
        with torch.no_grad():
            frozen.lm_head.weight.mul_(1.5)
        recorded = DynamicsBuffer(data.examples.ids, None, statistics=STATISTICS)
        training = Training(
            models=Models(model, {"frozen": frozen}),
            task=TASK,
            data=data,
            schedule=BatchSchedule(np.arange(N), data.lengths, N, 6, 0),
            objective=objective,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            settings=TrainSettings(batch_size=N, micro_batch_size=micro, clip=None, pack=pack),
            precision="fp64",
            accelerator=Accelerator(cpu=True),
            weights=np.linspace(0.5, 1.5, N),
            dynamics=recorded,
        )
        outcome = TrainingLoop(training).run()
        results.append((outcome.losses, dict(model.state_dict()), recorded.dynamics(), training.flops.spent))
    padded = results[0]
    for losses, state, dynamics, spent in results[1:]:
        np.testing.assert_allclose(losses, padded[0], rtol=0, atol=1e-11)
        for name, value in state.items():
            torch.testing.assert_close(value, padded[1][name], rtol=0, atol=1e-10)
        assert dynamics.ids.equals(data.examples.ids) and dynamics.seen.all()
        for name in STATISTICS:
            np.testing.assert_allclose(dynamics.statistics[name], padded[2].statistics[name], atol=1e-6)
        assert spent < 0.8 * padded[3]
    assert padded[0][-1] != padded[0][0], "something was learned"


def test_a_model_that_mixes_the_sequences_of_a_row_is_refused(tiny_model):
    for architecture in ("llama", "gpt2", "mistral"):
        model = decoder(tiny_model, architecture).float().train()
        require_separate(model, "here")
        assert model.training
    torch.manual_seed(0)
    sizes = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 32}
    mixing = OPTForCausalLM(OPTConfig(**sizes, word_embed_proj_dim=16, max_position_embeddings=64))
    with pytest.raises(UserError, match="^stages.main.train.pack: in one row OPTForCausalLM does not keep sequences apart"):
        require_separate(mixing, "stages.main.train.pack")


def test_a_model_without_positions_is_refused(tiny_model):
    class Positionless(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids, use_cache=None):
            return self.inner(input_ids=input_ids, use_cache=use_cache)

    with pytest.raises(UserError, match="leave pack out"):
        require_separate(Positionless(decoder(tiny_model, "llama")), "here")


class Told(torch.nn.Module):
    """A model that is told the positions of the first ``told`` rows of a batch only."""

    def __init__(self, inner, told, factor=1.0):
        super().__init__()
        self.inner, self.told, self.factor = inner, told, factor

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    def forward(self, input_ids, position_ids=None, use_cache=None):
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids).clone()
        if position_ids is not None:
            places[: self.told] = position_ids[: self.told]
        found = self.inner(input_ids=input_ids, position_ids=places, use_cache=use_cache)
        found.logits = found.logits * self.factor
        return found


def test_a_model_that_keeps_apart_one_row_and_not_two_is_refused(tiny_model):
    """As flash attention does; in either row."""
    inner = decoder(tiny_model, "llama")
    require_separate(Told(inner, told=2), "here")
    with pytest.raises(UserError, match="does not keep sequences apart"):
        require_separate(Told(inner, told=1), "here")


def test_a_model_that_says_no_numbers_is_refused(tiny_model):
    with pytest.raises(UserError, match="does not keep sequences apart"):
        require_separate(Told(decoder(tiny_model, "llama"), told=2, factor=float("nan")), "here")


def test_an_adapter_that_undoes_positions_is_refused(tiny_model):
    from peft import PromptTuningConfig, get_peft_model

    adapted = get_peft_model(decoder(tiny_model, "llama"), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(UserError, match="does not keep sequences apart"):
        require_separate(adapted, "here")
