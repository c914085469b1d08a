"""VinVL's backbone in plain PyTorch; modules are named as the keys of published checkpoints, so their weights load."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aladin_jax.models.backbone import BackboneConfig

Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def attend_within(real: Tensor) -> Attend:
    """The original's attention, written out: [b, s, heads, d / heads] queries, keys and values, and dropout's rate.

    `real` [b, s] is 1 at real positions; padding gets -10000 before the softmax.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor, rate: float) -> Tensor:
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        mask = (1.0 - real[:, None, None, :].to(q.dtype)) * -10000.0
        weights = F.softmax(torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(q.shape[-1]) + mask, dim=-1)
        return torch.matmul(F.dropout(weights, rate), v).transpose(1, 2)

    return attend


class SelfAttention(nn.Module):
    """BERT's; how queries meet keys is given."""

    def __init__(self, config: BackboneConfig):
        """Three projections of the hidden size."""
        super().__init__()
        d = config.hidden_size
        self.query, self.key, self.value = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.num_heads = config.num_attention_heads

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Attends among the vectors [..., d] as `attend` does."""
        q, k, v = (project(x).unflatten(-1, (self.num_heads, -1)) for project in (self.query, self.key, self.value))
        return attend(q, k, v, self.dropout.p if self.training else 0.0).flatten(-2)


class ResidualOutput(nn.Module):
    """Dense, dropout, residual sum, LayerNorm."""

    def __init__(self, width: int, config: BackboneConfig):
        """From `width` to the hidden size."""
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, h: Tensor, residual: Tensor) -> Tensor:
        """Projects h and adds it to the residual."""
        return self.LayerNorm(self.dropout(self.dense(h)) + residual)


class Attention(nn.Module):
    """Self-attention and its output."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        self.self = SelfAttention(config)
        self.output = ResidualOutput(config.hidden_size, config)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Applies both."""
        return self.output(self.self(x, attend), x)


class Intermediate(nn.Module):
    """Dense and GELU."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        """Applies both."""
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """One Transformer layer."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        self.attention = Attention(config)
        self.intermediate = Intermediate(config)
        self.output = ResidualOutput(config.intermediate_size, config)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Applies the layer."""
        x = self.attention(x, attend)
        return self.output(self.intermediate(x), x)


class Embeddings(nn.Module):
    """Word, position and type embeddings."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        d = config.hidden_size
        self.word_embeddings = nn.Embedding(config.vocab_size, d, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, d)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, d)
        self.LayerNorm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, token_type: Tensor, position: Tensor) -> Tensor:
        """Embeds ids of any shape, and types and positions of the same."""
        x = self.word_embeddings(ids) + self.position_embeddings(position) + self.token_type_embeddings(token_type)
        return self.dropout(self.LayerNorm(x))


class Encoder(nn.Module):
    """The stack of layers."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        self.layer = nn.ModuleList([Layer(config) for _ in range(config.num_hidden_layers)])

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        """Applies all layers."""
        for layer in self.layer:
            x = layer(x, attend)
        return x


class Bert(nn.Module):
    """VinVL's backbone."""

    def __init__(self, config: BackboneConfig):
        """Named as in the checkpoints."""
        super().__init__()
        self.embeddings = Embeddings(config)
        self.encoder = Encoder(config)
        self.img_embedding = nn.Linear(config.img_feature_dim, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.img_layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, ids: Tensor, token_type: Tensor, real: Tensor, features: Tensor | None = None) -> Tensor:
        """Encodes tokens [b, s], followed by regions where there are some, as the original does."""
        position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        x = self.embeddings(ids, token_type, position)
        if features is not None:
            x = torch.cat([x, self.embed_regions(features)], dim=1)
        return self.encoder(x, attend_within(real))

    def embed_regions(self, features: Tensor) -> Tensor:
        """Embeds regions [..., f]."""
        return self.dropout(self.LayerNorm(self.img_embedding(features)))
