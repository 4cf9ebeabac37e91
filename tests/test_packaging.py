"""What is shipped: links, a light import, and a wheel that works where there is no checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement

import autotelic
from autotelic.core.registry import register

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"torch", "vllm", "chromadb", "langgraph", "litellm", "transformers"}


def python(code: str, *, path: Path, cwd: Path) -> str:
    """Run code in a fresh interpreter that sees `autotelic` at `path` only, and return what it prints."""
    # -I and -S keep the working directory and an editable installation out; site-packages is then put back by hand.
    packages = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    start = f"import sys; sys.path[:0] = [{str(path)!r}]; sys.path += {packages!r}\n"
    done = subprocess.run([sys.executable, "-IS", "-c", start + code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


# -- the checkout


@pytest.mark.parametrize("room", ["agents", "graphs", "tools", "memory"])
def test_the_links_at_the_top_stand_and_point_inside(room: str) -> None:
    link = ROOT / room
    assert link.is_symlink()
    assert not link.readlink().is_absolute(), "a clone may lie anywhere"
    assert link.resolve() == ROOT / "src" / "autotelic" / room
    assert (link / "__init__.py").is_file()


def test_the_locked_versions_are_versions_that_are_asked_for() -> None:
    lines = (ROOT / "requirements" / "lock-cpu.txt").read_text().splitlines()
    locked = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(one for name, some in extras.items() if name != "serve" for one in some)]
    for one in map(Requirement, asked):
        assert one.specifier.contains(locked[one.name.lower().replace("_", "-")]), one


def test_import_is_light_and_silent(tmp_path: Path) -> None:
    code = "import autotelic; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = set(python(code, path=ROOT / "src", cwd=tmp_path).split())
    assert "autotelic" in loaded
    assert not loaded & HEAVY
    assert python("import autotelic", path=ROOT / "src", cwd=tmp_path) == ""


@pytest.mark.e2e
def test_public_names_come_on_first_use(tmp_path: Path) -> None:
    assert autotelic.register is register
    assert set(autotelic.__all__) >= {"Config", "SelfPlay", "register", "__version__"}
    with pytest.raises(AttributeError, match="module 'autotelic' has no attribute 'nothing'"):
        _ = autotelic.nothing
    code = "import autotelic\nfor name in autotelic.__all__: print(name, getattr(autotelic, name) is not None)"
    said = python(code, path=ROOT / "src", cwd=tmp_path).split()
    assert said == [word for name in autotelic.__all__ for word in (name, "True")]


@pytest.mark.e2e
def test_importing_the_graphs_does_not_load_what_trains_or_serves(tmp_path: Path) -> None:
    """Configs are checked and reports are made without torch, vLLM and Chroma."""
    code = "import autotelic.graphs, autotelic.cli; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    loaded = set(python(code, path=ROOT / "src", cwd=tmp_path).split())
    assert not loaded & (HEAVY - {"langgraph"})


# -- the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(WheelBuilder, ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    return site


def build(builder: type[WheelBuilder] | type[SdistBuilder], root: Path, into: Path) -> Path:
    [path] = builder(str(root)).build(directory=str(into), versions=["standard"])
    return Path(path)


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    source = ROOT / "src"
    kept = {
        str(p.relative_to(source))
        for p in (source / "autotelic").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    assert held == kept
    assert {
        "autotelic/py.typed",
        "autotelic/core/page.css",
        "autotelic/serving/_convert.py",
        "autotelic/serving/_supervisor.py",
        "autotelic/serving/_inside/autotelic_guard.py",
        "autotelic/serving/_inside/autotelic_vllm.py",
    } <= held
    assert {name.partition("/")[0] for name in held} == {"autotelic"}, "no second copy under a bare name"


@pytest.mark.e2e
def test_a_wheel_from_the_source_distribution_is_the_same(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(build(SdistBuilder, ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = [p for p in tmp_path.iterdir() if p.is_dir()]
    assert (source / "configs" / "quickstart.yaml").is_file()
    assert names(build(WheelBuilder, source, tmp_path)) == names(wheel)


@pytest.mark.e2e
def test_the_wheel_says_what_it_is(installed: Path) -> None:
    [info] = installed.glob("*.dist-info")
    metadata = Parser().parsestr((info / "METADATA").read_text())
    assert metadata["Name"] == "autotelic"
    assert metadata["Version"] == autotelic.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "                                 Apache License\n" in (info / "licenses" / "LICENSE").read_text()
    points = ConfigParser()
    points.read(info / "entry_points.txt")
    assert points["console_scripts"]["autotelic"] == "autotelic.cli:main"


@pytest.mark.e2e
def test_the_base_installation_asks_for_nothing_heavy(installed: Path) -> None:
    [info] = installed.glob("*.dist-info")
    required = Parser().parsestr((info / "METADATA").read_text()).get_all("Requires-Dist") or []
    base = {line.split(";")[0] for line in required if "extra ==" not in line}
    assert base
    assert not [line for line in base if line.startswith(("torch", "vllm", "chromadb", "transformers", "trl"))]


@pytest.mark.e2e
def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = """
import autotelic, autotelic.cli, autotelic.serving, autotelic.evaluation
from importlib.metadata import entry_points, version
from autotelic.core.registry import available, lookup
assert version("autotelic") == autotelic.__version__
[script] = entry_points(group="console_scripts", name="autotelic")
assert callable(script.load())
assert lookup("selector", "balanced") and "sft" in available("method")
print(autotelic.__file__)
"""
    assert python(code, path=installed, cwd=tmp_path).strip() == str(installed / "autotelic" / "__init__.py")
