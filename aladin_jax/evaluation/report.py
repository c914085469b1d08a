"""Evaluation: encode a split once, score all pairs with both heads, rank, report."""

from __future__ import annotations

from pathlib import Path

import jax
from absl import logging

from aladin_jax import sharding
from aladin_jax.config import Config, Measure, Pooling
from aladin_jax.data.records import Split, open_dataset, read_image_keys
from aladin_jax.encoding import Encoder
from aladin_jax.evaluation import recall, table
from aladin_jax.evaluation.caption_ids import match_caption_ids
from aladin_jax.evaluation.metrics import make_metrics, measure_all
from aladin_jax.evaluation.query_ranks import write_query_ranks
from aladin_jax.evaluation.rankings import check_rankings_path, write_rankings
from aladin_jax.evaluation.retrieval import Retrieval, read_collection
from aladin_jax.evaluation.scores import score_split
from aladin_jax.files import make_folder
from aladin_jax.models import aladin
from aladin_jax.models.aladin import Params
from aladin_jax.pretrained import (
    DTYPES,
    enable_compilation_cache,
    is_trained,
    kernels_for,
    make_tokenizer,
    read_weights,
)


def evaluate(config: Config, workdir: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Reports both heads' recalls on `eval.split`: on the screen, in report.json and in report.png of the workdir.

    The weights are the workdir's best (or else latest) checkpoint; with no training done there, those of `init_from`.

    Returns:
        The report: {name: {"matching": {"i2t/R@1": ..., "rsum": ...}, "alignment": {...}}}; names are the split, and
        the split with the folds.
    """
    enable_compilation_cache(config.compilation_cache)
    source = workdir if is_trained(workdir) else config.init_from or config.resume_from
    if not source:
        raise ValueError(f"{workdir}: nothing trained there; train first, or set init_from")
    weights = read_weights(source)
    logging.info("Weights: %s", weights.described)
    make_folder(workdir)
    dtype, mesh = DTYPES[config.model.dtype], sharding.make_mesh(config.fsdp)
    kernels = kernels_for(config.model.kernels, config.model.dtype)
    encoder = Encoder(
        aladin.bind(*weights.config, dtype=dtype, kernels=kernels, mesh=mesh),
        make_tokenizer(weights.config, weights.vocabulary, source, config.settings),
        max_regions=config.data.max_regions,
        batch_size=config.eval.batch_size,
        mesh=mesh,
        dtype=dtype,
    )
    split = Split(open_dataset(config.data.dir), config.eval.split, weights.config.backbone.img_feature_dim)
    keys = config.eval.image_keys
    images = split.select(read_image_keys(keys)) if keys else None
    split.require_captions(images)
    params = jax.device_put(weights.params, sharding.state_sharding(weights.params, mesh))

    metrics = make_metrics(config.eval.metrics, pmrp_dir=config.eval.pmrp_dir)
    if config.eval.rankings:
        check_rankings_path(config.eval.rankings)

    scores, image_of_caption = score_split(
        encoder, params, split, images, pooling=config.pooling, measure=config.measure
    )
    heads = scores._asdict()
    collection = read_collection(split, images, image_of_caption)
    if config.eval.caption_ids:
        collection = match_caption_ids(collection, Path(config.eval.caption_ids))
    retrievals = {head: Retrieval(s, collection) for head, s in heads.items()}
    reports = {split.name: {head: measure_all(metrics, retrieval) for head, retrieval in retrievals.items()}}
    folds, size = config.eval.num_folds, config.eval.fold_size
    if "recall" in metrics and folds > 0 and len(scores.matching) >= folds * size:
        reports[f"{split.name}, {folds} folds of {size}"] = {
            head: recall.fold_reports(s, image_of_caption, folds, size) for head, s in heads.items()
        }
    if jax.process_index() > 0:
        return reports
    if config.eval.rankings:
        write_rankings(retrievals, config.eval.rankings, config.eval.ranking_length)
        logging.info("Rankings: %s", config.eval.rankings)
    table.write_report(reports, workdir / "report.json")
    write_query_ranks(retrievals, workdir / "report.json")
    if "recall" in metrics:
        from aladin_jax.evaluation import figure  # Matplotlib

        figure.save_recall_figure(reports, workdir / "report.png")
    table.print_reports(reports)
    return reports


def report_split(encoder: Encoder, split: Split, pooling: Pooling, measure: Measure, params: Params) -> table.Reports:
    """Both heads' recalls on a whole split, under its name."""
    scores, image_of_caption = score_split(encoder, params, split, pooling=pooling, measure=measure)
    return {split.name: {head: recall.retrieval_report(s, image_of_caption) for head, s in scores._asdict().items()}}
