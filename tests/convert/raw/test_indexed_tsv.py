import pytest

from aladin_jax.errors import DataError
from convert.raw.vinvl_files import VinvlFiles
from tests.convert.raw.raw_vinvl import Raw, refusal


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


def test_the_last_row_needs_no_line_end_and_lines_may_end_as_on_windows(raw):
    for row in raw.features:
        row[2] += b"\r"
    path = raw.write()
    path.write_bytes(path.read_bytes().removesuffix(b"\r\n"))
    files = VinvlFiles(path)
    assert len(files.detections("437534").regions) == 3
    assert len(files.detections("473681").regions) == 6


def test_a_truncated_tsv_is_refused_naming_the_first_row_that_is_gone(raw):
    path = raw.write()
    path.write_bytes(path.read_bytes()[:250_000])
    message = refusal(path)
    assert message.startswith(f"{raw.folder / 'features.lineidx'}, row 3 (line 4), image 437534: byte ")
    assert "past the end of features.tsv (250,000 bytes)" in message


def test_a_last_row_cut_short_is_refused(raw):
    path = raw.write()
    path.write_bytes(path.read_bytes()[:-1002])
    assert "features.tsv, row 3 (line 4), image 437534: " in refusal(path, "437534")


def test_a_file_cut_while_it_is_read_is_refused(raw):
    path = raw.write()
    files = VinvlFiles(path)
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(DataError, match=r"tsv, row 2 \(line 3\), image 473681: .* bytes were expected, 0 are"):
        files.detections("473681")


def test_an_index_that_lacks_rows_is_refused(raw):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    index.write_text("".join(index.read_text().splitlines(True)[:2]))
    assert "imageid2idx.json, image 473681: row 2, but features.tsv has 2 rows" in refusal(path)


def test_a_row_number_below_zero_is_refused(raw):
    raw.index["473681"] = -1
    assert "imageid2idx.json, image 473681: row -1, but features.tsv has 4 rows" in refusal(raw.write())


@pytest.mark.parametrize(
    ("row", "offset", "found"),
    [
        (2, "-5", "'-5' is no byte offset"),
        (2, "1e3", "'1e3' is no byte offset"),
        (2, "9" * 1000, "is no byte offset"),
        (2, "99999999999", "byte 99,999,999,999 is past the end"),
        (2, "7", "a row cannot begin at byte 7"),
        (0, "7", "a row cannot begin at byte 7"),
    ],
)
def test_an_impossible_offset_is_refused(raw, row, offset, found):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    lines = index.read_text().splitlines()
    lines[row] = offset
    index.write_text("\n".join(lines))
    message = refusal(path)
    assert f"features.lineidx, row {row} (line {row + 1}), image {list(raw.index)[row]}: " in message
    assert found in message


@pytest.mark.parametrize("shift", [3, -7000])
def test_an_offset_that_is_not_a_line_start_is_refused(raw, shift):
    path = raw.write()
    index = raw.folder / "features.lineidx"
    lines = index.read_text().splitlines()
    lines[3] = str(int(lines[3]) + shift)
    index.write_text("\n".join(lines))
    message = refusal(path)
    assert "features.tsv, row 2 (line 3), image 473681: by the .lineidx this row does not end where a line" in message


def test_an_index_that_skips_a_line_is_refused(raw):
    del raw.index["437534"]
    path = raw.write()
    index = raw.folder / "features.lineidx"
    index.write_text("".join(index.read_text().splitlines(True)[:3]))
    assert "row 2 (line 3), image 473681: by the .lineidx this row is several lines long" in refusal(path)


def test_an_id_that_disagrees_with_the_row_is_refused(raw):
    raw.index["473681"], raw.index["437534"] = 3, 2
    message = refusal(raw.write())
    assert "features.tsv, row 3 (line 4), image 473681: the row is that of '437534'; " in message


def test_an_absurdly_long_row_is_refused_before_it_is_read(raw):
    path = raw.write()
    with open(path, "r+b") as file:
        file.truncate(1 << 40)  # zeros that take no space on the disk, and would not fit into memory
    message = refusal(path, "437534")
    assert "features.tsv, row 3 (line 4), image 437534: 1,099,511,3" in message
    assert "more than the 10,954,922" in message


@pytest.mark.parametrize("fields", [1, 2, 4])
def test_a_row_with_too_few_or_too_many_fields_is_refused(raw, fields):
    raw.features[2] = [*raw.features[2], b"more"][:fields]
    message = refusal(raw.write())
    assert f"row 2 (line 3), image 473681: {fields} tab-separated fields, expected 3" in message


def test_an_image_with_two_rows_of_predictions_that_differ_is_refused(raw):
    raw.predictions[3] = [raw.predictions[2][0], raw.predictions[3][1]]
    message = refusal(raw.write())
    assert "predictions.tsv, row 3 (line 4), image 473681: row 2 of " in message
    assert "predictions.tsv is this image's too, and differs; keep one of them" in message


def test_a_row_of_predictions_without_an_id_is_refused(raw):
    raw.predictions[3][0] = b""
    assert "predictions.tsv, row 3 (line 4): the image's id is '', expected 1 to 512 letters" in refusal(raw.write())
