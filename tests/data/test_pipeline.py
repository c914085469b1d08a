import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from aladin_jax.data import pipeline
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split, read_image_keys
from aladin_jax.data.tokenization import CaptionTokenizer
from aladin_jax.errors import DataError
from convert.dataset import coco_ir

E2E = Path(__file__).parent.parent / "golden" / "e2e"
CAPTIONS_OF_IMAGE = (1, 3, 0, 7, 2, 5, 1)  # of the `numbered` data set
NUM_PAIRS = sum(CAPTIONS_OF_IMAGE)
IMAGE_OF_PAIR = np.repeat(np.arange(len(CAPTIONS_OF_IMAGE)), CAPTIONS_OF_IMAGE)


@pytest.fixture(scope="module")
def golden_dataset(tmp_path_factory):
    features = E2E / "model_0060000" / "features.tsv"
    return coco_ir.prepare(E2E / "coco_ir", features, tmp_path_factory.mktemp("golden")).folder


def batches_of(directory, tokenizer, **options):
    settings: dict[str, Any] = {"batch_size": 4, "max_regions": 5, "seed": 88, "num_epochs": 1} | options
    return pipeline.TrainBatches(Split(open_dataset(directory), "train"), tokenizer, **settings)


def pairs_of(batch):
    """The pairs' numbers, read back from the captions; checks that image and caption belong together."""
    real = np.asarray(batch.arrays["caption_len"]) > 0
    pairs = np.asarray(batch.arrays["caption_ids"])[real, 1] - 4
    images = np.asarray(batch.arrays["region_features"])[real, 0, 0]
    np.testing.assert_array_equal(images, IMAGE_OF_PAIR[pairs])
    np.testing.assert_array_equal(np.asarray(batch.arrays["image"])[real], IMAGE_OF_PAIR[pairs])
    return pairs.tolist()


def all_pairs(batches):
    return [pair for batch in batches for pair in pairs_of(batch)]


def assert_same(batch, other):
    assert batch.num_pairs == other.num_pairs
    assert batch.state == other.state
    assert batch.arrays.keys() == other.arrays.keys()
    for name in batch.arrays:
        np.testing.assert_array_equal(batch.arrays[name], other.arrays[name])


def assert_golden_regions(arrays, golden):
    features = arrays["region_features"]
    assert features.dtype == np.float32
    np.testing.assert_array_equal(arrays["region_len"], golden["region_len"])
    np.testing.assert_array_equal(features[..., -6:], golden["region_box"])
    np.testing.assert_allclose(features.sum(-1), golden["region_feature_sum"], rtol=1e-5)


def golden_examples(lengths, split):
    prefix = f"{'_'.join(map(str, lengths))}/{split}/"
    with np.load(E2E / "examples.npz") as file:
        return {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}


def golden_tokenizer(lengths):
    return CaptionTokenizer(E2E / "vinvl" / "vocab.txt", max_caption_len=lengths[0], max_labels_len=lengths[1])


LENGTHS = pytest.mark.parametrize("lengths", [(50, 50, 34), (12, 10, 5)])


@LENGTHS
def test_unshuffled_training_batches_are_the_originals_examples(golden_dataset, lengths):
    golden = golden_examples(lengths, "train")
    batches = list(
        batches_of(golden_dataset, golden_tokenizer(lengths), batch_size=8, max_regions=lengths[2], shuffle=False)
    )
    assert [batch.num_pairs for batch in batches] == [8] * 6 + [2]
    arrays = {name: np.concatenate([batch.arrays[name] for batch in batches]) for name in batches[0].arrays}
    for name in ("caption_ids", "caption_len", "label_ids"):
        np.testing.assert_array_equal(arrays[name], golden[name])
    tags = np.arange(lengths[1]) < arrays["label_len"][:, None]
    np.testing.assert_array_equal(tags, golden["image_mask"][:, : lengths[1]])
    assert_golden_regions(arrays, golden)


