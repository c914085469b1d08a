"""Evaluation of both heads against the original's pipeline: reading, encoding, scoring and ranking.

    python -m benchmarks.evaluate
    python -m benchmarks.evaluate --synthetic --images 5000 --dtype bfloat16

The original encodes an image once per caption, padded, and scores every pair once per direction. Its parts are timed on
few images and scaled up to `--images`; so are ours, and with `--whole` ours also run on that many. With `--synthetic`,
ours alone runs whole on records made up in memory, and needs neither data set tools nor PyTorch.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from etils import epy

from aladin_jax import sharding
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.encoding import Encoder
from aladin_jax.evaluation.recall import retrieval_report
from aladin_jax.evaluation.report import score_split
from aladin_jax.models import aladin
from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from aladin_jax.scores.all_pairs import all_alignment_scores
from aladin_jax.scores.similarity import matching_scores
from benchmarks import workload
from benchmarks.interleaved import ratios, significant, spread, time_in_turns
from benchmarks.made_up_split import MadeUpSplit
from benchmarks.report import print_report

with epy.lazy_imports():  # of the comparison alone
    import torch

    from benchmarks import torch_baseline, tsv_baseline, vinvl_folder
    from convert.dataset import coco_ir

BASELINE_BATCH_SIZE = 32
T = TypeVar("T")


class Ours(NamedTuple):
    """Our pipeline over a prepared data set."""

    encoder: Encoder
    params: aladin.Params
    split: Split
    images: np.ndarray

    def encode_images(self):
        """Reads and encodes images, each once."""
        return self.encoder.encode_images(self.params, self.split, self.images)

    def encode_captions(self):
        """Reads and encodes captions, each once; also the image of each."""
        return self.encoder.encode_captions(self.params, self.split, self.images)

    def whole(self) -> dict[str, dict[str, float]]:
        """Everything, ending with both heads' recalls."""
        scores, image_of_caption = score_split(self.encoder, self.params, self.split, self.images)
        return {head: retrieval_report(some, image_of_caption) for head, some in scores._asdict().items()}


class Original(NamedTuple):
    """The original's pipeline over the TSV files."""

    model: torch_baseline.BaselineModel
    pairs: tsv_baseline.TsvPairs

    def encode(self) -> torch_baseline.Outputs:
        """Reads and encodes (image, caption) pairs; regions and tokens are padded for evaluation."""
        parts = []
        with torch.no_grad():
            for batch in torch.utils.data.DataLoader(self.pairs, BASELINE_BATCH_SIZE):
                out = self.model(batch)
                parts.append(
                    out._replace(
                        regions=torch_baseline.pad_for_evaluation(out.regions),
                        tokens=torch_baseline.pad_for_evaluation(out.tokens),
                    )
                )
        return torch_baseline.Outputs(*(torch.cat(arrays) for arrays in zip(*parts, strict=True)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and prints a JSON line last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000, help="that times are scaled to, 5 captions each")
    parser.add_argument("--synthetic", action="store_true", help="only run ours, whole, on made-up records")
    parser.add_argument("--measured_images", type=int, default=100, help="that the parts of ours are timed on")
    parser.add_argument("--baseline_images", type=int, default=10, help="that the parts of the original are timed on")
    parser.add_argument("--batch_size", type=int, help="of our encoder; default: evaluation's on this device")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of our dense layers")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--whole", action="store_true", help="also run all of ours on all images")
    args = parser.parse_args(arguments)
    backbone, head = BackboneConfig(num_hidden_layers=args.layers), MatchingHeadConfig()
    lengths = {
        name: getattr(args, name) for name in ("images", "measured_images", "baseline_images", "layers", "dtype")
    }
    lengths["captions_per_image"] = workload.CAPTIONS_PER_IMAGE
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.synthetic:
            workload.write_vocabulary(folder / "vocab.txt")
            encoder, params = make_encoder(backbone, head, folder / "vocab.txt", args.batch_size, args.dtype)
            split = MadeUpSplit(np.random.default_rng(0), args.images)
            runs = [whole_by_phases(encoder, params, split, f"run {run + 1}") for run in range(args.runs)]
            print_report("evaluate_synthetic", lengths, {"seconds": runs})
            return
        rng = np.random.default_rng(0)
        (folder / "small").mkdir()
        small = vinvl_folder.write_vinvl_folder(folder / "small", rng, args.baseline_images)
        (folder / "large").mkdir()
        images = args.images if args.whole else args.measured_images
        large = vinvl_folder.write_vinvl_folder(folder / "large", rng, images)
        coco_ir.prepare(large.captions, large.features, folder / "prepared")
        encoder, params = make_encoder(backbone, head, large.vocabulary, args.batch_size, args.dtype)
        split = Split(open_dataset(folder / "prepared"), vinvl_folder.SPLIT)
        ours = Ours(encoder, params, split, np.arange(args.measured_images))
        torch.manual_seed(0)
        tokenizer = make_tokenizer(large.vocabulary)
        original = Original(
            torch_baseline.BaselineModel(backbone, head).eval(), tsv_baseline.TsvPairs(small, tokenizer)
        )
        results = compare(original, ours, args.images, args.runs)
        if args.whole:
            started = time.perf_counter()
            ours._replace(images=np.arange(args.images)).whole()
            results["whole_seconds"] = significant(time.perf_counter() - started)
    print_report("evaluate", lengths, results)


