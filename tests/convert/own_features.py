"""The golden files in the formats that others use, to be imported and to be spoilt."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from convert.raw.vinvl_files import VinvlFiles, read_captions

E2E = Path(__file__).parents[1] / "golden" / "e2e"
FEATURES = E2E / "model_0060000" / "features.tsv"
WIDTH, HEIGHT = 640, 480  # of all golden pictures
SPLITS = {"train": "train", "minival": "val", "test": "test"}  # ours, and Karpathy's name


def captions():
    """Captions by split and image id."""
    return {split: read_captions(E2E / "coco_ir" / f"{split}_captions.pt") for split in SPLITS}


def golden(image):
    """Regions and classes of an image, as they are in the golden files."""
    files = VinvlFiles(FEATURES)
    return files.detections(image)


def all_golden(limit=None):
    """Regions and classes by image id."""
    files = VinvlFiles(FEATURES)
    return {image: files.detections(image) for image in list(files.names())[:limit]}


def pixel_boxes(regions):
    """Boxes in pixels of regions whose encoding is VinVL's."""
    return regions[:, -6:-2].astype(np.float64) * [WIDTH, HEIGHT, WIDTH, HEIGHT]


def coco_name(image):
    return f"COCO_val2014_{int(image):012}"


def write_npz(folder, name, regions, tags, **changes):
    """One image; a change to None leaves an array out."""
    folder.mkdir(exist_ok=True)
    arrays = {
        "features": regions[:, :-6],
        "boxes": pixel_boxes(regions),
        "classes": np.array(tags, "U"),
        "width": WIDTH,
        "height": HEIGHT,
    } | changes
    path = folder / f"{name}.npz"
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def write_npy(folder, name, regions, tags):
    for array, values in {
        "features": regions[:, :-6],
        "boxes": pixel_boxes(regions),
        "classes": np.array(tags, "U"),
        "size": np.array([WIDTH, HEIGHT]),
    }.items():
        (folder / array).mkdir(parents=True, exist_ok=True)
        np.save(folder / array / f"{name}.npy", values)


def base64_of(values, dtype="<f4"):
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode()


def bottom_up_row(image, regions):
    boxes, features = base64_of(pixel_boxes(regions)), base64_of(regions[:, :-6])
    return [image, str(WIDTH), str(HEIGHT), str(len(regions)), boxes, features]


def lxmert_row(image, regions, numbers, scores):
    boxes, features = base64_of(pixel_boxes(regions)), base64_of(regions[:, :-6])
    attributes = [base64_of(numbers, "<i8"), base64_of(scores)]
    detected = [base64_of(numbers, "<i8"), base64_of(scores)]
    return [image, str(HEIGHT), str(WIDTH), *detected, *attributes, str(len(regions)), boxes, features]


def write_tsv(path, rows):
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return path


def oscar_order(regions):
    """Regions that end in w, h."""
    return regions[:, [*range(regions.shape[1] - 2), -1, -2]]


def write_karpathy(path, content, *, rename=None):
    """Karpathy's file of captions by split and image id; `rename` gives an image's split."""
    images = [
        {
            "filepath": "val2014",
            "filename": f"{coco_name(image)}.jpg",
            "cocoid": int(image),
            "imgid": number,
            "sentids": [],
            "split": rename(image) if rename else SPLITS[split],
            "sentences": [{"raw": text, "tokens": text.split(), "imgid": number} for text in texts],
        }
        for split, some in content.items()
        for number, (image, texts) in enumerate(some.items())
    ]
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def write_coco(path, content):
    """COCO's file of captions by image id."""
    images = [{"id": int(image), "file_name": f"{coco_name(image)}.jpg", "license": 1} for image in content]
    annotations = [
        {"image_id": int(image), "id": k, "caption": text}
        for image, texts in content.items()
        for k, text in enumerate(texts)
    ]
    path.write_text(json.dumps({"info": {}, "images": images, "licenses": [], "annotations": annotations}))
    return path


def write_flickr(path, content):
    """A token file of captions by image id."""
    path.write_text("".join(f"{i}.jpg#{k}\t{text}\n" for i, texts in content.items() for k, text in enumerate(texts)))
    return path


def write_list(path, content):
    """A list of captions by image id, as ALBEF has it."""
    path.write_text(json.dumps([{"image": f"{image}.jpg", "caption": texts} for image, texts in content.items()]))
    return path


def save(value, path, **options):
    torch.save(value, path, **options)
    return path


def oscar_tsv_row(image, regions, dtype="<f4", times=1):
    """A row of Oscar's *.feature.tsv; `times` boxes are claimed for each."""
    return [image, json.dumps({"num_boxes": times * len(regions), "features": base64_of(regions, dtype)})]


def refusal(read, *arguments):
    """The one-line message that reading ends with."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write_lines(folder, name, rows):
    """A .tsv and its .lineidx."""
    lines = ["\t".join(row) + "\n" for row in rows]
    (folder / f"{name}.tsv").write_text("".join(lines))
    offsets = np.cumsum([0, *(len(line.encode()) for line in lines)])[:-1]
    (folder / f"{name}.lineidx").write_text("".join(f"{offset}\n" for offset in offsets))


def write_vinvl(folder, images, *, index=None, predictions=None, sized=True):
    """VinVL's folder of (image, regions, tags); `index` and `predictions` (image, JSON) stand in for right ones."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lines(folder, "features", [[image, str(len(r)), base64_of(r)] for image, r, _ in images])
    if predictions is None:
        predictions = []
        for image, regions, tags in images:
            boxes = pixel_boxes(regions).tolist()
            found = [{"class": tag, "rect": box, "conf": 0.5} for tag, box in zip(tags, boxes, strict=True)]
            size = {"image_w": WIDTH, "image_h": HEIGHT}
            predictions.append((image, json.dumps({"objects": found, **size} if sized else found)))
    write_lines(folder, "predictions", predictions)
    rows = {image: row for row, (image, _, _) in enumerate(images)} if index is None else index
    (folder / "imageid2idx.json").write_text(json.dumps(rows))
    return folder / "features.tsv"
