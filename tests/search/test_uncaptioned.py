"""Images without captions, with names as people have them: indexed, found, shown and deleted through the commands."""

import pytest
from PIL import Image

from aladin_jax.image_names import image_id
from aladin_jax.search import verification
from aladin_jax.search.__main__ import main
from aladin_jax.search.index import Index
from convert import features
from tests.convert import own_features as own

NAMES = ["東京.jpg", "大阪.jpg", "yummy/taco.jpg", "sad/taco.jpg", "image (1).jpg", "IMG_1.JPG"]


@pytest.fixture(scope="module")
def indexed(golden_folder, tmp_path_factory):
    """An index of pictures that no one has said anything of, and the pictures."""
    folder = tmp_path_factory.mktemp("uncaptioned")
    regions = [d.regions for d in own.all_golden(limit=len(NAMES)).values()]
    rows = [own.bottom_up_row(name, some) for name, some in zip(NAMES, regions, strict=True)]
    path = own.write_tsv(folder / "features.tsv", rows)
    assert features.main(["--features", str(path), "--output", str(folder / "data")]) == 0
    for number, name in enumerate(NAMES):
        (folder / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(folder / "pictures" / name)
    arguments = ["--checkpoint", golden_folder / "model", "--data", folder / "data", "--output", folder / "index"]
    assert main(["index", *map(str, arguments), "--images", str(folder / "pictures")]) == 0
    return folder


def test_images_without_captions_are_indexed_and_found(indexed, capsys):
    assert Index(indexed / "index").ids == [image_id(name) for name in NAMES]
    assert verification.verify(indexed / "index") == []
    assert main(["query", "--index", str(indexed / "index"), "two dogs on a red sofa", "--rerank", "6"]) == 0
    out = capsys.readouterr().out
    assert all(image_id(name) in out for name in NAMES)


def test_each_image_has_its_own_picture(indexed):
    index = Index(indexed / "index")
    for number in range(len(NAMES)):
        (indexed / "shown.jpg").write_bytes(index.picture(number))
        with Image.open(indexed / "shown.jpg") as picture:
            assert abs(picture.getpixel((20, 15))[0] - 40 * number) < 4


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_of_images_to_delete_may_come_from_any_editor(indexed, tmp_path, capsys, encoding):
    ids = tmp_path / "ids.txt"
    ids.write_bytes("nothing\r\n\r\n".encode(encoding))
    assert main(["delete", "--index", str(indexed / "index"), "--ids_file", str(ids)]) == 1
    assert "nothing" in capsys.readouterr().err
