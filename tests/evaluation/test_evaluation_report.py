from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autotelic.core.errors import UsageError
from autotelic.evaluation import (
    build_progress,
    build_report,
    compare_policies,
    critic_gap,
    figures,
    render_progress,
    two_by_two,
    write_report,
)
from autotelic.store import EpisodeRow, EvaluationRow, GateRow, Ledger, TaskRow

SIX = {"n", "before", "after", "gain", "low", "high"}
VOID = {"meta", "br", "img", "input", "hr", "link"}


class Page(HTMLParser):
    """Reads a page strictly: every tag closed, and what there is of what matters."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def sql(root: Path, query: str, *values: Any) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(root / "ledger.sqlite")
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def test_report_json_has_what_programs_rely_on(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=2)
    returned = write_report(run.root)
    report = json.loads((run.root / "report.json").read_text())
    assert report == json.loads(json.dumps(returned))
    assert set(report["total"]) == SIX
    assert (report["base"], report["champion"], report["seconds"]) == (0, run.champion, 1104.0)
    assert [r["round"] for r in report["rounds"]] == [1, 2]
    first = report["rounds"][0]
    assert first["promoted"] is True
    assert set(first["fresh"]) == SIX
    assert first["delivery_seconds"] > 0
    assert {"to_trainer", "to_previous"} <= set(first["proof"])
    assert "kept" in first["funnel"]
    assert {"propose", "solve", "train", "gate"} <= set(first["seconds"])


def test_progress_is_the_part_of_the_report_that_a_session_shows(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=2)
    progress, report = build_progress(run.ledger), build_report(run.ledger)
    assert progress["rounds"] and all(r["suites"] and r["two_by_two"] for r in progress["rounds"])
    for ours, whole in zip(progress["rounds"], report["rounds"], strict=True):
        assert ours == {key: whole[key] for key in ours}, "the same figures, with the same intervals"
    assert (progress["alarms"], progress["confidence"]) == (report["alarms"], report["confidence"])
    page = Page(render_progress(progress))
    assert not page.open and {"svg", "table"} <= {tag for tag, _ in page.tags}


def test_every_figure_can_be_computed_again_from_rows(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=2)
    report = build_report(run.ledger)
    champion = report["champion"]
    ((n, before, after),) = sql(
        run.root,
        "select count(*), avg(a.score), avg(b.score) from evaluation a join evaluation b using (suite, round, task_id, "
        "memory) where a.suite = 'sealed' and a.memory = 0 and a.policy = 0 and b.policy = ?",
        champion,
    )
    total = report["total"]
    assert (total["n"], total["before"], total["after"]) == (n, pytest.approx(before), pytest.approx(after))
    assert total["gain"] == pytest.approx(after - before)
    for entry in report["rounds"]:
        number = entry["round"]
        gate = run.ledger.get(GateRow, number)
        assert entry["fresh"] == {k: gate.evidence["fresh"][k] for k in SIX}
        dropped = sql(run.root, "select reason, count(*) from curation where round = ? and not kept group by 1", number)
        kept = sql(run.root, "select count(*) from curation where round = ? and kept", number)[0][0]
        assert entry["funnel"] == {**dict(dropped), "kept": kept}
        assert entry["seconds"] == dict(
            sql(run.root, "select node, seconds from node where round = ? and node not in ('finish')", number)
        )
        ((seconds, near, far),) = sql(
            run.root,
            "select seconds, to_trainer, to_previous from delivery where round = ? and kind = 'train'",
            number,
        )
        assert entry["delivery_seconds"] == seconds
        assert (entry["proof"]["to_trainer"], entry["proof"]["to_previous"]) == (near, far)
        ((written, new),) = sql(
            run.root,
            "select count(*), count(task_id) from proposal where round = ? and origin = 'proposer'",
            number,
        )
        assert (entry["proposer"]["written"], entry["proposer"]["novel"]) == (written, new)
        rates = sql(run.root, "select family, avg(score) from episode where round = ? group by 1 order by 1", number)
        assert {k: v["mean"] for k, v in entry["solver"]["families"].items()} == pytest.approx(dict(rates))
    rows = sql(run.root, "select family, avg(score) from evaluation where suite = 'sealed' and policy = 0 group by 1")
    assert {r["family"]: r["before"]["mean"] for r in report["families"]["rows"]} == pytest.approx(dict(rows))


def test_the_report_names_ledger_tables_that_exist(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=1)
    tables = {name for (name,) in sql(run.root, "select name from sqlite_master where type = 'table'")}
    for source in build_report(run.ledger)["sources"].values():
        assert tables & set(re.findall(r"\w+", source)), source


def test_the_2x2_uses_only_tasks_that_all_four_answered(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=1)
    cells = two_by_two(run.ledger, 1, 0, 1)
    assert cells is not None
    assert {name: cell.n if cell else None for name, cell in cells.items()} == dict.fromkeys(cells, 60)
    assert cells["old_memory"].mean > cells["old"].mean  # type: ignore[union-attr]
    assert two_by_two(run.ledger, 9, 0, 1) is None
    assert compare_policies(run.ledger, "fresh", 9, 0, 1) is None
    gap = critic_gap(run.ledger, 1)
    assert gap is not None
    assert gap.solver.n == len(sql(run.root, "select 1 from episode where round = 1"))


def test_the_page_is_one_well_formed_accessible_file_without_network_or_script(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=2)
    run.alarm(2)
    write_report(run.root)
    text = (run.root / "report.html").read_text()
    page = Page(text)
    assert page.open == []
    tags = [tag for tag, _ in page.tags]
    assert not {"script", "link", "img", "iframe", "object"} & set(tags)
    assert not re.search(r"https?://|url\(|@import|\bon\w+=\"", text)
    assert "Content-Security-Policy" in text
    charts = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(charts) >= 10
    assert all(a.get("role") == "img" and a.get("aria-label") for a in charts)
    anchors = [str(a["href"])[1:] for tag, a in page.tags if tag == "a"]
    assert set(anchors) <= {a.get("id") for _, a in page.tags}
    assert "prefers-color-scheme: dark" in text
    words = "".join(page.text)
    for part in (
        "points",
        "promoted",
        "best constant",
        "near duplicate",
        "Memory: 3 demonstrations",
        "Alarm in round 2",
    ):
        assert part in words


@pytest.mark.parametrize(("wins", "shown"), [(4, False), (8, True)])
def test_the_headline_claims_only_what_interval_and_sign_test_show(
    make_run: Callable[..., Any], wins: int, shown: bool
) -> None:
    run = make_run(rounds=1)
    for row in run.ledger.rows(EvaluationRow, suite="sealed", order="task_id"):
        row.score = 0.0
        run.ledger.put(row)
    for row in run.ledger.rows(EvaluationRow, suite="sealed", policy=run.champion, order="task_id")[:wins]:
        row.score = 1.0
        run.ledger.put(row)
    report = write_report(run.root)
    assert report["champion"] == run.champion > 0 and report["total"]["low"] > 0
    text = (run.root / "report.html").read_text()
    assert ("of unseen tasks, the base" in text) == shown
    assert ("its gain on unseen tasks is not shown" in text) != shown
    assert f"{wins} wins to 0 losses, sign test p = {0.5**wins:.2g}" in text


def test_what_a_model_wrote_is_text_and_never_markup(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=1)
    hostile = "</pre><script>alert(1)</script>\"'><svg onload=alert(2)>"
    for row in run.ledger.rows(EpisodeRow):
        row.text = row.answer = hostile
        row.family = row.reason = hostile
        run.ledger.put(row)
    for task in run.ledger.rows(TaskRow):
        task.answer = task.family = hostile
        run.ledger.put(task)
    for answer in run.ledger.rows(EvaluationRow):
        answer.family = hostile
        run.ledger.put(answer)
    write_report(run.root)
    page = Page((run.root / "report.html").read_text())
    assert page.open == []
    assert "script" not in [tag for tag, _ in page.tags]
    assert not any("onload" in attrs for _, attrs in page.tags)
    assert hostile in "".join(page.text)


def test_memory_is_told_from_the_bare_prompt(make_run: Callable[..., Any]) -> None:
    report = build_report(make_run(rounds=1).ledger)
    samples = report["rounds"][0]["samples"]
    assert {s["right"] for s in samples} == {True, False}
    assert len({s["family"] for s in samples}) > 1
    for sample in samples:
        assert [m["role"] for m in sample["messages"]] == ["system", "user"]
        assert [m["role"] for m in sample["memory"]] == ["user", "assistant"] * 3


def test_runs_that_have_hardly_begun_or_trained_nothing_have_a_report(
    tmp_path: Path, make_run: Callable[..., Any]
) -> None:
    Ledger(tmp_path / "ledger.sqlite").close()
    empty = write_report(tmp_path)
    assert (empty["total"], empty["rounds"], empty["champion"], empty["base"]) == (None, [], 0, 0)
    assert Page((tmp_path / "report.html").read_text()).open == []
    run = make_run(rounds=1, finish=False)
    run.play(2, train=False)
    report = write_report(run.root)
    assert (report["total"], report["families"]["suite"]) == (None, "fresh")
    last = report["rounds"][1]
    assert (last["promoted"], last["fresh"], last["proof"], last["delivery_seconds"]) == (False, None, None, None)
    assert "nothing trained" in (run.root / "report.html").read_text()


def test_a_directory_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no run"):
        write_report(tmp_path)


@pytest.mark.e2e
def test_a_long_run_stays_small_and_is_the_same_twice(make_run: Callable[..., Any]) -> None:
    run = make_run(rounds=14, fresh=40)
    write_report(run.root)
    first = (run.root / "report.html").read_bytes()
    assert len(first) < 14 * 20_000
    write_report(run.root)
    assert (run.root / "report.html").read_bytes() == first
    assert "2 earlier rounds" in first.decode()


def test_numbers_of_a_scatter_do_not_lie_on_one_another() -> None:
    places = [(90.0, 0.3), (90.0, 0.3), (91.0, 0.31), (95.0, 0.29), (96.0, 0.31), (97.0, 0.3), (2000.0, 0.3)]
    spots = [figures.Spot(f"s{i}", x, y, y - 0.1, y + 0.1) for i, (x, y) in enumerate(places)]

    drawn = figures.scatter("Accuracy", spots, x_name="tokens")

    found = re.findall(r'<text class="tick" x="([\d.]+)" y="([\d.]+)">([\d, ]+)</text>', drawn)
    assert sorted(int(n) for _, _, said in found for n in said.split(", ")) == [1, 2, 3, 4, 5, 6, 7]
    boxes = [(float(x), float(y), float(x) + 6 * len(said)) for x, y, said in found]
    for i, (left, level, right) in enumerate(boxes):
        assert not any(left < r and x < right and abs(level - y) < 9 for x, y, r in boxes[i + 1 :])
