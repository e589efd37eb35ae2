"""The wheel holds what the program needs, and its configuration is found from any directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = """
from pathlib import Path
import ray_reproducer
from hydra import compose, initialize_config_module
from ray_reproducer.config_schema import register
register()
with initialize_config_module("ray_reproducer.conf", version_base=None):
    config = compose("ray_reproducer", overrides=["+extractor=file_info", "kafka=embedded", "run=drain"])
assert config.extractor._target_.startswith("ray_reproducer."), config
print(Path(ray_reproducer.__file__).resolve().parent)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a package index would get it."""
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


def build(project: Path, target: str, directory: Path) -> Path:
    """Build the project's wheel or sdist into the directory."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(directory)]
    subprocess.run(command, cwd=project, check=True, capture_output=True, timeout=60)
    (built,) = directory.iterdir()
    return built


def test_the_wheel_holds_the_configuration_the_licence_and_the_type_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"ray_reproducer/{path.relative_to(ROOT)}"
        for path in (ROOT / "conf").rglob("*")
        if path.suffix in {".yaml", ".py"}
    }
    assert expected
    assert expected <= names
    assert "ray_reproducer/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)


def test_a_wheel_that_is_built_from_the_sdist_is_the_same(wheel: Path, tmp_path: Path) -> None:
    sources = build(ROOT, "sdist", tmp_path / "sdist")
    with tarfile.open(sources) as archive:
        archive.extractall(tmp_path / "unpacked")
    (project,) = (tmp_path / "unpacked").iterdir()
    second = build(project, "wheel", tmp_path / "wheel")
    assert set(zipfile.ZipFile(second).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_takes_no_name_but_its_own(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"ray_reproducer", "ray_reproducer-0.1.0.dist-info"}


def test_the_wheel_finds_its_configuration_from_any_directory(wheel: Path, tmp_path: Path) -> None:
    installed = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(installed)
    assert composed_from(tmp_path, pythonpath=installed) == installed / "ray_reproducer"


def test_the_checkout_finds_its_configuration_from_any_directory(tmp_path: Path) -> None:
    assert composed_from(tmp_path, pythonpath=ROOT) == ROOT / "ray_reproducer"


def composed_from(directory: Path, pythonpath: Path) -> Path:
    """Compose the configuration in a process of its own and return where the package was found."""
    environment = {**os.environ, "PYTHONPATH": str(pythonpath)}
    command = [sys.executable, "-c", COMPOSE]
    ended = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return Path(ended.stdout.strip())
