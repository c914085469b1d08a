"""A model of pictures with what prepares them, from a local folder of Hugging Face's transformers."""

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image

from aladin_jax.errors import DataError, first_line
from aladin_jax.files import read_json, sha256


class Prepared(NamedTuple):
    """A picture as a model takes it.

    Attributes:
        inputs: tensors by the model's argument, without the axis of the batch.
        width: of the picture in pixels.
        height: of the picture in pixels.
    """

    inputs: dict[str, torch.Tensor]
    width: int
    height: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Pictures of one shape can be one batch without padding, so that none depends on its neighbours."""
        return tuple(self.inputs["pixel_values"].shape)


class PictureModel:
    """A model and what prepares pictures for it.

    Attributes:
        model: for inference, on the device.
        processor: of the folder.
        folder: where they are from.
    """

    def __init__(self, folder: Path, device: str, kind: Literal["detector", "encoder"]):
        """Loads the model; of one of pictures and texts, such as CLIP, what sees.

        Args:
            folder: as `save_pretrained` writes it: config.json, weights, preprocessor_config.json.
            device: such as "cpu" or "cuda".
            kind: what is expected there.

        Raises:
            DataError: a file is missing in the folder, it is not of the kind, or a package is missing for it.
        """
        import transformers  # from here, because it takes seconds

        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()  # what is wrong with the weights is an error below
        for name in ("config.json", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise DataError(f"there is no {name} in it", f"download all files of the {kind}", path=folder)
        known: Any = {"local_files_only": True, "trust_remote_code": False}  # else it would ask at the terminal
        try:
            self.processor = _load_processor(folder, known)
            auto: Any = transformers.AutoModelForObjectDetection if kind == "detector" else transformers.AutoModel
            whole, about = auto.from_pretrained(folder, output_loading_info=True, **known)
        except ImportError as error:
            cause = " ".join(str(error).split()).partition(". ")[0][:200]
            raise DataError(f"the {kind} needs a package that is not here ({cause})", path=folder) from error
        except Exception as error:  # damaged files and wrong configurations end in exceptions of every kind
            raise DataError(f"no {kind} that can be loaded ({first_line(error)})", path=folder) from error
        absent = sorted(about["missing_keys"])
        seeing = whole
        if kind == "encoder":
            seeing = getattr(whole, "vision_model", whole)
            prefix = "" if seeing is whole else "vision_model."
            # A pooler that a folder lacks is drawn at random, and not used.
            absent = [name for name in absent if name.startswith(prefix) and "pool" not in name]
        if absent:
            problem = f"{len(absent)} tensors of the {kind} are missing, such as {absent[0]}"
            raise DataError(problem, f"its weights are not those of a whole {kind}", path=folder)
        self.model = seeing.eval().to(device)
        self.folder, self._device = folder, device
        self.arguments = inspect.signature(self.model.forward).parameters.keys()

    def prepare(self, image: Image.Image) -> Prepared:
        """Resizes, crops and normalises a picture as the model was trained."""
        inputs = self.processor(images=image, return_tensors="pt")
        kept = {name: values[0] for name, values in inputs.items() if name in self.arguments}
        return Prepared(kept, *image.size)

    def __call__(self, batch: Sequence[Prepared]) -> Any:
        """The model's outputs for pictures of one shape."""
        inputs = {name: torch.stack([one.inputs[name] for one in batch]).to(self._device) for name in batch[0].inputs}
        with torch.inference_mode():
            return self.model(**inputs)


def _load_processor(folder: Path, known: dict[str, Any]) -> Any:
    """Pillow's form of a processor, which needs no torchvision and gives the same numbers everywhere.

    DINOv3's has none, but what it does to a picture is what a ViT's does, with ImageNet's mean and deviation.
    """
    from transformers import AutoImageProcessor
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
    from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    told = read_json(folder / "preprocessor_config.json")
    if not str(told.get("image_processor_type")).startswith("DINOv3"):
        return AutoImageProcessor.from_pretrained(folder, backend="pil", **known)
    defaults = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}
    return ViTImageProcessorPil.from_dict(defaults | told)


def checksum(folder: Path, kind: str) -> str:
    """The SHA-256 over the files of a detector's or encoder's folder that decide what it finds.

    Args:
        folder: of the model.
        kind: "detector" or "encoder", as it is called in the message.

    Raises:
        DataError: there is no such folder.
    """
    if not folder.is_dir():
        raise DataError("no such folder", f"check the path of the {kind}", path=folder)
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".bin") and path.is_file():
            digest.update(f"{path.name} {sha256(path)}\n".encode())
    return digest.hexdigest()
