"""The ledger: the run's database, and the only truth about what was done.

Writes are idempotent by primary key and come in transactions; reads give plain row objects. SQLite (WAL) by default,
any SQLAlchemy URL of PostgreSQL otherwise. Nothing is ever updated but states of policies, nodes, requests and the
run itself, and nothing is deleted but what people said and take back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, event, func, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError
from sqlmodel import Session, SQLModel, col, create_engine, select

from autotelic.core.errors import StoreError
from autotelic.core.words import PolicyState, Task
from autotelic.store.tables import ApprovalRow, DecisionRow, NodeRow, PolicyRow, SuiteRow, TaskRow

__all__ = ["Ledger"]

R = TypeVar("R", bound=SQLModel)


class Ledger:
    """Typed access to the ledger's tables.

    Args:
        url: a path of an SQLite file, or an SQLAlchemy URL.

    Raises:
        StoreError: the database cannot be opened or is damaged.
    """

    def __init__(self, url: Path | str) -> None:
        target = URL.create("sqlite", database=str(url)) if isinstance(url, Path) else make_url(url)
        self.url = target.render_as_string(hide_password=True)
        self._engine: Engine = create_engine(target)
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _sqlite_pragmas)
        with self._guard("opened"):
            SQLModel.metadata.create_all(self._engine)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def session(self) -> Iterator[Session]:
        """One transaction: committed at the end, rolled back on an exception."""
        with self._guard("used"), Session(self._engine, expire_on_commit=False) as session:
            yield session
            session.commit()

    def add(self, rows: Iterable[SQLModel]) -> int:
        """Insert rows of one or more tables in one transaction; keys that are there already are left as they are.

        Returns:
            How many rows were new.
        """
        groups: dict[type[SQLModel], list[dict[str, Any]]] = {}
        for row in rows:
            groups.setdefault(type(row), []).append(row.model_dump(exclude_none=_auto_key(row)))
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        new = 0
        with self.session() as session:
            for table, values in groups.items():
                statement = insert(table.__table__).on_conflict_do_nothing()  # type: ignore[attr-defined]
                for value in values:
                    new += max(session.connection().execute(statement, value).rowcount, 0)
        return new

    def put(self, row: SQLModel) -> None:
        """Insert or replace one row (states only: policies, nodes, the run)."""
        with self.session() as session:
            session.merge(row)

    def replace(self, table: type[SQLModel], rows: Iterable[SQLModel], **equals: Any) -> None:
        """Have the matching rows be these and no others, in one transaction: for what people may take back."""
        with self.session() as session:
            session.connection().execute(delete(table).where(*_conditions(table, equals)))
            session.add_all(list(rows))

    def conclude(
        self, approval: str, answer: bool, at: float, make: Callable[[DecisionRow | None], DecisionRow]
    ) -> DecisionRow | None:
        """Answer an open request and write the decision into the log, both or neither.

        Args:
            approval: id of the request.
            answer: the answer.
            at: when it was given, seconds since the epoch.
            make: gives the decision, from the last one before it.

        Returns:
            The decision; `None` if the request was answered before.
        """
        still_open = (col(ApprovalRow.id) == approval, col(ApprovalRow.answer).is_(None))
        answered = update(ApprovalRow).where(*still_open).values(answer=answer, answered_at=at)
        with self.session() as session:
            # Written before anything is read: other writers wait until the end, and none makes the same number.
            if not session.connection().execute(answered).rowcount:
                return None
            decision = make(session.exec(select(DecisionRow).order_by(col(DecisionRow.number).desc())).first())
            session.add(decision)
        return decision

    def rows(self, table: type[R], *, order: str | Sequence[str] = (), **equals: Any) -> list[R]:
        """Return the rows whose columns equal the given values; a list, tuple or set means "one of"."""
        statement = select(table).where(*_conditions(table, equals))
        for name in [order] if isinstance(order, str) else order:
            statement = statement.order_by(getattr(table, name))
        with self.session() as session:
            return list(session.exec(statement).all())

    def get(self, table: type[R], *key: Any) -> R | None:
        """Return one row by primary key."""
        with self.session() as session:
            return session.get(table, key if len(key) > 1 else key[0])

    def column(self, table: type[SQLModel], name: str, **equals: Any) -> list[Any]:
        """Return one column of the matching rows, without loading the rest of them."""
        return [value for (value,) in self.columns(table, name, **equals)]

    def columns(self, table: type[SQLModel], *names: str, order: str = "", **equals: Any) -> list[tuple[Any, ...]]:
        """Return some columns of the matching rows, without loading the rest of them."""
        statement = select(*[getattr(table, name) for name in names]).where(*_conditions(table, equals))
        if order:
            statement = statement.order_by(getattr(table, order))
        with self.session() as session:
            return [tuple(row) for row in session.connection().execute(statement)]

    def count(self, table: type[SQLModel], **equals: Any) -> int:
        """Return how many rows match."""
        statement = select(func.count()).select_from(table).where(*_conditions(table, equals))
        with self.session() as session:
            return int(session.exec(statement).one())

    # -- tasks and suites

    def add_tasks(self, tasks: Iterable[Task]) -> int:
        """Store tasks; equal content is stored once."""
        return self.add(TaskRow(**task.model_dump(mode="json")) for task in tasks)

    def tasks(self, ids: Iterable[str]) -> dict[str, Task]:
        """Return tasks by id."""
        wanted = list(dict.fromkeys(ids))
        found: dict[str, Task] = {}
        for start in range(0, len(wanted), 500):
            for row in self.rows(TaskRow, id=wanted[start : start + 500]):
                found[row.id] = Task.model_validate(row.model_dump())
        return found

    def add_suite(self, suite: str, tasks: Sequence[Task], *, round: int = 0) -> None:
        """Store a suite: its tasks in their order. `round` is 0 for suites that stay the same."""
        self.add_tasks(tasks)
        self.add(SuiteRow(suite=suite, round=round, index=i, task_id=t.id) for i, t in enumerate(tasks))

    def suite(self, suite: str, *, round: int = 0) -> list[Task]:
        """Return a suite's tasks in order; empty if it was never stored."""
        rows = self.rows(SuiteRow, suite=suite, round=round, order="index")
        known = self.tasks(row.task_id for row in rows)
        return [known[row.task_id] for row in rows]

    # -- policies

    def champion(self) -> PolicyRow:
        """Return the policy that is served when nothing else is said.

        Raises:
            StoreError: the run has none yet.
        """
        rows = self.rows(PolicyRow, state=PolicyState.CHAMPION.value)
        if not rows:
            raise StoreError("the run has no champion yet: its first node did not finish. Run the same command again.")
        return rows[0]

    def crown(self, number: int) -> None:
        """Make `number` the champion and retire the one before, in one transaction.

        Raises:
            StoreError: there is no such policy.
        """
        with self.session() as session:
            row = session.get(PolicyRow, number)
            if row is None:
                raise StoreError(f"there is no policy-{number} in the ledger. See: autotelic policies list RUN")
            for old in session.exec(select(PolicyRow).where(PolicyRow.state == PolicyState.CHAMPION.value)):
                old.state = PolicyState.RETIRED.value
                session.add(old)
            row.state = PolicyState.CHAMPION.value
            session.add(row)

    # -- nodes

    def node(self, round: int, node: str) -> NodeRow:
        """Return a node's row, an empty one if it never ran."""
        return self.get(NodeRow, round, node) or NodeRow(round=round, node=node, detail={})

    @contextmanager
    def _guard(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OperationalError as error:
            raise StoreError(
                f"the ledger {self.url} cannot be {verb}: {error.orig}. Check the path, the free disk space and that "
                "no other program holds it; the same command then goes on where it stopped."
            ) from error
        except IntegrityError:
            raise  # a row that breaks the table's rules is a mistake of the program's
        except DatabaseError as error:
            raise StoreError(
                f"the ledger {self.url} cannot be {verb}: {error.orig}. Is it a ledger? Restore a copy."
            ) from error


def _conditions(table: type[SQLModel], equals: dict[str, Any]) -> list[Any]:
    conditions = []
    for name, value in equals.items():
        column = getattr(table, name)
        conditions.append(column.in_(value) if isinstance(value, list | tuple | set) else column == value)
    return conditions


def _auto_key(row: SQLModel) -> bool:
    """Whether the row leaves its key to the database (then `None` must not be sent)."""
    return getattr(row, "id", "") is None


def _sqlite_pragmas(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()