@LENGTHS
def test_images_and_captions_of_a_keys_file_are_the_originals_examples(golden_dataset, lengths):
    golden = golden_examples(lengths, "test")
    split = Split(open_dataset(golden_dataset), "test")
    images = split.select(read_image_keys(E2E / "coco_ir" / "test_img_keys_1k.tsv"))
    caption_ids, caption_len, image_of_caption = pipeline.load_captions(split, images, golden_tokenizer(lengths))
    shown = len(golden["image_id"])
    np.testing.assert_array_equal(caption_ids[:shown], golden["caption_ids"])
    np.testing.assert_array_equal(caption_len[:shown], golden["caption_len"])
    ids = [int(split.ids[images[position]]) for position in image_of_caption[:shown]]
    assert ids == golden["image_id"].tolist()
    assert len(caption_ids) == len(image_of_caption) == 5 * len(images)

    records = [split.read(image) for image in images[: shown // 5].tolist()]
    first = pipeline.image_arrays(records, split.feature_dim, golden_tokenizer(lengths), lengths[2])
    np.testing.assert_array_equal(first["label_ids"], golden["label_ids"][::5])
    assert_golden_regions(first, {name: value[::5] for name, value in golden.items()})


def test_unshuffled_pairs_follow_the_records_and_any_number_of_captions(numbered, tokenizer):
    batches = list(batches_of(numbered, tokenizer, shuffle=False, num_epochs=2))
    assert all_pairs(batches) == list(range(NUM_PAIRS)) * 2
    assert [batch.num_pairs for batch in batches] == [4, 4, 4, 4, 3] * 2
    assert pipeline.steps_per_epoch(NUM_PAIRS, 4) == 5


def test_each_epoch_visits_every_pair_once_in_an_order_of_its_own(numbered, tokenizer):
    pairs = all_pairs(batches_of(numbered, tokenizer, num_epochs=3))
    epochs = [pairs[start : start + NUM_PAIRS] for start in range(0, 3 * NUM_PAIRS, NUM_PAIRS)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(NUM_PAIRS))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_follows_from_the_seed_and_not_from_the_number_of_threads(numbered, tokenizer):
    first = list(batches_of(numbered, tokenizer, num_epochs=2, num_threads=0))
    for again in (
        batches_of(numbered, tokenizer, num_epochs=2, num_threads=1, prefetch=1),
        batches_of(numbered, tokenizer, num_epochs=2, num_threads=4, prefetch=8),
    ):
        for batch, other in zip(first, again, strict=True):
            assert_same(batch, other)
    others = batches_of(numbered, tokenizer, num_epochs=2, seed=89)
    assert [pairs_of(batch) for batch in first] != [pairs_of(batch) for batch in others]


@pytest.mark.parametrize("taken", [0, 3, 5, 7])
def test_a_saved_state_goes_on_bit_for_bit_in_and_across_epochs(numbered, tokenizer, taken):
    whole = list(batches_of(numbered, tokenizer, num_epochs=3))
    interrupted = batches_of(numbered, tokenizer, num_epochs=3, prefetch=6)
    for _ in range(taken):
        next(interrupted)
    state = json.loads(json.dumps(interrupted.get_state()))
    interrupted.close()
    resumed = batches_of(numbered, tokenizer, num_epochs=3)
    next(resumed)
    resumed.set_state(state)
    for batch, other in zip(whole[taken:], resumed, strict=True):
        assert_same(batch, other)


def test_an_endless_iterator_goes_on_past_any_epoch(numbered, tokenizer):
    batches = batches_of(numbered, tokenizer, num_epochs=None)
    batches.set_state(batches.get_state() | {"next_batch": 5 * 1000})
    assert sorted(all_pairs(next(batches) for _ in range(5))) == list(range(NUM_PAIRS))


def test_reader_processes_give_the_same_batches(numbered, tokenizer):
    flags.FLAGS.mark_as_parsed()  # Grain's processes read absl's flags; main.py has them parsed
    here = list(batches_of(numbered, tokenizer, num_epochs=2))
    elsewhere = batches_of(numbered, tokenizer, num_epochs=2, num_workers=2)
    elsewhere.set_state(here[2].state)
    for batch, other in zip(here[3:], elsewhere, strict=True):
        assert_same(batch, other)
    elsewhere.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 7}, "seed 7, now 88"),
        ({"batch_size": 8}, "batch_size 8, now 4"),
        ({"shuffle": False}, "shuffle False, now True"),
        ({"num_pairs": 18}, "num_pairs 18, now 19"),
        ({"next_batch": -1}, "next batch is -1"),
        ({"next_batch": None}, "next batch is None"),
    ],
)
def test_a_state_of_other_batches_is_refused(numbered, tokenizer, change, message):
    batches = batches_of(numbered, tokenizer)
    with pytest.raises(DataError, match=message):
        batches.set_state(batches.get_state() | change)


