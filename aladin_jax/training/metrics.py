"""Training scalars averaged over a log interval on the device, and the rate of examples."""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import jax
from clu import metrics


class TrainMetrics:
    """A CLU collection of the scalars that a training step returns, from one log line to the next.

    `update` only dispatches a small computation, so training does not wait for the host; `flush` waits once.
    """

    def __init__(self, names: Collection[str], clock: Callable[[], float] = time.perf_counter):
        """Starts the first interval.

        Args:
            names: the scalars of a step: `loss`, the components that the regime has (`loss_alignment`, ...),
                `grad_norm`, `learning_rate`.
            clock: seconds, for the rate of examples.
        """
        self._names = frozenset(names)
        averages = {name: metrics.Average.from_output(name) for name in names}
        collection = metrics.Collection.create(**averages)
        self._empty = collection.empty()
        self._add = jax.jit(lambda total, values: total.merge(collection.single_from_model_output(**values)))
        self._average = jax.jit(lambda total: total.compute())
        self._clock = clock
        self._restart()

    @property
    def names(self) -> frozenset[str]:
        """The scalars that every step gives."""
        return self._names

    def update(self, values: Mapping[str, jax.Array], num_examples: int) -> None:
        """Adds one step.

        Args:
            values: name -> scalar on the device; exactly the names given at the start.
            num_examples: training pairs of the step's global batch.

        Raises:
            ValueError: a name is missing or unknown.
        """
        if values.keys() != self._names:
            raise ValueError(f"step metrics: got {sorted(values)}, expected {sorted(self._names)}")
        self._total = self._add(self._total, dict(values))
        self._num_examples += num_examples

    def flush(self) -> dict[str, float]:
        """Ends the interval and starts the next.

        Returns:
            `train/NAME`: mean over the interval's steps; `train/examples_per_second`: training pairs per second of wall
            time. Empty when no step was added.
        """
        if not self._num_examples:
            return {}
        averages = jax.device_get(self._average(self._total))
        rate = self._num_examples / (self._clock() - self._started)
        self._restart()
        return {f"train/{name}": float(value) for name, value in averages.items()} | {"train/examples_per_second": rate}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of a validation or a checkpoint out of the rate of examples."""
        jax.block_until_ready(self._total)  # steps still under way are training time
        paused_at = self._clock()
        try:
            yield
        finally:
            self._started += self._clock() - paused_at

    def _restart(self) -> None:
        self._total = self._empty
        self._num_examples = 0
        self._started = self._clock()
