"""The books: phases, timers, what an interruption costs, and FTFT's own accounting."""

import json
import sys
import types

import pytest

from ftft.engine import ledger as module
from ftft.engine.ledger import PHASES, Cost, Ledger
from ftft.errors import UserError
from ftft.files import read_json, write_json

ALL_REFERENCE = dict.fromkeys(PHASES, "reference")


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def spend(flops, phase="training", **more):
    ledger = Ledger()
    ledger.add(phase, flops=flops, **more)
    return ledger


def flops(book):
    return {phase: cost.flops for phase, cost in book.items()}


def test_costs_add_up_by_phase():
    ledger = Ledger()
    ledger.add("training", flops=10, seconds=0.5, examples=4, tokens=40, steps=1)
    ledger.add("training", flops=20, seconds=0.25, examples=4, tokens=44, steps=1)
    ledger.add("evaluation", flops=3)
    ledger.add("training", flops=7, repeated=True)
    assert ledger.effective["training"] == Cost(flops=30, seconds=0.75, examples=8, tokens=84, steps=2)
    assert ledger.total().flops == 33
    assert ledger.total(effective_only=False).flops == 40
    assert ledger.total(phases=("training",)).flops == 30


def test_large_counts_stay_exact():
    ledger = spend(10**20)
    ledger.add("training", flops=1)
    assert Ledger.from_json(json.loads(json.dumps(ledger.to_json()))).total().flops == 10**20 + 1


@pytest.mark.parametrize(
    ("phase", "amounts", "error", "message"),
    [
        ("trainning", {}, ValueError, 'did you mean "training"'),
        ("training", {"flops": -1}, ValueError, "negative"),
        ("training", {"seconds": float("nan")}, ValueError, "NaN"),
        ("training", {"flops": 1.5}, TypeError, "integer"),
    ],
)
def test_what_is_no_cost_is_refused(phase, amounts, error, message):
    with pytest.raises(error, match=message):
        Ledger().add(phase, **amounts)


def test_a_timer_inside_another_takes_its_time_over():
    clock = Clock()
    ledger = Ledger(clock=clock)
    with ledger.timed("training"):
        clock.now += 5
        with ledger.timed("evaluation"):
            clock.now += 2
        clock.now += 1
    clock.now += 100  # nobody is timed
    assert {phase: cost.seconds for phase, cost in ledger.effective.items()} == {"training": 6.0, "evaluation": 2.0}


def test_a_running_timer_is_in_the_books_and_ends_with_an_error_too():
    clock = Clock()
    ledger = Ledger(clock=clock)
    with pytest.raises(RuntimeError), ledger.timed("training"):
        clock.now += 4
        assert ledger.state()["effective"]["training"]["seconds"] == 4.0
        clock.now += 1
        raise RuntimeError
    clock.now += 50
    assert ledger.total().seconds == 5.0


