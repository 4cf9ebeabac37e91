from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autotelic.core import registry
from autotelic.core.errors import MissingPackage, UsageError
from autotelic.core.registry import available, lookup, register

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers ends with it."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a package with entry points where an installer would: modules and a dist-info on `sys.path`."""
    before = set(sys.modules)

    def put(package: str, code: str, **points: str) -> Path:
        site = tmp_path / package
        info = site / f"{package}-1.0.dist-info"
        info.mkdir(parents=True)
        (site / f"{package}.py").write_text(code)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        groups = [f"[autotelic.{kind}]\n{point}\n" for kind, point in points.items()]
        (info / "entry_points.txt").write_text("\n".join(groups))
        monkeypatch.syspath_prepend(str(site))
        return site

    yield put
    for name in set(sys.modules) - before:
        del sys.modules[name]


# -- in the program


def test_a_decorated_object_is_found_as_it_is() -> None:
    @register("tool", "adder")
    def adder(a: int, b: int) -> int:
        return a + b

    assert lookup("tool", "adder") is adder
    assert adder(1, 2) == 3, "the decorator only marks"
    assert "adder" in available("tool")


def test_a_name_belongs_to_one_kind() -> None:
    register("tool", "both")(int)
    register("metric", "both")(str)
    assert (lookup("tool", "both"), lookup("metric", "both")) == (int, str)
    assert "both" not in available("graph")


def test_two_objects_cannot_share_a_name() -> None:
    register("metric", "twice")(int)
    with pytest.raises(
        UsageError, match=r"two metric plug-ins are called 'twice': builtins.int and builtins.str. Rename"
    ):
        register("metric", "twice")(str)
    assert lookup("metric", "twice") is int


def test_the_same_object_may_come_twice() -> None:
    def make() -> type:
        class Again:
            pass

        return register("method", "again")(Again)

    make()
    second = make()  # as a module that is loaded a second time does
    assert lookup("method", "again") is second


# -- installed packages


def test_an_installed_plug_in_is_found_and_imported_only_when_asked_for(install: Install) -> None:
    install("oak_plugin", "class Oak:\n    rings = 7\n", environment="oak = oak_plugin:Oak")
    assert "oak" in available("environment")
    assert "oak_plugin" not in sys.modules, "nothing is imported to list names"
    assert lookup("environment", "oak").rings == 7


def test_a_plug_in_may_be_an_attribute_of_a_class(install: Install) -> None:
    install("deep_plugin", "class A:\n    class B:\n        pass\n", method="deep = deep_plugin:A.B")
    assert lookup("method", "deep").__qualname__ == "A.B"


def test_the_program_comes_before_the_package_and_the_package_before_what_is_built_in(install: Install) -> None:
    install("sft_plugin", "def sft(): ...\n", method="sft = sft_plugin:sft")
    assert lookup("method", "sft").__module__ == "sft_plugin"
    register("method", "sft")(int)
    assert lookup("method", "sft") is int
    assert available("method").count("sft") == 1


def test_two_packages_with_one_name_are_both_named(install: Install) -> None:
    install("elm_one", "x = 1\n", tool="elm = elm_one:x")
    install("elm_two", "x = 2\n", tool="elm = elm_two:x")
    with pytest.raises(UsageError, match=r"two tool plug-ins are called 'elm': .*Uninstall one") as caught:
        lookup("tool", "elm")
    assert "elm_one:x (package elm_one)" in str(caught.value)
    assert "elm_two:x (package elm_two)" in str(caught.value)


@pytest.mark.parametrize(
    ("code", "point", "why"),
    [
        ("import no_such_module_anywhere\n", "bad_plugin:Oak", "ModuleNotFoundError: No module named 'no_such_module"),
        ("raise RuntimeError('no licence')\n", "bad_plugin:Oak", "RuntimeError: no licence"),
        ("def broken(:\n", "bad_plugin:Oak", "SyntaxError"),
        ("x = 1\n", "bad_plugin:Oak", "AttributeError: module 'bad_plugin' has no attribute 'Oak'"),
        ("x = 1\n", "other_plugin:Oak", "ModuleNotFoundError: No module named 'other_plugin'"),
    ],
)
def test_a_plug_in_that_cannot_be_imported_is_named_with_what_was_tried(
    install: Install, code: str, point: str, why: str
) -> None:
    install("bad_plugin", code, strategy=f"oak = {point}")
    assert "oak" in available("strategy"), "listing does not import"
    with pytest.raises(UsageError) as caught:
        lookup("strategy", "oak")
    message = str(caught.value)
    assert message.startswith(f"the strategy 'oak' cannot be loaded from {point} (package bad_plugin): {why}")
    assert message.endswith("Mend or uninstall the package that offers it.")


def test_what_a_plug_in_says_to_the_user_is_passed_on(install: Install) -> None:
    code = "from autotelic.core.errors import MissingPackage\nraise MissingPackage('oakum', 'oak')\n"
    install("asks_plugin", code, tool="asks = asks_plugin:x")
    with pytest.raises(MissingPackage, match=r"^oakum is not installed.*pip install 'autotelic\[oak\]'$"):
        lookup("tool", "asks")


def test_what_is_built_in_names_the_extra_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "autotelic.training.sft", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingPackage, match=r"^torch is not installed.*pip install 'autotelic\[train\]'$"):
        lookup("method", "sft")


# -- mistakes


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(UsageError) as caught:
        lookup("environment", "reasoning_jim")
    assert "no environment is called 'reasoning_jim'. There are: code" in str(caught.value)
    assert "reasoning_gym" in str(caught.value)
    assert "@autotelic.register('environment', 'reasoning_jim')" in str(caught.value)
    assert "entry point group autotelic.environment" in str(caught.value)


def test_an_unknown_name_of_an_empty_kind_says_none() -> None:
    with pytest.raises(UsageError, match=r"no metric is called 'x'\. There are: none"):
        lookup("metric", "x")


@pytest.mark.parametrize("call", [available, lambda k: lookup(k, "x"), lambda k: register(k, "x")])
def test_an_unknown_kind_is_refused(call: Callable[[str], object]) -> None:
    with pytest.raises(UsageError, match=r"'gadget' is not a kind of plug-in. Kinds: environment, tool, strategy"):
        call("gadget")


# -- what is built in


def built_in() -> Iterator[Any]:
    """All of it; methods bring TRL with them, which takes its time."""
    for one in sorted(registry._builtin):
        yield pytest.param(*one, marks=[pytest.mark.e2e] if one[0] == "method" else [])


@pytest.mark.parametrize(("kind", "name"), list(built_in()))
def test_what_is_built_in_can_be_imported(kind: registry.Kind, name: str) -> None:
    target = registry._builtin[(kind, name)]
    thing = lookup(kind, name)
    module, _, attribute = target.partition(" ")[0].partition(":")
    assert thing is getattr(importlib.import_module(module), attribute)
    assert name in available(kind)
