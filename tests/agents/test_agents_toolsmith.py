"""The toolsmith on a scripted model and the real sandbox: what becomes a draft, what is rejected and why."""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from autotelic.agents import SkillDraft, Toolsmith, check_tests, skill_tool
from autotelic.agents.toolsmith import EXAMPLE
from autotelic.core.errors import UsageError
from autotelic.core.words import Completion, Message, Rejection
from autotelic.memory.items import Skill, read_item
from autotelic.sandbox import Limits, Sandbox
from autotelic.serving import Gateway, Sampling, ScriptedBackend
from autotelic.tools import fuzz

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = [("Reverse the word: abc", "cba"), ("Reverse the word: hello", "olleh")]
CODE = 'def backward(word):\n    """Spell a word backward."""\n    return word[::-1]'
TESTS = [(["abc"], "cba"), (["x"], "x"), (["no on"], "no on"), (["été"], "été"), (["12"], "21")]


def written(code: str = CODE, tests: Sequence[tuple[list[Any], Any]] = TESTS, **changes: Any) -> str:
    """What the model would write."""
    made: dict[str, Any] = {
        "name": "backward",
        "parameters": [{"name": "word", "type": "string"}],
        "code": code,
        "tests": [{"arguments": arguments, "result": result} for arguments, result in tests],
    }
    return json.dumps(made | changes)


def body(*lines: str) -> str:
    """The function with other lines in it."""
    return 'def backward(word):\n    """Spell a word backward."""\n' + "".join(f"    {line}\n" for line in lines)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def box() -> AsyncIterator[Sandbox]:
    async with await Sandbox.open(limits=Limits(seconds=1.0, output=20_000)) as sandbox:
        yield sandbox


class Scripted(ScriptedBackend):
    def __init__(self, *texts: str, finish: str = "stop") -> None:
        self.asked: list[tuple[list[Message], Sampling]] = []
        self._finish = finish
        super().__init__(lambda _, sampling: [texts[i % len(texts)] for i in range(sampling.n)])

    async def complete(self, messages: Sequence[Message], sampling: Sampling, policy: int | None) -> list[Completion]:
        self.asked.append((list(messages), sampling))
        found = await super().complete(messages, sampling, policy)
        return [one.model_copy(update={"finish_reason": self._finish}) for one in found]


async def drafts(box: Sandbox, *texts: str, finish: str = "stop", **given: Any) -> list[SkillDraft]:
    gateway = Gateway(Scripted(*texts, finish=finish))
    gateway.unblock(7)
    given = {"environment": "gym", "n": len(texts), "seed": 3, "round": 2, **given}
    return await Toolsmith(gateway, box).draft("spell_backward", EXAMPLES, **given)


async def rejected(box: Sandbox, text: str, **given: Any) -> Rejection:
    (draft,) = await drafts(box, text, **given)
    assert isinstance(draft.outcome, Rejection), draft.outcome
    assert draft.completion.text == text, "what was written is kept"
    return draft.outcome


async def made(box: Sandbox, text: str, **given: Any) -> Skill:
    (draft,) = await drafts(box, text, **given)
    assert isinstance(draft.outcome, Skill), draft.outcome
    return draft.outcome


# -- what becomes a draft


async def test_a_function_that_passes_its_tests_is_a_draft_with_its_origin(box: Sandbox) -> None:
    skill = await made(box, written())
    assert (skill.name, skill.description, skill.code) == ("backward", "Spell a word backward.", CODE)
    assert (skill.environment, skill.family, skill.round, skill.policy) == ("gym", "spell_backward", 2, 7)
    assert (skill.version, skill.parent, skill.gain, skill.pinned) == (1, "", None, False)
    assert skill.tests == tuple(({"word": arguments[0]}, result) for arguments, result in TESTS)
    fits = Draft202012Validator(skill.parameters).is_valid
    assert fits({"word": "a"}) and not any(map(fits, ({}, {"word": 1}, {"word": "a", "other": 1})))
    assert skill.id.startswith("backward-") and skill.id == (await made(box, written())).id
    assert read_item(skill.model_dump_json()) == skill
    assert "no gain" in skill.fault, "passing its own tests is not enough to be remembered"


