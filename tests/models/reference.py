"""ALADIN's forward pass written down once more: NumPy, float64, one example at a time, nothing padded."""

from typing import NamedTuple

import jax
import numpy as np
from scipy.special import erf


class Encoded(NamedTuple):
    """One pair's outputs."""

    image: np.ndarray
    regions: np.ndarray
    caption: np.ndarray
    tokens: np.ndarray


def encode(params, config, batch, n):
    """Encodes pair `n` of a batch; `config` is a ModelConfig."""
    backbone, head = (jax.tree.map(lambda x: np.asarray(x, np.float64), params[group]) for group in params)
    sizes = config.backbone

    def embed(ids, types):
        table = backbone["embeddings"]
        x = table["word"][ids] + table["position"][: len(ids)] + table["token_type"][types]
        return normed(x, table["norm"], sizes.layer_norm_eps)

    def transformed(x):
        return transformer(x, backbone["layers"], sizes.num_attention_heads, gelu, sizes.layer_norm_eps)

    def vector(x):
        first = transformer(x, head["layers"], config.matching_head.num_heads, lambda h: np.maximum(h, 0), 1e-5)[0]
        return first / np.linalg.norm(first)

    ids = batch["caption_ids"][n, : batch["caption_len"][n]]
    tokens = transformed(embed(ids, np.zeros_like(ids)))
    labels = batch["label_ids"][n, : batch["label_len"][n]]
    regions = dense(batch["region_features"][n, : batch["region_len"][n]], backbone["region_projection"])
    if sizes.use_img_layernorm:
        regions = normed(regions, backbone["region_norm"], sizes.img_layer_norm_eps)
    types = np.minimum(np.arange(len(labels)), 1)
    regions = transformed(np.concatenate([embed(labels, types), regions]))[len(labels) :]
    return Encoded(vector(regions), regions, vector(tokens), tokens)


def transformer(x, layers, heads, activation, eps):
    for number in range(len(layers["qkv"]["bias"])):
        layer = jax.tree.map(lambda p, number=number: p[number], layers)
        q, k, v = np.split(dense(x, layer["qkv"]), 3, axis=1)
        parts = [np.split(part, heads, axis=1) for part in (q, k, v)]
        context = np.concatenate([softmax(q @ k.T / q.shape[1] ** 0.5) @ v for q, k, v in zip(*parts, strict=True)], 1)
        x = normed(x + dense(context, layer["attention_output"]), layer["attention_norm"], eps)
        hidden = activation(dense(x, layer["intermediate"]))
        x = normed(x + dense(hidden, layer["output"]), layer["output_norm"], eps)
    return x


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def normed(x, p, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * p["scale"] + p["bias"]


def gelu(x):
    return x * (1 + erf(x / 2**0.5)) / 2


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
