import json

import pytest

from aladin_jax.errors import DataError
from aladin_jax.evaluation.caption_ids import match_caption_ids
from tests.evaluation.conftest import make_collection

COLLECTION = make_collection([2, 1])._replace(captions=["A dog.", "Two  cats. ", "A dog."])


def annotations(*changes):
    rows = [(11, 7, "A dog."), (10, 8, "two cats."), (10, 9, "A dog."), (99, 4, "Of another image.")]
    return {"annotations": [{"image_id": i, "id": n, "caption": text} for i, n, text in [*rows, *changes]]}


def matched(content, tmp_path):
    path = tmp_path / "captions_val2014.json"
    path.write_text(json.dumps(content))
    return match_caption_ids(COLLECTION, path).caption_ids


def test_captions_get_the_id_of_their_images_annotation_of_the_same_text(tmp_path):
    assert matched(annotations(), tmp_path) == ["9", "8", "7"]


def test_an_image_s_equal_captions_get_their_ids_in_the_files_order(tmp_path):
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(annotations((12, 2, "Same."), (12, 1, "Same."))))
    twice = make_collection([1, 1, 2])._replace(
        image_ids=["11", "10", "12"], captions=["A dog.", "A dog."] + ["Same."] * 2
    )
    assert match_caption_ids(twice, path).caption_ids == ["7", "9", "2", "1"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (annotations((10, 12, "a dog.")), "image 10: caption 'A dog.' is there 2 times, in the data set 1 times"),
        ({"annotations": annotations()["annotations"][1:]}, "image 11: caption 'A dog.' is there 0 times"),
        (annotations((10, 9, "Again.")), "annotation 4 has id 9, as another has"),
        (annotations((10, None, "No id.")), "annotation 4 has not image_id, id and caption"),
        ({"images": []}, "no list of annotations in it"),
        ([], "no list of annotations in it"),
    ],
)
def test_an_id_is_never_guessed(content, problem, tmp_path):
    with pytest.raises(DataError) as caught:
        matched(content, tmp_path)
    assert problem in str(caught.value)
