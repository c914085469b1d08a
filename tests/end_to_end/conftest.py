"""The golden files as a user meets them: converted and prepared once, through the command lines' own functions."""

import importlib

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from aladin_jax.config import Config
from tests.conftest import compilation_cache


@pytest.fixture(scope="session")
def golden_inputs(golden_folder):
    """Overrides that name the converted checkpoint and the prepared data set of tests/golden/e2e."""
    return {"init_from": str(golden_folder / "model"), "data.dir": str(golden_folder / "data")}


@pytest.fixture(scope="session")
def small_run(golden_inputs, request):
    """Builds a regime's configuration, shrunken to the golden files: 8 pairs a batch, no dropout, no shuffling."""
    cache = compilation_cache(request.config)

    def build(name, **overrides):
        config = importlib.import_module(f"configs.{name}").get_config()
        settings = {
            **golden_inputs,
            "data.shuffle": False,
            "model.dropout": 0.0,
            "batch_size": 8,
            "learning_rate": 1e-4,
            "activate_distillation_after": 0,
            "pack_tokens": False,  # one shape to compile
            "log_every": 1,
            "eval_every": 0,
            "compilation_cache": cache,
        }
        config.update_from_flattened_dict({**settings, **overrides})
        return Config.from_dict(config.to_dict())

    return build


@pytest.fixture(scope="session")
def scalars():
    """Reads a workdir's TensorBoard files: {tag: {step: value}}."""

    def read(workdir):
        events = EventAccumulator(str(workdir), size_guidance={"tensors": 0})
        events.Reload()
        return {
            tag: {e.step: float(np.asarray(tensor_util.make_ndarray(e.tensor_proto))) for e in events.Tensors(tag)}
            for tag in events.Tags()["tensors"]
        }

    return read
