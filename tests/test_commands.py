"""What a wheel holds, and what its command finds there."""

import re
import tomllib
from pathlib import Path

from aladin_jax import commands

ROOT = Path(__file__).parents[1]
KEPT, HOME = ("configs", "convert", "demo"), ("aladin_jax", "repository")


def test_a_wheel_has_every_folder_of_ours_and_nothing_beside_the_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent.relative_to(ROOT) for top in ("aladin_jax", *KEPT) for file in (ROOT / top).rglob("*.py")}
    names = {".".join(folder.parts) for folder in folders}
    assert set(packages) == {
        name if name.startswith("aladin_jax") else f"aladin_jax.repository.{name}" for name in names
    }


def test_the_command_knows_every_program_of_the_repository():
    programs = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for top in ("aladin_jax", *KEPT)
        for file in (ROOT / top).rglob("*.py")
        if re.search(r'^if __name__ == "__main__"', file.read_text(), re.MULTILINE)
    }
    not_for_users = {"demo.quality", "aladin_jax.search.decoding"}  # measures the drawn scenes; the server runs it
    assert programs - not_for_users == set(commands.COMMANDS)


def test_a_configuration_is_found_beside_the_package_where_the_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = str(ROOT / "configs" / "demo.py")
    assert commands._found("configs/demo.py") == config
    assert commands._found("--config=configs/demo.py") == f"--config={config}"
    assert commands._found("--config.data.dir=data/configs/x") == "--config.data.dir=data/configs/x"
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.py").touch()
    assert commands._found("configs/demo.py") == "configs/demo.py"
