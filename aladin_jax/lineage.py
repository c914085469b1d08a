"""Which heads a model's training has reached: the conversions and runs that it comes from, oldest first.

    WORKDIR/lineage.json  what the run started from, as it was then, and what the run itself trains

So an ancestor may be moved or removed. A converted checkpoint's lineage follows from its provenance.json.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from aladin_jax.files import read_json, write_json

LINEAGE_JSON = "lineage.json"
HEADS = ("matching", "alignment")
_PROVENANCE = "provenance.json"  # of a model folder
_HEADS_OF_LOSS = {"alignment": "alignment", "matching": "matching", "distillation": "matching"}


class Stage(NamedTuple):
    """A conversion or a run.

    Attributes:
        told: a few words on it.
        heads: those that it trained, or that a converted file brought trained.
    """

    told: str
    heads: tuple[str, ...]


Lineage = tuple[Stage, ...]  # empty: not known


def untrained_heads(lineage: Lineage) -> tuple[str, ...]:
    """The heads that no stage trained; none where the lineage is not known."""
    trained = {head for stage in lineage for head in stage.heads}
    return tuple(head for head in HEADS if head not in trained) if lineage else ()


def explain_untrained(lineage: Lineage) -> list[str]:
    """A line for each head that no stage trained: what its numbers are worth, and what to do."""
    line_of = {
        "matching": "what it finds is chance; take a run that trains it, as configs/matching_distill_finetune.py does",
        "alignment": "it compares regions and words as the backbone gives them; configs/alignment_triplet.py trains it",
    }
    come_from = "; ".join(stage.told for stage in lineage)
    return [f"the {h} head was never trained ({come_from}): {line_of[h]}" for h in untrained_heads(lineage)]


def random_weights(seed: int) -> Lineage:
    """Of weights that are drawn."""
    return (Stage(f"random weights, seed {seed}", ()),)


def lineage_of_model_folder(folder: Path) -> Lineage:
    """Of a converted checkpoint, or of an index's model, which keeps the one that it was made with.

    An ALADIN checkpoint's heads count as trained: what its run started from is not in it. But where its configuration
    names the alignment loss alone, the matching head is not.

    Raises:
        ValueError: its provenance.json is damaged.
    """
    file = folder / _PROVENANCE
    provenance = read_json(file) if file.is_file() else {}
    if "lineage" in provenance:
        return _stages(provenance["lineage"], file)
    fresh = _within(provenance, "tensors", "fresh")
    if not isinstance(fresh, list):
        return ()
    if any(str(name).startswith("matching_head/") for name in fresh):
        return (Stage(f"{folder}, converted from a backbone alone", ()),)
    losses = _within(provenance, "checkpoint", "config", "training", "loss-type")
    if losses == "alignment":
        return (Stage(f"{folder}, converted from a run with the alignment loss alone", ("alignment",)),)
    return (Stage(f"{folder}, converted with both heads", HEADS),)


def lineage_of_workdir(workdir: Path, step: int) -> Lineage:
    """Of a run's parameters at a step.

    Raises:
        ValueError: its lineage.json is damaged.
    """
    file = workdir / LINEAGE_JSON
    if not file.is_file():  # of an earlier version
        return ()
    kept = read_json(file)
    run = kept.get("run")
    if not isinstance(run, dict) or not all(type(first) is int for first in run.values()):
        raise ValueError(f"{file}: damaged, there is no object 'run' of losses and steps; restore it, or remove it")
    acted = [loss for loss, first in run.items() if step > first]
    stage = Stage(f"{workdir}, step {step}, losses {', '.join(acted) or 'none'}", trained_by(acted))
    return (*_stages(kept.get("ancestors"), file), stage)


def trained_by(losses: Iterable[str]) -> tuple[str, ...]:
    """The heads that losses train."""
    return tuple(dict.fromkeys(_HEADS_OF_LOSS[loss] for loss in losses if loss in _HEADS_OF_LOSS))


def write_lineage(workdir: Path, ancestors: Lineage, first_steps: Mapping[str, int]) -> None:
    """Keeps in a workdir what its run starts from and trains.

    Args:
        workdir: of the run.
        ancestors: lineage of the weights that it starts from.
        first_steps: of each loss that trains its head, after how many steps it acts.
    """
    write_json(workdir / LINEAGE_JSON, {"ancestors": as_json(ancestors), "run": dict(first_steps)})


def as_json(lineage: Lineage) -> list[dict[str, Any]]:
    """A lineage as JSON holds it."""
    return [{"told": stage.told, "heads": list(stage.heads)} for stage in lineage]


def _stages(values: Any, file: Path) -> Lineage:
    try:
        return tuple(Stage(str(value["told"]), tuple(map(str, value["heads"]))) for value in values)
    except (TypeError, KeyError) as error:
        raise ValueError(f"{file}: damaged, its lineage is not a list of stages; restore it, or remove it") from error


def _within(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values
