"""What a report is of: which images, which weights, which settings; and the file of its own that it gets.

WORKDIR/reports/NAME.json  {"report": as report.json, "of": {...}}: a file for each protocol, the newest of its kind
WORKDIR/reports/NAME.png   its figure
WORKDIR/report.json        the newest of all, {split: {head: {metric: value}}}; and report.png
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging

from aladin_jax.config import CONFIG_JSON, FIELD_OF_SETTING, Config, Settings
from aladin_jax.data.records import Split
from aladin_jax.evaluation.recall import CUTOFFS
from aladin_jax.evaluation.table import Reports
from aladin_jax.files import make_folder, read_json, write_json
from aladin_jax.lineage import untrained_heads
from aladin_jax.pretrained import PretrainedModel
from aladin_jax.weights import is_trained

FOLDER = "reports"
_VERSIONS = ("aladin-jax", "jax", "flax", "numpy")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a report is of.

    Attributes:
        split: the split's name.
        image_keys: the file that names the images, "" for the whole split.
        images: how many.
        captions: how many they have.
        images_sha256: of their ids and numbers of captions, in order.
        relevance: the file of grades that `ndcg` used, "" for none.
        data: folder of the data set.
        weights: where they are from.
        step: of the run that they are of; None where they were not trained here.
        untrained_heads: heads that neither that run nor what it started from trained.
        settings: how inputs are cut and scores made.
        trained_with: the run's values of the settings in which this evaluation differs from it.
        device: what JAX ran on.
        versions: of the programs.
        evaluated: when, UTC.
    """

    split: str
    image_keys: str
    images: int
    captions: int
    images_sha256: str
    relevance: str
    data: str
    weights: str
    step: int | None
    untrained_heads: tuple[str, ...]
    settings: Settings
    trained_with: dict[str, Any]
    device: str
    versions: dict[str, str]
    evaluated: str

    @property
    def name(self) -> str:
        """What tells it from other protocols in a workdir: split, keys file, settings that are not the run's."""
        parts = [self.split, *([Path(self.image_keys).stem] if self.image_keys else [])]
        changed = {field: name for name, field in FIELD_OF_SETTING.items() if field in self.trained_with}
        parts += [f"{name}={getattr(self.settings, name)}" for name in changed.values()]
        return ", ".join(parts)

    @property
    def title(self) -> str:
        """For people: what was evaluated, and of which step."""
        of = f"step {self.step:,}" if self.step is not None else self.weights
        return f"{self.name}: {self.images:,} images, {self.captions:,} captions; {of}"


