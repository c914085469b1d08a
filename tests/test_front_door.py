"""`import aladin_jax`: what the README shows works, odd input is answered in a line, and nothing heavy is loaded."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aladin_jax
from aladin_jax.commands import COMMANDS
from aladin_jax.data.records import Record
from tests.golden_data import E2E, arrays, e2e_expected
from tests.processes import run

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def home(golden_folder, tmp_path_factory):
    """A folder with what the README names: weights/aladin, data/coco, index."""
    from aladin_jax.search.__main__ import main

    home = tmp_path_factory.mktemp("home")
    for name, folder in (("weights/aladin", "model"), ("data/coco", "data")):
        (home / name).parent.mkdir()
        (home / name).symlink_to(golden_folder / folder)
    made = ["--checkpoint", home / "weights/aladin", "--data", home / "data/coco", "--output", home / "index"]
    assert main(["index", *map(str, made)]) == 0
    return home


@pytest.fixture(scope="module")
def model(home):
    return aladin_jax.load(home / "weights/aladin")


@pytest.fixture(scope="module")
def split(home):
    return aladin_jax.open_dataset(home / "data/coco")["test"]


def test_the_code_of_the_readme_runs(home, monkeypatch, capsys):
    section = (ROOT / "README.md").read_text().partition("## From Python")[2].partition("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(home)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) >= 2
    assert set(names["report"]) >= {"i2t/R@1", "t2i/R@10", "rsum"}
    assert capsys.readouterr().out.count("\n") >= 10  # the hits


def test_scores_from_python_are_those_of_the_originals_evaluation(model, split, differences):
    records = [split.read(row) for row in range(split.num_images)]
    texts = [caption for record in records for caption in record.captions]
    scores = model.score(model.encode_images(split), model.encode_texts(texts))
    image_of_text = np.repeat(np.arange(len(records)), [len(record.captions) for record in records])
    for head, expected in e2e_expected()["evaluate"]["test"].items():
        report = aladin_jax.retrieval_report(getattr(scores, head), image_of_text)
        for metric, value in expected.items():
            differences.check("front door: recalls and ranks", report[metric], value, atol=1e-9)


def test_records_given_one_by_one_are_encoded_as_those_of_the_split(model, split):
    records = [split.read(row) for row in (3, 0)]
    whole, given = model.encode_images(split), model.encode_images(records)
    np.testing.assert_allclose(given.vectors, whole.vectors[[3, 0]], atol=2e-6)
    np.testing.assert_allclose(given.parts.vectors, whole.parts.take(np.array([3, 0])).vectors, atol=2e-6)


def test_a_text_is_encoded_alike_alone_and_among_others(model, differences):
    golden = arrays("e2e/embeddings.npz")
    texts = [str(text) for text in golden["captions"]] if "captions" in golden else ["A dog.", "Two cats on a sofa."]
    alone, among = model.encode_texts(texts[:1]), model.encode_texts(iter(texts))
    np.testing.assert_allclose(alone.vectors[0], among.vectors[0], atol=2e-6)


REGIONS = np.zeros((3, 2054), np.float32)


def record(regions, tags=("cat",)):
    return Record("1", regions, list(tags), [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no image to encode; give at least one"),
        (record(REGIONS), "images is one record; give a list: [record]"),
        (["1.jpg"], "record 0 is '1.jpg'; give an aladin_jax.data.records.Record"),
        ([record(REGIONS), record(REGIONS[:, :2048])], "record 1: regions have 2048 features, the model takes 2054"),
        ([record(REGIONS[0])], "record 0: regions is float32[2054], expected float32[regions, 2054]"),
        ([record(REGIONS.tolist())], "record 0: regions is a value of type list, expected float32[regions, 2054]"),
        ([record(REGIONS[:0])], "record 0: regions must be at least one, and finite in float32"),
        ([record(REGIONS + np.nan)], "record 0: regions must be at least one, and finite in float32"),
        ([record(REGIONS + np.float64(1e300))], "record 0: regions must be at least one, and finite in float32"),
        ([record(REGIONS, [7])], "a tag of record 0 is 7, expected a text"),
    ],
)
def test_images_that_are_none_are_refused_in_one_line(model, given, message, unchecked):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refusal:
        model.encode_images(given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "there is no text to encode; give at least one"),
        ("a dog", "texts is one str; give a list: encode_texts([text])"),
        (["a dog", 7], "text 1 is 7, expected a text"),
        (["a dog", b"a cat"], "text 1 is 'a cat', expected a text"),
        (["a dog", " "], "text 1 is empty; leave it out"),
        (["\ud800"], "text 0 has half of a surrogate pair"),
    ],
)
def test_texts_that_are_none_are_refused_in_one_line(model, given, message, unchecked):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as refusal:
        model.encode_texts(given)
    assert "\n" not in str(refusal.value)


def test_texts_that_are_cut_are_counted(model, caplog):
    model.encode_texts(["dog " * 100, "a dog"])
    assert "1 of 2 texts have 50 tokens or more; what is beyond is cut" in caplog.text


def test_an_unknown_split_or_name_is_answered_in_one_line(home):
    dataset = aladin_jax.open_dataset(home / "data/coco")
    assert sorted(dataset) == ["minival", "test", "train"]
    assert "test" in dataset
    with pytest.raises(ValueError, match="no split 'val'; there are minival, test, train"):
        dataset["val"]
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        aladin_jax.train  # noqa: B018


def test_the_front_door_has_these_names_and_no_others():
    names = {"alignment_scores", "load", "losses", "matching_scores", "open_dataset", "open_index", "retrieval_report"}
    assert set(aladin_jax.__all__) == names
    assert all(getattr(aladin_jax, name).__doc__ for name in names)


SLOW = {"tensorflow", "matplotlib", "jax", "torch"}


def loaded_by(code):
    """Which of the slow libraries a fresh process has loaded after some code; they are the last line it prints."""
    command = [sys.executable, "-c", f"import json, sys\n{code}\nprint(json.dumps([*({SLOW} & sys.modules.keys())]))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not re.search("TensorFlow|oneDNN|InitializeLog", done.stderr)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_loads_nothing_slow():
    assert loaded_by("import aladin_jax\nfrom aladin_jax.config import Config") == set()


def test_a_query_and_a_server_load_neither_tensorflow_nor_matplotlib(home):
    code = f"""
