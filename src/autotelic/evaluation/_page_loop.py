"""The page's sections on what happens inside a round: curation, proposer, critic, time and trajectories."""

from __future__ import annotations

from html import escape

from autotelic.core.html import Json, card, duration, folded, legend, num, pct, pill, section, table
from autotelic.evaluation import figures

__all__ = ["critic", "curation", "proposals", "times", "trajectories"]

_SHOWN = 12  # rounds drawn in charts that take a row or a card a round; tables have them all
_PHASES = ("propose", "solve", "critique", "curate", "train", "deliver", "evaluate", "gate")


def curation(report: Json) -> str:
    """The curation funnel of each round, with reasons."""
    rounds = [r for r in report["rounds"] if r["funnel"]]
    cards = []
    for r in rounds[-_SHOWN:]:
        total = sum(r["funnel"].values())
        bars = [
            figures.Bar(_words(reason), n, f"{n} · {n / total:.0%}", "bar-kept" if reason == "kept" else "bar")
            for reason, n in r["funnel"].items()
        ]
        chart = figures.bar_rows(f"Curation in round {r['round']}", bars)
        made = ", ".join(f"{n} {origin}" for origin, n in r["examples"].items())
        note = f"{total} items" + (f"; training rows: {made}" if made else "")
        cards.append(card(f"Round {r['round']}", chart, note=note))
    reasons = sorted({reason for r in rounds for reason in r["funnel"]}, key=lambda x: (x != "kept", x))
    data = table(
        ["", *map(_words, reasons)],
        [[f"round {r['round']}", *(str(r["funnel"].get(reason, 0)) for reason in reasons)] for r in rounds],
        caption="Curated items by fate",
    )
    return section(
        "curation",
        "Curation",
        f'<div class="grid small">{"".join(cards)}</div>{folded("Table", data)}' if cards else "",
        lead="What became of every trajectory and proposal: kept for training, or dropped, and why.",
    )


def proposals(report: Json) -> str:
    """Validity, novelty and learnable share by round; solve rates by family."""
    rounds = [r for r in report["rounds"] if r["proposer"]["written"] or r["solver"]["tasks"]]
    if not rounds:
        return section("proposer", "Proposer", "")
    picks = {
        "validity": [(r["round"], r["proposer"]["validity"]) for r in rounds],
        "novelty": [(r["round"], r["proposer"]["novelty"]) for r in rounds],
        "learnable": [(r["round"], r["solver"]["learnable"]) for r in rounds],
    }
    lines = [
        figures.Series(name, name, [figures.Point(x, y) for x, y in values if y is not None])
        for name, values in picks.items()
    ]
    chart = figures.line_chart("Proposer statistics by round", [s for s in lines if s.points], top=1.0)
    marks = legend([("c-p2", "valid"), ("c-p6", "new, of the valid"), ("c-p4", "tasks solved sometimes, not always")])
    data = table(
        ["", "written", "valid", "new", "drawn evenly", "tasks", "solved", "best of samples", "learnable"],
        [
            [
                f"round {r['round']}",
                str(r["proposer"]["written"]),
                pct(r["proposer"]["validity"]),
                pct(r["proposer"]["novelty"]),
                str(r["proposer"]["explored"]),
                str(r["solver"]["tasks"]),
                *(pct(r["solver"][key]) for key in ("mean", "best", "learnable")),
            ]
            for r in rounds
        ],
        caption="Proposer statistics",
    )
    body = card("Proposals", chart + marks + folded("Table", data)) + card(
        "Solve rate by family", _solve_rates(rounds[-_SHOWN:]), note="Mean over all samples on the round's own tasks."
    )
    return section(
        "proposer",
        "Proposer",
        f'<div class="pair">{body}</div>',
        lead="A proposal is valid if the environment can run it, new if the run has not met it, and worth training on "
        "if the solver solves it sometimes.",
    )


