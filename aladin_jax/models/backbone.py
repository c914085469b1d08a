"""VinVL's backbone: one BERT that reads captions, or tags followed by image regions (Oscar+, BERT-base)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from aladin_jax.models.attention import dropout, gelu
from aladin_jax.models.bert import (
    Kernels,
    LayerInitializers,
    LayerKeys,
    Stream,
    TransformerLayer,
    dense_layer,
    encode_streams,
    layer_norm,
    stack_layers,
)
from aladin_jax.models.kernels.counter_dropout import counter_dropout

PAD_ID = 0
_MAX_SIZE = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class BackboneConfig:
    """Sizes and rates of the backbone; fields are named as in BERT's and VinVL's config.json."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    img_feature_dim: int = 2054
    img_layer_norm_eps: float = 1e-12
    use_img_layernorm: bool = True

    @classmethod
    def from_dict(cls, values: dict, source: str = "model config") -> BackboneConfig:
        """Takes the known fields and checks them.

        Raises:
            ValueError: a field has the wrong type or an impossible value, or the activation is not erf GELU.
        """
        activation = values.get("hidden_act", "gelu")
        if activation != "gelu":
            raise ValueError(f"{source}: hidden_act is {activation!r}; only 'gelu' (erf) is implemented")
        known = {}
        for field in dataclasses.fields(cls):
            if field.name not in values:
                continue
            known[field.name] = _checked(values[field.name], type(field.default), f"{source}: {field.name}")
        config = cls(**known)
        config._check(source)
        return config

    def _check(self, source: str) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{source}: hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{source}: {name} is {getattr(self, name)}; it must be in [0, 1)")


def _checked(value: object, kind: type, field: str) -> bool | int | float:
    """A configuration's value as one of a kind: a switch, a size, or an epsilon, rate or deviation.

    Raises:
        ValueError: it is something else, infinite or absurd.
    """
    if isinstance(value, (int, float)) and (kind is bool or not isinstance(value, bool)):
        if kind is bool and value in (0, 1):
            return bool(value)
        if kind is int and 1 <= value <= _MAX_SIZE and value == int(value):
            return int(value)
        if kind is float and 0 <= value <= 1:
            return float(value)
    expected = {bool: "true or false", int: f"a whole number from 1 to {_MAX_SIZE:,}", float: "a number from 0 to 1"}
    raise ValueError(f"{field} is {value!r:.60}; expected {expected[kind]}")


class Embeddings(nnx.Module):
    """Word + position + token-type embeddings, LayerNorm, dropout."""

    def __init__(self, config: BackboneConfig, dtype: DTypeLike, kernels: Kernels, rngs: nnx.Rngs):
        """Initialises the tables as BERT's: normal with `initializer_range`."""
        init = nnx.initializers.normal(config.initializer_range)
        size = config.hidden_size
        self.word = nnx.Param(init(rngs.params(), (config.vocab_size, size)))
        self.position = nnx.Param(init(rngs.params(), (config.max_position_embeddings, size)))
        self.token_type = nnx.Param(init(rngs.params(), (config.type_vocab_size, size)))
        self.norm = layer_norm(size, config.layer_norm_eps, rngs)
        self.dropout_rate = config.hidden_dropout_prob
        self.dtype = dtype
        self.dropout = counter_dropout if kernels == "pallas" else dropout

    def __call__(
        self, ids: Int[Array, "b s"], token_type: Int[Array, "b s"], key: Array | None
    ) -> Float[Array, "b s d"]:
        """Embeds a stream's tokens; positions count from 0."""
        words = self.word[...][ids]
        # As with torch's padding_idx, the padding row gets no gradient.
        words = jnp.where((ids == PAD_ID)[..., None], jax.lax.stop_gradient(words), words)
        x = self.norm(words + self.position[...][: ids.shape[1]] + self.token_type[...][token_type])
        return self.dropout(x.astype(self.dtype), self.dropout_rate, key)


