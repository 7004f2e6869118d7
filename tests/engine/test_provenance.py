"""What a run's numbers depend on is recorded, and nothing that tells who or where; a change is named."""

import contextlib
import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ftft.engine import provenance as module
from ftft.engine.provenance import differences, provenance


def test_it_is_json_and_knows_this_process():
    found = json.loads(json.dumps(provenance()))
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["threads"] == torch.get_num_threads() and found["cpu_capability"] and found["processor"] != "unknown"
    assert found["processes"] == 1 and found["python"] == sys.version.split()[0]


def test_it_names_no_host_user_or_path():
    text = json.dumps(provenance())
    words = {socket.gethostname(), str(Path.home()), os.getcwd(), sys.prefix}
    with contextlib.suppress(KeyError, OSError):
        words.add(f'"{getpass.getuser()}"')
    assert [word for word in words if len(word) > 3 and word in text] == []


def test_it_imports_nothing_heavy():
    program = "import sys, ftft.engine.provenance as p; d = p.provenance(); print(d['threads'], *sys.modules)"
    words = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert words[0] == "None" and not {"torch", "numpy", "transformers"}.intersection(words)


def test_the_process_count_is_read_from_the_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert provenance()["processes"] == 4


def test_equal_machines_have_no_differences():
    assert differences(provenance(), json.loads(json.dumps(provenance()))) == []


@pytest.mark.parametrize(
    "change, words",
    [
        ({"threads": 99}, "the number of threads was {threads} and is 99 now"),
        ({"processes": 8}, "the number of processes was 1 and is 8 now"),
        ({"processor": "Other"}, "the processor was {processor} and is Other now"),
        ({"python": "3.99"}, "Python was {python} and is 3.99 now"),
        ({"cpu_capability": "DEFAULT"}, "torch's processor capability was {cpu_capability} and is DEFAULT now"),
        ({"environment": {"MKL_CBWR": "AVX2"}}, "the variable MKL_CBWR was unset and is AVX2 now"),
    ],
)
def test_each_change_that_matters_is_one_sentence(monkeypatch, change, words):
    for name in module._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    old = provenance()
    assert differences(old, {**old, **change}) == [words.format(**old)]


def test_versions_and_instruction_sets_are_compared():
    old = provenance()
    new = {**old, "versions": {**old["versions"], "torch": "9.9", "ftft": None}}
    new["processor_flags"] = sorted({*old["processor_flags"]} ^ {"amx_bf16"})
    sentences = differences(old, new)
    assert sentences[0] == f"ftft was {old['versions']['ftft']} and is not installed now"
    assert sentences[1] == f"torch was {old['versions']['torch']} and is 9.9 now"
    assert sentences[2:] == ["the processor's instruction sets differ in amx_bf16"]


def test_what_one_side_does_not_know_is_not_compared():
    old = provenance()
    assert differences({**old, "threads": None, "cpu_capability": None}, old) == []
    assert differences({}, old) == [] and differences(old, {}) == []


@pytest.mark.parametrize(
    "text, expected",
    [
        (
            "processor : 0\nmodel name : Xeon\ncpu family : 6\nmodel : 207\nflags : fpu avx2 avx512f secret\n\nprocessor : 1\n",
            ("Xeon (family 6 model 207)", ["avx2", "avx512f"]),
        ),
        (
            "processor : 0\nFeatures : fp asimd sve bf16\nCPU implementer : 0x41\nCPU part : 0xd40\n",
            ("ARM implementer 0x41 part 0xd40", ["asimd", "bf16", "sve"]),
        ),
    ],
)
def test_the_kernels_description_of_a_processor_is_understood(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert module._processor(tmp_path / "cpuinfo") == expected
