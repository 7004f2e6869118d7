"""Two processes are one training run: the same losses, weights and dynamics, one set of files, one decision.

``process_script.py`` is started once in two processes; each test reads what it left and holds it against one process.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ftft.engine.checkpoint import CheckpointFolder
from ftft.engine.processes import ALONE, Processes, launched, processes_of
from ftft.errors import Interrupted, UserError

SCRIPT = Path(__file__).with_name("process_script.py")
pytestmark = pytest.mark.processes
# Those of process_script.py: what looks at the step, the weights or the loss must do the same in every process.
DYNAMICS = ("logits", "seen")
METHODS = ["lora", "lift", "s2ft", "probe_then_full", "asft", "l2_sp", "mezo", "sam", "lisa", "infobatch", "lora_pro"]


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("engine_process_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(script: Any, fork_processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left; a checkpoint of one process was there before."""
    folder = tmp_path_factory.mktemp("two")
    with pytest.raises(Interrupted):
        script.Run(folder / "from_one", dropout=0.2, signal_at=(0, 6)).go()
    for name in ("one_to_copies", "one_to_shards"):
        script.first_part(folder / name, script.CONTINUED[name][0])
    child = fork_processes(str(folder), script=str(SCRIPT))
    output, _ = child.communicate(timeout=400)
    assert child.returncode == 0, output[-5000:]
    return folder


