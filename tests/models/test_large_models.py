"""A model of a billion parameters is checked, adapted and counted without its weights being read."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
SIZE = {**SHAPE, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "max_position_embeddings": 4096}
PARAMETERS = 1_235_814_400
CEILING = 1 << 30  # bytes of memory; the weights alone are five times that

# Runs a program and says how much memory it took at most (Linux's own count, in KiB).
PEAK = """
import atexit
def say():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print("PEAK", int(line.split()[1]) * 1024, flush=True)
atexit.register(say)
"""
CHECK = PEAK + "from ftft.cli.main import main\nmain(['check', {recipe!r}])\n"
COST = PEAK + "from ftft.cli.main import main\nmain(['check', {recipe!r}, '--cost'])\n"
# As the library builds one where weights are read, but on torch's device that knows shapes and no numbers.
ADAPT = (
    PEAK
    + """
import json, sys
import numpy as np, pyarrow as pa, torch
from transformers import AutoConfig, AutoModelForCausalLM
from ftft.data.examples import Examples
from ftft.engine.flops import FlopCounter
from ftft.engine.predict import to_device
from ftft.methods.contract import Trainables
from ftft.methods.registry import build, build_task
from ftft.tasks.contract import Prepared

config = AutoConfig.from_pretrained({folder!r}, local_files_only=True)
rows, length = 2, 64
examples = Examples(pa.array(["a", "b"]), {{}}, np.zeros(rows, dtype=np.int64), (), "")
storage = dict(input_ids=np.arange(rows * length) % 100 + 5, told=np.ones(rows * length, bool), pad_token_id=0)
storage["offsets"] = np.arange(rows + 1) * length
task, prepared = build_task("causal_language_modelling"), Prepared(examples, np.full(rows, length), storage)
for section in json.loads(sys.argv[1]):
    with torch.device("meta"):
        # The other kinds of attention look at the numbers of the mask.
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        adapted = build("adapt", section, "adapt").adapt(model, None).model.train()
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert all(p.device.type == "meta" for p in adapted.parameters())
    build("optimize", "adamw", "optimize").start(Trainables.of(adapted))
    counter = FlopCounter()
    batch = to_device(task.collate(prepared, np.arange(rows)), torch.device("meta"))
    with counter.count("train", rows, length):
        task.forward(adapted, batch).sum().backward()
    print("FOUND", json.dumps([section["name"], trainable, counter.spent]))
"""
)


def write_headers(folder: Path, shards: int = 2) -> None:
    """Weights files with true headers and nothing behind them: holes that the file system stores in no blocks."""
    hidden, wide, kept = SHAPE["hidden_size"], SHAPE["intermediate_size"], 8 * 64
    tensors: dict[str, list[int]] = {"model.embed_tokens.weight": [SIZE["vocab_size"], hidden], "model.norm.weight": [hidden]}
    for layer in range(SHAPE["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        for name, shape in (("q_proj", [hidden, hidden]), ("k_proj", [kept, hidden]), ("v_proj", [kept, hidden])):
            tensors[f"{at}.self_attn.{name}.weight"] = shape
        tensors[f"{at}.self_attn.o_proj.weight"] = [hidden, hidden]
        for name, shape in (("gate_proj", [wide, hidden]), ("up_proj", [wide, hidden]), ("down_proj", [hidden, wide])):
            tensors[f"{at}.mlp.{name}.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = [hidden]
    assert sum(math.prod(shape) for shape in tensors.values()) == PARAMETERS
    places: dict[str, str] = {}
    for shard in range(shards):
        header, end = {}, 0
        for name in list(tensors)[shard::shards]:
            size = 4 * math.prod(tensors[name])
            header[name] = {"dtype": "F32", "shape": tensors[name], "data_offsets": [end, end + size]}
            places[name] = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            end += size
        text = json.dumps(header).encode()
        with open(folder / places[name], "wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + end)
    index = {"metadata": {"total_size": 4 * PARAMETERS}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.fixture(scope="module")
def billion(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """The folder of a Llama of a billion parameters, without them."""
    folder = tmp_path_factory.mktemp("billion") / "model"
    tiny_tokenizer.save_pretrained(folder)
    tokens = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": True, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({**config, **SIZE, **tokens}))
    write_headers(folder)
    return folder


def run(program: str, *arguments: str) -> tuple[list[str], int]:
    """What it prints, and its peak memory in bytes."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    return lines, int(last.removeprefix("PEAK "))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak memory is read from /proc")