class Backbone(nnx.Module):
    """Encodes captions and images apart, with one set of weights.

    Values are pinned by `forward/*` of tests/golden/unit/expected.npz.
    """

    def __init__(
        self,
        config: BackboneConfig,
        *,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        kernels: Kernels = "xla",
        mesh: Mesh | None = None,
        rngs: nnx.Rngs,
    ):
        """Builds the backbone with BERT's random initialisation; dense layers compute in `dtype`.

        With `remat`, the backward pass has each layer's input only, and computes the layer again. `kernels` and `mesh`
        as in `bert.encode_streams`.
        """
        normal, zeros = nnx.initializers.normal(config.initializer_range), nnx.initializers.zeros_init()
        self.embeddings = Embeddings(config, dtype, kernels, rngs)
        self.region_projection = dense_layer(config.img_feature_dim, config.hidden_size, (normal, zeros), dtype, rngs)
        if config.use_img_layernorm:
            self.region_norm = layer_norm(config.hidden_size, config.img_layer_norm_eps, rngs)
        self.layers = stack_layers(
            lambda rngs: TransformerLayer(
                config.hidden_size,
                config.intermediate_size,
                activation=gelu,
                layer_norm_eps=config.layer_norm_eps,
                dropout_rate=config.hidden_dropout_prob,
                initializers=LayerInitializers(*[(normal, zeros)] * 4),
                dtype=dtype,
                rngs=rngs,
            ),
            config.num_hidden_layers,
            rngs,
        )
        self.config = config
        self.dtype = dtype
        self.remat = remat
        self.kernels: Kernels = kernels
        self.mesh = mesh

    def embed_captions(self, ids: Int[Array, "c w"], lengths: Int[Array, " c"], key: Array | None) -> Stream:
        """`[CLS] wordpieces [SEP]`, token types 0."""
        x = self.embeddings(ids, jnp.zeros_like(ids), key)
        return Stream(x, positions_within(lengths, ids.shape[1]))

    def embed_images(
        self,
        label_ids: Int[Array, "i l"],
        label_len: Int[Array, " i"],
        features: Float[Array, "i r f"],
        region_len: Int[Array, " i"],
        keys: Array | None,
    ) -> Stream:
        """Tags (token type 0 at the first, 1 at the rest), padding, then regions, which get no position. Two `keys`."""
        tag_key, region_key = (None, None) if keys is None else keys
        is_tag = positions_within(label_len, label_ids.shape[1])
        token_type = (is_tag & (jnp.arange(label_ids.shape[1]) > 0)).astype(jnp.int32)
        tags = self.embeddings(label_ids, token_type, tag_key)
        regions = self.region_projection(features.reshape(-1, features.shape[-1]))
        if self.config.use_img_layernorm:
            regions = self.region_norm(regions)
        regions = regions.astype(self.dtype)
        regions = regions.reshape(*features.shape[:2], -1)
        regions = self.embeddings.dropout(regions, self.config.hidden_dropout_prob, region_key)
        is_region = positions_within(region_len, features.shape[1])
        return Stream(jnp.concatenate([tags, regions], axis=1), jnp.concatenate([is_tag, is_region], axis=1))

    def encode(
        self,
        streams: list[Stream],
        *,
        keys: LayerKeys | None,
        tokens_per_shard: int | None = None,
        shards: int = 1,
    ) -> list[Float[Array, "b s d"]]:
        """Runs the Transformer over streams of the same examples; see `bert.encode_streams`."""
        return encode_streams(
            self.layers,
            streams,
            num_heads=self.config.num_attention_heads,
            attention_dropout=self.config.attention_probs_dropout_prob,
            keys=keys,
            tokens_per_shard=tokens_per_shard,
            shards=shards,
            remat=self.remat,
            kernels=self.kernels,
            mesh=self.mesh,
        )


def positions_within(lengths: Int[Array, " b"], slots: int) -> Array:
    """Bool [b, slots]: True before each length."""
    return jnp.arange(slots) < lengths[:, None]
