"""Beam writes what the plain way writes. Its pins exclude those of requirements.txt: run this where it is installed."""

import shutil

import pytest

from aladin_jax.errors import DataError
from convert.dataset import record_builder
from convert.dataset.coco_ir import prepare
from tests.convert.raw.raw_vinvl import E2E, GOLDEN_FEATURES

pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
# Of TFDS, with the older protobuf that Beam takes.
pytestmark = pytest.mark.filterwarnings(r"ignore:label\(\) is deprecated:DeprecationWarning")


@pytest.fixture
def direct(monkeypatch):
    from convert.dataset.record_beam import pipeline_options

    monkeypatch.setattr(record_builder, "IMAGES_PER_FILE", 8)
    return pipeline_options("runner=DirectRunner")


@pytest.mark.parametrize("float16", [False, True])
def test_beam_writes_the_bytes_that_one_process_writes(tmp_path, direct, float16):
    beam, plain = (
        prepare(E2E / "coco_ir", GOLDEN_FEATURES, tmp_path / name, float16=float16, beam_options=options)
        for name, options in {"beam": direct, "plain": None}.items()
    )
    assert len(list(beam.folder.glob("coco_ir-test.array_record-*-of-00007"))) == 7
    for path in plain.folder.iterdir():
        assert (beam.folder / path.name).read_bytes() == path.read_bytes()
    assert str(beam).replace("/beam/", "/plain/") == str(plain)


def test_an_error_on_another_machine_is_one_line_here(tmp_path, direct):
    shutil.copytree(GOLDEN_FEATURES.parent, tmp_path / "raw")
    features = tmp_path / "raw" / "features.tsv"
    content = features.read_bytes()
    features.write_bytes(content[:-5])
    with pytest.raises(DataError) as caught:
        prepare(E2E / "coco_ir", features, tmp_path / "out", beam_options=direct)
    assert str(caught.value).startswith(f"{features}, row 69 (line 70), image ")
    assert "\n" not in str(caught.value)
    assert "while running" not in str(caught.value)
    assert not (tmp_path / "out" / "coco_ir" / "default" / "1.0.0").exists()
