"""Collapse alarms: a loop that feeds on itself fails slowly and quietly, so a few numbers are watched each round.

Each alarm is a pure function of a round's statistics; one that goes off stops the run, because every later round would
learn from what it points at. Too few items (`min_items`) give no alarm: silence there is not an all-clear.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Hashable, Mapping, Sequence

from pydantic import Field

from autotelic.core.words import Frozen
from autotelic.evaluation.stats import ROUNDING

__all__ = [
    "Alarm",
    "AlarmConfig",
    "RoundStatistics",
    "answer_diversity",
    "below_base",
    "check_alarms",
    "completion_length",
    "entropy",
    "family_coverage",
    "general_text",
    "proposal_novelty",
    "proposal_validity",
    "truncation",
]

VALID_FORM = frozenset({"ok", "duplicate"})
"""Reasons of a proposal that is well-formed; `duplicate` is valid but not new."""


class AlarmConfig(Frozen):
    """Limits beyond which a run stops. `None` turns an alarm off."""

    min_items: int = Field(default=20, ge=1)
    """Fewest items (tasks of the frozen suite, episodes, proposals) that a share is judged on."""
    min_diversity: float | None = Field(default=0.3, ge=0, le=1)
    """Least entropy of a family's answers, as a share of the entropy of its gold answers, on average over families:
    below it, the solver says much the same, or nothing, whatever the question (SPIRAL, 2506.24119, without its
    baseline)."""
    max_truncated: float | None = Field(default=0.5, ge=0, le=1)
    """Largest share of episodes cut off by the token limit."""
    min_validity: float | None = Field(default=0.05, ge=0, le=1)
    """Least share of the proposer's proposals that become tasks or repeat one."""
    min_novelty: float | None = Field(default=0.05, ge=0, le=1)
    """Least share of well-formed proposals that are new."""
    min_coverage: float | None = Field(default=0.5, ge=0, le=1)
    """Least share of the environment's families that the round's tasks cover."""
    max_text_drop: float | None = Field(default=1.5, ge=0)
    """Largest fall of the mean log-probability of general text against the base, nats per token."""
    below_base_rounds: int | None = Field(default=2, ge=1)
    """Rounds in a row in which the newest policy answers worse than the base."""
    below_base_margin: float = Field(default=0.03, ge=0, le=1)
    """How far below the base counts, as a share of the score (0.03 is three points)."""
    max_length_ratio: float | None = Field(default=4.0, ge=1)
    """Largest mean completion length, as a multiple of the base's."""


class Alarm(Frozen):
    """An alarm that went off."""

    name: str
    """Which one."""
    value: float
    """What was measured."""
    limit: float
    """What it may be."""
    message: str
    """One sentence: what was seen, what was expected, where to look."""


class RoundStatistics(Frozen):
    """What the alarms look at. Whatever is empty or `None` was not measured and raises nothing."""

    answers: Mapping[str, Sequence[str | None]] = Field(default_factory=dict)
    """Parsed answers by family, one a task, `None` for a task without one. Tasks that were never answered by an earlier
    policy either are left out: that silence is no news."""
    golds: dict[str, list[str]] = Field(default_factory=dict)
    """Gold answers of the same tasks by family."""
    episode_reasons: dict[str, int] = Field(default_factory=dict)
    """Episodes by reason."""
    proposal_reasons: dict[str, int] = Field(default_factory=dict)
    """The proposer's own proposals by reason: `ok` is valid and new, `duplicate` valid but known."""
    families: list[str] = Field(default_factory=list)
    """Families of the environment."""
    families_seen: list[str] = Field(default_factory=list)
    """Families that this round's tasks have."""
    text_logprob: float | None = None
    """Mean log-probability of the general text under the newest policy, nats per token."""
    text_logprob_base: float | None = None
    """The same under the base."""
    gains_over_base: list[float | None] = Field(default_factory=list)
    """Accuracy of each round's newest policy less the base's on the same suite, oldest first."""
    mean_tokens: float | None = None
    """Mean completion length of this round, tokens."""
    mean_tokens_base: float | None = None
    """The same for the base."""


def check_alarms(statistics: RoundStatistics, config: AlarmConfig) -> list[Alarm]:
    """Return every alarm that goes off."""
    s = statistics
    found = [
        answer_diversity(s.answers, s.golds, config),
        truncation(s.episode_reasons, config),
        proposal_validity(s.proposal_reasons, config),
        proposal_novelty(s.proposal_reasons, config),
        family_coverage(s.families, s.families_seen, config),
        general_text(s.text_logprob_base, s.text_logprob, config),
        below_base(s.gains_over_base, config),
        completion_length(s.mean_tokens_base, s.mean_tokens, config),
    ]
    return [alarm for alarm in found if alarm is not None]


def entropy(items: Sequence[Hashable]) -> float | None:
    """Return the entropy of the items' frequencies in nats; `None` if there are none."""
    if not items:
        return None
    n = len(items)
    return -sum(c / n * math.log(c / n) for c in Counter(items).values())


