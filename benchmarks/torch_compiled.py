"""The same model and losses as well as PyTorch runs them: what its users would write for a GPU.

Forward pass and losses are one region of torch.compile without a graph break, in bfloat16 autocast; attention is
PyTorch's fused kernel; all pairs are one flat product; Adam is fused. Two layouts: `padded`, to the batch's longest
caption, with `scaled_dot_product_attention`; and `packed`, real tokens only, with the variable-length flash kernel.
Checked by tests/benchmarks/test_torch_baseline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.torch_baseline import BaselineModel, LossesOf, hinge_triplet, listnet
from benchmarks.torch_bert import Attend

SLOTS_MULTIPLE = 8  # of padded lengths: fused attention reads its mask in pieces of eight


class Flat(NamedTuple):
    """Sequences end to end: where each begins, [n + 1] int32 with the total last, and the longest one's length."""

    starts: Tensor
    longest: int


class PackedBatch(NamedTuple):
    """A batch without padding; flat positions are those of captions first, then of images (tags, then regions).

    Attributes:
        text_ids: [t] of all captions, then of all images' tags.
        text_type: [t].
        text_position: [t].
        features: [r, f] of all images.
        order: [n] which of (texts, regions) stands at each flat position.
        sequences: captions and images.
        head_order: [m] flat positions of tokens and regions, which the matching head takes.
        head_sequences: captions and images, tags left out.
        words: [w] flat positions of the words that alignment scores compare.
        caption_of_word: [w].
        region_slots: [i, r] flat positions of the regions that alignment scores compare; arbitrary at padding.
        is_region: [i, r].
    """

    text_ids: Tensor
    text_type: Tensor
    text_position: Tensor
    features: Tensor
    order: Tensor
    sequences: Flat
    head_order: Tensor
    head_sequences: Flat
    words: Tensor
    caption_of_word: Tensor
    region_slots: Tensor
    is_region: Tensor


