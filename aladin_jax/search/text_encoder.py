"""Encodes one text on the host: the backbone's caption stream and the matching head, in NumPy.

One short text is bound by reading the weights, and a product of few rows with a large matrix is what matrix libraries
do worst: they first bring the matrix into an order of their own, which takes longer than the product. Here each matrix
lies cut into blocks, so small that OpenBLAS multiplies them as they lie. A layer is cut into shares, each of some heads
and some of the feed-forward net's hidden units, so that processors wait for one another only twice a layer.

Nothing is compiled, and nothing is padded. `models.bert` says what is computed; a test holds this form to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from scipy.special import erf

from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import Params
from aladin_jax.processors import on_all

# Columns of a block. With BERT-base's 768 rows, OpenBLAS takes the product with up to 40 tokens for small.
BLOCK_COLUMNS = 32
# Shares of a layer, on any number of processors, so that scores do not depend on it.
SHARES = 4
HEAD_EPS = 1e-5  # of the matching head's LayerNorms, as PyTorch's


class _Share(NamedTuple):
    """Some heads and some hidden units of a layer: kernels as blocks, biases of what is not summed over shares."""

    heads: int
    qkv: Float[np.ndarray, "b d w"]
    qkv_bias: Float[np.ndarray, " a"]
    attention_output: Float[np.ndarray, "b k w"]
    intermediate: Float[np.ndarray, "b d w"]
    intermediate_bias: Float[np.ndarray, " h"]
    output: Float[np.ndarray, "b h w"]

    def attend(self, x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t d"]:
        """What these heads add; there is no padding to be masked."""
        qkv = _product(x, self.qkv) + self.qkv_bias
        q, k, v = qkv.reshape(len(x), 3, self.heads, -1).transpose(1, 2, 0, 3)
        logits = q @ k.swapaxes(1, 2) / q.shape[-1] ** 0.5
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return _product((weights @ v).swapaxes(0, 1).reshape(len(x), -1), self.attention_output)

    def feed_forward(
        self, x: Float[np.ndarray, "t d"], activation: Callable[[np.ndarray], np.ndarray]
    ) -> Float[np.ndarray, "t d"]:
        """What these hidden units add."""
        return _product(activation(_product(x, self.intermediate) + self.intermediate_bias), self.output)


class _Norm(NamedTuple):
    scale: Float[np.ndarray, " d"]
    bias: Float[np.ndarray, " d"]
    eps: float

    def __call__(self, x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t d"]:
        x = x - x.mean(axis=-1, keepdims=True)
        return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self.eps) * self.scale + self.bias


class _Layer:
    """As `bert.TransformerLayer` without dropout."""

    def __init__(self, layer: dict[str, Any], heads: int, activation: Callable[[np.ndarray], np.ndarray], eps: float):
        self._shares = list(_cut(layer, heads))
        self._activation = activation
        self._biases = layer["attention_output"]["bias"], layer["output"]["bias"]
        self._norms = _Norm(**layer["attention_norm"], eps=eps), _Norm(**layer["output_norm"], eps=eps)

    def __call__(self, x: Float[np.ndarray, "t d"]) -> Float[np.ndarray, "t d"]:
        added = on_all(lambda share: share.attend(x), self._shares)
        x = self._norms[0](sum(added, x + self._biases[0]))
        added = on_all(lambda share: share.feed_forward(x, self._activation), self._shares)
        return self._norms[1](sum(added, x + self._biases[1]))


class TextEncoder:
    """Encodes a text at a time, from any thread; in float32, whatever format the model computes batches in."""

    def __init__(self, params: Params, config: ModelConfig):
        """Copies the layers' kernels into blocks; the tables of embeddings are used where they are.

        Args:
            params: float32 NumPy arrays.
            config: of the model that they are of.
        """
        backbone, head = config
        self._tables = params["backbone"]["embeddings"]
        self._norm = _Norm(**self._tables["norm"], eps=backbone.layer_norm_eps)
        self._layers = _layers(params["backbone"], backbone.num_attention_heads, _gelu, backbone.layer_norm_eps)
        self._head = _layers(params["matching_head"], head.num_heads, _relu, HEAD_EPS)

    def __call__(self, ids: Int[np.ndarray, " t"]) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "t d"]]:
        """Encodes `[CLS] wordpieces [SEP]`, without padding.

        Returns:
            The matching head's unit vector, and the backbone's outputs at all tokens.
        """
        words, positions, types = (self._tables[name] for name in ("word", "position", "token_type"))
        tokens = self._norm(words[ids] + positions[: len(ids)] + types[0])
        for layer in self._layers:
            tokens = layer(tokens)
        pooled = tokens
        for layer in self._head:
            pooled = layer(pooled)
        return unit(pooled[0]), tokens


def unit(x: Float[np.ndarray, "*b d"]) -> Float[np.ndarray, "*b d"]:
    """L2-normalises the last axis, as `matching_head.normalize`."""
    return x / np.maximum(np.sqrt(np.square(x).sum(axis=-1, keepdims=True)), 1e-12)


def _gelu(x: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    return 0.5 * x * (1 + erf(x * 0.5**0.5))


def _relu(x: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    return np.maximum(x, 0)


def _layers(
    group: dict[str, Any], heads: int, activation: Callable[[np.ndarray], np.ndarray], eps: float
) -> list[_Layer]:
    stacked = group["layers"]
    every = range(len(stacked["qkv"]["bias"]))
    return [_Layer(jax.tree.map(lambda leaf, k=k: leaf[k], stacked), heads, activation, eps) for k in every]


def _cut(layer: dict[str, Any], heads: int) -> Iterator[_Share]:
    """Cuts a layer into shares."""
    (width, hidden), qkv = layer["intermediate"]["kernel"].shape, layer["qkv"]
    columns = np.arange(3 * width).reshape(3, heads, -1)  # of queries, keys and values, head by head
    shares = min(SHARES, heads, hidden)
    for some, units in zip(*(np.array_split(np.arange(n), shares) for n in (heads, hidden)), strict=True):
        of_qkv, of_context = columns[:, some].ravel(), columns[0, some].ravel()
        yield _Share(
            len(some),
            _blocks(qkv["kernel"][:, of_qkv]),
            qkv["bias"][of_qkv],
            _blocks(layer["attention_output"]["kernel"][of_context]),
            _blocks(layer["intermediate"]["kernel"][:, units]),
            layer["intermediate"]["bias"][units],
            _blocks(layer["output"]["kernel"][units]),
        )


def _blocks(kernel: Float[np.ndarray, "k n"]) -> Float[np.ndarray, "b k w"]:
    rows, columns = kernel.shape
    width = math.gcd(columns, BLOCK_COLUMNS)
    return np.ascontiguousarray(kernel.reshape(rows, columns // width, width).swapaxes(0, 1))


def _product(x: Float[np.ndarray, "t k"], blocks: Float[np.ndarray, "b k w"]) -> Float[np.ndarray, "t n"]:
    return np.matmul(x, blocks).swapaxes(0, 1).reshape(len(x), -1)
