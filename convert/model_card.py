"""The README.md beside exported weights: what model it is, how it was trained, and its recalls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError
from aladin_jax.evaluation.table import COLUMNS, DIRECTIONS
from aladin_jax.model_folder import ModelConfig, read_json
from convert.original import Run

# Fields that hold paths of the machine it was trained on, or say nothing of the model.
_LEFT_OUT = ("init_from", "compilation_cache", "profile_steps", "log_every", "checkpoint_every")

_CARD = """---
tags:
- image-text-retrieval
- aladin
- vinvl
---

# ALADIN image-text retrieval model

Finds images by sentence and sentences by image. Images come in as regions of an object detector
({backbone.img_feature_dim} numbers each) and the names of the detected classes, captions as text.
Method: Messina et al., ALADIN: Distilling Fine-grained Alignment Scores for Efficient Image-Text Matching and
Retrieval, CBMI 2022.

## Model

| | |
|---|---|
| parameters | {parameters:,} |
| backbone | BERT, {backbone.num_hidden_layers} layers, width {backbone.hidden_size}, \
{backbone.num_attention_heads} heads, {backbone.vocab_size:,} wordpieces |
| matching head | Transformer, {head.num_layers} layers |
| alignment head | no parameters; pooling {settings[alignment-mode]}, measure {settings[measure]} of the matching head |

## Training

{training}

## Recalls

{recalls}

## Files

`model.safetensors` has the tensors under the names of the original PyTorch code, whose model takes them with
`load_state_dict(safetensors.torch.load_file("model.safetensors"), strict=False)`. `model.json` has the sizes,
`vocab.txt` the vocabulary.
"""


def model_card(run: Run, model_config: ModelConfig, parameters: int, report: Path) -> str:
    """Writes the card.

    Args:
        run: how the model was trained.
        model_config: what it is.
        parameters: how many numbers it has.
        report: the report.json of an evaluation; the card says so if there is none.

    Raises:
        DataError: report.json is damaged.
    """
    return _CARD.format(
        backbone=model_config.backbone,
        head=model_config.matching_head,
        settings=run.config["training"],
        parameters=parameters,
        training=_training(run),
        recalls=_recalls(read_json(report), report) if report.is_file() else "Not evaluated.",
    )


def _training(run: Run) -> str:
    if run.settings is None:
        return f"Converted from PyTorch; {run.iterations:,} iterations were recorded there."
    settings = {name: value for name, value in run.settings.items() if name not in _LEFT_OUT}
    data = dict(settings.pop("data"))
    # Of paths, what names the data set and not the machine.
    name = "/".join(Path(data.pop("dir")).parts[-3:])
    settings["data"] = data
    settings["eval"] = {key: value for key, value in run.settings["eval"].items() if key != "image_keys"}
    settings["model"] = {key: value for key, value in run.settings["model"].items() if key != "vocabulary"}
    return (
        f"{run.iterations:,} steps (epoch {run.epoch}) on `{name}`, {run.num_pairs:,} (image, caption) pairs an epoch, "
        "with aladin_jax and this configuration:\n\n"
        f"```json\n{json.dumps(settings, indent=2)}\n```"
    )


def _recalls(report: Mapping[str, Any], source: Path) -> str:
    lines = []
    try:
        for split, heads in report.items():
            lines += [f"On {split}; recalls in percent, ranks from 1:", ""]
            lines += [f"| head | direction | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * len(COLUMNS)}"]
            for head, metrics in heads.items():
                for direction, label in DIRECTIONS.items():
                    values = " | ".join(f"{metrics[f'{direction}/{column}']:.1f}" for column in COLUMNS)
                    lines.append(f"| {head} | {label} | {values} |")
            lines += [
                "",
                "Sum of recalls: " + ", ".join(f"{head} {m['rsum']:.1f}" for head, m in heads.items()) + ".",
                "",
            ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{source}: not a report of an evaluation ({type(error).__name__}: {error})") from error
    return "\n".join(lines).strip()