def pack(batch: Mapping[str, np.ndarray], device: str) -> PackedBatch:
    """Leaves the padding of a batch out, and puts it on a device; once a batch, as a loader's `collate_fn` would."""
    caption_len, label_len, region_len = (batch[name] for name in ("caption_len", "label_len", "region_len"))
    is_token, is_tag = _real(batch["caption_ids"], caption_len), _real(batch["label_ids"], label_len)
    is_region = _real(batch["region_features"], region_len)
    tokens, tags, regions = int(caption_len.sum()), int(label_len.sum()), int(region_len.sum())
    tag_rows = np.split(tokens + np.arange(tags), np.cumsum(label_len)[:-1])
    region_rows = np.split(tokens + tags + np.arange(regions), np.cumsum(region_len)[:-1])
    images = [row for pair in zip(tag_rows, region_rows, strict=True) for row in pair]
    tag_position = np.nonzero(is_tag)[1]

    caption_starts = np.concatenate([[0], np.cumsum(caption_len)])
    image_starts = tokens + np.concatenate([[0], np.cumsum(label_len + region_len)])
    first_regions = image_starts[:-1] + label_len
    region_positions = np.concatenate(
        [first + np.arange(n) for first, n in zip(first_regions, region_len, strict=True)]
    )
    # [CLS], [SEP] and the last wordpiece, and each image's first region, take no part in alignment scores.
    words = [first + np.arange(1, n - 2) for first, n in zip(caption_starts, caption_len, strict=False)]
    compared = np.arange(1, region_len.max())
    slots = first_regions[:, None] + compared

    def put(array: np.ndarray, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

    def flat(lengths: np.ndarray) -> Flat:
        return Flat(put(np.concatenate([[0], np.cumsum(lengths)]), torch.int32), int(lengths.max()))

    return PackedBatch(
        text_ids=put(np.concatenate([batch["caption_ids"][is_token], batch["label_ids"][is_tag]])),
        text_type=put(np.concatenate([np.zeros(tokens), tag_position > 0])),
        text_position=put(np.concatenate([np.nonzero(is_token)[1], tag_position])),
        features=put(batch["region_features"][is_region], torch.float32),
        order=put(np.concatenate([np.arange(tokens), *images])),
        sequences=flat(np.concatenate([caption_len, label_len + region_len])),
        head_order=put(np.concatenate([np.arange(tokens), region_positions])),
        head_sequences=flat(np.concatenate([caption_len, region_len])),
        words=put(np.concatenate(words)),
        caption_of_word=put(np.repeat(np.arange(len(words)), [len(some) for some in words])),
        region_slots=put(np.where(compared < region_len[:, None], slots, 0)),
        is_region=put(compared < region_len[:, None], torch.bool),
    )


class PaddedBatch(NamedTuple):
    """A batch padded to its longest caption and most regions, rounded up, and to all slots of tags.

    Attributes:
        caption_ids: [b, w].
        is_token: [b, w].
        label_ids: [b, l].
        label_type: [b, l].
        features: [b, r, f].
        is_real: [b, l + r] tags and regions.
        is_word: [b, w'] of the words that alignment scores compare, from the second token on.
        is_region: [b, r'] of the regions that alignment scores compare, from the second on.
    """

    caption_ids: Tensor
    is_token: Tensor
    label_ids: Tensor
    label_type: Tensor
    features: Tensor
    is_real: Tensor
    is_word: Tensor
    is_region: Tensor


def pad(batch: Mapping[str, np.ndarray], device: str) -> PaddedBatch:
    """Cuts a batch's padding to what its longest examples need, and puts it on a device."""
    caption_len, label_len, region_len = (batch[name] for name in ("caption_len", "label_len", "region_len"))
    width = _round_up(int(caption_len.max()))
    tag_slots = batch["label_ids"].shape[1]
    region_slots = _round_up(tag_slots + int(region_len.max())) - tag_slots
    ids, labels = _to_width(batch["caption_ids"], width), batch["label_ids"]
    features = _to_width(batch["region_features"], region_slots)
    is_tag = _real(labels, label_len)

    def put(array: np.ndarray, dtype: torch.dtype = torch.bool) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)

    return PaddedBatch(
        caption_ids=put(ids, torch.int64),
        is_token=put(_real(ids, caption_len)),
        label_ids=put(labels, torch.int64),
        label_type=put(is_tag & (np.arange(tag_slots) > 0), torch.int64),
        features=put(features, torch.float32),
        is_real=put(np.concatenate([is_tag, _real(features, region_len)], axis=1)),
        is_word=put(np.arange(caption_len.max() - 3) < (caption_len - 3)[:, None]),
        is_region=put(np.arange(1, region_len.max()) < region_len[:, None]),
    )


def attend_packed(flat: Flat) -> Attend:
    """Attention within each of the sequences; on a GPU the flash kernel for sequences of any lengths.

    `torch.nn.attention.varlen` calls the same kernel, but without dropout.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
        if q.is_cuda:
            starts, longest = flat
            return torch.ops.aten._flash_attention_forward(
                q, k, v, starts, starts, longest, longest, rate, False, False
            )[0]
        sequence = torch.searchsorted(flat.starts[1:], torch.arange(len(q)), right=True)
        together = sequence[:, None] == sequence
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=together, dropout_p=rate).transpose(0, 1)

    return attend


def attend_padded(is_real: Tensor) -> Attend:
    """Attention among the real positions [b, s] of each example."""

    def attend(q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mask = is_real[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=rate).transpose(1, 2)

    return attend


def match(model: BaselineModel, x: Tensor, attend: Attend) -> Tensor:
    """The matching head's two layers over vectors [..., d]; what nn.TransformerEncoder computes."""
    for layer in cast(Iterable[nn.TransformerEncoderLayer], model.final_projection_net.layers):
        attention = layer.self_attn
        assert attention.in_proj_weight is not None
        qkv = F.linear(x, attention.in_proj_weight, attention.in_proj_bias).unflatten(-1, (3, attention.num_heads, -1))
        rate = attention.dropout if model.training else 0.0
        context = attend(*qkv.unbind(-3), rate).flatten(-2)
        x = layer.norm1(x + layer.dropout1(attention.out_proj(context)))
        x = layer.norm2(x + layer.dropout2(layer.linear2(layer.dropout(F.relu(layer.linear1(x))))))
    return x


