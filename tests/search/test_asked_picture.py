"""A picture file as a question, through the encoder that the index's features were made with."""

import json

import numpy as np
import pytest

from aladin_jax.search.__main__ import main
from tests.convert import tiny_encoders
from tests.convert.tiny_detectors import photograph


@pytest.fixture
def ask(photographs, capsys):
    """Asks with a picture; gives the exit status, what was found, and the error."""

    def ask(image, *more):
        arguments = ["query", "--index", photographs / "index", "--image", image, "--k", "5", "--json", *more]
        status = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, json.loads(said.out) if status == 0 else None, said.err

    return ask


def captions(found):
    return [(hit["id"], hit["caption"]) for hit in found["results"]]


def test_a_photograph_gets_the_captions_that_it_gets_from_the_index(photographs, ask):
    _, by_id, _ = ask("coffee")
    status, by_file, _ = ask(photograph("coffee.png"), "--extractor", photographs / "vit")
    assert status == 0
    assert captions(by_file) == captions(by_id)
    scores = [[hit["alignment"] for hit in found["results"]] for found in (by_file, by_id)]
    np.testing.assert_allclose(*scores, atol=1e-4)


def test_what_detect_wrote_is_asked_with(photographs, ask):
    _, by_id, _ = ask("coffee")
    status, by_file, _ = ask(photographs / "data" / "detections" / "coffee.npz")
    assert status == 0
    assert captions(by_file) == captions(by_id)


def test_pictures_like_a_picture_begin_with_itself_unless_it_is_of_the_index(photographs, ask):
    _, by_file, _ = ask(photograph("coffee.png"), "--extractor", photographs / "vit", "--similar")
    _, by_id, _ = ask("coffee", "--similar")
    assert by_file["results"][0]["id"] == "coffee"
    assert by_file["results"][0]["file"] == "coffee.png"
    assert [hit["id"] for hit in by_file["results"][1:]] == [hit["id"] for hit in by_id["results"]]


def test_another_encoder_is_refused_and_none_is_told(photographs, ask, tmp_path):
    other = tiny_encoders.save("siglip", tmp_path / "siglip")
    status, _, error = ask(photograph("coffee.png"), "--extractor", other)
    assert status == 1
    assert "another encoder" in error
    assert main(["serve", "--index", str(photographs / "index"), "--port", "0", "--extractor", str(other)]) == 1
    status, _, error = ask(photograph("coffee.png"))
    assert status == 1
    assert "name the encoder of its data set with --extractor" in error
    assert ask(photographs / "nothing.jpg")[0] == 1


def test_info_says_how_features_were_made(photographs, capsys):
    assert main(["info", "--index", str(photographs / "index"), "--json"]) == 0
    features = json.loads(capsys.readouterr().out)["features"]
    assert features["max_regions"] == 34
    assert len(features["encoder"]) == 64


def test_a_picture_is_refused_where_nobody_knows_how_features_were_made(scenes_index, photographs, capsys):
    image = ["--image", str(photograph("coffee.png")), "--extractor", str(photographs / "vit")]
    assert main(["query", "--index", str(scenes_index), *image]) == 1
    assert "does not say how its features were made" in capsys.readouterr().err