from aladin_jax.search.__main__ import main
assert main(["query", "--index", {str(home / "index")!r}, "two dogs", "--k", "1"]) == 0
import aladin_jax
from aladin_jax.search.inputs import Limits
from aladin_jax.search.serve import SearchServer
SearchServer(aladin_jax.open_index({str(home / "index")!r}), Limits())
"""
    assert loaded_by(code) == {"jax"}


def test_conversion_loads_neither_tensorflow_nor_matplotlib(tmp_path):
    weights = ["--vinvl", str(E2E / "vinvl"), "--output", str(tmp_path / "weights")]
    files = ["--data_dir", str(E2E / "coco_ir"), "--img_feat_file", str(E2E / "model_0060000" / "features.tsv")]
    code = f"""
from convert import checkpoint, coco_ir
assert checkpoint.main({weights}) == 0
assert coco_ir.main({[*files, "--output", str(tmp_path / "data"), "--num_workers", "1"]}) == 0
"""
    assert loaded_by(code) == {"jax", "torch"}


def test_help_is_answered_before_anything_slow_is_loaded():
    asked = [*COMMANDS, *(f"aladin_jax.search {name}" for name in ("index", "query", "serve", "tradeoff"))]
    code = f"""
import runpy
for command in {asked}:
    sys.argv = [*command.split(), "--help"]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (command, end.code)
    assert not {SLOW} & sys.modules.keys(), command
"""
    assert loaded_by(code) == set()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.learning_rat=1"], "--config has no field 'learning_rat'; did you mean \"learning_rate\""),
        (["--config.batch_size=0"], "batch_size is 0; it must be at least 1"),
        (["--config.batch_size=few"], "flag --config.batch_size=few: invalid literal for int()"),
        (["--config=configs/common.py"], "--config is given 2 times; name one file"),
        (["--mode=test"], "flag --mode=test: value should be one of <train|evaluate>"),
        (["more"], "unknown argument 'more'"),
        (
            ["--workdir=/dev/null/run", "--config.data.dir=data"],
            "/dev/null/run: this folder cannot be made (Not a directory); name another",
        ),
    ],
)
def test_a_fault_on_the_command_line_is_one_line(arguments, message, tmp_path):
    flags = ["--config", "configs/alignment_triplet.py", "--workdir", str(tmp_path / "run"), *arguments]
    assert run("aladin_jax.main", *flags, log=tmp_path / "log") == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()


def test_a_program_that_starts_by_itself_says_its_fault_on_stderr_and_nothing_else(tmp_path):
    flags = ["--config", "configs/alignment_triplet.py", "--workdir", str(tmp_path / "run")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    command = [sys.executable, "-m", "aladin_jax.main", *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("error: data.dir is empty; name a prepared data set, --config.data.dir=DIR")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("def get_config():\n    return 1 / 0", "ZeroDivisionError: division by zero")],
)
def test_a_configuration_file_that_is_none_is_one_line(content, message, tmp_path):
    file = tmp_path / "a folder" / "own.py"
    file.parent.mkdir()
    if content:
        file.write_text(content)
    flags = ["--config", str(file), "--workdir", str(tmp_path / "run")]
    assert run("aladin_jax.main", *flags, log=tmp_path / "log") == 1
    [line] = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"error: --config {file}: {message}")