def packed_losses(model: BaselineModel) -> LossesOf:
    """Alignment hinge and distillation of a `PackedBatch`."""
    bert = model.bert

    def losses_of(batch: PackedBatch) -> dict[str, Tensor]:
        texts = bert.embeddings(batch.text_ids, batch.text_type, batch.text_position)
        x = torch.cat([texts, bert.embed_regions(batch.features).to(texts.dtype)])[batch.order]
        x = bert.encoder(x, attend_packed(batch.sequences))
        heads = match(model, x[batch.head_order], attend_packed(batch.head_sequences))
        captions, images = F.normalize(heads[batch.head_sequences.starts[:-1]].float(), dim=1).chunk(2)
        x = F.normalize(x.float(), dim=1)
        regions = x[batch.region_slots] * batch.is_region[..., None]
        similarity = (regions.flatten(0, 1) @ x[batch.words].T).unflatten(0, batch.is_region.shape)
        best = similarity.amax(dim=1).float()  # padding is 0 here, as in the original
        alignment = best.new_zeros(len(images), len(captions)).index_add(1, batch.caption_of_word, best)
        return _losses(alignment, images, captions)

    return losses_of


def padded_losses(model: BaselineModel) -> LossesOf:
    """Alignment hinge and distillation of a `PaddedBatch`."""
    bert = model.bert

    def text(ids: Tensor, types: Tensor) -> Tensor:
        return bert.embeddings(ids, types, torch.arange(ids.shape[1], device=ids.device).expand_as(ids))

    def vector(x: Tensor, real: Tensor) -> Tensor:
        return F.normalize(match(model, x, attend_padded(real))[:, 0].float(), dim=1)

    def losses_of(batch: PaddedBatch) -> dict[str, Tensor]:
        tokens = text(batch.caption_ids, torch.zeros_like(batch.caption_ids))
        tokens = bert.encoder(tokens, attend_padded(batch.is_token))
        tags = text(batch.label_ids, batch.label_type)
        images = torch.cat([tags, bert.embed_regions(batch.features).to(tags.dtype)], dim=1)
        regions = bert.encoder(images, attend_padded(batch.is_real))[:, tags.shape[1] :]
        image, caption = vector(regions, batch.is_real[:, tags.shape[1] :]), vector(tokens, batch.is_token)
        compared = F.normalize(regions[:, 1 : 1 + batch.is_region.shape[1]].float(), dim=2) * batch.is_region[..., None]
        words = F.normalize(tokens[:, 1 : 1 + batch.is_word.shape[1]].float(), dim=2) * batch.is_word[..., None]
        similarity = compared.flatten(0, 1) @ words.flatten(0, 1).T
        best = similarity.unflatten(0, batch.is_region.shape).amax(dim=1).float()
        return _losses(best.unflatten(1, batch.is_word.shape).sum(dim=2), image, caption)

    return losses_of


LAYOUTS: dict[str, tuple[Callable[[Mapping[str, np.ndarray], str], tuple], Callable[[BaselineModel], LossesOf]]] = {
    "padded": (pad, padded_losses),
    "packed": (pack, packed_losses),
}


def compile_losses(losses_of: LossesOf, device: str, mode: str | None = None) -> LossesOf:
    """One compiled region, with dense layers and products in bfloat16; fails at a graph break."""

    def in_bfloat16(batch: tuple) -> dict[str, Tensor]:
        with torch.autocast(device, torch.bfloat16):
            return losses_of(batch)

    return torch.compile(in_bfloat16, fullgraph=True, mode=mode)


def make_optimizer(model: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    """Adam in one kernel."""
    return torch.optim.Adam(model.parameters(), learning_rate, fused=True)


def _losses(alignment: Tensor, images: Tensor, captions: Tensor) -> dict[str, Tensor]:
    with torch.autocast(alignment.device.type, enabled=False):  # distillation distinguishes cosines in float32
        return {"alignment": hinge_triplet(alignment), "distillation": listnet(alignment, images @ captions.T)}


def _real(padded: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    return np.arange(padded.shape[1]) < lengths[:, None]


def _round_up(length: int) -> int:
    return -(-length // SLOTS_MULTIPLE) * SLOTS_MULTIPLE


def _to_width(array: np.ndarray, width: int) -> np.ndarray:
    spare = max(width - array.shape[1], 0)
    return np.pad(array, [(0, 0), (0, spare), *[(0, 0)] * (array.ndim - 2)])[:, :width]
