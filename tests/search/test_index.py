import json
import shutil

import numpy as np
import pytest
from PIL import Image

from aladin_jax import model_folder
from aladin_jax.config import Settings
from aladin_jax.data.dataset import open_dataset
from aladin_jax.data.records import Split
from aladin_jax.models.aladin import init_params
from aladin_jax.pretrained import load
from aladin_jax.search import indexing, verification
from aladin_jax.search.index import Index
from aladin_jax.search.index_files import read_manifest, writer_lock
from aladin_jax.search.indexing import Contents, add_to_index, create_index
from aladin_jax.search.query import Searcher
from tests.search.conftest import SCENES_SETTINGS

QUERY = "a man riding a wave on top of a surfboard"


def ids_found(path, model, k=100, **options):
    return [hit.id for hit in Searcher(Index(path), model).find_images(QUERY, k=k, **options).hits]


def test_an_index_holds_every_image_and_caption_of_the_split_and_is_sound(golden_folder, golden_index):
    split = Split(open_dataset(golden_folder / "data"), "test")
    index = Index(golden_index)
    assert index.ids == split.ids
    assert np.bincount(index.caption_image).tolist() == split.caption_counts.tolist()
    for image in (0, 7, split.num_images - 1):
        record = split.read(image)
        assert [index.caption(int(row)) for row in np.flatnonzero(index.caption_image == image)] == record.captions
        assert index.tags(image) == record.tags
        assert len(index.images.parts(image)) == min(len(record.regions), 34) - 1
    assert verification.verify(golden_index) == []


def test_verify_names_the_file_that_is_damaged(changing):
    file = changing / "segment-000001" / "image_parts.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    (fault,) = verification.verify(changing)
    assert str(file) in fault
    assert "sha256" in fault


def test_a_build_that_was_cut_off_goes_on_after_its_last_part(scenes_folder, tmp_path):
    pictures, path = tmp_path / "pictures", tmp_path / "index"
    pictures.mkdir()
    for number in range(24):
        Image.new("RGB", (20, 10), (number, 0, 0)).save(pictures / f"test-{number:05d}.png")
    second = pictures / "test-00020.jpg"
    second.write_bytes(b"which of the two?")
    model = load(scenes_folder / "model", SCENES_SETTINGS)
    source = Contents(scenes_folder / "data", "test", pictures)
    with pytest.raises(ValueError, match=r"'test-00020' may be 'test-00020\.jpg' or"):
        create_index(path, model, source, part_images=8)
    with pytest.raises(ValueError, match="unfinished"):
        read_manifest(path)
    second.unlink()
    (job,) = (path / ".unfinished").iterdir()
    (job / ".part-000002.unfinished").mkdir()
    (path / ".unfinished" / "job.json").touch()  # as earlier versions had it
    for number in range(16):  # what is in finished parts is not read again
        (pictures / f"test-{number:05d}.png").write_bytes(b"no picture")
    assert create_index(path, model, source, part_images=8).images == 24
    assert verification.verify(path) == []
    create_index(tmp_path / "at_once", model, Contents(scenes_folder / "data", "test"))
    at_once = Index(tmp_path / "at_once").images.vectors
    np.testing.assert_allclose(Index(path).images.vectors[0], at_once[0], atol=1e-6)
    assert Index(path).picture(3)


def test_what_is_added_is_found_and_an_id_can_be_there_only_once(golden_folder, golden_model, changing):
    source = Contents(golden_folder / "data", "minival")
    before = Index(changing)
    add_to_index(changing, golden_model, source)
    index = Index(changing)
    assert index.ids == before.ids + Split(open_dataset(golden_folder / "data"), "minival").ids
    assert len(index.captions) > len(before.captions)
    assert set(ids_found(changing, golden_model, rerank="all")) == set(index.ids)
    assert verification.verify(changing) == []
    with pytest.raises(ValueError, match="are in the index already"):
        add_to_index(changing, golden_model, source)


def test_vectors_of_another_model_are_refused_with_both_fingerprints(golden_folder, golden_model, changing, tmp_path):
    other = tmp_path / "other"
    params = init_params(*golden_model.config, seed=5)
    model_folder.save_model_folder(other, params, golden_model.config, golden_model.vocabulary, {})
    model = load(other, Settings())
    with pytest.raises(ValueError, match=f"{golden_model.fingerprint}.*{model.fingerprint}"):
        add_to_index(changing, model, Contents(golden_folder / "data", "minival"))


