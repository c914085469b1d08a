import argparse
import collections
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._utils import _rebuild_tensor_v2

from convert import pickles
from convert.torch_files import TorchFileError, as_state_dict, load_namespace, load_torch

GOLDEN = Path(__file__).parents[1] / "golden"
E2E, UNIT = GOLDEN / "e2e", GOLDEN / "unit"
ZIP_AND_LEGACY = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Calls:
    """Pickles as a call, as malicious files do."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def save(value, path: Path, *, zipped: bool, protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def rewrite_zip(path: Path, change) -> None:
    """Rewrites a zip file's records as `change(name, content)` says; None leaves a record out."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            if (changed := change(name, content)) is not None:
                archive.writestr(name, changed)


def load_state_dict(path):
    return as_state_dict(load_torch(path), str(path))


@pytest.mark.parametrize(
    "path", [UNIT / "vinvl/pytorch_model.bin", E2E / "vinvl/pytorch_model.bin"], ids=["zip", "legacy"]
)
def test_tensors_equal_what_pytorch_reads(path):
    expected = torch.load(path, weights_only=True)
    found = load_state_dict(path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_golden_files_cover_both_formats():
    assert zipfile.is_zipfile(UNIT / "vinvl/pytorch_model.bin")
    assert not zipfile.is_zipfile(E2E / "vinvl/pytorch_model.bin")


@pytest.mark.parametrize("folder", [UNIT, E2E], ids=["zip", "legacy"])
def test_training_arguments_are_read_as_fields(folder):
    assert load_namespace(folder / "vinvl/training_args.bin")["do_lower_case"] is True


@ZIP_AND_LEGACY
def test_views_parameters_and_half_precision_are_read(tmp_path, zipped):
    base = torch.arange(24.0).reshape(4, 6)
    state = collections.OrderedDict(
        row=base[1], turned=base.T, weight=torch.nn.Parameter(base), half=base.half(), brain=base.bfloat16()
    )
    found = load_state_dict(save(state, tmp_path / "a.bin", zipped=zipped))
    assert all(torch.equal(found[name], state[name]) and found[name].dtype == state[name].dtype for name in state)


@ZIP_AND_LEGACY
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "name"), [(os.system, f"{os.name}.system"), (eval, "eval"), (open, "open"), (pickle.loads, "loads")]
)
def test_a_pickle_that_calls_functions_is_refused_by_their_name_and_not_run(tmp_path, zipped, protocol, function, name):
    trace = tmp_path / "trace"
    arguments = {
        os.system: f"touch {trace}",
        eval: f"open({str(trace)!r}, 'w')",
        open: str(trace),
        pickle.loads: pickle.dumps(Calls(os.system, f"touch {trace}")),
    }
    mode = ("w",) if function is open else ()
    value = {"model": {"w": torch.ones(2)}, "opt": Calls(function, arguments[function], *mode)}
    path = save(value, tmp_path / "bad.bin", zipped=zipped, protocol=protocol)
    with pytest.raises(TorchFileError, match=rf"bad\.bin: refused: its pickle names \S*{name};") as caught:
        load_torch(path)
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_a_bare_pickle_is_refused_by_the_name_it_names(tmp_path):
    path = tmp_path / "bare.bin"
    path.write_bytes(pickle.dumps(Calls(os.system, "true")))
    with pytest.raises(TorchFileError, match=r"names \S*system"):
        load_state_dict(path)


@ZIP_AND_LEGACY
def test_a_namespace_is_refused_where_only_weights_are_expected(tmp_path, zipped):
    path = save({"w": argparse.Namespace(x=1)}, tmp_path / "a.bin", zipped=zipped)
    with pytest.raises(TorchFileError, match=r"entry 'w' is no tensor \(Namespace\)"):
        load_state_dict(path)


NUMBERS = [
    np.float64(3.5),
    np.int32(-4),
    np.bool_(True),
    np.float16(0.5),
    np.arange(6.0).reshape(2, 3),
    np.asfortranarray(np.arange(6).reshape(2, 3)),
    np.arange(3, dtype=">i4"),
    np.zeros((0, 4), np.uint8),
    np.array([1 + 2j], np.complex64),
]


@ZIP_AND_LEGACY
def test_numpys_scalars_and_arrays_of_numbers_are_read(tmp_path, zipped):
    found = load_torch(save({"best_rsum": NUMBERS, "type": torch.float16}, tmp_path / "a.bin", zipped=zipped))
    assert found["type"] == torch.float16
    for value, expected in zip(found["best_rsum"], NUMBERS, strict=True):
        assert value.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert value.shape == expected.shape
        np.testing.assert_array_equal(value, expected)


def test_what_numpy_1_saved_is_read(tmp_path):
    path = save({"best_rsum": NUMBERS}, tmp_path / "a.bin", zipped=True)
    new, old = b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"
    rewrite_zip(path, lambda name, content: content.replace(new, old) if name.endswith("data.pkl") else content)
    np.testing.assert_array_equal(load_torch(path)["best_rsum"][4], NUMBERS[4])


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), np.zeros(1, [("a", "f4")]), np.datetime64("2020-01-01")]
)
def test_arrays_of_anything_else_than_numbers_are_refused(tmp_path, value):
    with pytest.raises(TorchFileError, match="which are no numbers"):
        load_torch(save({"x": value}, tmp_path / "a.bin", zipped=True))


