"""The model card of a pretrained model: what it is, what it was trained on by fingerprint, how well it tells held-out text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

PIPELINES = {"causal": "text-generation", "masked": "fill-mask", "replaced": "feature-extraction"}
WHAT = {
    "causal": "A decoder that tells the next token (Llama architecture).",
    "masked": "An encoder pretrained by masked language modelling (BERT architecture).",
    "replaced": "An encoder pretrained by replaced-token detection (ELECTRA's discriminator; the generator is not kept).",
}
NAMES = {
    "bits_per_byte": "bits per byte",
    "loss": "loss (nats per predicted token)",
    "discriminator_loss": "discriminator's loss (nats per position)",
    "replaced": "share of replaced tokens",
    "recall": "replaced tokens found (recall)",
    "precision": "of those called replaced, right (precision)",
}


def card(report: Mapping[str, Any]) -> str:
    """The card in Markdown with its YAML front matter; ``report`` is what :mod:`ftft.pretraining.running` keeps of a run."""
    plan, objective = report["plan"], report["objective"]
    front = {"library_name": "transformers", "pipeline_tag": PIPELINES[objective], "tags": ["ftft", "pretrained"]}
    blocks = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {plan['kind']}",
        f"{WHAT[objective]} {report['parameters']:,} parameters, {report['vocabulary']:,} tokens, "
        f"blocks of {report['block']} tokens. Pretrained with ftft from random weights.",
        "## Held-out text",
        _figures(report, objective),
        "## Training",
        _training(report),
        "## Data",
        _data(report),
    ]
    return "\n\n".join(blocks) + "\n"


def _figures(report: Mapping[str, Any], objective: str) -> str:
    start, end = report["held_out"]["start"], report["held_out"]["end"]
    lines = ["| Figure | Untrained | Trained |", "|---|---:|---:|"]
    lines += [f"| {NAMES[name]} | {start[name]:.4f} | {end[name]:.4f} |" for name in end]
    share = f"the {100 * report['chosen']:g} % of the tokens"
    about = {
        "causal": "Bits per byte: over all tokens but the first of each block.",
        "masked": f"Bits per byte: over {share} that were to be told, so not comparable with a decoder's.",
        "replaced": f"Bits per byte and loss are the generator's, over {share} that were masked.",
    }
    return "\n".join(lines) + f"\n\n{about[objective]} {report['held_out']['blocks']:,} blocks that were not trained on."


def _training(report: Mapping[str, Any]) -> str:
    plan, last = report["plan"], report["losses"]
    parts = ", ".join(f"{name} {value:.4f}" for name, value in last.items())
    return (
        f"{plan['steps']:,} steps of {report['batch']} blocks ({report['tokens_seen']:,} tokens, "
        f"{report['epochs']:.2f} passes), AdamW, learning rate {report['learning_rate']:g} with "
        f"{100 * report['warmup']:g} % warm-up and cosine decay to 0, {report['precision']}, "
        f"seed {plan['seed']}, {report['seconds']:.0f} s of training. "
        f"Mean training loss over the last tenth: {parts}. "
        f"Dropout was off; an encoder's saved configuration sets {report['fine_tuning_dropout']:g} for fine-tuning."
    )


def _data(report: Mapping[str, Any]) -> str:
    lines = []
    for role, facts in report["data"].items():
        lines.append(
            f"- {role}: {facts['documents']:,} documents, {facts['bytes']:,} bytes, {facts['tokens']:,} tokens, "
            f"SHA-256 of the text {facts['sha256']}"
        )
    if "held_out" not in report["data"]:
        lines.append("- held out: the last blocks of the text itself")
    return "\n".join(lines)