def make_tokenizer(vocabulary: Path) -> CaptionTokenizer:
    """A tokenizer with the original's lengths."""
    return CaptionTokenizer(
        vocabulary, max_caption_len=workload.MAX_CAPTION_LEN, max_labels_len=workload.MAX_LABELS_LEN
    )


def make_encoder(
    backbone: BackboneConfig, head: MatchingHeadConfig, vocabulary: Path, batch_size: int | None, dtype: str
) -> tuple[Encoder, aladin.Params]:
    """An encoder on one device, and random parameters for it."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    number_format = np.dtype(dtype)  # "bfloat16" is a NumPy type once JAX is imported
    encoder = Encoder(
        aladin.bind(backbone, head, dtype=number_format),
        make_tokenizer(vocabulary),
        max_regions=workload.MAX_REGIONS,
        batch_size=batch_size,
        mesh=mesh,
        dtype=number_format,
    )
    return encoder, jax.device_put(aladin.init_params(backbone, head, seed=0), sharding.replicated(mesh))


def whole_by_phases(encoder: Encoder, params: aladin.Params, split: Any, label: str) -> dict[str, float]:
    """What `evaluation.report.score_split` and the reports do, phase by phase; prints the seconds of each at once."""
    seconds: dict[str, float] = {}

    def timed(phase: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        done = work()
        seconds[phase] = significant(time.perf_counter() - started)
        print(f"{label}: {phase} {seconds[phase]} s", flush=True)
        return done

    everything = np.arange(split.num_images)
    images = timed("images encoded", lambda: encoder.encode_images(params, split, everything))
    captions, image_of_caption = timed("captions encoded", lambda: encoder.encode_captions(params, split, everything))
    vectors = images.vectors, captions.vectors
    matching = timed("matching scores", lambda: np.asarray(matching_scores(*map(jnp.asarray, vectors))))
    alignment = timed(
        "alignment scores", lambda: all_alignment_scores(images.parts, captions.parts, dtype=encoder.dtype)
    )
    for head, scores in (("matching", matching), ("alignment", alignment)):
        timed(f"{head} recalls", functools.partial(retrieval_report, scores, image_of_caption))
    seconds["whole"] = significant(sum(seconds.values()))
    print(f"{label}: whole {seconds['whole']} s", flush=True)
    return seconds


def compare(original: Original, ours: Ours, images: int, runs: int) -> dict[str, Any]:
    """Times the parts of both in turns, and scales them to `images`."""
    encoded, encoded_images = original.encode(), ours.encode_images()
    encoded_captions, image_of_caption = ours.encode_captions()
    every_fifth = slice(None, None, workload.CAPTIONS_PER_IMAGE)
    baseline_captions, measured_captions = len(encoded.tokens), len(image_of_caption)

    def original_scores():
        regions, region_len = encoded.regions[every_fifth], encoded.region_len[every_fifth]
        with torch.no_grad():
            rank_both(*torch_baseline.evaluation_scores(regions, region_len, encoded.tokens, encoded.caption_len))
            matching = encoded.image_vector[every_fifth] @ encoded.caption_vector.T
            rank_both(matching, matching)

    def our_scores():
        matching = matching_scores(jnp.asarray(encoded_images.vectors), jnp.asarray(encoded_captions.vectors))
        retrieval_report(np.asarray(matching), image_of_caption)
        alignment = all_alignment_scores(encoded_images.parts, encoded_captions.parts, dtype=ours.encoder.dtype)
        retrieval_report(alignment, image_of_caption)

    seconds = time_in_turns(
        {
            "original_pair_encoded": original.encode,
            "original_pair_scored": original_scores,
            "image_encoded": ours.encode_images,
            "caption_encoded": ours.encode_captions,
            "pair_scored": our_scores,
        },
        runs=runs,
    )
    counts = {
        "original_pair_encoded": baseline_captions,
        "original_pair_scored": baseline_captions**2 // workload.CAPTIONS_PER_IMAGE,
        "image_encoded": len(ours.images),
        "caption_encoded": measured_captions,
        "pair_scored": len(ours.images) * measured_captions,
    }
    each = {name: [s / counts[name] for s in some] for name, some in seconds.items()}
    captions = images * workload.CAPTIONS_PER_IMAGE
    original_total = [
        captions * encoded + images * captions * scored
        for encoded, scored in zip(each["original_pair_encoded"], each["original_pair_scored"], strict=True)
    ]
    our_total = [
        images * image + captions * caption + images * captions * scored
        for image, caption, scored in zip(
            each["image_encoded"], each["caption_encoded"], each["pair_scored"], strict=True
        )
    ]
    return {
        "microseconds": {name: spread([s * 1e6 for s in some]) for name, some in each.items()},
        "scaled_seconds": {"original": spread(original_total), "ours": spread(our_total)},
        "ratio": ratios(original_total, our_total),
    }


def rank_both(image_to_text: torch.Tensor, text_to_image: torch.Tensor) -> None:
    """Sorts the candidates of every query, as the original does to find ranks."""
    for scores in (image_to_text, text_to_image.T):
        for query in scores.numpy():
            np.argsort(query)[::-1]


if __name__ == "__main__":
    main()
