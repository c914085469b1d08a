"""Makes parameters of a source's tensors, and accounts for every one of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np
import torch

from aladin_jax.errors import DataError
from aladin_jax.model_folder import ModelConfig, expected_shapes, flatten, unflatten
from aladin_jax.models.aladin import Params, init_params
from convert.names import Entry, entries, ignored_because
from convert.sources import Checkpoint

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAX_LISTED = 50


class Report(NamedTuple):
    """What became of each tensor, and where each parameter came from.

    Attributes:
        converted: parameters made of tensors, with their shapes.
        ignored: reason by tensor name.
        fresh: parameters without tensors, with their shapes: they hold initial values.
        notes: what the user should know.
    """

    converted: list[tuple[Entry, tuple[int, ...]]]
    ignored: dict[str, str]
    fresh: dict[str, tuple[int, ...]]
    notes: list[str]


def convert(source: Checkpoint, seed: int) -> tuple[Params, Report]:
    """Makes the parameter dict.

    Args:
        source: tensors and the configuration they should fit.
        seed: draws the parameters that such a source does not hold.

    Raises:
        DataError: a tensor that the table does not know, a parameter without its tensors, a shape that differs from
            the configuration's, a tensor that is no float or not finite. All of a kind are listed.
    """
    table = entries(source.model_config)
    _check_layers(source, table)
    unknown = {name: ignored_because(name) for name in source.tensors.keys() - {n for e in table for n in e.names}}
    _check_names(source, table, [name for name, reason in unknown.items() if reason is None])
    shapes = expected_shapes(source.model_config)
    present = [entry for entry in table if entry.names[0] in source.tensors]
    _check_shapes(source, {n: entry.tensor_shape(shapes[entry.parameter]) for entry in present for n in entry.names})

    made = {entry.parameter: _make(source, entry) for entry in present}
    fresh = {parameter: shape for parameter, shape in shapes.items() if parameter not in made}
    made |= _initial(source.model_config, fresh, seed)
    report = Report(
        converted=[(entry, shapes[entry.parameter]) for entry in present],
        ignored={name: reason for name in source.tensors if (reason := unknown.get(name))},
        fresh=fresh,
        notes=[*source.notes, *_type_notes(source.tensors[n].dtype for entry in present for n in entry.names)],
    )
    return unflatten(made), report


def _check_layers(source: Checkpoint, table: list[Entry]) -> None:
    """Refuses a number of layers so large that their names alone would take long to make."""
    for entry in table:
        if (entry.layers or 0) > len(source.tensors) and not entry.parameter.startswith(source.fresh):
            part = entry.parameter.split("/")[0]
            raise DataError(f"{source.files[0]}: {entry.layers} layers in the {part}; the weights are of fewer")


def _check_names(source: Checkpoint, table: list[Entry], unknown: list[str]) -> None:
    faults = []
    if unknown:
        faults.append(f"unknown tensors: {_listed(source.keys[name] for name in unknown)}")
    missing = []
    for entry in table:
        absent = [name for name in entry.names if name not in source.tensors]
        may_be_fresh = entry.parameter.startswith(source.fresh) and len(absent) == len(entry.names)
        if absent and not may_be_fresh:
            missing.append(f"{entry.parameter} (from {_listed(absent)})")
    if missing:
        faults.append(f"parameters without a source: {_listed(missing)}")
    if faults:
        raise DataError(f"{source.files[-1]}: {'; '.join(faults)}")


def _check_shapes(source: Checkpoint, expected: dict[str, tuple[int, ...]]) -> None:
    faults = [
        f"{source.keys[name]} is {list(source.tensors[name].shape)}, the configuration says {list(shape)}"
        for name, shape in expected.items()
        if tuple(source.tensors[name].shape) != shape
    ]
    if faults:
        raise DataError(f"{source.files[-1]}: {_listed(faults, '; ')}")


def _make(source: Checkpoint, entry: Entry) -> np.ndarray:
    arrays = {}
    for name in entry.names:
        tensor = source.tensors[name].detach()
        if tensor.dtype not in _FLOATS:
            raise DataError(f"{source.files[-1]}: {source.keys[name]} holds {tensor.dtype}, not floating point numbers")
        arrays[name] = tensor.to(torch.float32).numpy()
        if not np.isfinite(arrays[name]).all():
            raise DataError(f"{source.files[-1]}: {source.keys[name]} holds NaN or infinity")
    return entry.to_parameter(arrays)


def _initial(model_config: ModelConfig, names: Iterable[str], seed: int) -> dict[str, np.ndarray]:
    if not (names := list(names)):
        return {}

    def draw() -> dict[str, jax.Array]:
        params = flatten(init_params(*model_config, seed))
        return {name: params[name] for name in names}

    # Compiled, so that what is not asked for is not drawn either; unoptimised, as it runs once.
    compiled = jax.jit(draw, compiler_options={"xla_backend_optimization_level": 0})
    return {name: np.asarray(array) for name, array in compiled().items()}


def _type_notes(types: Iterable[torch.dtype]) -> list[str]:
    what = {torch.float64: "rounded to float32"}
    counts = Counter(types)
    return [
        f"{count} tensors were stored as {str(kind).removeprefix('torch.')}: {what.get(kind, 'widened to float32')}"
        for kind, count in counts.items()
        if kind != torch.float32
    ]


def _listed(items: Iterable[str], separator: str = ", ") -> str:
    items = sorted(items)
    more = [f"and {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else []
    return separator.join(items[:_MAX_LISTED] + more)
