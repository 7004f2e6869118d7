"""Dynamics from saved checkpoints: equal to logits computed by hand, in the order of the steps, from safetensors only."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from ftft.bridges.checkpoints import dynamics_from_checkpoints, sort_by_step
from ftft.bridges.outputs import STATISTICS
from ftft.data.examples import Examples
from ftft.errors import UserError

N = 13
NAMES = ("no", "maybe", "yes")


def examples(pair: bool = False, **inputs: list[str]) -> Examples:
    g = np.random.default_rng(2)

    def texts() -> pa.Array:
        return pa.array([" ".join(f"w{i}" for i in g.integers(0, 40, 1 + row % 6)) for row in range(N)])

    columns = {name: pa.array(values) for name, values in inputs.items()} or {"text": texts()} | (
        {"text_pair": texts()} if pair else {}
    )
    return Examples(
        ids=pa.array([f"e{i}" for i in range(N)]),
        inputs=columns,
        labels=g.integers(0, 3, N),
        label_names=NAMES,
        fingerprint="f" * 64,
    )


@pytest.fixture
def checkpoint(tmp_path, make_classifier, make_tokenizer):
    """Save a classifier with weights from a seed as a Trainer would: folder name, state, tokenizer."""

    def save(step: int, *, names=NAMES, state: bool = True):
        model = BertForSequenceClassification(make_classifier().config)
        torch.manual_seed(step)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        folder = tmp_path / f"checkpoint-{step}"
        model.save_pretrained(folder)
        make_tokenizer().save_pretrained(folder)
        if state:
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
        return folder

    return save


def by_hand(folder, data: Examples, tokenizer) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    out = []
    for row in range(N):
        texts = [column[row].as_py() for column in data.inputs.values()]
        with torch.no_grad():
            out.append(model(**tokenizer(*texts, return_tensors="pt")).logits[0].numpy())
    return np.stack(out)


@pytest.mark.parametrize("pair", [False, True])
def test_logits_equal_those_by_hand_in_the_order_of_the_steps(pair, checkpoint, make_tokenizer):
    data, tokenizer = examples(pair), make_tokenizer()
    folders = [checkpoint(100), checkpoint(20), checkpoint(3, state=False)]
    told: list[tuple[int, int]] = []
    dynamics = dynamics_from_checkpoints(folders, data, batch_size=4, progress=lambda done, total: told.append((done, total)))
    assert dynamics.epochs == (0, 1, 2) and dynamics.seen.all()
    assert dynamics.ids.to_pylist() == data.ids.to_pylist()
    np.testing.assert_array_equal(dynamics.gold, data.labels)
    for epoch, folder in enumerate(reversed(folders)):
        np.testing.assert_allclose(dynamics.logits[epoch], by_hand(folder, data, tokenizer), atol=1e-5)
    assert not np.allclose(dynamics.logits[0], dynamics.logits[1])
    metadata = dynamics.metadata
    assert (
        metadata["steps"] == [3, 20, 100] and metadata["source"] == "checkpoints" and metadata["data_fingerprint"] == "f" * 64
    )
    tokens = sum(len(tokenizer(*[c[row].as_py() for c in data.inputs.values()])["input_ids"]) for row in range(N))
    assert metadata["cost"]["examples"] == 3 * N and metadata["cost"]["tokens"] == 3 * tokens
    assert metadata["cost"]["flops"] > 0 and metadata["cost"]["seconds"] > 0
    assert told == sorted(told) and told[-1] == (3 * N, 3 * N)


def test_counted_flops_are_those_of_the_forward_passes(checkpoint, make_tokenizer):
    from torch.utils.flop_counter import FlopCounterMode

    data, folder = examples(), checkpoint(1)
    cost = dynamics_from_checkpoints([folder], data, batch_size=N).metadata["cost"]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    batch = make_tokenizer()(data.inputs["text"].to_pylist(), padding=True, pad_to_multiple_of=8, return_tensors="pt")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(**batch)
    assert cost["flops"] == counter.get_total_flops()


def test_labels_in_another_order_are_put_in_the_order_of_the_data(checkpoint, make_tokenizer):
    data, folder = examples(), checkpoint(1, names=("yes", "no", "maybe"))
    dynamics = dynamics_from_checkpoints([folder], data)
    np.testing.assert_allclose(dynamics.logits[0], by_hand(folder, data, make_tokenizer())[:, [1, 2, 0]], atol=1e-5)


def test_many_classes_keep_pairs(checkpoint, make_tokenizer):
    data, folder = examples(), checkpoint(1)
    dynamics = dynamics_from_checkpoints([folder], data, max_classes=2)
    logits = by_hand(folder, data, make_tokenizer())
    np.testing.assert_allclose(dynamics.pair_logits[0, :, 0], logits[np.arange(N), data.labels], atol=1e-5)


def test_adapter_on_a_local_base_model(tmp_path, checkpoint, make_tokenizer):
    peft = pytest.importorskip("peft")
    base = checkpoint(1, names=("yes", "no", "maybe"))
    model = AutoModelForSequenceClassification.from_pretrained(base)
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query"], init_lora_weights=False)
    )
    torch.nn.init.normal_(adapted.base_model.model.classifier.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path / "checkpoint-7")
    data, tokenizer = examples(), make_tokenizer()
    dynamics = dynamics_from_checkpoints([tmp_path / "checkpoint-7"], data)
    batch = tokenizer(data.inputs["text"].to_pylist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = adapted.eval()(**batch).logits.numpy()
    np.testing.assert_allclose(dynamics.logits[0], logits[:, [1, 2, 0]], atol=1e-5)

    # An adapter without the head, on a base model without one: the run's head is lost.
    bare = tmp_path / "bare"
    AutoModelForSequenceClassification.from_pretrained(base).bert.save_pretrained(bare)
    make_tokenizer().save_pretrained(bare)
    config = json.loads((tmp_path / "checkpoint-7" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(bare)
    (tmp_path / "checkpoint-7" / "adapter_config.json").write_text(json.dumps(config))
    stored = load_file(tmp_path / "checkpoint-7" / "adapter_model.safetensors")
    without = {name: tensor for name, tensor in stored.items() if "classifier" not in name}
    save_file(without, tmp_path / "checkpoint-7" / "adapter_model.safetensors")
    with pytest.raises(UserError, match="holds classifier"):
        dynamics_from_checkpoints([tmp_path / "checkpoint-7"], data)
    config["base_model_name_or_path"] = "somebody/base"
    (tmp_path / "checkpoint-7" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="which is not a folder here"):
        dynamics_from_checkpoints([tmp_path / "checkpoint-7"], data)


@pytest.mark.parametrize("kind", ["text", "prompt"])
def test_language_model_statistics(kind, tmp_path, make_decoder, make_tokenizer):
    tokenizer = make_tokenizer(bert=False)
    texts = [" ".join(f"w{(row * 7 + i) % 40}" for i in range(2 + row % 4)) for row in range(N)]
    prompts = [f"w{row} w3 " for row in range(N)]
    data = examples(text=texts) if kind == "text" else examples(prompt=prompts, completion=[" " + text for text in texts])
    model = make_decoder(5).eval()
    folder = tmp_path / "checkpoint-4"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    dynamics = dynamics_from_checkpoints([folder], data, batch_size=5)
    assert dynamics.gold is None and dynamics.seen.all() and set(dynamics.statistics) == set(STATISTICS)
    for row in range(N):
        ids = tokenizer(texts[row] + " [EOS]")["input_ids"]
        start = 1
        if kind == "prompt":
            ids, start = tokenizer(prompts[row])["input_ids"] + ids, 2
        with torch.no_grad():
            p = torch.softmax(model(torch.tensor([ids])).logits[0].double(), dim=1)[start - 1 : -1]
        gold = p[torch.arange(len(p)), torch.tensor(ids[start:])]
        assert dynamics.statistics["mean_log_probability"][0, row] == pytest.approx(gold.log().mean().item(), abs=1e-5)
        assert dynamics.statistics["entropy"][0, row] == pytest.approx(-(p * p.log()).sum(1).mean().item(), abs=1e-5)


@pytest.mark.parametrize("pair", [False, True])
def test_texts_are_cut_at_max_length_and_counted(pair, checkpoint, make_tokenizer):
    data, tokenizer = examples(pair), make_tokenizer()
    lengths = [len(tokenizer(*[column[row].as_py() for column in data.inputs.values()])["input_ids"]) for row in range(N)]
    length = sorted(lengths)[N // 2]
    assert length in lengths and max(lengths) > length > min(lengths)
    metadata = dynamics_from_checkpoints([checkpoint(1)], data, max_length=length).metadata
    assert (metadata["max_length"], metadata["cut"]) == (length, sum(one > length for one in lengths))
    assert metadata["cost"]["tokens"] == sum(min(one, length) for one in lengths)


def test_a_language_model_s_texts_are_cut_and_counted(tmp_path, make_decoder, make_tokenizer):
    tokenizer, model = make_tokenizer(bert=False), make_decoder(5)
    model.save_pretrained(tmp_path / "checkpoint-4")
    tokenizer.save_pretrained(tmp_path / "checkpoint-4")
    texts = [" ".join(["w1"] * (2 + row)) for row in range(N)]  # and one token for the end
    metadata = dynamics_from_checkpoints([tmp_path / "checkpoint-4"], examples(text=texts), max_length=6).metadata
    assert (metadata["max_length"], metadata["cut"]) == (6, N - 4)


@pytest.mark.parametrize("length", [2, 10_000])
def test_a_length_without_room_or_beyond_the_model_is_refused(length, checkpoint):
    with pytest.raises(UserError, match=f"max_length is {length}; give more than the 2 special tokens of a text and at most"):
        dynamics_from_checkpoints([checkpoint(1)], examples(), max_length=length)


def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path, checkpoint):
    data, good = examples(), checkpoint(1)
    unsafe = tmp_path / "checkpoint-2"
    shutil.copytree(good, unsafe)
    (unsafe / "trainer_state.json").unlink()
    (unsafe / "model.safetensors").rename(unsafe / "pytorch_model.bin")
    with pytest.raises(UserError, match="pytorch_model.bin, which may run code.*convert it once"):
        dynamics_from_checkpoints([unsafe], data)
    with pytest.raises(UserError, match="no checkpoints were given"):
        dynamics_from_checkpoints([], data)
    with pytest.raises(UserError, match="does not exist"):
        dynamics_from_checkpoints([tmp_path / "nowhere"], data)
    with pytest.raises(UserError, match="both of step 1"):
        sort_by_step([good, good])
    (tmp_path / "final").mkdir()
    with pytest.raises(UserError, match="step of the checkpoint .* is unknown"):
        sort_by_step([tmp_path / "final"])
    with pytest.raises(UserError, match="need the input text; these have premise"):
        dynamics_from_checkpoints([good], examples(premise=["w1"] * N))
    with pytest.raises(UserError, match="no classification head for the 3 labels"):
        dynamics_from_checkpoints([checkpoint(5, names=("a", "b", "c"))], data)
