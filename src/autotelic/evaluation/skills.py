"""The gate on skills: who is let into the library, and who has to leave it.

The measure is one: matched rollouts, the same tasks, seeds and policy with the skill and without it. The burden of
proof changes sides. To enter, a skill has to show its gain, by the bootstrap's lower end and by the sign test, as a
policy has to. To stay, nothing must speak against it: it leaves when harm is shown (the upper end below zero), and also
when the gain is not above zero. A skill whose gain is what it showed at its entry comes out so in one of forty
measurements, a useless one in every second. Asking for proof again each time would throw out many that are good;
waiting for proof of harm would keep the useless ones, and each costs room in the prompt.

Source: arXiv 2606.08755 (skills are validated by matched rollouts before they are stored).
"""

from __future__ import annotations

from pydantic import Field

from autotelic.core.words import Frozen
from autotelic.evaluation.stats import Comparison

__all__ = ["SkillDecision", "SkillGateConfig", "admit_skill", "keep_skill"]


class SkillGateConfig(Frozen):
    """What the gate asks of a skill."""

    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Coverage of the two-sided interval of a gain, for one skill; where several are tried it is raised for each."""
    min_tasks: int = Field(default=30, ge=1)
    """Fewest tasks with a verdict on both sides that allow a decision."""

    def among(self, tried: int) -> SkillGateConfig:
        """Return the gate for each of `tried` skills, so that all together err as seldom as one would (Bonferroni)."""
        return self.model_copy(update={"confidence": 1 - (1 - self.confidence) / max(1, tried)})


class SkillDecision(Frozen):
    """What the gate decided, in words a person can check."""

    keep: bool
    """Whether the skill is, or stays, in the library."""
    reason: str
    """`gain`, `no_harm`, or what is wrong: `not_measured`, `too_few_tasks`, `never_called`, `no_gain`, `by_chance`,
    `harm`, `policy_changed`."""
    words: str
    """One sentence with the figures."""


def admit_skill(config: SkillGateConfig, found: Comparison | None, *, called: int) -> SkillDecision:
    """Decide whether a new skill enters.

    Args:
        config: what is asked; the comparison must have been made at its confidence.
        found: without the skill (before) against with it (after); `None`: nothing was measured.
        called: answers in which the skill was called and did its work. Without any, whatever changed was not its doing.
    """
    if missing := _missing(config, found):
        return missing
    assert found is not None
    if not called:
        return SkillDecision(keep=False, reason="never_called", words=f"never called with success; {_figures(found)}")
    if found.low <= 0:
        return SkillDecision(keep=False, reason="no_gain", words=f"{_figures(found)}: the lower end is not above zero")
    if found.sign_p > (1 - config.confidence) / 2:
        return SkillDecision(keep=False, reason="by_chance", words=f"{_figures(found)}: the sign test does not agree")
    return SkillDecision(keep=True, reason="gain", words=f"{_figures(found)}: the lower end is above zero")


def keep_skill(config: SkillGateConfig, found: Comparison | None) -> SkillDecision:
    """Decide whether a skill of the library stays; without enough tasks nothing speaks against it."""
    if missing := _missing(config, found):
        return missing.model_copy(update={"keep": True})
    assert found is not None
    if found.high < 0:
        return SkillDecision(keep=False, reason="harm", words=f"{_figures(found)}: the upper end is below zero")
    if found.gain <= 0:
        return SkillDecision(keep=False, reason="no_gain", words=f"{_figures(found)}: the gain is not above zero")
    return SkillDecision(keep=True, reason="no_harm", words=f"{_figures(found)}: nothing speaks against it")


def _missing(config: SkillGateConfig, found: Comparison | None) -> SkillDecision | None:
    if found is None:
        return SkillDecision(keep=False, reason="not_measured", words="no task has a verdict with and without it")
    if found.n < config.min_tasks:
        words = f"{found.n} tasks are fewer than min_tasks ({config.min_tasks}), too few to decide by"
        return SkillDecision(keep=False, reason="too_few_tasks", words=words)
    return None


def _figures(found: Comparison) -> str:
    return (
        f"{found.before:.1%} without, {found.after:.1%} with, gain {found.gain * 100:+.1f} points "
        f"[{found.low * 100:+.1f}, {found.high * 100:+.1f}] on {found.n} tasks ({found.wins} won, {found.losses} lost)"
    )