@pytest.fixture(scope="module")
def alone(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The same run in one process, done once."""

    @functools.cache
    def run(name: str) -> Any:
        one = script.Run(tmp_path_factory.mktemp("one"), **script.SAME_AS_ONE[name])
        one.go()
        return one

    return run


def left(folder: Path, name: str, processes: int = 2) -> tuple[list[dict], list[dict[str, torch.Tensor]]]:
    """What each process has left of a run."""
    results = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(processes)]
    return results, [load_file(folder / f"{name}-{rank}.safetensors") for rank in range(processes)]


def counts(ledger: dict, phase: str) -> tuple[int, ...]:
    return tuple(ledger["effective"][phase][field] for field in ("examples", "tokens", "steps"))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("plain", 1e-10),
        ("one_length", 1e-10),
        ("accumulated", 1e-10),
        ("fp32", 1e-6),
        ("epoch_end", 1e-10),
        ("batch_of_one", 1e-10),
        ("sharded", 1e-10),
        ("sharded_accumulated", 1e-10),
        ("sharded_fp32", 1e-6),
        ("sharded_epoch_end", 1e-10),
        *((method, 1e-9) for method in METHODS),
    ],
)
def test_losses_weights_and_dynamics_are_those_of_one_process(name, tolerance, folder, alone):
    one, sharded = alone(name), name.startswith("sharded")
    results, tensors = left(folder, name)
    for rank, (result, tensor) in enumerate(zip(results, tensors)):
        # A model that lay in shards is whole in the first process alone.
        kept = {key: value for key, value in one.tensors.items() if key in DYNAMICS or not (sharded and rank)}
        assert_same_run(result, tensor, one.results, kept, tolerance)
    assert max(abs(loss - results[0]["losses"][0]) for loss in results[0]["losses"]) > 1e-4, "nothing was learned"
    compared = DYNAMICS if sharded else tensors[0]
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in compared), "the processes hold different things"
    assert bool(results[0]["shapes"]) == sharded


def assert_same_run(result: dict, tensors: dict, expected: dict, kept: dict[str, torch.Tensor], tolerance: float) -> None:
    """Steps, epochs, losses, history and the ``kept`` tensors are the expected ones."""
    assert result["steps"] == expected["steps"] and list(result["epochs"]) == list(expected["epochs"])
    np.testing.assert_allclose(result["losses"], expected["losses"], rtol=0, atol=tolerance)
    for key, value in kept.items():
        if key == "logits":  # kept in float32, whatever the model
            np.testing.assert_allclose(tensors[key], value, rtol=0, atol=max(tolerance, 3e-7))
        elif key == "seen":
            assert torch.equal(tensors[key], value)
        else:
            assert float((tensors[key].double() - value.double()).abs().max()) <= tolerance, key
    assert [entry["step"] for entry in result["history"]] == [entry["step"] for entry in expected["history"]]


def test_weights_and_optimizer_state_really_lie_in_shards(folder):
    """Of every parameter and of both its moments each process has its rows, as many as the other or one more."""
    shapes = [result["shapes"] for result in left(folder, "sharded")[0]]
    assert len(shapes[0]) > 30 and shapes[0].keys() == shapes[1].keys()
    for name in shapes[0]:
        (whole, *first), (_, *second) = (one[name] for one in shapes)
        rows = -(-whole[0] // 2)
        assert len(first) == 3 or name.endswith("key.bias"), name  # the parameter and AdamW's moments
        assert all(shape == [rows, *whole[1:]] for shape in first), name
        assert all(shape == [whole[0] - rows, *whole[1:]] for shape in second), name


@pytest.mark.parametrize("name", ["copies_to_shards", "shards_to_copies", "one_to_copies", "one_to_shards"])
def test_what_other_processes_began_is_continued_as_if_undisturbed(name, folder, alone):
    results, tensors = left(folder, name)
    expected = alone("plain")
    assert results[0]["resumed_from"] == 8
    assert_same_run(results[0], tensors[0], expected.results, expected.tensors, 1e-10)
    changed = ["the number of processes was 1 and is 2 now"] if name.startswith("one") else []
    assert results[0]["resume_differences"] == changed


@pytest.mark.parametrize("name", ["copies_to_one", "shards_to_one"])
def test_one_process_continues_what_two_began_as_if_undisturbed(name, script, folder, alone):
    run = script.Run(folder / name, **script.CONTINUED[name][1])
    result = run.go()
    assert result["resumed_from"] == 8
    assert result["resume_differences"] == ["the number of processes was 2 and is 1 now"]
    expected = alone("plain")
    assert_same_run(result, run.tensors, expected.results, expected.tensors, 1e-10)


@pytest.mark.parametrize("name", ["plain", "accumulated", "one_length", "epoch_end", "sharded", "sharded_epoch_end"])
def test_ledger_counts_all_processes_once(name, script, folder, alone):
    expected = alone(name).results["ledger"]
    for result in left(folder, name)[0]:
        ledger = result["ledger"]
        assert ledger["effective"].keys() == expected["effective"].keys()
        for phase in expected["effective"]:
            assert counts(ledger, phase) == counts(expected, phase), phase
        # Evaluation is shared out in the very batches of one process.
        for phase in {"evaluation", "scoring"} & expected["effective"].keys():
            assert ledger["effective"][phase]["flops"] == expected["effective"][phase]["flops"] > 0, phase
    if name == "one_length":
        # Operations are proportional to the examples here. Batches of 7 become 4 + 4, one of them repeated; the last of
        # an epoch has 2 = 1 + 1.
        ours, theirs = ledger["effective"]["training"]["flops"], expected["effective"]["training"]["flops"]
        examples = counts(expected, "training")[0]
        batches_of_seven = (examples - 2 * 2) // 7
        assert examples == 2 * script.N + 2 * 7 and batches_of_seven == 12
        assert ours * examples == theirs * (examples + batches_of_seven)


def test_first_process_alone_tells(folder):
    results, _ = left(folder, "plain")
    assert results[0]["told"].count("step") == results[0]["steps"]
    assert results[1]["told"] == []


def test_stopping_follows_the_first_process_in_every_process(folder):
    results, _ = left(folder, "stopping")
    for result in results:  # of the other process' own scores, 0.5 would be the best and step 6 the last
        assert (result["steps"], result["best_step"], result["stopped_early"]) == (9, 6, True)
    assert CheckpointFolder(folder / "stopping" / "checkpoints" / "best").load(6).info["score"] == 0.6


def test_checkpoints_are_whole_and_nothing_half_written_stays(folder):
    for name in ("plain", "fp32", "straight", "resumed"):
        checkpoints = CheckpointFolder(folder / name / "checkpoints")
        assert checkpoints.newest_valid().step == 14
        entries = {path.name for path in checkpoints.folder.iterdir()} - {"best", ".lock"}
        assert all(entry.startswith("step_") and len(entry) == 13 for entry in entries), entries
        lines = (folder / name / "ledger.jsonl").read_text().splitlines()
        spent = [json.loads(line)["spent"]["training"]["steps"] for line in lines]
        assert spent == sorted(spent) and spent[-1] >= 14


def test_signal_to_one_process_stops_all_at_one_step_and_resuming_is_bit_equal(folder):
    for step in (4, 10):
        sentences = {(folder / f"interrupted-{step}-{rank}.txt").read_text() for rank in range(2)}
        assert len(sentences) == 1 and f"interrupted at step {step} of 14" in sentences.pop()
    assert_resumed_as_straight(folder, 2)


@pytest.mark.slow
def test_sums_over_three_processes_keep_their_order_after_resuming(fork_processes, tmp_path):
    child = fork_processes(str(tmp_path), "resume", script=str(SCRIPT), count=3)
    output, _ = child.communicate(timeout=400)
    assert child.returncode == 0, output[-5000:]
    assert_resumed_as_straight(tmp_path, 3)


def assert_resumed_as_straight(folder: Path, processes: int) -> None:
    straight, straight_tensors = left(folder, "straight", processes)
    resumed, resumed_tensors = left(folder, "resumed", processes)
    for rank in range(processes):
        assert resumed[rank]["resumed_from"] == 10 and resumed[rank]["resume_differences"] == []
        for key in ("losses", "history", "best_step", "next_random"):
            assert resumed[rank][key] == straight[rank][key], key
        assert all(torch.equal(resumed_tensors[rank][key], value) for key, value in straight_tensors[rank].items())
        for phase in straight[0]["ledger"]["effective"]:
            assert counts(resumed[rank]["ledger"], phase) == counts(straight[rank]["ledger"], phase)
    assert straight[0]["next_random"] != straight[1]["next_random"], "each process draws its own dropout masks"


def test_another_number_of_processes_warns_and_is_marked(folder):
    results, _ = left(folder, "from_one")
    for result in results:
        assert result["resumed_from"] == 6 and result["steps"] == 14
        assert result["resume_differences"] == ["the number of processes was 1 and is 2 now"]
    assert any("may differ" in sentence for sentence in results[0]["warnings"]) and results[1]["warnings"] == []
    assert results[0]["next_random"] != results[1]["next_random"]


def test_what_one_process_cannot_do_stops_all_with_its_sentence(folder):
    words_of = {
        "once": "the disk is full",
        "unwritable": "the disk is full",
        "nan": "loss became nan at step 1",
        "nan_shard": "the weights became infinite or NaN",
    }
    for name, words in words_of.items():
        sentences = [(folder / f"{name}-{rank}.txt").read_text() for rank in range(2)]
        assert sentences[0] == sentences[1] and words in sentences[0]


def test_one_process_is_as_if_there_were_no_others():
    def fail():
        raise UserError("no")

    assert ALONE.once(lambda: 3) == ALONE.in_turn(lambda: 3) == 3
    assert ALONE.gather("a") == ["a"] and ALONE.from_first("a") == "a"
    assert ALONE.sum(0.5) == 0.5 and ALONE.total(2**62) == 2**62 and ALONE.any(True, False) == (True, False)
    assert ALONE.seed(7) == 7 and len({Processes(index, 3).seed(7) for index in range(3)}) == 3
    with pytest.raises(UserError, match="no"):
        ALONE.once(fail)
    assert launched({}) == (0, 1) and launched({"RANK": "1", "WORLD_SIZE": "2"}) == (1, 2)
    assert launched({"RANK": "x", "WORLD_SIZE": ""}) == (0, 1)


def test_splitting_the_model_is_the_recipes_to_say(monkeypatch):
    accelerator = Accelerator(cpu=True)
    assert processes_of(accelerator) == ALONE
    kind = type(accelerator.distributed_type)
    monkeypatch.setattr(type(accelerator), "distributed_type", property(lambda self: kind.FSDP))
    with pytest.raises(UserError, match="configured for FSDP.*sharding: fsdp2"):
        processes_of(accelerator)


@pytest.mark.parametrize(("asked", "refused"), [("true", True), ("1", True), ("false", False), (None, False)])
def test_accelerate_that_was_asked_for_fsdp_on_cpus_is_not_taken_at_its_word(asked, refused, monkeypatch):
    """It calls itself MULTI_CPU then, and trains whole copies."""
    accelerator = Accelerator(cpu=True)
    kind = type(accelerator.distributed_type)
    monkeypatch.setattr(type(accelerator), "distributed_type", property(lambda self: kind.MULTI_CPU))
    if asked is not None:
        monkeypatch.setenv("ACCELERATE_USE_FSDP", asked)
    if refused:
        with pytest.raises(UserError, match="configured for FSDP.*sharding: fsdp2"):
            processes_of(accelerator)
    else:
        assert processes_of(accelerator) == ALONE


def test_precision_is_the_runs_own_whatever_accelerate_is_configured_for(script, tmp_path, monkeypatch):
    def configured(cpu):
        accelerator = Accelerator(cpu=cpu)
        accelerator.native_amp = True  # as `accelerate launch --mixed_precision bf16` would
        return accelerator

    expected = script.Run(tmp_path / "plain", steps=3, dtype=torch.float32).go()["losses"]
    monkeypatch.setattr(script, "Accelerator", configured)
    assert script.Run(tmp_path / "configured", steps=3, dtype=torch.float32).go()["losses"] == expected
