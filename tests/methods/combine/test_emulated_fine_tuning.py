"""Emulated fine-tuning: what it becomes at its ends, in whole sequences, in our decoding and in transformers' ``generate``."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ftft.bridges.emulation import EmulatedFineTuningProcessor
from ftft.errors import UserError
from ftft.methods.combine.emulated_fine_tuning import EmulatedFineTuning
from ftft.methods.contract import Checkpoint
from ftft.nn.emulation import EmulatedModel, emulated
from ftft.tasks.decoding import greedy

VOCABULARY = 23


def logits(seed: int, size: int = VOCABULARY) -> torch.Tensor:
    return 3 * torch.randn(4, 5, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_p(values: torch.Tensor) -> torch.Tensor:
    return values.log_softmax(dim=-1)


TARGET, TUNED, OTHER, BASE = (logits(seed) for seed in range(4))


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


# -- the formula -----------------------------------------------------------------------------------------------------


def test_one_token_by_hand() -> None:
    """p = M F / N, normalised: 0.5 * 0.8 / 0.4 = 1 and 0.5 * 0.2 / 0.6 = 1/6."""
    target, tuned, base = (torch.tensor(one, dtype=torch.float64).log() for one in ([0.5, 0.5], [0.8, 0.2], [0.4, 0.6]))
    close(emulated(target, [tuned], base, [1.0]).exp(), torch.tensor([6 / 7, 1 / 7], dtype=torch.float64))


def test_it_is_a_distribution_and_logits_may_be_shifted() -> None:
    found = emulated(TARGET, [TUNED], BASE, [1.0])
    close(found.exp().sum(dim=-1), torch.ones(4, 5, dtype=torch.float64))
    close(emulated(TARGET + 7, [TUNED - 3], BASE + 1, [1.0]), found)


def test_of_one_size_it_is_the_fine_tune_and_without_a_change_the_target() -> None:
    close(emulated(BASE, [TUNED], BASE, [1.0]), log_p(TUNED))
    close(emulated(TARGET, [BASE], BASE, [1.0]), log_p(TARGET))
    close(emulated(TARGET, [TUNED], BASE, [0.0]), log_p(TARGET))


def test_the_gain_of_scale_added_to_the_fine_tune_is_the_same() -> None:
    close(emulated(TARGET, [TUNED], BASE, [1.0]), log_p(log_p(TUNED) + (log_p(TARGET) - log_p(BASE))))


@pytest.mark.parametrize("top_p", [1.0, 0.7])
def test_a_mixture_at_its_ends_is_one_fine_tune(top_p: float) -> None:
    close(emulated(TARGET, [TUNED, OTHER], BASE, [1.0, 0.0], top_p), emulated(TARGET, [TUNED], BASE, [1.0], top_p))
    close(emulated(TARGET, [TUNED, OTHER], BASE, [0.0, 1.0], top_p), emulated(TARGET, [OTHER], BASE, [1.0], top_p))


def test_a_mixture_adds_both_changes() -> None:
    expected = log_p(TARGET) + 0.3 * (log_p(TUNED) - log_p(BASE)) + 0.7 * (log_p(OTHER) - log_p(BASE))
    close(emulated(TARGET, [TUNED, OTHER], BASE, [0.3, 0.7]), log_p(expected))
    half = log_p(TARGET) + 0.5 * (log_p(TUNED) - log_p(BASE))
    close(emulated(TARGET, [TUNED], BASE, [0.5]), log_p(half))


def test_the_nucleus_at_its_ends() -> None:
    close(emulated(TARGET, [TUNED], BASE, [1.0], 0.0), log_p(TUNED))
    whole = emulated(TARGET, [TUNED], BASE, [1.0])
    close(emulated(TARGET, [TUNED], BASE, [1.0], 1.0), whole)
    close(emulated(TARGET, [TUNED], BASE, [1.0], 1.0 - 1e-15), whole)


def test_outside_the_nucleus_tokens_keep_the_fine_tunes_weight() -> None:
    tuned, target, base = (
        torch.tensor(one, dtype=torch.float64).log() for one in ([0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.5, 0.1])
    )
    # 0.6 of the mass needs the first two tokens: their weights are 0.5 * 0.2 / 0.4 and 0.3 * 0.2 / 0.5, the third's is 0.2.
    weights = torch.tensor([0.25, 0.12, 0.2], dtype=torch.float64)
    close(emulated(target, [tuned], base, [1.0], 0.6).exp(), weights / weights.sum())
    first = torch.tensor([0.25, 0.3, 0.2], dtype=torch.float64)
    close(emulated(target, [tuned], base, [1.0], 0.5).exp(), first / first.sum())


def test_rows_that_pad_a_vocabulary_are_cut_before_anything_is_normalised() -> None:
    padded = torch.cat([TARGET, torch.full((4, 5, 3), 9.0, dtype=torch.float64)], dim=-1)
    close(emulated(padded, [TUNED], BASE, [1.0]), emulated(TARGET, [TUNED], BASE, [1.0]))


def test_what_is_impossible_for_the_target_stays_so() -> None:
    target = TARGET.clone()
    target[..., 3] = float("-inf")
    found = emulated(target, [TUNED], BASE, [1.0])
    assert bool(torch.isneginf(found[..., 3]).all()) and not bool(torch.isnan(found).any())


# -- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tiny_config: Callable[..., Any]) -> dict[str, Any]:
    """A target of another architecture than the two small models, in float64."""
    from transformers import GPT2LMHeadModel, LlamaForCausalLM

    def made(seed: int, kind: Any, config: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return kind(config).double().eval()

    base = made(1, LlamaForCausalLM, tiny_config("llama"))
    tuned, other = copy.deepcopy(base), copy.deepcopy(base)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for model in (tuned, other):
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    target = made(3, GPT2LMHeadModel, tiny_config("gpt2", n_embd=24, n_head=3))
    return {"target": target, "tuned": tuned, "base": base, "tuned_2": other}


def three(models: dict[str, Any]) -> dict[str, Any]:
    return {name: models[name] for name in ("target", "base", "tuned")}


TOKENS = torch.randint(5, 40, (3, 9), generator=torch.Generator().manual_seed(4))


def plain_loop(models: dict[str, Any], prompt: list[int], most: int, shares: list[float], top_p: float = 1.0) -> list[int]:
    """Greedy decoding without caches or batches."""
    tokens = list(prompt)
    for _ in range(most):
        with torch.no_grad():
            said = {name: model(input_ids=torch.tensor([tokens])).logits[0, -1] for name, model in models.items()}
        tuned = [value for name, value in said.items() if name.startswith("tuned")]
        tokens.append(int(emulated(said["target"], tuned, said["base"], shares, top_p).argmax()))
    return tokens[len(prompt) :]


def test_of_whole_sequences_every_position_is_the_formula(models: dict[str, Any]) -> None:
    predictor = EmulatedFineTuning(top_p=0.8).predictor(three(models))
    with torch.no_grad():
        found = predictor(input_ids=TOKENS).logits
        target, tuned, base = (models[name](input_ids=TOKENS).logits for name in ("target", "tuned", "base"))
    close(found, emulated(target, [tuned], base, [1.0], 0.8))


@pytest.mark.parametrize(("shares", "top_p"), [([1.0], 1.0), ([1.0], 0.6), ([0.4, 0.6], 1.0)])
def test_our_decoding_writes_what_the_formula_says(models: dict[str, Any], shares: list[float], top_p: float) -> None:
    """Prompts of different lengths side by side, with keys and values kept, against one at a time without."""
    used = models if len(shares) == 2 else three(models)
    predictor = EmulatedFineTuning(shares=shares, top_p=top_p).predictor(used)
    prompts = [[7, 8, 9, 10], [11], [12, 13, 14]]
    found = greedy(predictor, prompts, most=6, ends=(), pad=0, count=lambda *_: contextlib.nullcontext())
    assert found == [plain_loop(used, prompt, 6, shares, top_p) for prompt in prompts]


@pytest.mark.parametrize(("many", "top_p"), [(False, 1.0), (True, 0.7)])
def test_generate_writes_the_same_with_the_processor(models: dict[str, Any], many: bool, top_p: float) -> None:
    """In a padded batch, and with two fine-tunes; a processor that has written one batch writes another."""
    tuned = [models["tuned"], models["tuned_2"]] if many else models["tuned"]
    shares = [0.25, 0.75] if many else [1.0]
    processor = EmulatedFineTuningProcessor(tuned, models["base"], shares=shares, top_p=top_p, pad_token_id=0)
    for prompts in ([[7, 8, 9, 10], [0, 0, 11, 12]], [[0, 6, 7, 8], [20, 21, 22, 23]]):
        tokens = torch.tensor(prompts)
        given = {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "max_new_tokens": 6, "do_sample": False}
        written = models["target"].generate(
            **given, logits_processor=[processor], pad_token_id=0, eos_token_id=None, use_cache=True
        )
        used = models if many else three(models)
        for row, prompt in enumerate(prompts):
            expected = plain_loop(used, [token for token in prompt if token], 6, shares, top_p)
            assert written[row, 4:].tolist() == expected


@pytest.mark.parametrize("assistant", ["tuned", "base"])
def test_speculative_decoding_writes_the_same_token_by_token(models: dict[str, Any], assistant: str) -> None:
    """transformers' own, where a small model drafts what the emulated one accepts: rejected drafts shorten the text again."""
    processor = EmulatedFineTuningProcessor(models["tuned"], models["base"])
    written = models["target"].generate(
        torch.tensor([[7, 8, 9]]), logits_processor=[processor], assistant_model=models[assistant], max_new_tokens=12,
        do_sample=False, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert written[0, 3:].tolist() == plain_loop(three(models), [7, 8, 9], 12, [1.0])


def surprise(written: torch.Tensor, log_p: torch.Tensor, score: torch.Tensor) -> float:
    """How many standard errors the mean ``score`` [L, V] of the tokens ``written`` [L] is from what exp(log_p) expects."""
    expected = (log_p.exp() * score).sum(dim=1)
    variance = (log_p.exp() * score.square()).sum(dim=1) - expected.square()
    return float((score.gather(1, written[:, None])[:, 0] - expected).sum() / variance.sum().sqrt())


@pytest.mark.parametrize("assistant", [None, "tuned"])
def test_what_is_sampled_is_drawn_from_the_emulated_distribution(models: dict[str, Any], assistant: str | None) -> None:
    """Token by token, or by speculative sampling: as likely as it expects, and far from what one of the models does."""
    used = three(models)
    drafts = {} if assistant is None else {"assistant_model": models[assistant]}
    rows = []
    torch.manual_seed(0)
    for first in (7, 11):
        processor = EmulatedFineTuningProcessor(models["tuned"], models["base"])
        text = used["target"].generate(
            torch.tensor([[first, 8, 9]]), logits_processor=[processor], max_new_tokens=24, do_sample=True, top_k=0,
            eos_token_id=None, pad_token_id=0, **drafts,
        )  # fmt: skip
        with torch.no_grad():
            found = {name: log_p(model(input_ids=text).logits[0, 2:-1]) for name, model in used.items()}
        emulation = emulated(found["target"], [found["tuned"]], found["base"], [1.0])
        rows.append((text[0, 3:], emulation, found["target"], found["tuned"]))
    written, emulation, target, tuned = (torch.cat(parts) for parts in zip(*rows))
    for other in (target, tuned):
        assert abs(surprise(written, emulation, emulation - other)) < 3, "noise"
        assert surprise(written, other, emulation - other) > 6, "it tells the models apart"


def test_beams_are_followed_when_they_change_places(models: dict[str, Any]) -> None:
    """The scores that beams end with are sums of the emulated log-probabilities of their own texts."""
    processor = EmulatedFineTuningProcessor(models["tuned"], models["base"])
    prompt = torch.tensor([[7, 8, 9]])
    written = models["target"].generate(
        prompt, logits_processor=[processor], num_beams=4, num_return_sequences=4, max_new_tokens=5, eos_token_id=None,
        pad_token_id=0, do_sample=False, length_penalty=0.0, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    predictor = EmulatedFineTuning().predictor(three(models))
    for sequence, score in zip(written.sequences, written.sequences_scores):
        with torch.no_grad():
            said = predictor(input_ids=sequence[None, :-1]).logits[0]
        own = said.gather(1, sequence[1:, None])[2:, 0].sum()
        torch.testing.assert_close(score.double(), own, rtol=0, atol=1e-5)


def test_what_another_processor_forbids_stays_forbidden(models: dict[str, Any]) -> None:
    """Outside the nucleus the target is not asked, and what was forbidden to it must not come back."""
    prompt = torch.tensor([[7, 8, 9]])
    scores = models["target"](input_ids=prompt).logits[:, -1].detach()
    scores[0, 5] = float("-inf")
    for top_p in (1.0, 0.0):
        found = EmulatedFineTuningProcessor(models["tuned"], models["base"], top_p=top_p)(prompt, scores)
        assert torch.isneginf(found[0, 5]) and torch.isfinite(found[0]).sum() == scores.shape[1] - 1


@pytest.mark.parametrize("top_p", [1.0, 0.7, 0.3])
def test_among_what_is_allowed_the_formula_holds_as_if_there_were_nothing_else(models: dict[str, Any], top_p: float) -> None:
    """Asked of the target alone, a forbidden token would make all others likelier inside the nucleus, and not outside it."""
    prompt = torch.tensor([[7, 8, 9], [10, 11, 12]])
    with torch.no_grad():
        scores, tuned, base = (models[name](input_ids=prompt).logits[:, -1] for name in ("target", "tuned", "base"))
    allowed = torch.ones(scores.shape[1], dtype=torch.bool)
    allowed[scores[0].topk(5).indices] = False
    found = EmulatedFineTuningProcessor(models["tuned"], models["base"], top_p=top_p)(
        prompt, scores.masked_fill(~allowed, float("-inf"))
    )
    expected = emulated(scores[:, allowed], [tuned[:, allowed]], base[:, allowed], [1.0], top_p)
    torch.testing.assert_close(found[:, allowed].double(), expected.double(), rtol=0, atol=1e-5)
    assert torch.isneginf(found[:, ~allowed]).all()


# -- the method ------------------------------------------------------------------------------------------------------


def checkpoints(count: int) -> list[Checkpoint]:
    own = [Checkpoint(9, None, lambda: {"w": torch.tensor(1.0)})]
    own.insert(0, Checkpoint(3, 0.9, lambda: {"w": torch.tensor(-1.0)}))
    names = "ab"[: count - 1]
    return own + [Checkpoint(5, None, lambda k=k: {"w": torch.tensor(2.0 + k)}, stage=name) for k, name in enumerate(names)]


def test_the_members_are_the_start_the_last_step_and_the_other_stages() -> None:
    found = EmulatedFineTuning().combine(lambda: {"w": torch.tensor(0.0)}, checkpoints(2), None)
    assert (found.kind, found.step, found.state) == ("predictor", 9, {})
    assert {name: float(one["w"]) for name, one in found.members.items()} == {"base": 0.0, "tuned": 1.0, "tuned_2": 2.0}


def test_shares_are_equal_unless_given_and_must_fit(models: dict[str, Any]) -> None:
    predictor = EmulatedFineTuning().predictor(models)
    assert isinstance(predictor, EmulatedModel) and predictor.shares == (0.5, 0.5)
    with pytest.raises(UserError, match="combine.shares has 3 numbers and there are 2 fine-tuned models"):
        EmulatedFineTuning(shares=[1.0, 1.0, 1.0]).combine(dict, checkpoints(2), None)
    with pytest.raises(UserError, match="there are 1 fine-tuned models and 2 shares"):
        EmulatedFineTuningProcessor(models["tuned"], models["base"], shares=[0.5, 0.5])
