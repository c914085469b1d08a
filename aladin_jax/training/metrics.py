"""The scalars of training steps: kept on the device until they are looked at, checked, averaged, and timed."""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping

import jax
import numpy as np

WATCHED = ("loss", "grad_norm")


class TrainMetrics:
    """What the steps since the last log line gave.

    Adding a step waits for nothing; `check` and `flush` wait for the device.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        workdir: str | os.PathLike[str] = "OLD",
        observe: Callable[[int, Mapping[str, float], int], None] | None = None,
    ):
        """Starts the first interval.

        Args:
            clock: seconds, for the rate of examples.
            workdir: of the run, for messages.
            observe: is shown every step's number, values and pairs once they are looked at.
        """
        self._clock, self._observe = clock, observe
        self._workdir = os.fspath(workdir)
        self._on_device: list[tuple[int, dict[str, jax.Array], int]] = []
        self._restart()

    def add(self, step: int, values: Mapping[str, jax.Array], num_pairs: int) -> None:
        """Adds a step.

        Args:
            step: its number.
            values: `loss`, `loss_<name>` of the losses that act, `grad_norm`, `learning_rate`: scalars on the device.
            num_pairs: of its global batch.
        """
        self._on_device.append((step, dict(values), num_pairs))
        self._num_pairs += num_pairs

    def check(self, last_good: int | None) -> None:
        """Looks at the steps added since it last did.

        Args:
            last_good: step of the newest checkpoint, for the message.

        Raises:
            FloatingPointError: naming the first step whose loss or gradient is not finite.
        """
        steps, self._on_device = jax.device_get(self._on_device), []
        for step, values, num_pairs in steps:
            for name in WATCHED:
                if not math.isfinite(values[name]):
                    again = "by the same command, as there is no checkpoint yet"
                    kept = ""
                    if last_good is not None:
                        kept = f"checkpoint {last_good} is kept; "
                        again = f"from there: --workdir NEW --config.init_from={self._workdir}"
                    raise FloatingPointError(
                        f"step {step}: {name} is {values[name]}; {kept}try a lower learning_rate or grad_clip, or "
                        f"float32, {again}"
                    )
            values = {name: float(value) for name, value in values.items()}
            if self._observe:
                self._observe(step, values, num_pairs)
            for name, value in values.items():
                self._values.setdefault(name, []).append(value)

    def flush(self, last_good: int | None = None) -> dict[str, float]:
        """Ends the interval and starts the next.

        Args:
            last_good: as `check` takes it.

        Returns:
            `train/NAME`: mean over the steps of the interval that have it; `train/examples_per_second`: training pairs
            per second of wall time, pauses left out. Empty when no step was added.

        Raises:
            FloatingPointError: as `check`.
        """
        self.check(last_good)
        if not self._num_pairs:
            return {}
        rate = self._num_pairs / (self._clock() - self._started)
        scalars = {f"train/{name}": float(np.mean(values)) for name, values in self._values.items()}
        self._restart()
        return scalars | {"train/examples_per_second": rate}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of a compilation, a validation or a checkpoint out of the rate of examples."""
        jax.block_until_ready(
            [values for _, values, _ in self._on_device[-1:]]
        )  # steps still under way are training time
        paused_at = self._clock()
        try:
            yield
        finally:
            self._started += self._clock() - paused_at

    def _restart(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._num_pairs = 0
        self._started = self._clock()
