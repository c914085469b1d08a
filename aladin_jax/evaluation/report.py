"""Evaluation: encode a split once, score all pairs with both heads, rank, report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
from absl import logging
from jax.sharding import Mesh

from aladin_jax import configuration, sharding
from aladin_jax.configuration import Config
from aladin_jax.data.records import Split, open_dataset
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.encoding import Encoder
from aladin_jax.evaluation import figure, recall, table
from aladin_jax.evaluation.scores import score_split
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Aladin, Params
from aladin_jax.training import checkpoint
from aladin_jax.training.objective import Objective
from convert.raw.vinvl_files import read_image_keys


def evaluate(config: Config, workdir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Reports both heads' recalls on `eval.split`: on the screen, in report.json and in report.png of the workdir.

    The weights are the workdir's best (or else latest) checkpoint; with no training done there, those of `init_from`.

    Returns:
        The report: {name: {"matching": {"i2t/R@1": ..., "rsum": ...}, "alignment": {...}}}; names are the split, and
        the split with the folds.
    """
    configuration.check_ranges(config)
    configuration.enable_compilation_cache(config.compilation_cache)
    trained = any(checkpoint.newest_step(workdir / name) is not None for name in (checkpoint.BEST, checkpoint.LATEST))
    source = workdir if trained else config.init_from or config.resume_from
    if not source:
        raise ValueError(f"{workdir}: nothing trained there; train first, or set init_from")
    params, model_config, vocabulary, described = checkpoint.load_initial(source)
    logging.info("Weights: %s", described)
    tokenizer = configuration.tokenizer(config, model_config, vocabulary, source)
    mesh = sharding.make_mesh(config.fsdp)
    model = aladin.bind(*model_config, dtype=configuration.dtype(config))
    encoder = make_encoder(config, model, tokenizer, mesh)
    split = Split(open_dataset(config.data.dir), config.eval.split, model_config.backbone.img_feature_dim)
    keys = config.eval.image_keys
    images = split.select(read_image_keys(keys)) if keys else None
    split.require_captions(images)
    params = jax.device_put(params, sharding.state_sharding(params, mesh))

    scores, image_of_caption = score_split(encoder, params, split, images, objective=configuration.objective(config))
    reports = {split.name: {head: recall.retrieval_report(s, image_of_caption) for head, s in scores.items()}}
    folds, size = config.eval.num_folds, config.eval.fold_size
    if folds > 0 and scores["matching"].shape[0] >= folds * size:
        reports[f"{split.name}, {folds} folds of {size}"] = {
            head: recall.fold_reports(s, image_of_caption, folds, size) for head, s in scores.items()
        }
    if jax.process_index() > 0:
        return reports
    workdir.mkdir(parents=True, exist_ok=True)
    table.write_report(reports, workdir / "report.json")
    figure.save_recall_figure(reports, workdir / "report.png")
    table.print_reports(reports)
    return reports


def make_encoder(config: Config, model: Callable[[Params], Aladin], tokenizer: CaptionTokenizer, mesh: Mesh) -> Encoder:
    """An encoder with the configuration's sizes."""
    return Encoder(
        model,
        tokenizer,
        max_regions=config.data.max_regions,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        dtype=configuration.dtype(config),
    )


def report_split(encoder: Encoder, split: Split, objective: Objective, params: Params) -> table.Reports:
    """Both heads' recalls on a whole split, under its name."""
    scores, image_of_caption = score_split(encoder, params, split, objective=objective)
    return {split.name: {head: recall.retrieval_report(s, image_of_caption) for head, s in scores.items()}}
