"""The scorers that `score --metric` and `greedy --order` offer.

Help pages, options, settings of the state and the manual come from this table. Nothing here imports torch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import Field, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from nmtprune.errors import UsageError
from nmtprune.methods.ablation import AccuracyDrop, BleuDrop, ChrfDrop, F1Drop, LossRise, MatthewsDrop, QualityDrop
from nmtprune.methods.confidence import Confidence
from nmtprune.methods.contribution import Activation, Variance
from nmtprune.methods.fisher import JointFisher
from nmtprune.methods.gate_search import GateOrder
from nmtprune.methods.importance import Importance
from nmtprune.methods.reconstruction import ReconstructionOrder
from nmtprune.methods.scorer import CLASSIFIES, TRANSLATES, Scorer

if TYPE_CHECKING:
    from nmtprune.formats.base import Checkpoint

SCORERS: dict[str, type[Scorer[Any]]] = {
    each.name: each
    for each in (
        BleuDrop,
        ChrfDrop,
        LossRise,
        AccuracyDrop,
        F1Drop,
        MatthewsDrop,
        Importance,
        JointFisher,
        ReconstructionOrder,
        Variance,
        Activation,
        QualityDrop,
        Confidence,
        GateOrder,
    )
}
"""Every scorer by its name."""

REESTIMATED = "-reestimated"
"""Behind the name of a scorer: scored again after every step."""

RANDOM = "random"
"""The order of random numbers, which no scorer gives: every sample is another one."""

BY_LOSS = "loss"
"""The order of layers by the loss without them, measured again after every layer; of no other units."""

AUTO = "auto"
"""The order that takes, at every number of heads, the best plan of several orders."""


def metrics() -> list[str]:
    """Names that `score --metric` takes."""
    return [name for name, scorer in SCORERS.items() if scorer.of_metric]


def check_model(metric: str, checkpoint: "Checkpoint") -> None:
    """Refuse scorers of `score` that do not score such a model.

    Raises:
        UsageError: scorers of models that translate for a classifier, or the reverse.
        CheckpointError: a model that does neither.
    """
    if not checkpoint.classifies:
        checkpoint.profile()
    kind, what = (CLASSIFIES, "is a classifier") if checkpoint.classifies else (TRANSLATES, "translates")
    if kind not in SCORERS[metric].measures:
        goes = either([name for name in metrics() if kind in SCORERS[name].measures])
        raise UsageError(f"--metric {metric}: {checkpoint.path} {what}: choose {goes}")


def orders() -> list[str]:
    """Names that `greedy --order` takes; score files come in addition."""
    found = []
    for name, scorer in SCORERS.items():
        if scorer.of_order:
            found += [name, *([name + REESTIMATED] if scorer.reestimates else [])]
    return [*found, BY_LOSS, RANDOM, AUTO]


def head_scorers() -> "list[type[Scorer[Any]]]":
    """The orders among which `lottery` chooses: of heads, measured in one pass, as score files of `score` have them."""
    found = (scorer for scorer in SCORERS.values() if scorer.of_order and scorer.of_metric and not scorer.masks)
    return [scorer for scorer in found if "heads" in scorer.sorts]


def scorer_of(order: str) -> type[Scorer[Any]] | None:
    """The scorer of an order; None for losses, random numbers, the best of several, and score files."""
    known = order in orders() and order not in (BY_LOSS, RANDOM, AUTO)
    return SCORERS.get(order.removesuffix(REESTIMATED)) if known else None


def names_of(scorers: "Iterable[type[Scorer[Any]]]") -> str:
    """Names of scorers for a message: ``bleu, chrf or loss``."""
    return either([scorer.name for scorer in scorers])


def either(names: Sequence[str], last: str = "or") -> str:
    """``a, b or c``."""
    return f"{', '.join(names[:-1])} {last} {names[-1]}" if len(names) > 1 else "".join(names)


def options_of(scorers: Iterable[type[Scorer[Any]]]) -> Iterator[tuple[type[Scorer[Any]], "Field[Any]", Any]]:
    """Every option of some scorers once, with the scorer that defines it first and the type of its values."""
    seen = set()
    for scorer in scorers:
        hints = get_type_hints(scorer.settings)
        for field in fields(scorer.settings):
            if field.name not in seen:
                seen.add(field.name)
                yield scorer, field, hints[field.name]


def owners_of(option: str, scorers: Iterable[type[Scorer[Any]]]) -> list[type[Scorer[Any]]]:
    """The scorers, of those given, that have an option of that name."""
    return [scorer for scorer in scorers if option in {field.name for field in fields(scorer.settings)}]


def configured(scorer: type[Scorer[Any]], values: Mapping[str, Any]) -> Scorer[Any]:
    """A scorer with its options from values by name; those of others are ignored."""
    return scorer(scorer.settings(**{field.name: values[field.name] for field in fields(scorer.settings)}))