def test_the_fingerprint_follows_lengths_but_not_the_folder(golden_folder, golden_model, tmp_path):
    copy = shutil.copytree(golden_folder / "model", tmp_path / "copy")
    assert load(copy, Settings()).fingerprint == golden_model.fingerprint
    assert load(copy, Settings(max_regions=20)).fingerprint != golden_model.fingerprint


def test_deleted_images_and_their_captions_are_in_no_result_until_added_again(golden_folder, golden_model, changing):
    first, second = ids_found(changing, golden_model)[:2]
    indexing.delete_images(changing, [first])
    indexing.delete_images(changing, [second])
    found = ids_found(changing, golden_model)
    assert len(found) == 54
    assert not {first, second} & set(found)
    searcher = Searcher(Index(changing), golden_model)
    captions = searcher.find_captions(searcher.subject_of_image(searcher.index.row(found[0])), k=1000, rerank="all")
    assert not {first, second} & {hit.id for hit in captions.hits}
    assert read_manifest(changing).captions == len(captions.hits) == 270
    assert verification.verify(changing) == []
    with pytest.raises(ValueError, match="no image"):
        indexing.delete_images(changing, [found[0], first])
    assert read_manifest(changing).images == 54


def test_merging_keeps_results_and_drops_what_is_deleted_while_a_reader_goes_on(golden_folder, golden_model, changing):
    add_to_index(changing, golden_model, Contents(golden_folder / "data", "minival"))
    indexing.delete_images(changing, ids_found(changing, golden_model)[:3])
    reader = Searcher(Index(changing), golden_model)
    before = reader.find_images(QUERY, k=100, rerank="all")
    size = verification.describe(changing)["bytes"]
    indexing.merge(changing)
    assert [path.name for path in changing.glob("segment-*")] == ["segment-000004"]
    assert verification.describe(changing)["bytes"] < size
    assert verification.verify(changing) == []
    after = Searcher(Index(changing), golden_model).find_images(QUERY, k=100, rerank="all")
    assert [hit.id for hit in after.hits] == [hit.id for hit in before.hits]
    again = reader.find_images(QUERY, k=100, rerank="all")
    assert [(hit.id, hit.alignment) for hit in again.hits] == [(hit.id, hit.alignment) for hit in before.hits]


def test_a_second_writer_gets_an_error_and_readers_go_on(golden_folder, golden_model, changing):
    with writer_lock(changing):
        for write in (
            lambda: indexing.merge(changing),
            lambda: indexing.delete_images(changing, ["1"]),
            lambda: add_to_index(changing, golden_model, Contents(golden_folder / "data", "minival")),
        ):
            with pytest.raises(ValueError, match="another writer is at work"):
                write()
        assert len(ids_found(changing, golden_model)) == 56


def test_a_segment_that_no_manifest_lists_is_ignored_and_removed_by_the_next_writer(golden_model, changing):
    (changing / "segment-000002").mkdir()
    (changing / ".segment-000003.unfinished").mkdir()
    assert len(ids_found(changing, golden_model)) == 56
    indexing.merge(changing)
    assert sorted(path.name for path in changing.glob("*segment*")) == ["segment-000001"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(schema=99), "schema 99"),
        (lambda m: m["segments"][0].update(name="../elsewhere"), "name is '../elsewhere'"),
        (lambda m: m["segments"][0].update(deleted="../../x.npy"), "deleted is '../../x.npy'"),
        (lambda m: m["segments"][0].update(images=57), "the manifest says"),
        (lambda m: m.pop("width"), "damaged"),
        (lambda m: m["settings"].update(max_regions=0), "max_regions is 0"),
    ],
)
def test_a_manifest_that_is_not_this_programs_is_refused(changing, change, message):
    values = json.loads((changing / "manifest.json").read_text())
    change(values)
    (changing / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        Index(changing)


def test_offsets_beyond_the_vectors_are_refused(changing):
    file = changing / "segment-000001" / "image_offsets.npy"
    offsets = np.load(file)
    offsets[3] = 10**6
    np.save(file, offsets)
    with pytest.raises(ValueError, match="does not divide"):
        Index(changing)


def test_another_folders_files_are_never_overwritten(golden_folder, golden_model, golden_index, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        create_index(tmp_path, golden_model, Contents(golden_folder / "data", "test"))
    with pytest.raises(ValueError, match="there is an index already"):
        create_index(golden_index, golden_model, Contents(golden_folder / "data", "test"))