def answer_diversity(
    answers: Mapping[str, Sequence[str | None]], golds: Mapping[str, Sequence[str]], config: AlarmConfig
) -> Alarm | None:
    """Go off when answers vary far less than gold answers, on average over families; names the worst family.

    On average, because one family in which the best that a policy can do is to guess is no collapse: there the best
    constant answer, beside it in every table, says what it is. So it is the tasks of all families together that have to
    be `min_items`. No answer counts as one answer more: who says nothing varies as little as who always says the same.
    """
    if config.min_diversity is None:
        return None
    shares: dict[str, float] = {}
    for family, said in answers.items():
        expected, found = entropy(golds.get(family, ())), entropy(said)
        if expected and found is not None:
            shares[family] = found / expected
    if not shares or sum(len(answers[family]) for family in shares) < config.min_items:
        return None
    mean = sum(shares.values()) / len(shares)
    if mean >= config.min_diversity:
        return None
    worst = min(shares, key=lambda family: (shares[family], family))
    top, count = Counter(answers[worst]).most_common(1)[0]
    same = "missing" if top is None else repr(top[:40])
    return Alarm(
        name="answer_diversity",
        value=mean,
        limit=config.min_diversity,
        message=f"the answers have {mean:.0%} of the entropy of the right ones, expected at least "
        f"{config.min_diversity:.0%}; worst is {worst}: {count} of {len(answers[worst])} are {same}. "
        "Look at the training data.",
    )


def truncation(reasons: Mapping[str, int], config: AlarmConfig) -> Alarm | None:
    """Go off when too many episodes are cut off by the token limit."""
    share = _share(reasons, {"truncated"}, config)
    if share is None or config.max_truncated is None or share <= config.max_truncated:
        return None
    return Alarm(
        name="truncation",
        value=share,
        limit=config.max_truncated,
        message=f"{share:.0%} of the episodes ran into the token limit, expected at most {config.max_truncated:.0%}. "
        "Raise solve.max_tokens, or look whether the model has stopped ending its turns.",
    )


def proposal_validity(reasons: Mapping[str, int], config: AlarmConfig) -> Alarm | None:
    """Go off when almost nothing that the proposer writes can be made into a task."""
    share = _share(reasons, VALID_FORM, config)
    if share is None or config.min_validity is None or share >= config.min_validity:
        return None
    return Alarm(
        name="proposal_validity",
        value=share,
        limit=config.min_validity,
        message=f"{share:.0%} of the proposals are valid, expected at least {config.min_validity:.0%}. Look at the "
        "reasons in the ledger's table proposal, and raise propose.explore.",
    )


def proposal_novelty(reasons: Mapping[str, int], config: AlarmConfig) -> Alarm | None:
    """Go off when the proposer repeats itself."""
    valid = {reason: n for reason, n in reasons.items() if reason in VALID_FORM}
    share = _share(valid, {"ok"}, config)
    if share is None or config.min_novelty is None or share >= config.min_novelty:
        return None
    return Alarm(
        name="proposal_novelty",
        value=share,
        limit=config.min_novelty,
        message=f"{share:.0%} of the valid proposals are new, expected at least {config.min_novelty:.0%}: the proposer "
        "repeats itself. Raise propose.temperature or propose.explore.",
    )


def family_coverage(families: Collection[str], seen: Collection[str], config: AlarmConfig) -> Alarm | None:
    """Go off when the round's tasks come from too few of the environment's families."""
    if config.min_coverage is None or not families or not seen:
        return None
    missing = sorted(set(families) - set(seen))
    share = 1 - len(missing) / len(set(families))
    if share >= config.min_coverage:
        return None
    return Alarm(
        name="family_coverage",
        value=share,
        limit=config.min_coverage,
        message=f"the round's tasks cover {share:.0%} of the families, expected at least {config.min_coverage:.0%}; "
        f"missing: {', '.join(missing)}. Raise propose.explore.",
    )


def general_text(base: float | None, now: float | None, config: AlarmConfig) -> Alarm | None:
    """Go off when the model forgets general text: mean log-probabilities in nats per token."""
    if config.max_text_drop is None or base is None or now is None or base - now <= config.max_text_drop:
        return None
    return Alarm(
        name="general_text",
        value=base - now,
        limit=config.max_text_drop,
        message=f"general text lost {base - now:.2f} nats per token against the base ({base:.2f} -> {now:.2f}), "
        f"expected at most {config.max_text_drop:.2f}. Train less (rate, epochs) or replay more real data.",
    )


def below_base(gains: Sequence[float | None], config: AlarmConfig) -> Alarm | None:
    """Go off when the newest policy is worse than the base for rounds on end; rounds not measured are skipped."""
    rounds, known = config.below_base_rounds, [g for g in gains if g is not None]
    if rounds is None or len(known) < rounds:
        return None
    best = max(known[-rounds:])
    if best >= -config.below_base_margin - ROUNDING:
        return None
    return Alarm(
        name="below_base",
        value=best,
        limit=-config.below_base_margin,
        message=f"for {rounds} rounds the new policy was worse than the base, by {-best * 100:.1f} points or more, "
        f"expected at most {config.below_base_margin * 100:.1f}. Look at the curated data of these rounds.",
    )


def completion_length(base: float | None, now: float | None, config: AlarmConfig) -> Alarm | None:
    """Go off when completions explode in length, in tokens."""
    if config.max_length_ratio is None or not base or now is None or now / base <= config.max_length_ratio:
        return None
    return Alarm(
        name="completion_length",
        value=now / base,
        limit=config.max_length_ratio,
        message=f"completions are {now:.0f} tokens long on average, {now / base:.1f} times the base's {base:.0f}, "
        f"expected at most {config.max_length_ratio:.1f} times. Look for repetition in the episodes.",
    )


def _share(counts: Mapping[str, int], wanted: Collection[str], config: AlarmConfig) -> float | None:
    total = sum(counts.values())
    if total < config.min_items:
        return None
    return sum(n for name, n in counts.items() if name in wanted) / total