BYTES = b"c_codecs\nencode\nX\x08\0\0\0abcdefghX\x06\0\0\0latin1\x86R"
F8 = b"cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R(K\x03X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
NEW_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + BYTES + b"\x87R"
HUGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"cnumpy\nndarray\n" + HUGE + b"\x85\x85R", "an array is made in an unknown way"),
        (NEW_ARRAY + b"(K\1" + HUGE + b"\x85" + F8 + b"\x89" + BYTES + b"tb", "damaged or not written by PyTorch"),
        (NEW_ARRAY + b"(K\1K\1\x85" + F8 + b"\x89]Natb", "damaged or not written by PyTorch"),
        (b"cnumpy.core.multiarray\nscalar\n" + F8 + BYTES.replace(b"latin1", b"base64") + b"\x86R", "makes bytes in"),
        (b"c__builtin__\nbytes\n" + HUGE + b"\x85R", "makes bytes in"),
        (b"cnumpy\nload\nX\1\0\0\0x\x85R", "names numpy.load"),
        (b"}" + NEW_ARRAY + b"Ns", "as key"),
    ],
    ids=["huge", "longer than its bytes", "objects", "growing bytes", "many bytes", "a function", "key"],
)
def test_hostile_arrays_are_refused(tmp_path, value, cause):
    path = save({}, tmp_path / "a.bin", zipped=True)
    rewrite_zip(path, lambda name, content: put(value) if name.endswith("data.pkl") else content)
    with pytest.raises(TorchFileError, match=cause):
        load_torch(path)


@ZIP_AND_LEGACY
def test_a_class_of_the_users_own_is_refused_by_name(tmp_path, zipped):
    path = save(Path("x"), tmp_path / "a.bin", zipped=zipped)
    with pytest.raises(TorchFileError, match=r"names pathlib\S*\.\w*Path"):
        load_torch(path)


@ZIP_AND_LEGACY
@pytest.mark.parametrize("kept", [0, 1, 3, 10, 60, 500, 0.5, 0.9, -1])
def test_a_truncated_file_is_refused_in_one_line(tmp_path, zipped, kept):
    path = save({"w": torch.ones(300), "v": torch.ones(300)}, tmp_path / "a.bin", zipped=zipped)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(TorchFileError, match=r"a\.bin: ") as caught:
        load_state_dict(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"{}", b"[PAD]\n[UNK]\n", b"\x93NUMPY\x01\x00", b"\x89HDF\r\n", b"\0" * 100])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(TorchFileError, match=r"a\.bin: not a file that torch\.save wrote"):
        load_state_dict(tmp_path / "a.bin")


def test_another_zip_archive_is_refused():
    with pytest.raises(TorchFileError, match=r"not written by PyTorch: the zip archive has no data\.pkl"):
        load_state_dict(UNIT / "batches.npz")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TorchFileError, match=r"none\.bin: no such file"):
        load_state_dict(tmp_path / "none.bin")


def test_something_else_than_tensors_by_name_is_refused(tmp_path):
    with pytest.raises(TorchFileError, match="expected tensors by name, found list"):
        load_state_dict(save([torch.ones(1)], tmp_path / "a.bin", zipped=True))
    with pytest.raises(TorchFileError, match=r"entry 'epoch' is no tensor \(int\)"):
        load_state_dict(save({"epoch": 1}, tmp_path / "a.bin", zipped=True))
    with pytest.raises(TorchFileError, match="entry 391895 has a number for a name"):
        load_state_dict(save({391895: torch.ones(1)}, tmp_path / "a.bin", zipped=True))
    with pytest.raises(TorchFileError, match=r"expected an argparse\.Namespace, found dict"):
        load_namespace(save({}, tmp_path / "a.bin", zipped=True))


def test_a_zip_whose_storage_is_shorter_than_declared_is_refused(tmp_path):
    path = save({"w": torch.ones(1000)}, tmp_path / "a.bin", zipped=True)
    rewrite_zip(path, lambda name, content: content[:100] if name.endswith("data/0") else content)
    with pytest.raises(TorchFileError, match="storage '0' is not of the declared 1000 items"):
        load_state_dict(path)


def test_a_zip_without_a_storage_is_refused(tmp_path):
    path = save({"w": torch.ones(1000)}, tmp_path / "a.bin", zipped=True)
    rewrite_zip(path, lambda name, content: None if name.endswith("data/0") else content)
    with pytest.raises(TorchFileError, match="storage '0' is not of the declared 1000 items"):
        load_state_dict(path)


def test_a_compressed_zip_is_refused(tmp_path):
    path = tmp_path / "a.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", bytes(50_000_000))
    with pytest.raises(TorchFileError, match=r"record 'a/data\.pkl' is compressed"):
        load_state_dict(path)


