"""Every event is on the disk when it was written, and a crash costs at most the line it interrupted."""

import errno
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from ftft.errors import UserError
from ftft.tracking import events as module
from ftft.tracking.events import EventLog, read_events


def fail(message):
    raise AssertionError(message)


def log_to(path):
    return EventLog(path, clock=itertools.count(100).__next__)


def test_events_come_back_in_order_across_openings(tmp_path):
    path = tmp_path / "deeper" / "events.jsonl"
    with log_to(path) as log:
        log.write("start", {"seed": 3})
        log.write("evaluation", {"step": 10, "scores": {"id": 0.5, "é": [1, None]}})
    with log_to(path) as log:
        log.write("end")
    assert read_events(path, warn=fail) == [
        {"time": 101, "event": "start", "seed": 3},
        {"time": 102, "event": "evaluation", "step": 10, "scores": {"id": 0.5, "é": [1, None]}},
        {"time": 100, "event": "end"},
    ]


def test_the_first_line_names_the_format(tmp_path):
    with log_to(tmp_path / "e"), log_to(tmp_path / "e"):
        pass
    lines = (tmp_path / "e").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"format": "ftft/events", "format_version": 1, "time": 100, "event": "log"}]


def test_an_event_is_readable_before_the_log_is_closed(tmp_path):
    log = log_to(tmp_path / "e")
    log.write("start")
    assert len(read_events(tmp_path / "e")) == 1
    log.close()
    log.close()
    with pytest.raises(ValueError, match="closed"):
        log.write("late")


def test_numbers_that_json_lacks_become_null(tmp_path):
    with log_to(tmp_path / "e") as log:
        log.write("loss", {"value": float("nan"), "parts": [float("inf"), 1.0], "name": "\udcff"})
    event = json.loads((tmp_path / "e").read_text().splitlines()[1], parse_constant=fail)
    assert event["value"] is None and event["parts"] == [None, 1.0] and event["name"] == "\udcff"


def test_line_breaks_inside_values_stay_in_one_line(tmp_path):
    with log_to(tmp_path / "e") as log:
        log.write("note", {"text": "a\nb\u2028c\r"})
        log.write("next")
    assert [event["event"] for event in read_events(tmp_path / "e", warn=fail)] == ["note", "next"]


def test_a_log_cut_at_any_byte_is_read_and_continued(tmp_path):
    path = tmp_path / "e"
    with log_to(path) as log:
        log.write("one", {"text": "ü"})
        log.write("two")
    content = path.read_bytes()
    ends = [position for position, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content) + 1):
        path.write_bytes(content[:length])
        # A line is whole as soon as its last brace is there; the newline may be missing.
        whole = [name for name, end in zip(["one", "two"], ends[1:]) if length >= end]
        assert [event["event"] for event in read_events(path, warn=fail)] == whole
        with log_to(path) as log:
            log.write("after")
            log.write("later")
        assert [event["event"] for event in read_events(path, warn=fail) if event["event"] != "repaired"] == [
            *whole,
            "after",
            "later",
        ]


def test_a_damaged_line_in_the_middle_is_reported(tmp_path):
    path = tmp_path / "e"
    with log_to(path) as log:
        for name in ("one", "two", "three"):
            log.write(name)
    path.write_bytes(path.read_bytes().replace(b'{"time": 102', b'\xff"time": 102'))
    warned = []
    assert [event["event"] for event in read_events(path, warn=warned.append)] == ["one", "three"]
    assert warned == [f"line 3 of {path} is damaged and passed over"]


def test_a_full_disk_is_one_sentence_and_the_next_event_stands_alone(tmp_path, monkeypatch):
    path = tmp_path / "e"
    log = log_to(path)
    original, calls = os.write, []

    def half(descriptor, line):
        calls.append(line)
        if len(calls) == 1:
            return original(descriptor, line[: len(line) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(module.os, "write", half)
        with pytest.raises(UserError, match="the disk is full"):
            log.write("lost")
    log.write("kept")
    log.close()
    assert [event["event"] for event in read_events(path, warn=fail)] == ["repaired", "kept"]


@pytest.mark.parametrize("field", ["time", "event", "format"])
def test_fields_may_not_hide_the_logs_own(tmp_path, field):
    with log_to(tmp_path / "e") as log, pytest.raises(ValueError, match=field):
        log.write("x", {field: 1})


def test_files_that_are_no_log_of_ours_are_refused(tmp_path):
    path = tmp_path / "e"
    with pytest.raises(UserError, match="does not exist"):
        read_events(path)
    path.write_text('{"format": "ftft/events", "format_version": 2, "event": "log"}\n')
    with pytest.raises(UserError, match="version 2.*upgrade ftft"):
        read_events(path)
    path.write_text('{"format": "other", "event": "log"}\n')
    with pytest.raises(UserError, match="not a file of the kind"):
        read_events(path)
    with pytest.raises(UserError, match="cannot write"):
        EventLog(tmp_path)


@pytest.mark.kill
def test_a_killed_process_loses_no_event(tmp_path):
    program = """
        import os, signal, sys
        from ftft.tracking.events import EventLog
        log = EventLog(sys.argv[1])
        for step in range(50):
            log.write("step", {"step": step})
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "e")]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert [event["step"] for event in read_events(tmp_path / "e", warn=fail)] == list(range(50))
