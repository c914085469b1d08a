import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForObjectDetection

from aladin_jax.errors import DataError
from convert.detection.detector import Detector
from tests.convert import tiny_detectors
from tests.convert.tiny_detectors import photograph

THRESHOLD = 0.3


@pytest.fixture(scope="module", params=list(tiny_detectors.KINDS))
def folder(request, tmp_path_factory):
    return tiny_detectors.save(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def detr(tmp_path_factory):
    return tiny_detectors.save("detr", tmp_path_factory.mktemp("detr"))


def own_outputs(folder, image):
    """What the model says by itself, and what its own post-processing makes of it."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    model = AutoModelForObjectDetection.from_pretrained(folder).eval()
    with torch.inference_mode():
        outputs = model(**processor(images=image, return_tensors="pt"))
    sizes = torch.tensor([[image.height, image.width]])
    [result] = processor.post_process_object_detection(outputs, threshold=THRESHOLD, target_sizes=sizes)
    return outputs, result


def test_boxes_classes_and_scores_are_those_of_the_models_own_post_processing(folder):
    image = Image.open(photograph("chelsea.png")).convert("RGB")
    outputs, result = own_outputs(folder, image)
    detector = Detector(folder, "cpu")
    [found] = detector.extract([detector.prepare(image)], threshold=THRESHOLD, max_regions=100)
    size = np.array([image.width, image.height] * 2)
    own = {}
    for score, label, box in zip(result["scores"].tolist(), result["labels"].tolist(), result["boxes"], strict=True):
        own[round(score, 5), tiny_detectors.NAMES[label]] = np.clip(box.numpy(), 0, size)
    assert len(found.scores) > 3
    for score, name, box in zip(found.scores.tolist(), found.classes, found.boxes, strict=True):
        np.testing.assert_allclose(box, own[round(score, 5), name], atol=0.01)
    # Detectors that judge classes apart may find several in one region; the likeliest is taken.
    assert len(own) == len(found.scores) or outputs.logits.shape[-1] == len(tiny_detectors.NAMES)


def test_a_regions_feature_is_the_last_hidden_state_of_its_query(folder):
    image = Image.open(photograph("coffee.png")).convert("RGB")
    outputs, _ = own_outputs(folder, image)
    detector = Detector(folder, "cpu")
    [found] = detector.extract([detector.prepare(image)], threshold=0, max_regions=100)
    queries = outputs.last_hidden_state[0, -outputs.logits.shape[1] :].numpy()
    boxes = outputs.pred_boxes[0].numpy()
    assert len(found.features) > 3
    for feature, box in zip(found.features, found.boxes, strict=True):
        query = np.abs(queries - feature).max(1).argmin()
        np.testing.assert_allclose(queries[query], feature, atol=1e-5)
        corners = np.concatenate([boxes[query, :2] - boxes[query, 2:] / 2, boxes[query, :2] + boxes[query, 2:] / 2])
        in_pixels = np.clip(corners, 0, 1) * np.array([image.width, image.height] * 2)
        np.testing.assert_allclose(in_pixels, box, atol=0.01)


def test_regions_are_by_falling_score_above_the_threshold_and_no_more_than_asked_for(folder):
    detector = Detector(folder, "cpu")
    prepared = detector.prepare(Image.open(photograph("astronaut.png")).convert("RGB"))
    [every] = detector.extract([prepared], threshold=0, max_regions=100)
    assert (np.diff(every.scores) <= 0).all()
    [some] = detector.extract([prepared], threshold=0, max_regions=3)
    np.testing.assert_array_equal(some.scores, every.scores[:3])
    middle = float(np.median(every.scores))
    [above] = detector.extract([prepared], threshold=middle, max_regions=100)
    assert len(above.scores) == (every.scores >= middle).sum() < len(every.scores)


def test_what_is_found_does_not_depend_on_the_other_pictures_of_a_batch(folder):
    detector = Detector(folder, "cpu")
    pictures = [Image.open(photograph(name)).convert("RGB") for name in ("chelsea.png", "coffee.png")]
    pictures[1] = pictures[1].resize(pictures[0].size)
    prepared = [detector.prepare(picture) for picture in pictures]
    assert prepared[0].shape == prepared[1].shape
    together = detector.extract(prepared, threshold=0, max_regions=5)
    for one, alone in zip(prepared, together, strict=True):
        [found] = detector.extract([one], threshold=0, max_regions=5)
        np.testing.assert_allclose(found.features, alone.features, atol=1e-4)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=0.01)
        assert found.classes == alone.classes


def refusal(folder):
    with pytest.raises(DataError) as caught:
        Detector(folder, "cpu")
    message = str(caught.value)
    assert message.startswith(f"{folder}: ")
    assert "\n" not in message
    return message


def copy(folder, target, **config):
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    if config:
        values = json.loads((target / "config.json").read_text()) | config
        (target / "config.json").write_text(json.dumps(values))
    return target


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_a_file_is_refused(detr, tmp_path, name):
    target = copy(detr, tmp_path / "copy")
    (target / name).unlink()
    assert f"there is no {name} in it" in refusal(target)


def test_a_folder_without_weights_is_refused(detr, tmp_path):
    target = copy(detr, tmp_path / "copy")
    (target / "model.safetensors").unlink()
    assert "no detector that can be loaded" in refusal(target)


def test_weights_that_are_cut_short_are_refused(detr, tmp_path):
    target = copy(detr, tmp_path / "copy")
    content = (target / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(content[: len(content) // 2])
    assert "no detector that can be loaded" in refusal(target)


def test_weights_of_a_part_of_a_detector_are_refused(detr, tmp_path):
    target = copy(detr, tmp_path / "copy")
    AutoModel.from_pretrained(detr).save_pretrained(tmp_path / "part")
    (target / "model.safetensors").write_bytes((tmp_path / "part" / "model.safetensors").read_bytes())
    assert "tensors of the detector are missing, such as " in refusal(target)


def test_a_model_that_is_no_detector_is_refused(detr, tmp_path):
    assert "no detector that can be loaded" in refusal(copy(detr, tmp_path / "copy", model_type="bert"))


def test_classes_without_a_name_are_refused(detr, tmp_path):
    target = copy(detr, tmp_path / "copy", id2label={"0": "cat", "1": "dog", "7": "tree"}, label2id={})
    assert "id2label does not name all classes" in refusal(target)


def test_outputs_that_are_not_finite_are_refused(detr, tmp_path):
    model = AutoModelForObjectDetection.from_pretrained(detr)
    with torch.no_grad():
        model.class_labels_classifier.bias.fill_(torch.nan)
    target = copy(detr, tmp_path / "copy")
    model.save_pretrained(target)
    detector = Detector(target, "cpu")
    prepared = detector.prepare(Image.open(photograph("rocket.jpg")).convert("RGB"))
    with pytest.raises(DataError, match="the detector's outputs are not finite"):
        detector.extract([prepared], threshold=0, max_regions=5)


@pytest.fixture
def changed(detr, tmp_path):
    """Gives a folder of the detector whose config.json has other values."""

    def changed(values):
        folder = shutil.copytree(detr, tmp_path / "changed")
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))
        return folder

    return changed


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="it is here")
@pytest.mark.parametrize(
    "backbone",
    [
        {"use_timm_backbone": True, "backbone": "resnet50", "backbone_config": None},
        {"use_timm_backbone": True, "backbone": "resnet50", "backbone_config": None, "use_pretrained_backbone": True},
        {"backbone_config": {"model_type": "timm_backbone", "backbone": "resnet50", "out_indices": [4]}},
    ],
)
def test_a_detector_with_a_backbone_of_timm_is_refused_by_the_packages_name(changed, backbone):
    with pytest.raises(DataError, match=r"needs a package that is not here \(\w+ requires the timm library") as error:
        Detector(changed(backbone), "cpu")
    assert "\n" not in str(error.value)


def test_a_detector_that_brings_code_of_its_own_is_refused_without_asking(changed, tmp_path):
    own = {"AutoConfig": "own.Config", "AutoModelForObjectDetection": "own.Model"}
    folder = changed({"model_type": "own", "auto_map": own})
    (folder / "own.py").write_text(f"open({str(tmp_path / 'trace')!r}, 'w')")
    with pytest.raises(DataError, match=r"no detector that can be loaded \(") as error:
        Detector(folder, "cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "trace").exists()