def test_work_after_the_checkpoint_is_booked_as_repeated(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = spend(10, seconds=1.0, steps=1)
    checkpoint = json.loads(json.dumps(ledger.state()))
    ledger.add("training", flops=5, seconds=0.5, steps=1)
    ledger.add("evaluation", flops=2)
    ledger.journal(path)
    ledger.add("training", flops=1000)  # killed before the next line: nobody knows

    resumed = Ledger.resume(checkpoint, path)
    assert resumed.effective == {"training": Cost(flops=10, seconds=1.0, steps=1)}
    assert resumed.repeated == {"training": Cost(flops=5, seconds=0.5, steps=1), "evaluation": Cost(flops=2)}


def test_interruptions_before_and_after_a_new_checkpoint_add_up(tmp_path):
    path = tmp_path / "ledger.jsonl"
    ledger = spend(10)
    first = ledger.state()
    ledger.add("training", flops=5)
    ledger.journal(path)  # spent 15

    ledger = Ledger.resume(first, path)
    ledger.add("training", flops=2)
    ledger.journal(path)  # spent 17, killed without a checkpoint
    ledger = Ledger.resume(first, path)
    assert (flops(ledger.effective), flops(ledger.repeated)) == ({"training": 10}, {"training": 7})

    ledger.add("training", flops=8)
    second = ledger.state()  # killed before the journal heard of it
    ledger = Ledger.resume(second, path)
    assert (flops(ledger.effective), flops(ledger.repeated)) == ({"training": 18}, {"training": 7})


def test_the_effective_costs_of_an_interrupted_run_are_those_of_an_undisturbed_one(tmp_path):
    def train(kills):
        path, checkpoint, ledger, step = tmp_path / f"{len(kills)}.jsonl", (0, None), Ledger(), 0
        kills = list(kills)
        while step < 12:
            ledger.add("training", flops=100 + step, examples=32, steps=1)
            step += 1
            ledger.journal(path)
            if step % 4 == 0:
                checkpoint = (step, ledger.state())
            if kills and step == kills[0]:
                kills.pop(0)
                step, ledger = checkpoint[0], Ledger.resume(checkpoint[1], path)
        return ledger

    straight, broken = train([]), train([3, 7, 6, 11])
    assert broken.effective == straight.effective
    assert straight.repeated == {}
    assert broken.repeated["training"].steps == 3 + 3 + 2 + 3


def test_preparation_done_again_after_a_resume_is_repeated():
    checkpoint = spend(40, phase="scoring", seconds=4.0)
    checkpoint.add("training", flops=7)
    again = spend(40, phase="scoring", seconds=5.0)
    again = Ledger.resume(checkpoint.state(), None, prepared=again)
    assert flops(again.effective) == {"scoring": 40, "training": 7}
    assert again.repeated == {"scoring": Cost(flops=40, seconds=5.0)}


def test_a_kill_before_the_first_checkpoint_leaves_only_repeated_costs(tmp_path):
    path = tmp_path / "stage that is not there yet" / "ledger.jsonl"
    spend(9).journal(path)
    again = spend(1, phase="scoring")
    again = Ledger.resume(None, path, prepared=again)
    assert (flops(again.effective), flops(again.repeated)) == ({"scoring": 1}, {"training": 9})


@pytest.mark.parametrize("damage", [b'{"format_version": 1, "spent": {"trai', b"\xff\xfe\x00", b'{"spent": 3}', b"[]", b"7"])
def test_a_damaged_last_line_is_passed_over_and_does_not_swallow_the_next(tmp_path, damage):
    path = tmp_path / "ledger.jsonl"
    ledger = spend(4)
    ledger.journal(path)
    with open(path, "ab") as stream:
        stream.write(damage)
    assert flops(Ledger.resume(None, path).repeated) == {"training": 4}
    ledger.add("training", flops=2)
    ledger.journal(path)
    assert flops(Ledger.resume(None, path).repeated) == {"training": 6}


def test_a_missing_journal_is_no_error(tmp_path):
    checkpoint = spend(3).state()
    assert Ledger.resume(checkpoint, tmp_path / "none.jsonl").to_json() == Ledger.from_json(checkpoint).to_json()


def test_a_journal_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "stage").write_text("a file where the stage's folder should be")
    with pytest.raises(UserError, match="cannot write"):
        spend(1).journal(tmp_path / "stage" / "ledger.jsonl")


def test_books_survive_a_file(tmp_path):
    ledger = spend(5, seconds=0.1, tokens=9)
    ledger.add("reference", flops=2, repeated=True)
    ledger.observe_memory("training")
    write_json(tmp_path / "ledger.json", ledger.as_reused().to_json(), kind="ledger")
    found = Ledger.from_json(read_json(tmp_path / "ledger.json", kind="ledger"))
    assert found.reused is True
    assert (found.effective, found.repeated, found.peak_memory) == (ledger.effective, ledger.repeated, ledger.peak_memory)
    assert ledger.reused is False


@pytest.mark.parametrize(
    "change",
    [
        {"format_version": 2},
        {"effective": {"cooking": {}}},
        {"effective": {"training": {"flops": 1}}},
        {"repeated": None},
        {"peak_memory": {"training": 3}},
    ],
)
def test_a_damaged_or_newer_ledger_is_refused_in_one_sentence(change):
    with pytest.raises(UserError, match="ledger"):
        Ledger.from_json({**spend(1).to_json(), **change})


