"""The answer at the top: one sentence and four numbers about the pruned model of which most is known."""

from collections.abc import Iterator

from nmtprune.page import numbers
from nmtprune.page.blocks import Card
from nmtprune.page.claims import PrunedModel, QualityChange, Size, Speed

METRICS = {"bleu": "BLEU", "chrf": "chrF", "f1": "F1", "matthews": "Matthews' correlation"}
_OF_LABELS = ("accuracy", "f1", "matthews")
_CHECKED = {"--max-drop": "quality", "--min-speedup": "speed", "--max-size": "size"}
ALPHA = 0.05
"""What intervals of 95 % go with."""


def metric_name(metric: str) -> str:
    """A metric as papers write it."""
    return METRICS.get(metric, metric)


def sentence(model: PrunedModel | None) -> str:
    """What was removed, what that cost and what it gained, as far as files say so."""
    if model is None:
        return "These files speak of the full model; none of them speaks of a pruned one."
    parts = list(_parts(model))
    if not parts:
        return f"{model.name} was pruned; its files have no figures."
    joined = ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]
    return f"The pruned model {joined}{_verdict(model)}."


def cards(model: PrunedModel | None) -> list[Card]:
    """Removed, quality, speed, size; a number that was not measured says what measures it."""
    if model is None:
        return []
    return [_removed(model), _quality(model), _speed(model), _size(model)]


def significant(quality: QualityChange) -> bool | None:
    """Whether a change is one beyond chance; None if it was not tested."""
    return None if quality.p is None else quality.p < ALPHA


def _parts(model: PrunedModel) -> Iterator[str]:
    gone = [(removed, total, sort) for sort, (removed, total) in model.removed.items() if removed]
    if gone:
        shares = " and ".join(f"{numbers.rough(removed / total)} fewer {sort}" for removed, total, sort in gone)
        yield f"has {shares}"
    if model.qualities:
        yield _quality_in_words(model.qualities[0])
    if model.speeds:
        yield _speed_in_words(model.speeds[0])
    if model.sizes:
        share = model.sizes[0].share
        larger = f"{numbers.rough(abs(1 - share))} {'smaller' if share < 1 else 'larger'}"
        yield "is as large as the full one" if share == 1 else f"is {larger}"


def _verdict(model: PrunedModel) -> str:
    """What `check` says; nothing where it was not asked."""
    failed = [condition.option for condition in model.conditions if not condition.passed]
    if failed:
        what = (_CHECKED.get(option, option) for option in dict.fromkeys(failed))
        return f"; it fails the check of {' and '.join(what)}"
    return "; it passes its check" if model.conditions else ""


def _quality_in_words(quality: QualityChange) -> str:
    name, change = metric_name(quality.metric), abs(quality.change)
    tested = significant(quality)
    labels = quality.metric in _OF_LABELS
    if round(change, 2) == 0:
        return f"{'gives labels' if labels else 'translates'} as well as the full one ({name})"
    verb = "loses" if quality.change < 0 else "gains"
    beyond = {None: "not tested", True: "significant", False: "not significant"}[tested]
    return f"{verb} {change:.2f} {'points of ' if labels else ''}{name} ({beyond})"


def _speed_in_words(speed: Speed) -> str:
    if speed.ci[0] <= 1 <= speed.ci[1]:
        return "is as fast as the full one within the noise of the measurement"
    return f"is {numbers.times(speed.ratio)} times as fast"


def _removed(model: PrunedModel) -> Card:
    gone = [(removed, total, sort) for sort, (removed, total) in model.removed.items() if removed]
    if not gone:
        return Card("Removed", "not known", "name its plan, its run folder or its checkpoint")
    removed, total, sort = gone[0]
    detail = "; ".join(f"{numbers.count(each)} of {numbers.count(of)} {word}" for each, of, word in gone)
    return Card("Removed", f"{numbers.rough(removed / total)} of {sort}", detail)


def _quality(model: PrunedModel) -> Card:
    if not model.qualities:
        return _checked(model, "--max-drop", "Quality") or Card("Quality", "not measured", "nmtprune bench measures it")
    quality = model.qualities[0]
    tested = significant(quality)
    mark = "" if not tested else "bad" if quality.change < 0 else "good"
    if quality.ci is None or quality.p is None:
        tests = "not tested"
    else:
        tests = f"95 % interval {numbers.interval(*quality.ci)}, {numbers.probability(quality.p)}"
    name = metric_name(quality.metric)
    levels = "" if quality.before is None or quality.value is None else f"{quality.before:.2f} → {quality.value:.2f}; "
    detail = f"{levels}{tests}; {quality.data}"
    return Card("Quality", f"{numbers.signed(quality.change)} {name}", detail, mark)


def _speed(model: PrunedModel) -> Card:
    if not model.speeds:
        return Card("Speed", "not measured", "nmtprune bench measures it")
    speed: Speed = model.speeds[0]
    low, high = speed.ci
    mark = "good" if low > 1 else "bad" if high < 1 else ""
    predicted = "" if speed.predicted is None else f"; {numbers.times(speed.predicted)} predicted"
    detail = f"interval {low:.2f} to {high:.2f}{predicted}; {speed.conditions}"
    return Card("Speed", f"{numbers.times(speed.ratio)} times", detail, mark)


def _size(model: PrunedModel) -> Card:
    if not model.sizes:
        return Card("Size", "not measured", "name both checkpoints, or the file of nmtprune bench")
    size: Size = model.sizes[0]
    return Card("Size", numbers.percent(size.share), size_in_words(size), "good" if size.share < 1 else "")


def size_in_words(size: Size) -> str:
    """``24.1 MB of 33.3 MB of tensors``."""
    if size.after is None or size.before is None:
        return "of the tensors of the full model"
    if size.unit == "bytes":
        return f"{numbers.megabytes(size.after)} of {numbers.megabytes(size.before)} of tensors"
    return f"{numbers.count(size.after)} of {numbers.count(size.before)} parameters"


def _checked(model: PrunedModel, option: str, label: str) -> Card | None:
    """The verdict of `check` where no other file measures."""
    found = [condition for condition in model.conditions if condition.option == option]
    if not found:
        return None
    failed = [condition for condition in found if not condition.passed]
    says = "; ".join(condition.says for condition in failed or found)
    return Card(label, "failed" if failed else "passed", says, "bad" if failed else "good")
