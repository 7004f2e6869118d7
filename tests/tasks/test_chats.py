"""Of a chat exactly what the assistant says is to be told: prefix by prefix, as TRL's generation blocks have it."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ftft.data.examples import Examples
from ftft.data.messages import read_messages
from ftft.errors import UserError
from ftft.tasks.causal_language_modelling import CausalLanguageModelling
from ftft.tasks.sequences import IGNORED

TASK = CausalLanguageModelling(max_length=64)
CHATS = [
    [("user", "the film was"), ("assistant", "very good")],
    [("system", "happy people"), ("user", "a dog"), ("assistant", "sleeps inside"), ("user", "a cat"), ("assistant", "runs")],
    [("user", "food"), ("assistant", "bad")],
]
PLAIN = (
    "{% for m in messages %}{{ m.role + ' : ' + m.content + ' ; ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)
FORGETFUL = PLAIN.replace("m.content", "(m.content if loop.last else 'old')")


def chat(turns: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def examples(chats: list[Any]) -> Examples:
    column = read_messages(pa.chunked_array([pa.array(chats)]), "messages", "rows", lambda row: f"rows, line {row + 1}")
    n = len(chats)
    return Examples(pa.array([f"r{i}" for i in range(n)]), {"messages": column}, np.zeros(n, dtype=np.int64), (), "f")


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    tiny_tokenizer.chat_template, tiny_tokenizer.eos_token = PLAIN, "[SEP]"
    yield tiny_tokenizer
    tiny_tokenizer.chat_template = tiny_tokenizer.eos_token = None


def told(tokenizer: Any, task: CausalLanguageModelling = TASK, chats: Any = None) -> list[str]:
    """What each row's targets say."""
    data = task.prepare(examples([chat(turns) for turns in CHATS] if chats is None else chats), tokenizer)
    batch = task.collate(data, np.arange(len(data)))
    return [tokenizer.decode([t for t in row.tolist() if t != IGNORED]) for row in batch.extra["targets"]]


def test_the_assistants_turns_are_told_and_nothing_else(tokenizer: Any) -> None:
    assert told(tokenizer) == ["very good ;", "sleeps inside ; runs ;", "bad ;"]


def test_the_mask_is_that_of_trls_assistant_only_loss(tokenizer: Any, tiny_config: Any, tmp_path: Path) -> None:
    import trl
    from datasets import Dataset
    from transformers import LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    template = (Path(trl.__file__).parent / "chat_templates" / "llama3_training.jinja").read_text()
    tokenizer.chat_template = template
    arguments = SFTConfig(
        output_dir=str(tmp_path), assistant_only_loss=True, max_length=1024, report_to=[], use_cpu=True, bf16=False
    )
    rows = [chat(turns) for turns in CHATS]
    trainer = SFTTrainer(
        model=LlamaForCausalLM(tiny_config("llama")),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": one} for one in rows]),
        processing_class=tokenizer,
    )
    theirs = trainer.data_collator([trainer.train_dataset[row] for row in range(len(rows))])
    task = CausalLanguageModelling(max_length=1024)
    data = task.prepare(examples(rows), tokenizer)
    batch = task.collate(data, np.arange(len(rows)))
    for row in range(len(rows)):
        n = int(data.lengths[row])
        assert theirs["input_ids"][row, :n].tolist() == batch.inputs["input_ids"][row, :n].tolist()
        assert theirs["labels"][row, 1:n].tolist() == batch.extra["targets"][row, : n - 1].tolist()