def test_merging_keeps_both_and_changes_neither():
    one, other = spend(5, seconds=1.0), spend(7, phase="evaluation")
    one.peak_memory, other.peak_memory = {"training": {"rss": 10}}, {"training": {"rss": 30}, "evaluation": {"rss": 2}}
    merged = one.merge(other.as_reused())
    assert flops(merged.effective) == {"training": 5, "evaluation": 7}
    assert merged.peak_memory == {"training": {"rss": 30}, "evaluation": {"rss": 2}}
    assert merged.reused and not one.reused
    assert flops(one.effective) == {"training": 5} and one.peak_memory == {"training": {"rss": 10}}


def test_a_stage_can_be_booked_under_one_phase():
    stage = spend(5)
    stage.add("scoring", flops=2)
    stage.add("training", flops=3, repeated=True)
    assert flops(stage.moved(ALL_REFERENCE).effective) == {"reference": 7}
    assert flops(stage.moved(ALL_REFERENCE).repeated) == {"reference": 3}
    assert flops(stage.moved({"scoring": "search"}).effective) == {"training": 5, "search": 2}
    with pytest.raises(ValueError, match="no phase"):
        stage.moved({"training": "refrence"})


def test_cartography_with_equal_models_costs_two_hundred_per_cent():
    erm, reference, main = spend(123_456_789), spend(123_456_789), spend(123_456_789)
    whole = main.merge(reference.moved(ALL_REFERENCE))
    assert 100 * whole.fraction_of(erm.total().flops) == 200.0


def test_the_papers_cost_of_a_small_reference_comes_out():
    erm = 12 * 10**12  # FLOPs of a full run, 12 evaluations long
    fractions = []
    for stop in (4, 4, 5, 5):
        main, reference = spend(stop * 10**12), spend(1_736_400_000_000)  # a reference of 14.47 %
        fractions.append(main.merge(reference.moved(ALL_REFERENCE)).fraction_of(erm))
    assert round(100 * sum(fractions) / 4, 2) == 51.97


def test_interruptions_do_not_change_the_fraction():
    ledger = spend(50)
    ledger.add("training", flops=500, repeated=True)
    assert ledger.fraction_of(100) == 0.5
    assert ledger.fraction_of(0) != ledger.fraction_of(0)


def test_peak_memory_is_in_bytes_and_plausible():
    ledger = Ledger()
    ledger.observe_memory("training")
    assert 10 * 2**20 < ledger.peak_memory["training"]["rss"] < 2**42


def test_a_new_peak_belongs_to_the_phase_that_reached_it(monkeypatch):
    peak, present = {"rss": 100}, {"rss": 60}
    monkeypatch.setattr(module, "_high_water", lambda: dict(peak))
    monkeypatch.setattr(module, "_present_memory", lambda: dict(present))
    ledger = Ledger()
    with ledger.timed("scoring"):
        pass
    with ledger.timed("training"):
        peak["rss"] = 900
        with ledger.timed("evaluation"):
            present["rss"] = 300
    assert ledger.peak_memory == {"scoring": {"rss": 60}, "training": {"rss": 900}, "evaluation": {"rss": 300}}


def test_cuda_memory_is_read_only_where_torch_is_already_in_use(monkeypatch):
    cuda = types.SimpleNamespace(is_initialized=lambda: True, max_memory_allocated=lambda: 500, memory_allocated=lambda: 70)
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=cuda))
    ledger = Ledger()
    ledger._high_water = {"rss": 1}
    ledger.observe_memory("training")
    assert ledger.peak_memory["training"]["cuda"] == 500
    cuda.is_initialized = lambda: False
    ledger.observe_memory("scoring")
    assert "cuda" not in ledger.peak_memory["scoring"]


def test_phases_are_those_of_the_design():
    assert PHASES == ("creation", "search", "calibration", "reference", "scoring", "training", "evaluation")