async def test_the_model_is_shown_solved_examples_and_what_is_there_and_is_held_to_a_schema(box: Sandbox) -> None:
    backend = Scripted(written())
    known = Skill(id="k", name="count", description="Count.\nMore.", code="", parameters={}, family="f")
    far = known.model_copy(update={"name": "far", "family": "other"})
    smith = Toolsmith(Gateway(backend), box, max_tokens=99, temperature=0.5)
    await smith.draft("f", EXAMPLES, seed=8, known=[known, far])
    [(messages, sampling)] = backend.asked
    assert [m.role for m in messages] == ["system", "user", "assistant", "user"]
    assert all(part in messages[-1].content for pair in EXAMPLES for part in pair)
    assert "- count: Count." in messages[-1].content and "More." not in messages[-1].content
    assert "far" not in messages[-1].content
    assert (sampling.n, sampling.seed, sampling.max_tokens, sampling.temperature) == (1, 8, 99, 0.5)
    assert sampling.schema is not None
    fits = Draft202012Validator(sampling.schema).is_valid
    assert fits(json.loads(written())) and fits(json.loads(EXAMPLE[1]))
    odd = [written(parameters=[]), written(parameters=[{"name": "a", "type": "file"}]), written(tests=TESTS[:1])]
    assert not any(fits(json.loads(text)) for text in odd)


async def test_the_example_in_the_prompt_is_itself_fit(box: Sandbox) -> None:
    skill = await made(box, EXAMPLE[1])
    assert (skill.name, len(skill.tests)) == ("count_vowels", 3)
    shown = {answer for _, answer in EXAMPLE[0]}
    assert {str(result) for _, result in skill.tests[:2]} == shown


async def test_all_kinds_of_arguments_reach_the_function_as_they_were_given(box: Sandbox) -> None:
    kinds = ["string", "integer", "number", "boolean", "strings", "integers", "numbers"]
    names = [f"a{index}" for index in range(len(kinds))]
    code = f'def same({", ".join(reversed(names))}):\n    """Give back."""\n    return [{", ".join(names)}]'
    values: list[list[Any]] = [
        ["'); import os; ('", 3, 0.5, True, ["a", '"'], [1, -2], [0.25]],
        ["\n\\", -(10**20), 1e300, False, [], [], [2.0]],
        ["", 0, -0.5, True, ["é"], [7], []],
    ]
    text = written(
        code,
        [(one, one) for one in values],
        name="same",
        parameters=[{"name": n, "type": k} for n, k in zip(names, kinds, strict=True)],
    )
    skill = await made(box, text)
    result = await skill_tool(skill, box)(skill.tests[0][0])
    assert json.loads(result.content) == values[0]


async def test_a_new_function_under_an_old_name_is_its_next_version(box: Sandbox) -> None:
    first = await made(box, written())
    other = body("return ''.join(reversed(word))")
    second = await made(box, written(other), known=[first])
    assert (second.version, second.parent) == (2, first.id) and second.id != first.id
    assert (await rejected(box, written(), known=[first])).reason == "duplicate"
    renamed = written(CODE.replace("backward(", "turned("), name="turned")
    assert (await made(box, renamed, known=[first])).parent == ""
    pinned = first.model_copy(update={"pinned": True})
    assert "pinned by a person" in (await rejected(box, written(other), known=[pinned])).detail
    assert (await rejected(box, written(), taken=["backward"])).reason == "bad_name"


async def test_of_equal_functions_in_one_batch_the_first_counts(box: Sandbox) -> None:
    outcomes = [d.outcome for d in await drafts(box, "x", written(), written(tests=TESTS[:3]), written())]
    assert [one.reason if isinstance(one, Rejection) else "ok" for one in outcomes] == [
        "not_json", "ok", "duplicate", "duplicate",
    ]  # fmt: skip


# -- what is rejected