def _solve_rates(rounds: list[Json]) -> str:
    families = sorted({family for r in rounds for family in r["solver"]["families"]})
    rates = {(f, r["round"]): r["solver"]["families"].get(f) for f in families for r in rounds}
    top = max((x["mean"] for x in rates.values() if x and x["mean"] is not None), default=0.0) or 1.0
    head = "".join(f'<th scope="col">round {r["round"]}</th>' for r in rounds)
    body = ""
    for family in families:
        cells = ""
        for r in rounds:
            rate = rates[family, r["round"]]
            if rate is None or rate["mean"] is None:
                cells += '<td style="--v:0">–</td>'
            else:
                cells += (
                    f'<td style="--v:{rate["mean"] / top:.3f}"><b>{pct(rate["mean"])}</b>'
                    f"<span>{rate['tasks']} tasks</span></td>"
                )
        body += f'<tr><th scope="row">{escape(family)}</th>{cells}</tr>'
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Solve rate by family"><table class="heat"><thead>'
        f'<tr><th scope="col">family</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def critic(report: Json) -> str:
    """The generation-verification gap by round."""
    rounds = [r for r in report["rounds"] if r["gap"]]
    if not rounds:
        return section("critic", "Critic", "")

    def shown(found: Json | None) -> str:
        return "–" if not found else f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"

    data = table(
        ["", "judged", "no verdict", "AUC", "balanced accuracy", "solver", "what the critic lets pass", "gap, points"],
        [
            [
                f"round {r['round']}",
                str(r["gap"]["judged"]),
                str(r["gap"]["unjudged"]),
                shown(r["gap"]["auc"]),
                shown(r["gap"]["balanced"]),
                pct(r["gap"]["solver"]["mean"]),
                pct(r["gap"]["accepted"]),
                "–" if r["gap"]["gap"] is None else f"{r['gap']['gap'] * 100:+.1f}",
            ]
            for r in rounds
        ],
        caption="Generation-verification gap",
    )
    return section(
        "critic",
        "Critic",
        card("", f"<p>{escape(rounds[-1]['gap']['message'])}</p>{data}"),
        lead="The generation-verification gap: can the model judge better than it solves? 0.5 is chance for both AUC "
        "and balanced accuracy; the critic's word counts in curation only as far as it beats that.",
    )


def times(report: Json) -> str:
    """Where the time went, and how long deliveries took."""
    rounds = [r for r in report["rounds"] if r["seconds"]]
    others = sorted({n for r in rounds for n in r["seconds"]} - set(_PHASES))
    colours = {name: f"p{i}" for i, name in enumerate(_PHASES)} | dict.fromkeys([*others, "prepare", "finish"], "p8")
    spent = [(f"round {r['round']}", r["seconds"]) for r in rounds[-_SHOWN:]]
    outside = [(name, {name: s}) for name, s in report["outside_seconds"].items()]
    ordered = [x for x in outside if x[0] == "prepare"] + spent + [x for x in outside if x[0] != "prepare"]
    rows = []
    for name, nodes in ordered:
        bars = [figures.Bar(k, nodes[k], duration(nodes[k]), colours[k]) for k in colours if k in nodes]
        rows.append((f"{name}, {duration(sum(nodes.values()))}", bars))
    if not rows:
        return section("time", "Time", "")
    marks = legend([(f"c-{colours[n]}", n) for n in _PHASES] + [("c-p8", "everything else")])
    names = [n for n in colours if any(n in nodes for _, nodes in ordered)]
    data = table(
        ["", *names],
        [[f"round {r['round']}", *(duration(r["seconds"].get(n)) for n in names)] for r in rounds]
        + [[name, *(duration(nodes.get(n)) for n in names)] for name, nodes in outside],
        caption="Seconds by phase",
    )
    phases = card("By phase", marks + figures.stacked_rows("Time by phase", rows) + folded("Table", data))
    return section("time", "Time", f'<div class="pair">{phases}{_deliveries(report)}</div>')


def _deliveries(report: Json) -> str:
    rows = report["deliveries"]
    kinds = {"train": "bar-accent"}
    bars = [
        figures.Bar(
            f"policy {d['policy']} · {_words(d['kind'])}, round {d['round']}",
            d["seconds"],
            duration(d["seconds"]),
            kinds.get(d["kind"], "bar"),
        )
        for d in rows
        if d["kind"] != "start"
    ]
    data = table(
        ["policy", "kind", "round", "seconds", "nats from the trainer", "nats from the policy before"],
        [
            [
                str(d["policy"]),
                d["kind"],
                str(d["round"]),
                f"{d['seconds']:.2f}",
                num(d["to_trainer"]),
                num(d["to_previous"]),
            ]
            for d in rows
        ],
        caption="Deliveries",
    )
    shown = bars[-2 * _SHOWN :]
    chart = figures.bar_rows("Delivery times", shown)
    if shown:
        chart = legend([("c-accent", "fresh from the trainer"), ("c-champion", "switch, rollback, recovery")]) + chart
    note = "From the end of training, or from the request, until the new weights were proved and serving. "
    if len(shown) < len(bars):
        note += f"The newest {len(shown)} of {len(bars)}."
    return card("Deliveries", chart + folded("Table", data), note=note)