def test_processes_share_a_batch_in_equal_padded_parts(numbered, tokenizer):
    whole = list(batches_of(numbered, tokenizer))
    shares = [
        list(batches_of(numbered, tokenizer, pad_to=4, process_index=index, process_count=2)) for index in range(2)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [part.num_pairs for part in parts] == [batch.num_pairs] * 2
        assert [len(part.arrays["caption_len"]) for part in parts] == [2, 2]
        for name, array in batch.arrays.items():
            joined = np.concatenate([part.arrays[name] for part in parts])
            np.testing.assert_array_equal(joined[: len(array)], array)
            assert not joined[len(array) :].any()
    assert len(whole[-1].arrays["caption_len"]) == 3


def test_a_process_without_a_pair_of_its_own_gets_empty_rows(numbered, tokenizer):
    last = list(batches_of(numbered, tokenizer, batch_size=18, pad_to=8, process_index=1, process_count=2))[-1]
    assert last.num_pairs == 1
    assert {name: array.shape[0] for name, array in last.arrays.items()} == dict.fromkeys(last.arrays, 4)
    assert not any(array.any() for array in last.arrays.values())
    assert last.arrays["region_features"].shape == (4, 5, 4)


def test_regions_past_the_limit_are_cut(numbered, tokenizer):
    batch = next(batches_of(numbered, tokenizer, max_regions=2))
    assert batch.arrays["region_features"].shape == (4, 2, 4)
    assert batch.arrays["region_len"].tolist() == [2, 2, 2, 2]


def test_batches_on_the_devices_keep_their_values_order_and_state(numbered, tokenizer):
    mesh = jax.make_mesh((len(jax.devices()),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    ahead = batches_of(numbered, tokenizer, pad_to=8, num_epochs=2)
    on_device = pipeline.prefetch_to_device(ahead, sharding, size=3)
    first = next(on_device)
    assert ahead.get_state()["next_batch"] == 4
    assert first.state["next_batch"] == 1
    assert all(isinstance(array, jax.Array) and array.sharding == sharding for array in first.arrays.values())
    here = batches_of(numbered, tokenizer, pad_to=8, num_epochs=2)
    for batch, other in zip(here, [first, *on_device], strict=True):
        assert_same(batch, other)


def test_float16_records_give_float32_batches(tmp_path, tokenizer, write_dataset, numbered_records):
    path = write_dataset(tmp_path, {"train": numbered_records(dtype=np.float16)}, feature_dim=4, dtype=np.float16)
    batch = next(batches_of(path, tokenizer, shuffle=False))
    assert batch.arrays["region_features"].dtype == np.float32
    assert pairs_of(batch) == [0, 1, 2, 3]


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@pytest.mark.parametrize("stored", [np.float32, np.float16])
def test_regions_are_padded_in_the_wanted_type_exactly_as_numpy_converts_them(stored, dtype):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    numbers = every[np.isfinite(every)].astype(stored).reshape(-1, 64)
    regions = [numbers[:700], numbers[700:]]
    features, lengths = pipeline.pad_regions(regions, 3, 64, 600, dtype)
    assert features.dtype == dtype
    assert lengths.tolist() == [600, 292, 0]
    expected = np.zeros((3, 600, 64), dtype)
    expected[0], expected[1, :292] = numbers[:600], numbers[700:]
    np.testing.assert_array_equal(features.astype(np.float32), expected.astype(np.float32))


def test_bfloat16_batches_are_the_float32_ones_rounded(golden_dataset):
    options = {"batch_size": 8, "max_regions": 34, "num_epochs": 2}
    exact, rounded = (
        batches_of(golden_dataset, golden_tokenizer((50, 50)), region_dtype=dtype, **options)
        for dtype in (np.float32, jnp.bfloat16)
    )
    for batch, other in zip(exact, rounded, strict=True):
        features = batch.arrays["region_features"].astype(jnp.bfloat16)
        assert_same(batch._replace(arrays=batch.arrays | {"region_features": features}), other)


def test_pictures_in_the_records_are_not_decoded(tmp_path, tokenizer, write_dataset, numbered_records):
    spoilt = tmp_path / "spoilt.png"
    spoilt.write_bytes(b"not a picture")
    path = write_dataset(tmp_path / "out", {"train": numbered_records()}, feature_dim=4, picture=str(spoilt))
    assert pairs_of(next(batches_of(path, tokenizer, shuffle=False))) == [0, 1, 2, 3]


def test_a_split_without_pairs_is_refused(tmp_path, tokenizer, write_dataset, numbered_records):
    records = [record | {"captions": []} for record in numbered_records()]
    path = write_dataset(tmp_path, {"train": records}, feature_dim=4)
    with pytest.raises(DataError, match=r"train has no \(image, caption\) pair"):
        batches_of(path, tokenizer)
