"""Evaluation: encode a split once, score all pairs with both heads, rank, report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import numpy as np
from absl import logging

from aladin_jax.config import Config
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split, read_image_keys
from aladin_jax.encoding import Encoder, Scores, score_pairs
from aladin_jax.evaluation import recall, table
from aladin_jax.evaluation.caption_ids import match_caption_ids
from aladin_jax.evaluation.metrics import make_metrics, measure_all
from aladin_jax.evaluation.protocol import (
    Protocol,
    evaluated_protocol,
    read_reports,
    settings_for,
    warn_of_few_images,
    weights_folder,
    write_report_of,
)
from aladin_jax.evaluation.query_ranks import write_query_ranks
from aladin_jax.evaluation.rankings import check_rankings_path, write_rankings
from aladin_jax.evaluation.retrieval import Retrieval, read_collection
from aladin_jax.files import make_folder, write_json
from aladin_jax.lineage import explain_untrained
from aladin_jax.models.aladin import Params
from aladin_jax.pretrained import DTYPES, PretrainedModel, cache_folder, enable_compilation_cache
from aladin_jax.scores.similarity import Measure, Pooling


def evaluate(config: Config, workdir: Path, given: Iterable[str] = ()) -> dict[str, dict[str, dict[str, float]]]:
    """Reports both heads' recalls on `eval.split`: on the screen, and in the workdir's files (see `protocol`).

    The weights are the workdir's best (or else latest) checkpoint; with no training done there, those of `init_from`.

    Args:
        config: of the evaluation; how inputs are cut and scores made is the run's affair, see `protocol.settings_for`.
        workdir: of the run, and for the reports.
        given: fields that were named on the command line.

    Returns:
        The report: {name: {"matching": {"i2t/R@1": ..., "rsum": ...}, "alignment": {...}}}; names are the split, and
        the split with the folds.
    """
    enable_compilation_cache(config.compilation_cache)
    source = weights_folder(config, workdir)
    settings, trained_with = settings_for(config, source, given)
    model = PretrainedModel(source, settings, kernels=config.model.kernels, fsdp=config.fsdp)
    logging.info("Weights: %s", model.described)
    make_folder(workdir)
    for line in explain_untrained(model.lineage):
        logging.warning("%s", line[0].upper() + line[1:])
    encoder = model.make_encoder(settings, dtype=DTYPES[settings.dtype], batch_size=config.eval.batch_size)
    split = Split(open_dataset(config.data.dir), config.eval.split, model.feature_dim)
    keys = config.eval.image_keys
    images = split.select(read_image_keys(keys)) if keys else np.arange(split.num_images)
    split.require_captions(images)
    warn_of_few_images(split.name, len(images), "evaluated on")

    metrics = make_metrics(
        config.eval.metrics,
        pmrp_dir=config.eval.pmrp_dir,
        relevance=config.eval.relevance,
        cache=cache_folder(config.compilation_cache),
    )
    if config.eval.rankings:
        check_rankings_path(config.eval.rankings)

    scores, image_of_caption = score_split(
        encoder, model.device_params, split, images, pooling=settings.pooling, measure=settings.measure
    )
    heads = scores._asdict()
    collection = read_collection(split, images, image_of_caption)
    if config.eval.caption_ids:
        collection = match_caption_ids(collection, Path(config.eval.caption_ids))
    retrievals = {head: Retrieval(s, collection) for head, s in heads.items()}
    reports = {split.name: {head: measure_all(metrics, retrieval) for head, retrieval in retrievals.items()}}
    folds, size = config.eval.num_folds, config.eval.fold_size
    if folds > 0 and len(scores.matching) >= folds * size:
        reports[f"{split.name}, {folds} folds of {size}"] = {
            head: recall.fold_reports(s, image_of_caption, folds, size) for head, s in heads.items()
        }
    if jax.process_index() > 0:
        return reports
    if config.eval.rankings:
        write_rankings(retrievals, config.eval.rankings, config.eval.ranking_length)
        logging.info("Rankings: %s", config.eval.rankings)
    _publish(workdir, evaluated_protocol(config, split, images, model, trained_with), reports, retrievals)
    return reports


def _publish(workdir: Path, protocol: Protocol, reports: table.Reports, retrievals: Mapping[str, Retrieval]) -> None:
    """Shows the reports and writes them; with settings that are not the run's, into a file of their own alone."""
    from aladin_jax.evaluation import figure  # Matplotlib

    untrained = protocol.untrained_heads
    file = write_report_of(workdir, protocol, reports)
    write_query_ranks(retrievals, file)
    figure.save_recall_figure(reports, file.with_suffix(".png"), title=protocol.title, untrained=untrained)
    if not protocol.trained_with:
        write_json(workdir / "report.json", reports)
        write_query_ranks(retrievals, workdir / "report.json")
        shutil.copyfile(file.with_suffix(".png"), workdir / "report.png")
    table.print_reports(reports, untrained=untrained)
    kept = read_reports(workdir)
    if len(kept) > 1:
        table.print_all_reports(kept)
    print(f"{protocol.title}\nwritten to {file}")


def report_split(encoder: Encoder, split: Split, pooling: Pooling, measure: Measure, params: Params) -> table.Reports:
    """Both heads' recalls on a whole split, under its name."""
    scores, image_of_caption = score_split(
        encoder, params, split, np.arange(split.num_images), pooling=pooling, measure=measure
    )
    return {split.name: {head: recall.retrieval_report(s, image_of_caption) for head, s in scores._asdict().items()}}


def score_split(
    encoder: Encoder,
    params: Params,
    split: Split,
    images: np.ndarray,
    *,
    pooling: Pooling = "MrSw",
    measure: Measure = "dot",
) -> tuple[Scores, np.ndarray]:
    """Encodes a split's images and captions, each once, and scores all pairs with both heads.

    Args:
        encoder: of the model; regions and words are compared in its number format.
        params: on the devices.
        split: where the images are.
        images: records to take, in order.
        pooling: of alignment scores.
        measure: of matching scores.

    Returns:
        The scores [i, c], and the image (position in `images`) of every caption.
    """
    encoded = encoder.encode_images(params, split, images)
    captions, image_of_caption = encoder.encode_captions(params, split, images)
    scores = score_pairs(encoded, captions, pooling=pooling, measure=measure, dtype=encoder.dtype)
    return scores, image_of_caption
