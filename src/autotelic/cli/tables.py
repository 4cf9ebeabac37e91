"""Tables for the terminal, from the same data that `--json` prints."""

from __future__ import annotations

from typing import Any

from rich.table import Table

__all__ = ["accuracy_table", "report_tables"]

Json = dict[str, Any]


def report_tables(report: Json) -> list[Table]:
    """Return the tables that stand at the end of a session: rounds, and the claim on the sealed suite."""
    tables = [_rounds(report)]
    if report["families"] is not None:
        tables.append(_families(report))
    return tables


def accuracy_table(found: Json) -> Table:
    """Return a policy's accuracy on a suite by family, beside the best constant answer."""
    helped = "with memory" if found["memory"] else "zero-shot"
    table = Table("family", "n", "accuracy", "95% interval", "best constant", title=f"{found['suite']}, {helped}")
    for row in found["families"]:
        constant = row["constant"]
        table.add_row(row["family"], *_estimate(row["accuracy"]), _share(constant and constant["accuracy"]))
    table.add_section()
    table.add_row(f"policy-{found['policy']}", *_estimate(found["accuracy"]), _share(found["constant"]))
    return table


def _rounds(report: Json) -> Table:
    table = Table(
        "round", "fresh: before", "after", "gain [95%]", "kept", "delivery", "minutes", "gate", title="Rounds"
    )
    for row in report["rounds"]:
        fresh = row["fresh"]
        figures = [_share(fresh["before"]), _share(fresh["after"]), _gain(fresh)] if fresh else ["-", "-", "-"]
        delivery = row["delivery_seconds"]
        table.add_row(
            str(row["round"]),
            *figures,
            str(row["funnel"].get("kept", 0)),
            "-" if delivery is None else f"{delivery:.2f} s",
            f"{sum(row['seconds'].values()) / 60:.1f}",
            _verdict(row),
        )
    return table


def _verdict(row: Json) -> str:
    if row["promoted"]:
        return f"[green]policy-{row['candidate']} promoted[/]"
    return "-" if row["candidate"] is None else f"[yellow]policy-{row['candidate']} not promoted[/]"


def _families(report: Json) -> Table:
    found = report["families"]
    title = f"{found['suite']}, zero-shot: policy-{found['before']} against policy-{found['after']}"
    table = Table("family", "n", "before", "after", "best constant", title=title)
    for row in found["rows"]:
        after, constant = row["after"], row["constant"]
        table.add_row(
            row["family"],
            str(after["n"]) if after else "-",
            _share(row["before"] and row["before"]["mean"]),
            _share(after and after["mean"]),
            _share(constant and constant["accuracy"]),
        )
    total = report["total"]
    if total is not None:
        table.add_section()
        table.add_row(
            f"[bold]gain {_gain(total)}[/]",
            str(total["n"]),
            _share(total["before"]),
            _share(total["after"]),
            _share(report["total_constant"]),
        )
    return table


def _estimate(found: Json | None) -> tuple[str, str, str]:
    if found is None:
        return "0", "-", "-"
    return str(found["n"]), _share(found["mean"]), f"{found['low']:.1%} to {found['high']:.1%}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _gain(found: Json) -> str:
    return f"{found['gain'] * 100:+.1f} [{found['low'] * 100:+.1f}, {found['high'] * 100:+.1f}]"
