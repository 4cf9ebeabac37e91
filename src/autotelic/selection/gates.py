"""The gates on data. Each function here makes a `Gate`: pure, fast, and indifferent to the order of the candidates.

Where a gate has to choose among several, it keeps what there is most to learn from (`by_worth`). Running a gate again
on what it has kept drops nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence

from autotelic.core.errors import UsageError
from autotelic.core.texts import comparable, normalised
from autotelic.core.words import Task
from autotelic.selection.candidate import Candidate, Drop, Gate, Past, by_worth
from autotelic.selection.near import CONTAMINATION_THRESHOLD, DEFAULT_THRESHOLD, NearIndex, in_any_order, one_of_many
from autotelic.selection.selectors import Balanced, Selector

__all__ = [
    "answer_share",
    "contamination",
    "exact_duplicates",
    "family_quota",
    "learnable_band",
    "max_examples",
    "more_than_luck",
    "near_duplicates",
    "per_task_cap",
    "verified_only",
]


_FEW = 4
"""Rows of one family that an answer may always have, whatever its share: they say its form and make no habit."""


def verified_only() -> Gate:
    """Drop what a checker has not found fully right: `no_verdict` without a score, `wrong` below 1."""

    def verdict(one: Candidate) -> Drop | None:
        if one.score is None:
            return _drop(one, "no_verdict", "the checker gave no score")
        return None if one.score == 1.0 else _drop(one, "wrong", f"score {one.score:g}")

    return _each(verdict)


def learnable_band(low: float = 0.0, high: float = 1.0) -> Gate:
    """Drop what is not strictly between the solve rates: `unsolved`, `too_easy`, or `no_solve_rate` if not measured."""
    if not 0 <= low < high <= 1:
        raise UsageError(
            f"the learnable band is {low:g} to {high:g}; 0 <= low < high <= 1 was expected. Change one of them."
        )

    def band(one: Candidate) -> Drop | None:
        if one.solve_rate is None:
            return _drop(one, "no_solve_rate", "its task's solve rate was not measured")
        if one.solve_rate <= low:
            return _drop(one, "unsolved", f"solve rate {one.solve_rate:g}, above {low:g} is kept")
        if one.solve_rate >= high:
            return _drop(one, "too_easy", f"solve rate {one.solve_rate:g}, below {high:g} is kept")
        return None

    return _each(band)


def more_than_luck(most: float) -> Gate:
    """Drop what a guess may have got right, with a probability above `most`: `lucky`."""
    if not 0 < most <= 1:
        raise UsageError(f"the most luck to keep is {most:g}; above 0 and up to 1 was expected. Change it.")

    def skilled(one: Candidate) -> Drop | None:
        if one.luck <= most:
            return None
        return _drop(one, "lucky", f"solved so often by guessing with a probability of {one.luck:.2f}")

    return _each(skilled)


def exact_duplicates(history: Collection[str]) -> Gate:
    """Drop examples trained on before (`seen_before`) and all but one of equals (`duplicate`).

    Args:
        history: `TrainingExample.id` of everything that the run has trained on.
    """
    known = frozenset(history)

    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        kept: dict[str, str] = {}
        drops = []
        for one in by_worth(candidates):
            example = one.example.id
            if example in known:
                drops.append(_drop(one, "seen_before", f"example {example} was trained on before"))
            elif example in kept:
                drops.append(_drop(one, "duplicate", f"equal to {kept[example]}"))
            else:
                kept[example] = one.id
        return drops

    return gate


def near_duplicates(history: Iterable[Past], threshold: float = DEFAULT_THRESHOLD) -> Gate:
    """Drop near copies of earlier rows (`near_history`) and all but one of a batch's near copies (`near_batch`).

    What a near copy is, `near.py` says. Roles are kept apart. Trajectories of one task are not near copies of one
    another (`per_task_cap` is for them), but a task of the history is one of itself.
    """
    _check_threshold(threshold)
    # Read once; a gate may be used many times.
    past = tuple(history)

    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        before, batch = NearIndex(threshold), NearIndex(threshold)
        for row in past:
            before.add(row.example_id, row.question, row.answer, row.role)
        fates: dict[object, tuple[str, str] | None] = {}
        drops = []
        for one in by_worth(candidates):
            role = one.example.role
            # A task's attempts share its fate where they answer alike.
            task = (role, one.task_id, normalised(one.question), comparable(one.answer))
            if task not in fates:
                fates[task] = _fate(before, batch, one)
                if fates[task] is None:
                    batch.add(one.id, one.question, one.answer, role)
            if (fate := fates[task]) is not None:
                drops.append(_drop(one, *fate))
        return drops

    return gate


def contamination(suite_tasks: Iterable[Task], threshold: float = CONTAMINATION_THRESHOLD) -> Gate:
    """Drop evaluation tasks (`suite_task`, `suite_question`) and near copies of them (`suite_near_copy`).

    Whatever the role. Questions are compared white space, case and Unicode forms aside. A suite's task with a known
    answer is near only to what answers the same, or has the same answer on record; one without, to whatever is
    answered. One whose answer may be one of many (an expression) is near to the same words and numbers in any order,
    too, whatever is answered. Of 1,000 reasoning_gym tasks each, that makes 85 copies instead of 33 in countdown, and
    none more in number_sorting, word_sorting and group_anagrams.
    """
    _check_threshold(threshold)
    with_answer, without = NearIndex(threshold), NearIndex(threshold, use_answer=False)
    reordered = NearIndex(threshold)
    ids: set[str] = set()
    questions: dict[str, str] = {}
    for task in suite_tasks:
        ids.add(task.id)
        questions.setdefault(normalised(task.question), task.id)
        (without if task.answer is None else with_answer).add(task.id, task.question, task.answer or "")
        if task.answer is not None and one_of_many(task.answer):
            reordered.add(task.id, task.question, in_any_order(task.question))

    def near_copy(one: Candidate) -> tuple[float, str] | None:
        return (
            with_answer.find(one.question, one.answer)
            or with_answer.find(one.question, one.answer if one.gold is None else one.gold)
            or without.find(one.question, one.answer)
            or reordered.find(one.question, in_any_order(one.question))
        )

    def check(one: Candidate) -> Drop | None:
        if one.task_id in ids:
            return _drop(one, "suite_task", f"task {one.task_id} is in an evaluation suite")
        if (task := questions.get(normalised(one.question))) is not None:
            return _drop(one, "suite_question", f"asks what evaluation task {task} asks")
        if (near := near_copy(one)) is not None:
            return _drop(one, "suite_near_copy", f"{near[0]:.2f} like evaluation task {near[1]}")
        return None

    return _each(check)


def per_task_cap(most: int) -> Gate:
    """Keep at most `most` candidates of one task and role: `task_cap`."""
    return _quota(most, "task_cap", lambda one: (one.example.role, one.task_id))


def family_quota(most: int) -> Gate:
    """Keep at most `most` candidates of one family and role: `family_quota`."""
    return _quota(most, "family_quota", lambda one: (one.example.role, one.example.family))


def answer_share(share: float, room: int | None = None) -> Gate:
    """Let no one answer be more than `share` of what is kept of a family and role: `common_answer`.

    What is right by guessing is mostly the commonest answer; trained on, the guess becomes a habit. With fewer answers
    than the share allows for (two, and 0.3), they are made equal; and where a few strays beside two or three answers
    would cost more than half of the rows that are left so, the strays do not count. Four rows every answer may have,
    also the only one of its family: some families have few answers.

    Args:
        share: largest share, in (0, 1].
        room: rows that a later gate keeps of a family, where there are more; the share is one of these.
    """
    if not 0 < share <= 1:
        raise UsageError(f"an answer's largest share is {share:g}; above 0 and up to 1 was expected. Change it.")

    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        groups: defaultdict[object, list[Candidate]] = defaultdict(list)
        for one in candidates:
            groups[one.example.role, one.example.family].append(one)
        drops = []
        for group in groups.values():
            most = _most(Counter(comparable(one.answer) for one in group), share, room or len(group))
            drops += _quota(most, "common_answer", lambda one: comparable(one.answer))(group)
        return drops

    return gate


def max_examples(limit: int, selector: Selector | None = None) -> Gate:
    """Keep the `limit` candidates that the selector (`Balanced` by default) ranks first; the reasons are its own."""
    _check_most(limit)
    ranking = selector or Balanced()

    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        return list(ranking(candidates, limit).dropped)

    return gate


def _fate(before: NearIndex, batch: NearIndex, one: Candidate) -> tuple[str, str] | None:
    role = one.example.role
    if (near := before.find(one.question, one.answer, role)) is not None:
        return "near_history", f"{near[0]:.2f} like example {near[1]}, trained on before"
    if (near := batch.find(one.question, one.answer, role)) is not None:
        return "near_batch", f"{near[0]:.2f} like {near[1]}"
    return None


def _most(sizes: Counter[str], share: float, room: int) -> int:
    """Return the largest quota under which no size is more than `share` of their sum or of the room, at least `_FEW`.

    With k answers the share is at least 1/k; an answer that stands alone is judged as one of two, nothing else would
    bound it. The smallest such share counts under which half of the rows are left that one half would leave.
    """

    def kept(most: int) -> int:
        return sum(min(size, most) for size in sizes.values())

    def largest(bound: float) -> int:
        quotas = range(max(sizes.values()), _FEW, -1)
        return next((m for m in quotas if m <= (bound + 1e-9) * min(room, kept(m))), _FEW)

    bounds = {max(share, 1 / k) for k in range(2, max(2, len(sizes)) + 1)}
    quotas = [largest(bound) for bound in sorted(bounds)]
    return next(most for most in quotas if 2 * kept(most) >= kept(quotas[-1]))


def _each(judge: Callable[[Candidate], Drop | None]) -> Gate:
    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        return [drop for one in candidates if (drop := judge(one)) is not None]

    return gate


def _quota(most: int, reason: str, kind: Callable[[Candidate], object]) -> Gate:
    _check_most(most)

    def gate(candidates: Sequence[Candidate], /) -> list[Drop]:
        taken: defaultdict[object, int] = defaultdict(int)
        drops = []
        for one in by_worth(candidates):
            taken[kind(one)] += 1
            if taken[kind(one)] > most:
                drops.append(_drop(one, reason, f"at most {most} are kept"))
        return drops

    return gate


def _drop(one: Candidate, reason: str, detail: str) -> Drop:
    return Drop(item_id=one.id, reason=reason, detail=detail)


def _check_most(most: int) -> None:
    if most < 1:
        raise UsageError(f"the most to keep is {most}; at least 1 was expected. Raise it, or leave the gate out.")


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise UsageError(f"the similarity threshold is {threshold:g}; above 0 and up to 1 was expected. Change it.")
