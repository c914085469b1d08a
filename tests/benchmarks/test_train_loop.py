"""The training loop's benchmark runs where TensorFlow and what imports it are missing, and ends with its JSON line."""

import json
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
MISSING = ("tensorflow", "tensorflow_datasets", "clu", "ml_collections")
PROGRAM = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING!r}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import benchmarks.train_step
from benchmarks import train_loop
train_loop.main(sys.argv[1:])
"""


def test_input_on_a_bare_machine_ends_with_one_json_line(tmp_path):
    options = ["--data", str(tmp_path), "--images", "9", "--batch_size", "8", "--steps", "6", "--input_only"]
    options += ["--storage", "float16", "--dtype", "bfloat16"]
    command = [sys.executable, "-c", PROGRAM, *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["input_examples_per_second"] > 0
    assert report["lengths"]["images"] == 9
    assert report["lengths"]["stored_as"] == "float16"
