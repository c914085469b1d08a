"""A run's configuration: from the ConfigDict of a file to frozen dataclasses, each field checked once.

configs/common.py has the defaults and says what each field means; here stand the types, the choices and the bounds.
Nothing of this imports JAX, so a fault on the command line is answered before anything is loaded.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from aladin_jax.checked import Count, Natural, Within, checked
from aladin_jax.files import read_json

CONFIG_JSON = "config.json"  # of a workdir: the configuration that it was started with

# The names that `scores.similarity`, `losses` and `training.objective` give them (held together by test_config.py).
Pooling = Literal["MrSw", "MrAVGw", "MwSr", "symm", "sum", "mean", "scan-sentences"]
Measure = Literal["dot", "cosine", "order"]
DistillationMode = Literal["listnet", "mse", "ordinal", "contrastive"]
RankingLoss = Literal["hinge", "info_nce"]
Group = Literal["backbone", "matching_head"]
DType = Literal["float32", "bfloat16"]
Kernels = Literal["auto", "xla", "pallas"]
MetricName = Literal["recall", "eccv", "ndcg"]

Length = Annotated[int, Within(3, below=4097)]  # of a row of tokens: two are special
Regions = Annotated[int, Within(1, below=4097)]
Rate = Annotated[float, Within(0)]
Fraction = Annotated[float, Within(0, below=1)]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a model's inputs are cut and its scores made; the defaults are the original's.

    Attributes:
        max_caption_len: tokens kept of a caption, `[CLS]` and `[SEP]` included.
        max_labels_len: tokens kept of an image's tags, first and last included.
        max_regions: regions kept of an image.
        dtype: number format of the dense layers.
        pooling: of alignment scores, see `similarity.alignment_scores`.
        measure: of matching scores, see `similarity.matching_scores`.
    """

    max_caption_len: Length = 50
    max_labels_len: Length = 50
    max_regions: Regions = 34
    dtype: DType = "float32"
    pooling: Pooling = "MrSw"
    measure: Measure = "dot"

    @classmethod
    def of_model(cls, path: str | Path) -> Settings:
        """What a workdir was trained with; for a converted checkpoint, which does not say, the original's.

        Raises:
            ValueError: the workdir's config.json is damaged.
        """
        file = Path(path) / CONFIG_JSON
        if not file.is_file():
            return cls()
        config = read_json(file)
        values: dict[str, Any] = {}
        for name, field in FIELD_OF_SETTING.items():
            section = field.rpartition(".")[0]
            fields = config.get(section) if section else config
            if not isinstance(fields, dict) or name not in fields:
                raise ValueError(f"{file}: there is no field {field}")
            values[name] = fields[name]
        return checked(cls, values, str(file))


# The settings that say where inputs are cut.
LENGTHS = ("max_caption_len", "max_labels_len", "max_regions")
# What `Settings` are called in a configuration.
FIELD_OF_SETTING = {
    "max_caption_len": "data.max_caption_len",
    "max_labels_len": "data.max_labels_len",
    "max_regions": "data.max_regions",
    "dtype": "model.dtype",
    "pooling": "pooling",
    "measure": "measure",
}


@dataclasses.dataclass(frozen=True)
class Data:
    """Section `data`."""

    dir: str
    shuffle: bool
    max_caption_len: Length
    max_labels_len: Length
    max_regions: Regions
    num_threads: Natural
    num_workers: Natural
    prefetch: Natural


@dataclasses.dataclass(frozen=True)
class Model:
    """Section `model`."""

    dtype: DType
    kernels: Kernels
    dropout: Fraction
    backbone_dropout: Fraction | None
    num_layers: Count
    num_heads: Count
    backbone: Mapping[str, Any]
    vocabulary: str


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Section `loss_weights`."""

    alignment: Rate
    matching: Rate
    distillation: Rate


@dataclasses.dataclass(frozen=True)
class Eval:
    """Section `eval`."""

    split: str
    validation_split: str
    image_keys: str
    metrics: tuple[MetricName, ...]
    rankings: str
    ranking_length: Count
    caption_ids: str
    pmrp_dir: str
    relevance: str
    override: bool
    num_folds: Natural
    fold_size: Count
    batch_size: Count | None


@dataclasses.dataclass(frozen=True)
class Config:
    """All fields of configs/common.py."""

    init_from: str
    resume_from: str
    data: Data
    model: Model
    loss_weights: LossWeights
    learned_loss_weights: bool
    ranking_loss: RankingLoss
    margin: Rate
    hardest: bool
    hardest_after: Natural
    mask_same_image: bool
    pooling: Pooling
    measure: Measure
    distillation_mode: DistillationMode
    activate_distillation_after: Natural
    frozen: tuple[Group, ...]
    batch_size: Count
    micro_batches: Count
    num_epochs: Count
    num_steps: Count | None
    learning_rate: Rate
    lr_step_epochs: Natural
    lr_gamma: Rate
    warmup_steps: Natural
    lr_cooldown: Fraction
    reinitialize_scheduler: bool
    grad_clip: float
    seed: Natural
    fsdp: Count
    remat: bool
    pack_tokens: bool
    log_every: Count
    eval_every: Natural
    checkpoint_every: Count
    profile_steps: Natural
    compilation_cache: str
    eval: Eval

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Config:
        """Takes the fields of a configuration file, with the command line's changes: `ConfigDict.to_dict()`.

        Raises:
            ValueError: naming the field that is missing, unknown, of another type or impossible, or the fields that do
                not go together.
        """
        config = checked(cls, values)
        if config.init_from and config.resume_from:
            raise ValueError(
                "init_from and resume_from are both set; the first starts a run, the second goes on with one"
            )
        weights = dataclasses.asdict(config.loss_weights)
        losses = [name for name, weight in weights.items() if weight > 0]
        if not losses:
            raise ValueError(f"all loss weights are 0; give at least one of {', '.join(weights)}")
        if config.activate_distillation_after > 0 and losses == ["distillation"]:
            raise ValueError(
                f"activate_distillation_after is {config.activate_distillation_after}, but there is no other loss to "
                "train with until then; set it to 0"
            )
        if "recall" not in config.eval.metrics:
            raise ValueError(f"eval.metrics is {config.eval.metrics}; it must have recall among others")
        if config.eval.relevance and "ndcg" not in config.eval.metrics:
            raise ValueError("eval.relevance is set, but eval.metrics has no ndcg, which would read it")
        if config.hardest_after and not (config.hardest and config.ranking_loss == "hinge"):
            raise ValueError(
                f"hardest_after is {config.hardest_after}, but there are no hardest negatives to turn to: it needs "
                "hardest=True and ranking_loss=hinge"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON holds them."""
        return dataclasses.asdict(self)

    @property
    def settings(self) -> Settings:
        """How the run's model is given its inputs."""
        return Settings(**{name: operator.attrgetter(field)(self) for name, field in FIELD_OF_SETTING.items()})
