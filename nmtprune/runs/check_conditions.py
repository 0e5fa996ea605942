"""Conditions of `check` on quality and speed, whatever kind of model is checked."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nmtprune.evaluate.metrics import Scored
from nmtprune.runs.baseline import carries_tests
from nmtprune.runs.report import Condition, Timing

if TYPE_CHECKING:
    from nmtprune.runs.check import CheckRun


def quality_condition(run: "CheckRun", limit: float, scored: Sequence[Scored]) -> Condition:
    """Not worse than by the limit; with `significant` a test of non-inferiority.

    Args:
        run: what `check` is given.
        limit: points of the metric.
        scored: the baseline, and the model in question.
    """
    metric, sentences = scored[0].metric, len(scored[0].statistics)
    (difference,) = run.significance.compare(scored[0], scored[1:])
    low, high = difference.ci
    held = low if run.significant else difference.delta
    passed = held > -limit if run.significant else held >= -limit
    against = f"lower end {low:+.2f} of the 95 % interval" if run.significant else "the change"
    must = f"must be {'above' if run.significant else 'at least'} {-limit:g}"
    values = f"{metric.name} {scored[0].score:.2f} -> {scored[1].score:.2f}, change {difference.delta:+.2f}"
    interval = difference.ci if carries_tests(sentences, run) else None
    if interval is not None:
        exact = f", McNemar's p {difference.p:.3g}" if metric.discordant else ""
        values = f"{values} ({low:+.2f} to {high:+.2f}{exact})"
    says = f"{values}; {against} {must}"
    return Condition(option="--max-drop", limit=limit, value=held, interval=interval, passed=passed, says=says)


def speed_condition(run: "CheckRun", limit: float, timing: "Timing") -> Condition:
    """Surely as fast as asked for: the interval must not reach below the limit."""
    ratio = timing.ratio
    passed = ratio.low >= limit
    says = (
        f"{ratio.median:.3f} times as fast ({ratio.low:.3f} to {ratio.high:.3f} in {run.repeat} rounds, batches of "
        f"{run.batch_size}); must be at least {limit:g}"
    )
    if not passed and ratio.high >= limit:
        says += "; the machine is too noisy to tell (--repeat takes more rounds)"
    return Condition(
        option="--min-speedup",
        limit=limit,
        value=ratio.median,
        interval=(ratio.low, ratio.high),
        passed=passed,
        says=says,
    )