def evaluated_protocol(
    config: Config, split: Split, images: np.ndarray, model: PretrainedModel, trained_with: dict[str, Any]
) -> Protocol:
    """Describes an evaluation; arguments as `report.evaluate` has them."""
    return Protocol(
        split=split.name,
        image_keys=config.eval.image_keys,
        images=len(images),
        captions=int(split.caption_counts[images].sum()),
        images_sha256=images_sha256(split, images),
        relevance=config.eval.relevance,
        data=str(split.directory),
        weights=model.described,
        step=model.step,
        untrained_heads=untrained_heads(model.lineage),
        settings=model.settings,
        trained_with=trained_with,
        device=jax.default_backend(),
        versions={"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
        evaluated=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def images_sha256(split: Split, images: np.ndarray) -> str:
    """Of some images' ids and numbers of captions, in order."""
    listed = json.dumps([[split.ids[row] for row in images], split.caption_counts[images].tolist()])
    return hashlib.sha256(listed.encode()).hexdigest()


def settings_for(config: Config, source: str | Path, given: Iterable[str]) -> tuple[Settings, dict[str, Any]]:
    """The settings of an evaluation: those that a run was trained with, or for other weights the configuration's.

    Args:
        config: of the evaluation.
        source: the weights' folder.
        given: fields named on the command line.

    Returns:
        The settings, and the run's values of the fields in which they differ from it, as `eval.override` allows.

    Raises:
        ValueError: a field that was given differs from the run's, and `eval.override` is off.
    """
    if not (Path(source) / CONFIG_JSON).is_file():
        return config.settings, {}
    run, given = Settings.of_model(source), set(given)
    values = {name: (getattr(run, name), getattr(config.settings, name)) for name in FIELD_OF_SETTING}
    differing = {FIELD_OF_SETTING[name]: (name, *pair) for name, pair in values.items() if pair[0] != pair[1]}
    asked = {field: differing[field] for field in differing if field in given}
    if not config.eval.override and asked:
        told = "; ".join(f"{field} is {now}, was {before}" for field, (_, before, now) in asked.items())
        raise ValueError(
            f"{source}: trained with other settings ({told}); leave them out, since evaluation takes the run's, or ask "
            "for a report of its own with --config.eval.override=True"
        )
    for field in differing.keys() - asked.keys():
        _, before, now = differing[field]
        logging.info("%s is %s, as %s was trained; the configuration file's is %s", field, before, source, now)
    for field, (_, before, now) in asked.items():
        logging.warning("%s is %s, but %s was trained with %s: these are not the run's numbers",
                        field, now, source, before)  # fmt: skip
    settings = dataclasses.replace(run, **{name: now for name, _, now in asked.values()})
    return settings, {field: before for field, (_, before, _) in asked.items()}


def weights_folder(config: Config, workdir: Path) -> str | Path:
    """The folder whose weights are evaluated: a workdir that was trained in, or else what its run would start from.

    Raises:
        ValueError: there is neither; or the workdir was trained, and from something else than is asked for.
    """
    asked = config.init_from or config.resume_from
    if not is_trained(workdir):
        if not asked:
            raise ValueError(f"{workdir}: nothing trained there; train first, or set init_from")
        return asked
    kept = read_json(workdir / CONFIG_JSON) if (workdir / CONFIG_JSON).is_file() else {}
    before = kept.get("init_from") or kept.get("resume_from")
    if asked and not (before and Path(asked).resolve() == Path(before).resolve()):
        raise ValueError(
            f"{workdir}: was trained, so its own weights are evaluated, not {asked}; leave init_from out, or choose a "
            "new --workdir to evaluate that"
        )
    return workdir


def warn_of_few_images(split: str, num_images: int, use: str) -> None:
    """Warns where a recall is 100 whatever the model does; `use` says what the split's images are for."""
    trivial = [f"R@{cutoff}" for cutoff in CUTOFFS if num_images <= cutoff]
    if trivial:
        logging.warning(
            "%s: %d images are too few to be %s: text to image, %s is 100 whatever the model does",
            split, num_images, use, ", ".join(trivial),
        )  # fmt: skip


def write_report_of(workdir: Path, protocol: Protocol, reports: Reports) -> Path:
    """Writes a protocol's report; other images under the same name get a file of their own. Returns the file."""
    make_folder(workdir / FOLDER)
    stem = re.sub(r"[^\w.=-]+", "-", protocol.name)
    file = workdir / FOLDER / f"{stem}.json"
    if file.is_file():
        of = read_json(file).get("of")
        if not isinstance(of, dict) or of.get("images_sha256") != protocol.images_sha256:
            file = file.with_name(f"{stem}-{protocol.images_sha256[:8]}.json")
    write_json(file, {"report": reports, "of": {"name": protocol.name, **dataclasses.asdict(protocol)}})
    return file


def read_reports(workdir: Path) -> list[tuple[dict[str, Any], Reports]]:
    """All reports of a workdir: what each is of, and the report; files that are none are passed over with a warning."""
    found = []
    for file in sorted((workdir / FOLDER).glob("*.json")):
        try:
            kept = read_json(file)
            found.append((dict(kept["of"]), kept["report"]))
        except (ValueError, KeyError, TypeError) as error:
            logging.warning("%s: not a report (%s)", file, error)
    return found


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # used from its folder
        return "not installed"
