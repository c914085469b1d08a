"""Writes records on a cluster through Apache Beam; without the extra `beam` this module does not import."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aladin_jax.errors import DataError
from convert.dataset.record_writer import Shard, Write

try:
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
except ImportError as missing:
    raise DataError("Apache Beam is not installed", "pip install 'aladin-jax[beam]'") from missing


def pipeline_options(text: str) -> Any:
    """Beam's options from text as `tfds build` takes it, such as "runner=FlinkRunner,parallelism=8"."""
    return beam.options.pipeline_options.PipelineOptions([f"--{option}" for option in text.split(",")])


def write_shards_with_beam(write: Write, shards: Sequence[Shard], options: Any) -> list[list[str]]:
    """Writes all files; the machines have to see the same files by the same paths.

    Args:
        write: writes one file; pickled to the machines.
        shards: what is to be written.
        options: of the pipeline.

    Returns:
        Of each shard the ids of the images in its file.

    Raises:
        DataError: the pipeline failed.
    """
    report = Path(shards[0].path).with_name("written.json")
    try:
        with beam.Pipeline(options=options) as pipeline:
            _ = (
                pipeline
                | beam.Create(shards)
                | beam.Reshuffle()  # one by one to whoever is free
                | beam.Map(lambda shard: (shard.path, write(shard)))
                | beam.combiners.ToList()
                | beam.Map(lambda written: report.write_text(json.dumps(dict(written))))
            )
    except Exception as error:  # a runner wraps what was raised elsewhere in exceptions of its own
        raise DataError(_cause(error)) from error
    written = json.loads(report.read_text())
    report.unlink()
    return [written[shard.path] for shard in shards]


def _cause(error: Exception) -> str:
    """The last line of what may be another process's trace."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return line.removeprefix(f"{DataError.__module__}.{DataError.__name__}: ").partition(" [while running ")[0]
