"""The whole model: backbone, matching head, and the outputs that the losses and the search work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from aladin_jax import precision
from aladin_jax.models.backbone import Backbone, BackboneConfig, positions_within
from aladin_jax.models.bert import Kernels, Stream, split_layer_keys
from aladin_jax.models.matching_head import MatchingHead, MatchingHeadConfig

# Nested dicts of float32 arrays, by parameter group: those of the model are MODEL_GROUPS, and each loss that learns has
# its own, as {"alignment_loss": {"log_scale": ...}} (see `training.objective.Objective.init_params`).
Params = dict[str, Any]
Batch = Mapping[str, Array]

MODEL_GROUPS = ("backbone", "matching_head")


class ImageEmbeddings(NamedTuple):
    """What is known of images: `vector` for the matching head, `regions` (with position 0) for the alignment head.

    The vector is float32, the regions are in the format that the model computes in.
    """

    vector: Float[Array, "i d"]
    regions: Float[Array, "i r d"]
    region_len: Int[Array, " i"]


class CaptionEmbeddings(NamedTuple):
    """What is known of captions: `vector` for the matching head, `tokens` (all positions) for the alignment head.

    The vector is float32, the tokens are in the format that the model computes in.
    """

    vector: Float[Array, "c d"]
    tokens: Float[Array, "c w d"]
    caption_len: Int[Array, " c"]


class Aladin(nnx.Module):
    """ALADIN (Messina et al., CBMI 2022). The alignment head has no weights: see `similarity.alignment_scores`."""

    def __init__(
        self,
        backbone: BackboneConfig,
        matching_head: MatchingHeadConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        kernels: Kernels = "xla",
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
        """Builds the model with fresh float32 parameters; dense layers compute in `dtype`; the rest see `Backbone`."""
        where = {"kernels": kernels, "mesh": mesh}
        self.backbone = Backbone(backbone, dtype=dtype, remat=remat, rngs=rngs, **where)
        self.matching_head = MatchingHead(backbone.hidden_size, matching_head, dtype=dtype, rngs=rngs, **where)

    def __call__(
        self, batch: Batch, *, key: Array | None = None, tokens_per_shard: int | None = None, shards: int = 1
    ) -> tuple[ImageEmbeddings, CaptionEmbeddings]:
        """Encodes as many images as captions, pair by pair, both through the backbone at once.

        Args:
            batch: caption_ids [b, w], caption_len [b], label_ids [b, l], label_len [b], region_features [b, r, f],
                region_len [b].
            key: draws dropout masks; None turns dropout off.
            tokens_per_shard: pack real tokens into flat arrays of this length, None to compute on padding too.
            shards: devices along the batch axis (tokens are packed within each one's examples).
        """
        embedding_keys = backbone_keys = head_keys = None
        if key is not None:  # one split for all: each costs compilation time
            layers, head_layers = self.backbone.config.num_hidden_layers, self.matching_head.config.num_layers
            keys = jax.random.split(key, 3 + 4 * (layers + head_layers))
            embedding_keys, backbone_keys, head_keys = keys[:3], keys[3 : 3 + 4 * layers], keys[3 + 4 * layers :]
            backbone_keys = split_layer_keys(backbone_keys, layers)
            head_keys = split_layer_keys(head_keys, head_layers)
        streams = [self._embed_captions(batch, embedding_keys), self._embed_images(batch, embedding_keys)]
        tokens, out = self.backbone.encode(
            streams, keys=backbone_keys, tokens_per_shard=tokens_per_shard, shards=shards
        )
        regions = _regions(out, batch)
        caption_vector, image_vector = self.matching_head(
            [_stream(tokens, batch["caption_len"]), _stream(regions, batch["region_len"])],
            head_keys,
            tokens_per_shard=tokens_per_shard,
            shards=shards,
        )
        return (
            ImageEmbeddings(image_vector, regions, batch["region_len"]),
            CaptionEmbeddings(caption_vector, tokens, batch["caption_len"]),
        )

    def encode_images(self, batch: Batch, *, tokens_per_shard: int | None = None, shards: int = 1) -> ImageEmbeddings:
        """Encodes images alone, without dropout; arguments as in `__call__`, the caption fields left out."""
        stream = self._embed_images(batch, None)
        [out] = self.backbone.encode([stream], keys=None, tokens_per_shard=tokens_per_shard, shards=shards)
        regions = _regions(out, batch)
        streams = [_stream(regions, batch["region_len"])]
        [vector] = self.matching_head(streams, None, tokens_per_shard=tokens_per_shard, shards=shards)
        return ImageEmbeddings(vector, regions, batch["region_len"])

    def encode_captions(
        self, batch: Batch, *, tokens_per_shard: int | None = None, shards: int = 1
    ) -> CaptionEmbeddings:
        """Encodes captions alone, without dropout; arguments as in `__call__`, the image fields left out."""
        stream = self._embed_captions(batch, None)
        [tokens] = self.backbone.encode([stream], keys=None, tokens_per_shard=tokens_per_shard, shards=shards)
        streams = [_stream(tokens, batch["caption_len"])]
        [vector] = self.matching_head(streams, None, tokens_per_shard=tokens_per_shard, shards=shards)
        return CaptionEmbeddings(vector, tokens, batch["caption_len"])

    def _embed_captions(self, batch: Batch, keys: Array | None) -> Stream:
        key = None if keys is None else keys[0]
        return self.backbone.embed_captions(batch["caption_ids"], batch["caption_len"], key)

    def _embed_images(self, batch: Batch, keys: Array | None) -> Stream:
        return self.backbone.embed_images(
            batch["label_ids"],
            batch["label_len"],
            batch["region_features"],
            batch["region_len"],
            None if keys is None else keys[1:],
        )


def _regions(out: Float[Array, "i s d"], batch: Batch) -> Float[Array, "i r d"]:
    return out[:, batch["label_ids"].shape[1] :]  # outputs at tags are dropped


def _stream(x: Float[Array, "b s d"], length: Int[Array, " b"]) -> Stream:
    return Stream(x, positions_within(length, x.shape[1]))


def init_params(backbone: BackboneConfig, matching_head: MatchingHeadConfig, seed: int) -> Params:
    """Fresh parameters as a nested dict of float32 arrays: {"backbone": ..., "matching_head": ...}."""
    create = lambda: Aladin(backbone, matching_head, rngs=nnx.Rngs(seed))  # noqa: E731
    return jax.jit(lambda: nnx.to_pure_dict(nnx.state(create(), nnx.Param)))()


def bind(
    backbone: BackboneConfig,
    matching_head: MatchingHeadConfig,
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
    kernels: Kernels = "xla",
    mesh: Mesh | None = None,
) -> Callable[[Params], Aladin]:
    """Returns a function from parameters to a model, which takes its own groups of them.

    The module tree is built once, without any arrays. `kernels` and `mesh` as in `bert.encode_streams`. A
    model in float32 makes the process multiply in float32.
    """
    precision.keep_float32(dtype)
    where = {"kernels": kernels, "mesh": mesh}
    abstract = nnx.eval_shape(
        lambda: Aladin(backbone, matching_head, dtype=dtype, remat=remat, rngs=nnx.Rngs(0), **where)
    )
    graphdef, state = nnx.split(abstract)

    def model(params: Params) -> Aladin:
        nnx.replace_by_pure_dict(state, {group: params[group] for group in MODEL_GROUPS})
        return nnx.merge(graphdef, state)

    return model
