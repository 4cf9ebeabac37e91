"""The page of a run: one self-contained HTML file, laid out from the report's data alone.

No script, no font, no address: the content security policy forbids the browser to fetch or run anything. Whatever came
out of a model is escaped text. Every chart has its table folded under it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from statistics import median

from autotelic.core.html import (
    Json,
    card,
    document,
    duration,
    folded,
    legend,
    num,
    pct,
    pill,
    points,
    section,
    span,
    table,
)
from autotelic.evaluation import figures
from autotelic.evaluation._page_loop import critic, curation, proposals, times, trajectories

__all__ = ["render", "render_progress"]

_SUITES = {
    "fresh": "New tasks every round, never trained on: what the gate decides by.",
    "frozen": "The same tasks in every round.",
    "regression": "Tasks of earlier rounds that a policy other than the champion failed.",
}
_SHOWN_GATES = 12  # older decisions are folded
_CONSTANT_NOTE = (
    '<p class="note">Best constant: what always giving the family\'s most frequent answer scores, chosen on other '
    "tasks; with a star, chosen on these very tasks, so an upper bound.</p>"
)
_NAV = (
    ("accuracy", "Accuracy"),
    ("families", "Families"),
    ("gate", "Gate"),
    ("memory", "Weights and memory"),
    ("curation", "Curation"),
    ("proposer", "Proposer"),
    ("critic", "Critic"),
    ("time", "Time"),
    ("trajectories", "Trajectories"),
    ("sources", "Sources"),
)


def render(report: Json) -> str:
    """Return the page for what `build_report` returned."""
    body = "".join(
        part(report)
        for part in (
            _accuracy,
            _families,
            _gate,
            _memory,
            curation,
            proposals,
            critic,
            times,
            trajectories,
            _sources,
        )
    )
    main = f"<main>{_hero(report)}{_tiles(report)}{_alarms(report)}{body}</main>"
    return document(_headline(report), f"{_header(report)}{main}{_footer(report)}")


def render_progress(progress: Json) -> str:
    """Return the sections of what `build_progress` returned: alarms, accuracy by round, weights and memory."""
    return "".join(part(progress) for part in (_alarms, _accuracy, _memory))


def _headline(report: Json) -> str:
    total, champion = report["total"], report["champion"]
    if champion == report["base"]:
        return "No policy has been promoted: the base is the champion"
    if total is None:
        return f"Policy {champion} is the champion; the sealed suite has not been opened"
    if _is_shown(report):
        return f"Policy {champion} answers {pct(total['after'])} of unseen tasks, the base {pct(total['before'])}"
    return f"Policy {champion} is the champion, but its gain on unseen tasks is not shown"


def _is_shown(report: Json) -> bool:
    """Whether the gain on unseen tasks is shown as the gate asks for it: by the interval and by the sign test."""
    found = report["total_detail"]
    return bool(found["low"] > 0 and found["sign_p"] <= (1 - report["confidence"]) / 2)


def _header(report: Json) -> str:
    run = report["run"]
    started = datetime.fromtimestamp(run["started_at"], UTC).strftime("%Y-%m-%d %H:%M UTC") if run else ""
    environment = (run.get("config") or {}).get("environment") or {} if run else {}
    facts = [
        str(environment.get("name", "")),
        str(run.get("model_source", "")),
        f"seed {run['seed']}" if run else "",
        started,
    ]
    links = "".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in _NAV)
    return (
        '<header class="top"><p class="word">autotelic <span>self-play report</span></p>'
        f"<h1>{escape(_headline(report))}</h1>"
        f'<p class="lead">{escape(" · ".join(f for f in facts if f))}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>'
    )


def _hero(report: Json) -> str:
    total = report["total"]
    if total is None:
        return '<p class="empty">The sealed suite has not been opened: it is, once, at the end of a run.</p>'
    percent = f"{report['confidence']:.0%}"
    constant, detail = report["total_constant"], report["total_detail"]
    rows = [
        figures.Dumbbell(
            f"{total['n']} sealed tasks, zero-shot",
            total["before"],
            total["after"],
            max(0.0, total["before"] + total["low"]),
            max(0.0, total["before"] + total["high"]),
            constant,
        )
    ]
    marks = [("ring", f"policy {report['base']} (base)"), ("disc", f"policy {report['champion']} (champion)")]
    chart = figures.dumbbell_rows(f"Base {pct(total['before'])}, champion {pct(total['after'])}", rows)
    said = (
        f"{percent} interval {points(total['low'])} to {points(total['high'])} points, paired bootstrap over "
        f"{total['n']} tasks that no decision has looked at; {detail['wins']} wins to {detail['losses']} losses, sign "
        f"test p = {detail['sign_p']:.2g}."
    )
    if constant is not None:
        marks.append(("tickmark", f"best constant answers, {pct(constant)}"))
    return (
        f'<div class="card hero"><div><p class="big">{points(total["gain"])}<small>points</small></p>'
        f'<p class="note">{escape(said)}</p></div><div>{chart}{legend(marks)}</div></div>'
    )


def _tiles(report: Json) -> str:
    rounds = report["rounds"]
    waits = [r["delivery_seconds"] for r in rounds if r["delivery_seconds"] is not None]
    proofs = [r["proof"]["to_trainer"] for r in rounds if r["proof"]]
    tiles = [
        (str(len(rounds)), "rounds"),
        (str(sum(r["promoted"] for r in rounds)), "promotions"),
        (duration(report["seconds"]), "in all"),
        (f"{sum(r['solver']['episodes'] for r in rounds):,}", "episodes"),
        (duration(median(waits)) if waits else "–", "median delivery, proved"),
        (num(max(proofs)) if proofs else "–", "largest distance to the trainer, nats"),
    ]
    cells = "".join(f'<div class="tile"><b>{escape(b)}</b><span>{escape(s)}</span></div>' for b, s in tiles)
    return f'<div class="tiles">{cells}</div>'


def _alarms(report: Json) -> str:
    return "".join(
        f'<div class="card alarm" role="alert"><h3>Alarm in round {a["round"]}: {escape(a["name"])}</h3>'
        f"<p>{escape(a['message'])}</p></div>"
        for a in report["alarms"]
    )


def _accuracy(report: Json) -> str:
    cards = [_suite_card(report, suite, note) for suite, note in _SUITES.items()]
    return section(
        "accuracy",
        "Accuracy by round",
        f'<div class="grid">{"".join(cards)}</div>' if any(cards) else "",
        lead=f"Share of tasks answered right, zero-shot and greedy, with {report['confidence']:.0%} intervals. "
        "Each round's candidate stands beside the champion that it had to beat on the same tasks.",
    )


def _suite_card(report: Json, suite: str, note: str) -> str:
    rounds = [(r["round"], r["suites"][suite]) for r in report["rounds"] if suite in r["suites"]]
    if not rounds:
        return ""
    lines = [
        figures.Series(
            side,
            side,
            [figures.Point(n, s[side]["mean"], s[side]["low"], s[side]["high"]) for n, s in rounds if s[side]],
        )
        for side in ("champion", "candidate")
    ]
    known = [s["constant"] for _, s in rounds if s["constant"] is not None]
    constant = sum(known) / len(known) if known else None
    chart = figures.line_chart(
        f"Accuracy on {suite} by round, champion and candidate",
        lines,
        reference=None if constant is None else ("best constant answers", constant),
    )
    marks = [("ring", "champion"), ("disc", "candidate")]
    if constant is not None:
        marks.append(("dash", f"best constant answers, {pct(constant)}"))
    rows = [
        [
            f"round {n}",
            str(s["comparison"]["n"]),
            span(s["champion"]),
            span(s["candidate"]),
            f"{points(s['comparison']['gain'])} [{points(s['comparison']['low'])}, {points(s['comparison']['high'])}]",
        ]
        for n, s in rounds
    ]
    rows.append(["best constant", "", pct(constant), pct(constant), ""])
    head = ["", "tasks", "champion", "candidate", "gain, points"]
    data = table(head, rows, caption=suite, css=[*[""] * len(rounds), "constant"])
    return card(suite, chart + legend(marks) + folded("Table", data), note=note)


def _families(report: Json) -> str:
    found = report["families"]
    rows = [r for r in found["rows"] if r["before"] and r["after"]] if found else []
    if not rows:
        return section("families", "Families", "")
    bells = [
        figures.Dumbbell(
            r["family"],
            r["before"]["mean"],
            r["after"]["mean"],
            r["after"]["low"],
            r["after"]["high"],
            r["constant"]["accuracy"] if r["constant"] else None,
        )
        for r in rows
    ]
    before, after = f"policy {found['before']}", f"policy {found['after']}"
    chart = figures.dumbbell_rows(f"Accuracy by family, {before} and {after}", bells)
    data = table(
        ["", "tasks", before, after, "best constant"],
        [
            [r["family"], str(r["after"]["n"]), pct(r["before"]["mean"]), span(r["after"]), _constant(r["constant"])]
            for r in rows
        ],
        caption="Accuracy by family",
    )
    marks = legend([("ring", before), ("disc", after), ("tickmark", "best constant answer")])
    where = "sealed suite" if found["suite"] == "sealed" else f"fresh suite of round {found['round']}"
    return section(
        "families",
        "Families",
        f'<div class="uneven">{card("", marks + chart)}{card("", data + _CONSTANT_NOTE)}</div>',
        lead=f"On the {where}. A family that does not pass its best constant answer has learned a habit, not a skill.",
    )


def _constant(best: Json | None) -> str:
    if best is None:
        return "–"
    return f"{pct(best['accuracy'])}{'*' if best['chosen_on'] == 'suite' else ''} “{_short(best['answer'])}”"


def _gate(report: Json) -> str:
    cards = []
    for r in report["rounds"]:
        if r["candidate"] is None:
            verdict, said = pill("nothing trained", "none"), "No candidate"
        elif r["promoted"]:
            verdict, said = pill("promoted", "yes"), f"Policy {r['champion']} → {r['candidate']}"
        else:
            verdict, said = pill("refused", "no"), f"Policy {r['champion']} stays, {r['candidate']} goes"
        reasons = "".join(f"<li>{escape(reason.replace('->', '→'))}</li>" for reason in r["reasons"])
        cards.append(
            f'<div class="gate"><div><h3>Round {r["round"]} {verdict}</h3><p class="note">{escape(said)}</p>'
            f"{_proof(r)}</div><ul>{reasons}</ul></div>"
        )
    return section(
        "gate",
        "Gate and delivery",
        _gates(cards),
        lead="A candidate becomes champion only on evidence. Before it answers anything, the server proves that it "
        "holds the candidate's weights: its log-probabilities agree with the trainer's and differ from the old ones.",
    )


def _gates(cards: list[str]) -> str:
    older, newest = cards[:-_SHOWN_GATES], cards[-_SHOWN_GATES:]
    more = f'<div class="card">{folded(f"{len(older)} earlier rounds", "".join(older))}</div>' if older else ""
    return f'<div class="card gates">{"".join(newest)}</div>{more}' if newest else ""


def _proof(r: Json) -> str:
    proof = r["proof"]
    if not proof:
        return ""
    previous = "" if proof["to_previous"] is None else f", {num(proof['to_previous'])} nats from the policy before"
    return (
        f'<p class="note">Delivered and proved in {duration(r["delivery_seconds"])}: at most '
        f"{num(proof['to_trainer'])} nats from the trainer{previous}.</p>"
    )


def _memory(report: Json) -> str:
    rounds = [r for r in report["rounds"] if r["two_by_two"]]
    if not rounds:
        return section("memory", "Weights and memory", "")
    last = rounds[-1]
    cells = last["two_by_two"]
    top = max((c["mean"] for c in cells.values() if c), default=0.0) or 1.0

    def cell(name: str) -> str:
        c = cells[name]
        if not c:
            return '<td style="--v:0">–</td>'
        return (
            f'<td style="--v:{c["mean"] / top:.3f}"><b>{pct(c["mean"])}</b>'
            f"<span>{pct(c['low'])} to {pct(c['high'])}</span></td>"
        )

    square = (
        '<table class="heat two"><thead><tr><th></th><th scope="col">without memory</th>'
        '<th scope="col">with memory</th></tr></thead><tbody>'
        f'<tr><th scope="row">policy {last["champion"]}, old</th>{cell("old")}{cell("old_memory")}</tr>'
        f'<tr><th scope="row">policy {last["candidate"]}, new</th>{cell("new")}{cell("new_memory")}</tr>'
        "</tbody></table>"
    )
    names = ("old", "old_memory", "new", "new_memory")
    data = table(
        ["", "tasks", "old", "old + memory", "new", "new + memory"],
        [
            [
                f"round {r['round']}",
                str((r["two_by_two"]["old"] or {"n": 0})["n"]),
                *(pct((r["two_by_two"][name] or {"mean": None})["mean"]) for name in names),
            ]
            for r in rounds
        ],
        caption="The 2x2 of every round",
    )
    n = cells["old"]["n"] if cells["old"] else 0
    body = card(f"Round {last['round']}, {n} fresh tasks", square) + card("Every round", data)
    return section(
        "memory",
        "Weights and memory",
        f'<div class="pair">{body}</div>',
        lead="Down: what training put into the weights. Across: what the demonstrations in the prompt add. "
        "Distillation works where the new weights without memory come near the old ones with it.",
    )


def _sources(report: Json) -> str:
    rows = [[name, source] for name, source in report["sources"].items()]
    data = table(["figure", "ledger tables and columns"], rows, caption="Where the figures come from", kind="prose")
    policies = table(
        ["policy", "parent", "round", "state", "method", "sha256"],
        [
            [
                str(p["number"]),
                "–" if p["parent"] is None else str(p["parent"]),
                str(p["round"]),
                p["state"],
                p["method"] or "–",
                p["sha256"][:16],
            ]
            for p in report["policies"]
        ],
        caption="Policies",
    )
    return section(
        "sources",
        "Where these numbers come from",
        card("", data) + f'<div style="height:16px"></div>{card("Policies", policies)}',
        lead="Every figure is computed from the rows of the run's ledger (ledger.sqlite), with the run's own seed; "
        "report.json has them all.",
    )


def _footer(report: Json) -> str:
    run = report["run"]
    if not run:
        return "<footer>autotelic</footer>"
    said = (
        f"autotelic {run['version']} · run {run['id']} · model {run['model_source']} · sha256 {run['model_sha256']} · "
        f"sandbox {run['sandbox'] or 'none'} · {run['outcome'] or 'not finished'}"
    )
    return f"<footer>{escape(said)}</footer>"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 24 else f"{line[:23]}…"
