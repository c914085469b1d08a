"""How captions are put together for encoding; what comes out is compared in tests/end_to_end/test_encoding.py."""

import numpy as np
import pytest

from aladin_jax.encoding import caption_batches


def lengths_like_cocos(captions, seed=0):
    return np.clip(np.round(np.random.default_rng(seed).gamma(3, 1.5, captions) + 9), 8, 50).astype(np.int32)


@pytest.mark.parametrize("captions", [1, 5, 63, 64, 200, 5000])
@pytest.mark.parametrize("devices", [1, 8])
def test_every_caption_is_encoded_once_in_slots_that_hold_it(captions, devices):
    lengths = lengths_like_cocos(captions)
    batches = caption_batches(lengths, 50, batch_size=64, devices=devices)
    assert sorted(np.concatenate([batch.captions for batch in batches]).tolist()) == list(range(captions))
    for batch in batches:
        filled = np.pad(lengths[batch.captions], (0, batch.rows - len(batch.captions)))
        assert filled.max() <= batch.slots
        assert batch.rows % devices == 0
        assert batch.rows * batch.slots <= 64 * 50
        assert filled.reshape(devices, -1).sum(axis=1).max() <= batch.tokens


def test_captions_of_few_tokens_share_shapes_with_little_padding():
    lengths = lengths_like_cocos(5000)
    batches = caption_batches(lengths, 50, batch_size=64, devices=1)
    assert {batch.slots for batch in batches} <= {16, 32, 50}
    assert len({(batch.slots, batch.rows, batch.tokens) for batch in batches}) <= 3
    assert sum(batch.tokens for batch in batches) < 1.15 * lengths.sum()
    assert sum(batch.rows * batch.slots for batch in batches) < 1.4 * lengths.sum()  # of 50 slots it would be 3.7


def test_captions_that_do_not_fill_a_batch_go_with_longer_ones():
    lengths = np.array([10, 40, 12, 9], np.int32)
    [batch] = caption_batches(lengths, 50, batch_size=4, devices=1)
    assert batch.captions.tolist() == [0, 2, 3, 1]
    assert (batch.slots, batch.rows) == (50, 4)


def test_slots_do_not_exceed_what_captions_may_have():
    [batch] = caption_batches(np.array([3, 12], np.int32), 12, batch_size=2, devices=1)
    assert (batch.slots, batch.rows) == (12, 2)