ONE = [{"name": "word", "type": "string"}]
REJECTED = {
    "prose": ("I would write a function", "not_json"),
    "a list": ("[]", "not_json"),
    "deep": ("[" * 100_000, "not_json"),
    "key missing": (json.dumps({"name": "backward"}), "not_json"),
    "key too many": (written(gain=1), "not_json"),
    "name twice": (written()[:-1] + ', "name": "backward"}', "not_json"),
    "not a number": (written().replace('"21"', "NaN"), "not_json"),
    "half a character": (written().replace('"21"', '"\\ud800"'), "not_json"),
    "unknown type": (written(parameters=[{"name": "word", "type": "file"}]), "not_json"),
    "dunder": (written(CODE.replace("backward", "__init__"), name="__init__"), "bad_name"),
    "two words": (written(name="spell backward"), "bad_name"),
    "keyword": (written(name="return"), "bad_name"),
    "code as a name": (written(name="x(); import os #"), "bad_name"),
    "no Python": (written("def backward(word) return word"), "syntax_error"),
    "null byte": (written(CODE + "\0"), "syntax_error"),
    "nested": (written(f"x = {'(' * 1500}{')' * 1500}"), "syntax_error or no_function"),
    "minus signs": (written(f"x = {'-' * 3900}1"), "syntax_error or no_function"),
    "empty": (written(""), "no_function"),
    "other name": (written(CODE.replace("backward", "forward")), "no_function"),
    "async": (written("async " + CODE), "no_function"),
    "inside": (written(f"if True:\n    {CODE.replace(chr(10), chr(10) + '    ')}"), "no_function"),
    "lambda": (written("backward = lambda word: word[::-1]"), "no_function"),
    "long": (written(CODE + "\n#" + "x" * 4000), "too_long"),
    "other argument": (written(CODE.replace("word", "text")), "schema_mismatch"),
    "argument too many": (written(CODE.replace("(word)", "(word, n)")), "schema_mismatch"),
    "any arguments": (written(CODE.replace("(word)", "(*word)")), "schema_mismatch"),
    "named arguments": (written(CODE.replace("(word)", "(**word)")), "schema_mismatch"),
    "by name only": (written(CODE.replace("(word)", "(*, word)")), "schema_mismatch"),
    "parameter twice": (written(parameters=ONE * 2), "schema_mismatch"),
    "test of another type": (written(tests=[*TESTS, ([5], "5")]), "schema_mismatch"),
    "test with more": (written(tests=[*TESTS, (["a", "b"], "a")]), "schema_mismatch"),
    "test with nothing": (written(tests=[*TESTS, ([], "")]), "schema_mismatch"),
    "no docstring": (written("def backward(word):\n    return word[::-1]"), "no_docstring"),
    "two tests": (written(tests=TESTS[:2]), "too_few_tests"),
    "the same test": (written(tests=TESTS[:1] * 5), "too_few_tests"),
    "always the same result": (written(body("return 1"), [([c], 1) for c in "abcd"]), "too_few_tests"),
    "infinite result": (written().replace('"21"', "1e999"), "not_json"),
    "infinite argument": (written(
        body("return word"), [([c], c) for c in (1.0, 2.0, 3.0)], parameters=[{"name": "word", "type": "number"}]
    ).replace('"arguments": [1.0]', '"arguments": [1e999]'), "not_json"),
    "wrong": (written(body("return word")), "tests_failed"),
    "raises": (written(body("return word.backward()")), "tests_failed"),
    "returns nothing": (written(body("print(word[::-1])")), "tests_failed"),
    "a set": (written(body("return set(word)")), "tests_failed"),
    "1 is not 1.0": (written(body("return 1.0 * len(word)"), [(["a"], 1), (["bb"], 2), ([""], 0)]), "tests_failed"),
    "1 is not true": (written(body("return len(word)"), [(["a"], True), (["bb"], 2), ([""], 0)]), "tests_failed"),
    "compiles not": (written(CODE + "\nreturn 5"), "tests_failed"),
    "renamed later": (written(CODE + "\ndel backward"), "tests_failed"),
    "random": (written(f"import random\n{body('return word[::-1] + str(random.random())')}"), "not_deterministic"),
    "hash": (written(body("return str(hash(word))")), "not_deterministic"),
}  # fmt: skip


@pytest.mark.parametrize("name", REJECTED)
async def test_what_cannot_be_a_skill_is_rejected_with_its_reason(box: Sandbox, name: str) -> None:
    text, reason = REJECTED[name]
    found = await rejected(box, text)
    assert found.reason in reason.split(" or "), found
    assert found.detail and len(found.detail) <= 300


