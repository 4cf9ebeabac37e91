"""`autotelic approvals` and `autotelic approve`: what waits for a person, and the log of what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.text import Text

from autotelic.cli.shown import JsonOption, RunArgument, listing, out, show

__all__ = ["approvals", "approve", "waits"]


def approvals(
    run: RunArgument,
    head: Annotated[str | None, typer.Option("--head", help="Check that the log holds this hash.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits for a person and what was decided; checks that the log was not changed."""
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs.oversight import check_log, log_head
    from autotelic.store import ApprovalRow, DecisionRow, Ledger

    with closing(Ledger(RunDir(run).require().ledger)) as ledger:
        check_log(ledger, head)
        waiting = [row.model_dump() for row in ledger.rows(ApprovalRow, answer=None, order="asked_at")]
        made = [row.model_dump() for row in ledger.rows(DecisionRow, order="number")]
        last = log_head(ledger)
    table = listing("id", "what", "question", "decision", "by", "hash")
    for row in waiting:
        table.add_row(*_cells(row["id"], row["subject"], _words(row["question"]), "waits", "", ""))
    for row in made:
        said, by = "approved" if row["answer"] else "refused", f"{row['by']} {row['why']}".strip()
        table.add_row(*_cells(row["approval"], row["subject"], _words(row["question"]), said, by, row["hash"][:8]))
    show({"waiting": waiting, "decisions": made, "head": last}, as_json, table)
    if made and not as_json:
        out.print(f"the log ends with {last}; --head checks that it still holds this", soft_wrap=True)


def approve(
    run: RunArgument,
    request: Annotated[str, typer.Argument(help="Id, see: autotelic approvals.")],
    yes: Annotated[bool, typer.Option("--yes/--no", help="The answer.")],
    why: Annotated[str, typer.Option(help="Reason, for the log.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Answer what waits for a person; the command that waits then goes on by it."""
    from autotelic.core.run_dir import RunDir
    from autotelic.graphs.oversight import answer
    from autotelic.store import Ledger

    with closing(Ledger(RunDir(run).require().ledger)) as ledger:
        made = answer(ledger, request, yes, why=why)
        shown = made.model_dump()
    said = "approved" if yes else "refused"
    show(shown, as_json, f"{made.subject} {said}; the log ends with {made.hash}")


def waits(run: Path, question: Mapping[str, Any]) -> str:
    """Return what a person is asked, in lines, and the command that answers it."""
    from autotelic.ui.terminal import harmless

    answer = f"autotelic approve {quote(str(run))} {question['request']} --yes|--no"
    return harmless(f"waits for a person: {_words(question)}\nanswer: {answer}\nthen give this command again")


def _cells(*texts: str) -> list[Text]:
    """Return cells that show all of what a model or a person wrote: none of it is markup or a terminal's command."""
    from autotelic.ui.terminal import harmless

    return [Text(harmless(text)) for text in texts]


def _words(question: Mapping[str, Any]) -> str:
    return "\n".join([str(question.get("ask", "")), *(f"- {reason}" for reason in question.get("reasons", ()))])