def test_check_reads_the_headers_alone(billion: Path, tmp_path: Path) -> None:
    with open(tmp_path / "train.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"prompt": f"ask {row}", "completion": f"say {row}"}) + "\n" for row in range(50))
    stage = {"model": {"path": str(billion)}, "adapt": {"name": "lora", "rank": 8}}
    recipe = {"task": "causal_language_modelling", "data": {"train": {"path": "train.jsonl"}}, "stages": {"sft": stage}}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    lines, peak = run(CHECK.format(recipe=str(tmp_path / "recipe.yaml")))
    assert f"stage sft: LlamaForCausalLM, 16 of 16 layers, {PARAMETERS / 1e6:.1f} M parameters" in lines
    assert lines[-1] == "the recipe is sound"
    assert peak < CEILING / 2


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak memory is read from /proc")
def test_the_cost_is_predicted_in_the_memory_that_a_tiny_model_takes(
    billion: Path, tiny_llama_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    with open(tmp_path / "train.jsonl", "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps({"prompt": f"ask {row:02}", "completion": f"say {row:02}"}) + "\n" for row in range(50))
    peaks, said = {}, {}
    for name, folder in (("billion", billion), ("tiny", tiny_llama_folder)):
        stage = {"model": {"path": str(folder)}, "adapt": {"name": "lora", "rank": 8}}
        task = {"name": "causal_language_modelling", "add_end": False, "max_length": 128}
        recipe = {"task": task, "data": {"train": {"path": "train.jsonl"}}, "stages": {"sft": stage}}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(recipe))
        said[name], peaks[name] = run(COST.format(recipe=str(tmp_path / f"{name}.yaml")))
    # What is imported takes all of it but the shapes of two thousand tensors: 508 MiB in all where this was written.
    assert peaks["billion"] < peaks["tiny"] + CEILING / 16 and peaks["billion"] < CEILING * 5 / 8
    row = next(line.split() for line in said["billion"] if line.startswith("sft "))
    examples, steps, flops = int(row[1]), int(row[2]), float(row[3])
    assert (examples, steps) == (44, 6)
    # 2 operations a weight and token forward, as many backward through weights that are not trained; 3 passes over the data.
    tokens = flops / (4 * PARAMETERS) / (3 * examples)
    assert tokens == pytest.approx(16, rel=0.02)
    assert row[-2:] == ["4.69", "GiB"]


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak memory is read from /proc")
def test_adapters_and_the_count_of_operations_need_shapes_alone(billion: Path) -> None:
    pytest.importorskip("peft")
    sections = [{"name": "full"}, {"name": "lora", "rank": 8}, {"name": "peft", "type": "ia3"}]
    lines, peak = run(ADAPT.format(folder=str(billion)), json.dumps(sections))
    found = {name: (trainable, flops) for name, trainable, flops in (json.loads(line.removeprefix("FOUND ")) for line in lines)}
    assert found["full"][0] == PARAMETERS
    projections = [(2048, 2048), (2048, 2048), (2048, 512), (2048, 512), (2048, 8192), (2048, 8192), (8192, 2048)]
    assert found["lora"][0] == 16 * 8 * sum(rows + columns for rows, columns in projections)
    # Every weight of a projection takes 2 operations a token forward, and twice that backward where it is trained, the table
    # of the words included, which gives the logits; attention comes on top.
    tokens = 2 * 64
    assert found["full"][1] == pytest.approx(6 * tokens * PARAMETERS, rel=0.02)
    assert found["lora"][1] == pytest.approx(4 * tokens * PARAMETERS, rel=0.02)
    assert peak < CEILING
