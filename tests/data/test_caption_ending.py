import pytest

from aladin_jax.data.caption_ending import ending_of_split, find_ending, with_ending
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split


@pytest.mark.parametrize(
    ("captions", "ending"),
    [
        (["A dog.", "A cat. ", "Two birds"], "."),
        (["a dog .", "a cat ."], "."),
        (["a dog", "a cat", "two birds."], ""),
        (["一只狗。", "两只猫。"], "。"),
        (["A dog.", "A cat!", "A bird?"], ""),
        ([], ""),
        ([" ", ""], ""),
    ],
)
def test_the_ending_is_the_mark_of_more_than_half_of_the_captions(captions, ending):
    assert find_ending(captions) == ending


@pytest.mark.parametrize(
    ("text", "ending", "ended"),
    [
        ("a dog", ".", "a dog."),
        ("a dog.", ".", "a dog."),
        ("a dog .", ".", "a dog ."),
        ("a dog!?", ".", "a dog."),
        ("a dog…", ".", "a dog."),
        ("a dog", "。", "a dog。"),
        ("a dog.", "", "a dog."),
        ("a dog", None, "a dog"),
        ("?", ".", "?."),
    ],
)
def test_a_text_gets_the_ending_in_place_of_others_and_once(text, ending, ended):
    assert with_ending(text, ending) == ended


def test_the_ending_of_a_split_is_that_of_its_captions(golden_folder):
    dataset = open_dataset(golden_folder / "data")
    split = Split(dataset, "train")
    captions = [caption for k in range(split.num_images) for caption in split.read(k).captions]
    with_period = sum(caption.endswith(".") for caption in captions) > len(captions) / 2
    assert ending_of_split(split) == ("." if with_period else "")