def test_a_changed_byte_in_a_zip_is_found(tmp_path):
    path = save({"w": torch.full((1000,), 3.0)}, tmp_path / "a.bin", zipped=True)
    content = bytearray(path.read_bytes())
    content[content.index(struct.pack("<f", 3.0) * 10) + 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(TorchFileError, match=r"record .* is not what its checksum says"):
        load_state_dict(path)


@pytest.mark.parametrize(
    "size", [(10**12,), (2**62, 2**62), (-4,), (10**6, 10**6)], ids=["long", "product", "negative", "square"]
)
@ZIP_AND_LEGACY
def test_a_tensor_larger_than_its_storage_is_refused_before_memory_is_taken(tmp_path, zipped, size):
    strides = (0,) * len(size)
    storage = torch.ones(4)._typed_storage()

    class Huge:
        def __reduce__(self):
            return _rebuild_tensor_v2, (storage, 0, size, strides, False, collections.OrderedDict())

    path = save({"w": Huge()}, tmp_path / "a.bin", zipped=zipped)
    with pytest.raises(TorchFileError, match="damaged: a tensor"):
        load_state_dict(path)


def test_a_legacy_storage_of_a_terabyte_is_refused_before_memory_is_taken(tmp_path):
    path = save({"w": torch.ones(77)}, tmp_path / "a.bin", zipped=False)
    content = path.read_bytes()
    # The storage's length stands as one byte in the pickle; in its place comes one of eight bytes.
    declared = content.index(b"K\x4dN")
    long = b"\x8a\x08" + struct.pack("<q", 2**38)
    path.write_bytes(content[:declared] + long + content[declared + 2 :])
    with pytest.raises(TorchFileError, match="truncated: storage"):
        load_state_dict(path)


def put(value, key=b"K\x01"):
    """A pickle of a dict with one item, both as operations."""
    return b"\x80\x02}" + key + value + b"s."


DEEP = b"N" + b"\x85" * 200_000
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0000X\3\0\0\0cpuK\2tQ"


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        (put(DEEP, key=DEEP), "refused: a dict of its pickle has a tuple as key"),
        (put(b"N", key=b"\x8a\x09" + (2**61 - 1).to_bytes(9, "little")), "has a number that is too large as key"),
        (put(b"ccollections\nOrderedDict\n]]" + DEEP + b"aNaa\x85R"), "is made of something else than a dict"),
        (put(b"ccollections\nOrderedDict\n](" + b"N" * 100_000 + b"eR"), "an object is made in an unknown way"),
        (put(REBUILD + b"K\0K\2\x85K\1\x85\x89}tR(" + b"N" * 4 + b"tb"), "attributes in an unknown way"),
        (b"\x80\x04\x8e" + struct.pack("<q", 2**40) + b".", "damaged or not written by PyTorch"),
        (b"\x80\x02" + b"0" * 9 + b".", "torch.save does not write operations as its pickle's POP"),
    ],
    ids=["deep keys", "equal hashes", "deep keys in a list", "spread list", "changed tensor", "terabyte string", "POP"],
)
def test_a_pickle_that_asks_for_much_time_or_memory_is_refused(tmp_path, body, cause):
    path = tmp_path / "a.bin"
    path.write_bytes(body)
    with pytest.raises(TorchFileError, match=r"not a file that torch\.save wrote|names collections"):
        load_state_dict(path)
    # The same as the object of a zip file.
    save({"w": torch.ones(2)}, path, zipped=True)
    rewrite_zip(path, lambda name, content: body if name.endswith("data.pkl") else content)
    with pytest.raises(TorchFileError, match=cause):
        load_state_dict(path)


def test_a_pickle_of_millions_of_objects_is_refused(tmp_path, monkeypatch):
    path = save({n: [] for n in range(99)}, tmp_path / "a.pt", zipped=True)
    load_torch(path)
    monkeypatch.setattr(pickles, "_MAX_OPERATIONS", 100)
    with pytest.raises(TorchFileError, match="refused: its pickle takes more than 100 operations"):
        load_torch(path)


def test_tensors_as_many_as_a_data_set_has_images_are_read(tmp_path):
    images = dict(enumerate(torch.arange(84_000.0).reshape(21_000, 2, 2).unbind()))
    found = load_torch(save(images, tmp_path / "feats.pt", zipped=False))
    assert found.keys() == images.keys()
    assert torch.equal(torch.stack(list(found.values())), torch.stack(list(images.values())))


def test_every_truncation_of_a_legacy_checkpoint_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(9)}, buffer, _use_new_zipfile_serialization=False)
    path = tmp_path / "a.bin"
    for kept in range(len(buffer.getvalue())):
        path.write_bytes(buffer.getvalue()[:kept])
        with pytest.raises(TorchFileError):
            load_state_dict(path)


@pytest.mark.parametrize("value", [{"w": torch.ones(9)}, argparse.Namespace(x=1)], ids=["tensors", "arguments"])
def test_bytes_after_the_end_of_a_legacy_file_are_refused(tmp_path, value):
    path = save(value, tmp_path / "a.bin", zipped=False)
    load_torch(path)
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")
    with pytest.raises(TorchFileError, match="it should end at byte"):
        load_torch(path)