def test_a_template_that_rewrites_earlier_turns_is_refused_in_one_sentence(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(UserError, match="the chat template writes the beginning of example r0 otherwise once later turns"):
        told(tokenizer)


def test_a_tokenizer_without_a_template_is_refused_and_a_file_can_give_one(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="^task.chat_template: the tokenizer has no chat template"):
        told(tokenizer)
    with pytest.raises(UserError, match="^task.chat_template: .*cannot be read"):
        told(tokenizer, CausalLanguageModelling(chat_template=str(tmp_path / "chat.jinja")))
    (tmp_path / "chat.jinja").write_text(PLAIN)
    assert told(tokenizer, CausalLanguageModelling(chat_template=str(tmp_path / "chat.jinja")))[0] == "very good ;"
    assert tokenizer.chat_template == PLAIN, "saved with the model"


def test_a_template_that_refuses_a_chat_names_the_row(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ raise_exception('roles must take turns') }}"
    with pytest.raises(UserError, match="^example r0: the chat template refuses its messages: roles must take turns"):
        told(tokenizer)
    tokenizer.chat_template = PLAIN
    with pytest.raises(UserError, match="^example r0 begins with the assistant"):
        told(tokenizer, chats=[chat([("assistant", "good"), ("user", "bad")])])


def test_too_long_a_chat_loses_its_end_and_one_without_an_answer_left_is_refused(tokenizer: Any) -> None:
    full = int(TASK.prepare(examples([chat(CHATS[1])]), tokenizer).lengths[0])
    assert told(tokenizer, CausalLanguageModelling(max_length=full - 2), [chat(CHATS[1])]) == ["sleeps inside ;"]
    with pytest.raises(UserError, match="example r0 has no token to predict within task.max_length 4"):
        told(tokenizer, CausalLanguageModelling(max_length=4), [chat(CHATS[1])])


def test_chats_are_kept_alike_however_the_file_writes_them() -> None:
    turns = [{"content": "a", "role": "user"}, {"role": "assistant", "content": "é", "name": None, "mood": "sad"}]
    canonical = '[{"role":"user","content":"a"},{"role":"assistant","content":"é","mood":"sad"}]'
    for column in (pa.array([turns]), pa.array([json.dumps(turns)])):
        read = read_messages(pa.chunked_array([column]), "messages", "rows", str)
        assert read.to_pylist() == [canonical] and read.type == pa.large_string()


def test_a_tool_call_is_the_same_from_a_file_that_gives_every_row_all_fields() -> None:
    call = {"name": "search", "arguments": {"query": "dog"}}
    asks = {"role": "user", "content": "a"}
    turns = [asks, {"role": "assistant", "content": "b", "tool_calls": [call]}]
    other = [asks, {"role": "assistant", "content": "c", "tool_calls": [{"name": "add", "arguments": {"left": 1}}]}]
    texts = read_messages(pa.chunked_array([pa.array([json.dumps(turns), json.dumps(other)])]), "messages", "rows", str)
    structs = pa.array([turns, other])
    assert structs[0].as_py()[1]["tool_calls"][0]["arguments"] == {"query": "dog", "left": None}
    assert read_messages(pa.chunked_array([structs]), "messages", "rows", str).to_pylist() == texts.to_pylist()
    assert '{"name":"search","arguments":{"query":"dog"}}' in texts[0].as_py(), "in the order of the file"


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("[" * 100_000, "line 1: .* is nested too deeply to be read"),
        ('[{"role": "assistant", "content": "\\ud800"}]', "line 1: .* has a text that is no Unicode"),
        (
            [{"role": "assistant", "content": "a", "at": datetime(2020, 1, 1)}],
            "line 1: .* has a value that JSON cannot hold .*datetime",
        ),
        ("no json", "line 1: the messages column .* holds a text that is no JSON"),
        ([], "line 1: .* holds no list of turns"),
        (None, "line 1: .* holds no list of turns"),
        ([{"role": "asistant", "content": "a"}], 'line 1: .*, turn 1, has the role "asistant"; did you mean "?assistant'),
        ([{"role": "user", "content": None}], "line 1: .*, turn 1, has a content that is not text"),
        ([{"role": "user", "content": "a"}], "line 1: .* has no turn of the assistant"),
    ],
)
def test_what_is_no_chat_is_refused_with_its_row(value: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        read_messages(pa.chunked_array([pa.array([value])]), "messages", "rows", lambda row: f"rows, line {row + 1}")
