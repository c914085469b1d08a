"""What the original computes, the way it computes it, in plain PyTorch: the baseline of all benchmarks.

All pairs by expanding both sides, a batched product, zeros at padding, then the maximum; in evaluation padded to 71
positions, once per query and once per direction; in training both streams padded to their static lengths. Checked by
tests/benchmarks/test_torch_baseline.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aladin_jax.models.backbone import BackboneConfig
from aladin_jax.models.matching_head import MatchingHeadConfig
from benchmarks.torch_bert import Bert

LossesOf = Callable[[Any], dict[str, Tensor]]
Step = Callable[[Any], tuple[dict[str, Tensor], Tensor]]

EVALUATION_LENGTH = 71
MARGIN, GRAD_CLIP, LISTNET_TEMPERATURE = 0.2, 2.0, 6.0


def alignment_scores(regions: Tensor, region_len: Tensor, tokens: Tensor, caption_len: Tensor) -> Tensor:
    """MrSw scores [i, c] of unit vectors: regions [i, r, d] with position 0, tokens [c, w, d] with all positions."""
    regions, tokens = regions[:, 1:], tokens[:, 1:-2]
    num_images, num_captions = len(regions), len(tokens)
    similarity = torch.matmul(
        regions.unsqueeze(1).expand(-1, num_captions, -1, -1),
        tokens.unsqueeze(0).expand(num_images, -1, -1, -1).transpose(2, 3),
    )
    no_region = torch.arange(regions.shape[1], device=regions.device)[None] >= (region_len - 1)[:, None]
    no_word = torch.arange(tokens.shape[1], device=tokens.device)[None] >= (caption_len - 3)[:, None]
    similarity = similarity.masked_fill(no_region[:, None, :, None] | no_word[None, :, None, :], 0)
    return similarity.max(dim=2).values.sum(dim=2)


def pad_for_evaluation(x: Tensor) -> Tensor:
    """Pads [n, s, d] to the length that evaluation uses for both sides."""
    return F.pad(x, (0, 0, 0, EVALUATION_LENGTH - x.shape[1]))


def evaluation_scores(
    regions: Tensor, region_len: Tensor, tokens: Tensor, caption_len: Tensor
) -> tuple[Tensor, Tensor]:
    """All pairs as the evaluation needs them: query by query, for image-to-text and again for text-to-image.

    Args:
        regions: [i, 71, d] unit vectors.
        region_len: [i].
        tokens: [c, 71, d] unit vectors.
        caption_len: [c].

    Returns:
        The same scores [i, c] twice.
    """
    image_to_text = [
        alignment_scores(regions[k : k + 1], region_len[k : k + 1], tokens, caption_len) for k in range(len(regions))
    ]
    text_to_image = [
        alignment_scores(regions, region_len, tokens[k : k + 1], caption_len[k : k + 1]) for k in range(len(tokens))
    ]
    return torch.cat(image_to_text), torch.cat(text_to_image, dim=1)


def hinge_triplet(scores: Tensor) -> Tensor:
    """Hardest negatives of both directions, summed."""
    positive = scores.diag()
    own = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    captions = (MARGIN + scores - positive[:, None]).clamp(min=0).masked_fill(own, 0)
    images = (MARGIN + scores - positive[None, :]).clamp(min=0).masked_fill(own, 0)
    return captions.max(dim=1).values.sum() + images.max(dim=0).values.sum()


def listnet(teacher: Tensor, student: Tensor) -> Tensor:
    """Distillation of alignment scores into matching scores, rows and columns."""

    def rows(teacher: Tensor, student: Tensor) -> Tensor:
        prediction = torch.log(F.softmax(LISTNET_TEMPERATURE * student, dim=1) + 1e-10)
        return -(F.softmax(teacher, dim=1) * prediction).sum(dim=1).mean()

    teacher = teacher.detach()
    return rows(teacher, student) + rows(teacher.T, student.T)


class Outputs(NamedTuple):
    """Both heads' embeddings of a batch: vectors [b, d], unit regions [b, r, d] and tokens [b, w, d] with lengths."""

    image_vector: Tensor
    caption_vector: Tensor
    regions: Tensor
    region_len: Tensor
    tokens: Tensor
    caption_len: Tensor


class BaselineModel(nn.Module):
    """Backbone and matching head."""

    def __init__(self, backbone: BackboneConfig, head: MatchingHeadConfig):
        """Random weights, normal with `initializer_range` in the backbone's dense layers and embeddings."""
        super().__init__()
        self.bert = Bert(backbone)
        for module in self.bert.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=backbone.initializer_range)
        self.final_projection_net = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                backbone.hidden_size, head.num_heads, dim_feedforward=backbone.hidden_size, dropout=head.dropout
            ),
            head.num_layers,
            enable_nested_tensor=False,
        )

    def forward(self, batch: Mapping[str, Tensor]) -> Outputs:
        """Encodes a batch, whose arrays are named as those of aladin_jax, both streams padded to their full lengths."""
        region_len, caption_len = batch["region_len"], batch["caption_len"]
        regions = self.encode_images(batch)[:, : int(region_len.max())]
        tokens = self.encode_captions(batch)[:, : int(caption_len.max())]
        return Outputs(
            self.vector(regions, region_len),
            self.vector(tokens, caption_len),
            F.normalize(regions, dim=2),
            region_len,
            F.normalize(tokens, dim=2),
            caption_len,
        )

    def encode_images(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs at regions."""
        ids, features = batch["label_ids"], batch["region_features"]
        real_tags, real_regions = real_positions(batch["label_len"], ids), real_positions(batch["region_len"], features)
        token_type = real_tags.clone()
        token_type[:, 0] = 0
        out = self.bert(ids, token_type, torch.cat([real_tags, real_regions], dim=1), features)
        return out[:, ids.shape[1] :]

    def encode_captions(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Outputs at all tokens."""
        ids = batch["caption_ids"]
        return self.bert(ids, torch.zeros_like(ids), real_positions(batch["caption_len"], ids))

    def vector(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The matching head's unit vector."""
        padding = real_positions(lengths, x) == 0
        return F.normalize(self.final_projection_net(x.transpose(0, 1), src_key_padding_mask=padding)[0], dim=1)


def real_positions(lengths: Tensor, padded: Tensor) -> Tensor:
    """1 at real positions [b, s] of a padded array, else 0."""
    return (torch.arange(padded.shape[1], device=lengths.device)[None] < lengths[:, None]).long()


def original_losses(model: BaselineModel) -> LossesOf:
    """Alignment hinge and distillation of a batch."""

    def losses_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        out = model(batch)
        alignment = alignment_scores(out.regions, out.region_len, out.tokens, out.caption_len)
        return {
            "alignment": hinge_triplet(alignment),
            "distillation": listnet(alignment, out.image_vector @ out.caption_vector.T),
        }

    return losses_of


def make_step(losses_of: LossesOf, optimizer: torch.optim.Optimizer) -> Step:
    """A training step of the sum of losses, behind the clip: -> (losses by name, gradient norm before clipping)."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step(batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        optimizer.zero_grad()
        losses = losses_of(batch)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(parameters, GRAD_CLIP)
        optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}, norm

    return step