async def test_a_function_that_was_cut_off_is_not_read(box: Sandbox) -> None:
    assert (await rejected(box, written(), finish="length")).reason == "truncated"


# -- hostile code


class Canaries:
    """What any process of this machine could reach: a readable file, a writable folder, a listening socket."""

    def __init__(self, folder: Path) -> None:
        for parent in (folder, folder.parent, folder.parent.parent):
            parent.chmod(0o755)  # what stops the program must be the walls, not the permissions
        folder.chmod(0o777)
        self.mark = secrets.token_hex(8)
        self.secret, self.outside = folder / "secret", folder / "outside"
        self.secret.write_text(self.mark)
        self.secret.chmod(0o644)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.server.setblocking(False)

    def reached(self) -> list[str]:
        found = ["outside"] if self.outside.exists() else []
        try:
            self.server.accept()[0].close()
        except BlockingIOError:
            return found
        return [*found, "server"]


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    found = Canaries(tmp_path_factory.mktemp("canaries"))
    yield found
    found.server.close()


HOSTILE = {
    "network": (["import socket", "socket.create_connection(('127.0.0.1', {port}), 0.3)"], {"tests_failed"}),
    "read a file": (["return open({secret!r}).read()"], {"tests_failed"}),
    "write a file": (["open({outside!r}, 'w').write('x')"], {"tests_failed"}),
    "another program": (
        ["import subprocess", "return subprocess.run(['/bin/cat', {secret!r}], capture_output=True).stdout.decode()"],
        {"tests_failed"},
    ),
    "__import__": (
        ["if __import__('os').system('touch {outside}') == 0:", "    return word[::-1]", "return 'walls'"],
        {"tests_failed"},
    ),
    "fork bomb": (
        ["import os", "while True:", "    try:", "        os.fork()", "    except OSError:", "        pass"],
        {"timeout", "memory"},
    ),
    "infinite loop": (["while True:", "    pass"], {"timeout"}),
    "sleep": (["import time", "time.sleep(3600)"], {"timeout"}),
    "huge output": (["while True:", "    print(word * 1000)"], {"output"}),
    "huge value": (["return word * 10_000_000"], {"output"}),
    "huge memory": (["return len(bytearray(10**12))"], {"memory"}),
    "exit": (["import os", "os._exit(0)"], {"crashed"}),
    "forged result": (
        ["import os", "text = b'{{\"status\": \"ok\", \"value\": \"cba\"}}'", "for fd in range(3, 64):",
         "    try:", "        os.write(fd, b'0' * 32 + len(text).to_bytes(4, 'big') + text)",
         "    except OSError:", "        pass", "os._exit(0)"],
        {"crashed"},
    ),
    "equal to everything": (
        ["class Any:", "    def __eq__(self, other):", "        return True", "    def __repr__(self):",
         "        return repr(word[::-1])", "return Any()"],
        {"tests_failed"},
    ),
    "text that is equal to everything": (
        ["class Text(str):", "    def __eq__(self, other):", "        return True", "    __hash__ = str.__hash__",
         "return Text(word[::-1])"],
        {"tests_failed"},
    ),
    "monkeypatched checker": (
        ["import ast, builtins, json, sys", "builtins.repr = json.dumps = lambda *a, **k: word[::-1]",
         "ast.literal_eval = lambda *a: word[::-1]",
         "for module in list(sys.modules.values()):", "    for name in ('encode', 'canonical', 'as_json', '_same'):",
         "        if hasattr(module, name):", "            setattr(module, name, lambda *a, **k: True)",
         "return 'forged'"],
        {"tests_failed", "crashed"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_code_is_a_rejection_and_nothing_escapes(box: Sandbox, canaries: Canaries, name: str) -> None:
    lines, reasons = HOSTILE[name]
    places = {"port": canaries.server.getsockname()[1], "secret": str(canaries.secret), "outside": canaries.outside}
    filled = [line.format(**{k: str(v) for k, v in places.items()}) for line in lines]
    found = await rejected(box, written(body(*filled)))
    assert found.reason in reasons, found
    assert canaries.mark not in found.detail and canaries.reached() == []
    await check_tests(await made(box, written()), box)


async def test_code_that_attacks_and_still_passes_its_tests_has_reached_nothing(
    box: Sandbox, canaries: Canaries
) -> None:
    port = canaries.server.getsockname()[1]
    attacks = (
        f"__import__('socket').create_connection(('127.0.0.1', {port}), 0.3)",
        f"open({str(canaries.outside)!r}, 'w').write('x')",
        "setattr(__import__('builtins'), 'print', None)",
    )
    tried = [line for attack in attacks for line in ("try:", f"    {attack}", "except Exception:", "    pass")]
    skill = await made(box, written(body(*tried, "return word[::-1]")))
    assert (await skill_tool(skill, box)({"word": "abc"})).content == "cba"
    assert canaries.reached() == []
    print("the checker's own print still works")


async def test_the_code_never_runs_in_this_process(box: Sandbox) -> None:
    marks = f"import os\nos.environ['{__name__}'] = str(os.getpid())\n"
    skill = await made(box, written(marks + body("import os", "return word[::-1]")))
    await skill_tool(skill, box)({"word": "abc"})
    assert __name__ not in os.environ


async def test_the_canaries_are_alive(canaries: Canaries) -> None:
    canaries.outside.touch()
    with socket.create_connection(canaries.server.getsockname()):
        assert canaries.reached() == ["outside", "server"]
    canaries.outside.unlink()


# -- a skill as a tool


def skill(code: str, **changes: Any) -> Skill:
    schema = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
    given = {"id": "s", "name": "backward", "description": "d", "code": code, "parameters": schema}
    return Skill.model_validate(given | changes)


async def test_a_tool_of_a_skill_computes_and_says_what_came_of_it(box: Sandbox) -> None:
    tool = skill_tool(await made(box, written()), box)
    assert (tool.name, tool.permission, tool.description) == ("backward", "pure", "Spell a word backward.")
    hostile = "'); raise SystemExit ('"
    assert (await tool({"word": hostile})).content == hostile[::-1]
    assert (await tool({"word": 5})).reason == "bad_arguments"
    assert (await tool({"word": "a", "more": 1})).reason == "bad_arguments"
    for code, content in (
        (body("return len(word)"), "3"),
        (body("return (word, 1.5, None)"), '["abc", 1.5, null]'),
        (body("return {'é': [word]}"), '{"é": ["abc"]}'),
        (body("return {1: 2}"), "{1: 2}"),
        (body("return set(word[:1])"), "{'a'}"),
        (body("return None"), "null"),
    ):
        result = await skill_tool(skill(code), box)({"word": "abc"})
        assert (result.ok, result.content) == (True, content)


async def test_a_call_that_fails_is_a_result_with_its_reason(box: Sandbox) -> None:
    for line, reason, says in (
        ("return word.nothing", "failed", "AttributeError"),
        ("while True: pass", "timeout", ""),
        ("return open", "failed", "not plain data"),
        ("import os; os._exit(3)", "failed", ""),
    ):
        result = await skill_tool(skill(body(line)), box)({"word": "abc"})
        assert (result.ok, result.reason) == (False, reason) and says in result.content and result.content


async def test_whatever_a_skill_is_called_with_ends_as_it_must(box: Sandbox) -> None:
    kinds = [{"name": name, "type": kind} for name, kind in (("a", "string"), ("b", "integers"), ("c", "number"))]
    code = 'def join(c, a, b):\n    """Join."""\n    return [a, b, c]'
    tests = [(["x", [index], 0.5], ["x", index, 0.5]) for index in range(3)]
    text = written(code.replace("[a, b, c]", "[a, *b, c]"), tests, name="join", parameters=kinds)
    assert await fuzz(skill_tool(await made(box, text), box), 150, seed=4) == []


async def test_a_skill_that_cannot_be_called_is_refused_when_its_tool_is_made(box: Sandbox) -> None:
    optional = {"type": "object", "properties": {"word": {"type": "string"}}}
    for broken in (
        skill("def f("),
        skill("x = 1"),
        skill(CODE.replace("word", "text")),
        skill(CODE, parameters=optional),
    ):
        with pytest.raises(UsageError, match="cannot be called"):
            skill_tool(broken, box)