def trajectories(report: Json) -> str:
    """A few right and wrong trajectories of each round."""
    rounds = [r for r in report["rounds"] if r["samples"]]
    parts = []
    for i, r in enumerate(rounds):
        body = f'<div class="pair">{"".join(_transcript(s) for s in r["samples"])}</div>'
        opened = " open" if i == len(rounds) - 1 else ""
        parts.append(f"<details{opened}><summary>Round {r['round']}</summary>{body}</details>")
    return section(
        "trajectories",
        "Trajectories",
        f'{_calls(rounds)}{_refined(rounds)}<div class="rounds">{"".join(parts)}</div>' if parts else "",
        lead="Some right and some wrong, from as many families as can be. What memory added to a prompt is folded: "
        "training does not see it.",
    )


def _calls(rounds: list[Json]) -> str:
    """Calls of tools by what came of them; nothing where there were none."""
    reasons = sorted(
        {reason for r in rounds for by in r["tools"].values() for reason in by}, key=lambda x: (x != "ok", x)
    )
    rows = [
        [f"round {r['round']}", tool, *(str(by.get(reason, 0)) for reason in reasons)]
        for r in rounds
        for tool, by in r["tools"].items()
    ]
    return table(["", "tool", *map(_words, reasons)], rows, caption="Calls of tools in episodes") if rows else ""


def _refined(rounds: list[Json]) -> str:
    """What a strategy cost and did in rollouts; nothing where there was none."""
    rows = [
        [
            f"round {r['round']}",
            found["strategy"],
            str(found["answers"]),
            f"{found['calls']:.1f}",
            f"{found['tokens']:,.0f}",
            f"{found['seconds']:.2f}",
            f"{found['mended']} / {found['spoiled']}",
            str(found["stopped"]),
        ]
        for r in rounds
        if (found := r["refinement"])
    ]
    head = ["", "strategy", "answers", "calls", "tokens", "seconds", "mended / spoiled", "stopped"]
    return table(head, rows, caption="Answers found by a strategy in rollouts, means of each") if rows else ""


def _transcript(sample: Json) -> str:
    right = sample["right"]
    verdict = pill("right", "yes") if right else pill(_words(sample["reason"]), "no")
    memory = ""
    if sample["memory"]:
        n = len(sample["memory_ids"]) or len(sample["memory"])
        memory = folded(
            f"Memory: {n} demonstration{'s' if n != 1 else ''} in the prompt", "".join(map(_turn, sample["memory"]))
        )
    facts = [("answer", sample["answer"]), ("gold", sample["gold"])]
    if sample["critique"]:
        c = sample["critique"]
        sure = "" if c["confidence"] is None else f", {c['confidence']:.0%} for right"
        said = " / ".join(x for x in (c["fault"], c["advice"]) if x)
        facts.append(("critic", f"{c['verdict'] or 'no verdict'}{sure}{': ' + said if said else ''}"))
    listed = "".join(f"<dt>{k}</dt><dd>{escape('–' if v is None else v)}</dd>" for k, v in facts)
    return (
        f'<article class="card"><div class="talk{"" if right else " wrong"}"><h4>{escape(sample["family"])} {verdict}'
        f"</h4>{''.join(map(_turn, sample['messages']))}{memory}"
        f'<div class="turn model"><span>policy {sample["policy"]}</span><pre>{escape(sample["text"])}</pre></div>'
        f'<dl class="facts">{listed}</dl></div></article>'
    )


def _turn(message: Json) -> str:
    return f'<div class="turn"><span>{escape(message["role"])}</span><pre>{escape(message["content"])}</pre></div>'


def _words(name: str) -> str:
    return name.replace("_", " ")
