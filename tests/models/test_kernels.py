"""The fused kernels in Pallas's interpreter against plain formulas, and how they lower for a GPU."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aladin_jax.model_folder import ModelConfig
from aladin_jax.models.aladin import bind
from aladin_jax.models.kernels import counter_dropout
from aladin_jax.models.kernels.add_norm import NormForm, add_norm
from aladin_jax.models.kernels.attention import Segments, packed_attention
from aladin_jax.models.kernels.bias_gelu import bias_gelu
from aladin_jax.models.kernels.counter_dropout import kept, mix, row_seeds
from aladin_jax.models.kernels.head_tiles import AttentionForm
from aladin_jax.models.kernels.layer import unstack
from aladin_jax.training import optim
from aladin_jax.training.objective import Objective
from aladin_jax.training.step import choose_variant, init_state, make_train_step
from tests.golden_data import arrays, converted, unit_batch
from tests.models.test_forward import check_golden

KEY = jnp.asarray([123, 456], jnp.uint32)


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape, np.float32))


def assert_same_with_gradients(kernel, plain, weights, *arguments):
    """Compares values, and gradients with respect to all arguments."""

    @functools.partial(jax.jit, static_argnums=0)
    def run(function, *arguments):
        out, pull_back = jax.vjp(function, *arguments)
        return out, pull_back(weights.astype(out.dtype))

    for found, expected in zip(*(jax.tree.leaves(run(f, *arguments)) for f in (kernel, plain)), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(
    ("heads", "head_dim", "lengths", "tail"),
    [(2, 16, [50, 1, 33, 32, 64], 19), (1, 24, [3, 84], 0), (2, 8, [160, 7], 300)],
    ids=["shorter and longer than a tile", "a head of 16 + 8 columns", "longer than 128, and a long tail"],
)
def test_attention_on_packed_tokens_is_that_of_each_segment_alone(rate, heads, head_dim, lengths, tail):
    rng, lengths = np.random.default_rng(0), np.asarray(lengths)
    tokens, d = int(lengths.sum()) + tail, heads * head_dim
    starts = np.cumsum(lengths) - lengths
    numbers = jnp.asarray(rng.permutation(5000)[:tokens], jnp.uint32)
    segments = Segments(jnp.asarray(starts, jnp.int32), jnp.asarray(lengths, jnp.int32), numbers)

    def plain(product, bias):
        qkv, out = product + bias, []
        for start, length in zip(starts, lengths, strict=True):
            rows = qkv[start : start + length].reshape(length, 3, heads, head_dim)
            q, k, v = (rows[:, part].swapaxes(0, 1) for part in range(3))
            weights = jax.nn.softmax(q @ k.swapaxes(1, 2) / head_dim**0.5)
            if rate:
                seeds = row_seeds(numbers[start : start + length], *KEY)
                seeds = mix(seeds + jnp.arange(heads, dtype=jnp.uint32)[:, None])
                keep = kept(seeds[..., None], jnp.arange(length, dtype=jnp.uint32), rate)
                weights = jnp.where(keep, weights / (1 - rate), 0)
            out.append((weights @ v).swapaxes(0, 1).reshape(length, d))
        return jnp.concatenate([*out, jnp.zeros((tail, d))])

    form = AttentionForm(heads, int(lengths.max()), rate, interpret=True)
    assert_same_with_gradients(
        lambda product, bias: packed_attention(product, bias, segments, KEY, form),
        plain, normal(rng, tokens, d), normal(rng, tokens, 3 * d), normal(rng, 3 * d),
    )  # fmt: skip


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("d", [24, 320])
def test_bias_dropout_sum_and_layer_norm_are_those_of_the_formula(rate, d):
    rng, rows = np.random.default_rng(1), 37
    numbers = jnp.asarray(rng.permutation(1000)[:rows], jnp.uint32)

    def plain(x, product, bias, scale, shift):
        added = product + bias
        if rate:
            keep = kept(row_seeds(numbers, *KEY)[:, None], jnp.arange(d, dtype=jnp.uint32), rate)
            added = jnp.where(keep, added / (1 - rate), 0)
        z = x + added
        z = z - z.mean(axis=1, keepdims=True)
        return z * jax.lax.rsqrt((z * z).mean(axis=1, keepdims=True) + 1e-5) * scale + shift

    def fused(*arguments):
        once, again = add_norm(*arguments, numbers, KEY, NormForm(rate, 1e-5, interpret=True))
        return 0.25 * once + 0.75 * again  # each reader's gradient counts

    vectors = [normal(rng, d) for _ in range(3)]
    assert_same_with_gradients(fused, plain, normal(rng, rows, d), normal(rng, rows, d), normal(rng, rows, d), *vectors)


def test_bias_and_gelu_are_those_of_the_formula():
    rng = np.random.default_rng(2)
    plain = lambda product, bias: jax.nn.gelu(product + bias, approximate=False)  # noqa: E731
    kernel = functools.partial(bias_gelu, interpret=True)
    assert_same_with_gradients(kernel, plain, normal(rng, 37, 192), 3 * normal(rng, 37, 192), normal(rng, 192))


def test_gradients_of_unstacked_layers_are_stacked():
    stacked, weights = normal(np.random.default_rng(3), 4, 5), jnp.arange(4.0)
    gradient = jax.grad(lambda x: sum(w * part.sum() for w, part in zip(weights, unstack(x), strict=True)))(stacked)
    np.testing.assert_array_equal(gradient, jnp.broadcast_to(weights[:, None], (4, 5)))


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_entries_are_dropped_at_the_rate_independently_of_key_token_and_column(rate):
    numbers, columns = jnp.arange(2000, dtype=jnp.uint32), jnp.arange(768, dtype=jnp.uint32)

    def dropped(key):
        return ~np.asarray(kept(row_seeds(numbers, *jnp.asarray(key, jnp.uint32))[:, None], columns, rate))

    one = dropped((1, 2))
    near = 5 / one.size**0.5
    assert one.mean() == pytest.approx(rate, abs=near * (rate * (1 - rate)) ** 0.5)
    for other in (dropped((1, 3)), dropped((2, 2)), np.roll(one, 1, axis=0), np.roll(one, 1, axis=1)):
        assert (one & other).mean() == pytest.approx(rate**2, abs=near * rate)
    for axis in (0, 1):  # no token and no column is dropped more often than chance has it
        means = one.mean(axis=axis)
        assert np.abs(means - rate).max() < 6 * (rate * (1 - rate) / one.shape[axis]) ** 0.5


def test_layers_and_steps_draw_keys_of_their_own():
    words = {
        tuple(np.asarray(counter_dropout.key_words(key)).tolist())
        for step in range(3)
        for key in jax.random.split(jax.random.fold_in(jax.random.key(0), step), 59)
    }
    assert len(words) == 3 * 59


@functools.cache
def fused(config):
    model = bind(*config, kernels="pallas")

    def outputs(params, batch, key=None, *, tokens):
        return model(params)(batch, key=key, tokens_per_shard=tokens)

    return jax.jit(outputs, static_argnames="tokens")


def test_the_fused_model_equals_the_original_and_an_empty_row_gives_finite_numbers(differences):
    params, config = converted("unit")
    batch = unit_batch("eval")
    rows = len(batch["caption_len"])
    with_empty = {name: np.concatenate([array, np.zeros_like(array[:1])]) for name, array in batch.items()}
    outputs = fused(config)(params, with_empty, tokens=300)
    assert all(np.isfinite(array).all() for array in jax.tree.leaves(outputs))
    images, captions = jax.tree.map(lambda array: array[:rows], outputs)
    check_golden(differences, images, captions, arrays("unit/expected.npz"), "forward")


def test_masks_depend_on_the_key_and_not_on_how_much_room_the_flat_array_has():
    params, config = converted("unit")
    backbone = dataclasses.replace(config.backbone, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    config = ModelConfig(backbone, dataclasses.replace(config.matching_head, dropout=0.2))
    one, roomy, other = (
        fused(config)(params, unit_batch("eval"), jax.random.key(seed), tokens=tokens)[0].vector
        for seed, tokens in ((0, 300), (0, 333), (1, 300))
    )
    np.testing.assert_allclose(one, roomy, atol=2e-6)
    assert np.abs(one - other).max() > 1e-3


def test_tokens_that_do_not_fit_are_not_lost_in_silence():
    params, config = converted("unit")
    images, _ = fused(config)(params, unit_batch("eval"), tokens=200)
    assert np.isnan(images.vector).all()


def test_the_step_lowers_for_a_gpu_with_a_kernel_for_every_part_and_nothing_that_its_host_waits_for(monkeypatch):
    """On a machine without one: Triton's part of the lowering runs here, what follows does not."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    params, config = converted("unit")
    backbone = dataclasses.replace(config.backbone, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    model, batch = bind(backbone, config.matching_head, dtype=jnp.bfloat16, kernels="pallas"), unit_batch("eval")
    objective, optimizer = Objective(alignment=1.0, distillation=1.0), optim.adam()
    variant = choose_variant(objective.losses, len(batch["caption_len"]), batch, slots=71, shards=1)
    step = make_train_step(
        model, objective, optimizer, lambda step: jnp.float32(1e-4), frozen=(), grad_clip=2.0, shards=1
    )
    state = init_state(params, objective, optimizer, (), seed=0)
    lowered = jax.jit(step, static_argnums=2).trace(state, batch, variant).lower(lowering_platforms=("cuda",))
    # Each way: attention, two norms and a GELU of three layers; attention of two layers of the head, and two norms.
    assert lowered.as_text().count("custom_call @__gpu$xla.gpu.triton") == 2 * (3 * 4 + 2 + 2)
    assert "stablehlo.while" not in lowered.as_text()
