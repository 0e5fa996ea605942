"""The result files of commands: their JSON as pydantic models, and the one way to write them with table and picture.

The manual's JSON schemas are made of these models. Plans and score files have models of their own.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer, field_validator, model_validator

from nmtprune import files
from nmtprune.evaluate.cost import Spread
from nmtprune.evaluate.significance import Difference
from nmtprune.plan import Base, Lineage, Plan
from nmtprune.runs.cost_table import CostTable
from nmtprune.runs.functions_file import FunctionsFile
from nmtprune.runs.json_model import JsonModel as _Model
from nmtprune.runs.scorers import SCORERS
from nmtprune.scores import Scores

Interval = tuple[float, float]
PerLayer = dict[str, list[int]]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes.

    Attributes:
        json: the result.
        tsv: its table.
        png: its picture.
        tables: paths of further tables, by their names in the report.
    """

    json: Path
    tsv: Path
    png: Path
    tables: Mapping[str, Path] = field(default_factory=dict)

    @classmethod
    def beside(cls, json: Path) -> "ReportFiles":
        """Table and picture beside the result, under its name."""
        name = json.name.removesuffix(".json")
        return cls(json, json.with_name(f"{name}.tsv"), json.with_name(f"{name}.png"))

    def __iter__(self) -> Iterator[Path]:
        """Every path, the result first."""
        return iter((self.json, self.tsv, self.png, *self.tables.values()))


@dataclass(frozen=True)
class Report:
    """A result as the texts of its files.

    Attributes:
        json: the result in full precision.
        tsv: the table; None where there is none yet.
        png: the picture, likewise.
        tables: further tables by name.
    """

    json: str
    tsv: str | None
    png: bytes | None
    tables: Mapping[str, str] = field(default_factory=dict)

    def write(self, places: ReportFiles, *, force: bool, inputs: Iterable[Path]) -> None:
        """Write tables and picture, then the result: where that is, all of it is.

        Raises:
            OutputError: a file cannot be written.
        """
        listed = list(inputs)
        for name, text in self.tables.items():
            files.write_text(places.tables[name], text, force=force, inputs=listed)
        if self.tsv is not None:
            files.write_text(places.tsv, self.tsv, force=force, inputs=listed)
        if self.png is not None:
            with files.atomic_output(places.png, force=force, inputs=listed) as file:
                file.write(self.png)
        files.write_text(places.json, self.json, force=force, inputs=listed)


class QualityOf(_Model):
    """The metric of a model, under the name that ``metric`` says."""

    bleu: float | None = Field(None, description="BLEU of sacrebleu, 0 to 100")
    chrf: float | None = Field(None, description="chrF of sacrebleu, 0 to 100")
    accuracy: float | None = Field(None, description="share of right labels of a classifier, in percent")
    f1: float | None = Field(None, description="F1 of a classifier in points: of label 1 of two, or the mean of all")
    matthews: float | None = Field(None, description="Matthews' correlation of a classifier, in points")


def quality_of(metric: str, value: float | None) -> dict[str, Any]:
    """The field of a `QualityOf`; none without a value."""
    return {} if value is None else {metric: value}


class _Facts(_Model):
    """On what and how a command measured."""

    data: str = Field(description="subset and languages, or the source file; or the names of several directions")
    across: str | None = Field(
        None,
        description="figure of several directions that decides: mean, or worst (the unpruned model's mean and the "
        "change in the direction that loses most)",
    )
    directions: dict[str, dict[str, Any]] | None = Field(
        None, description="on what and how each of several directions was measured, by its name"
    )
    languages: str | None = Field(None, description="of a model that translates")
    sentences: int = Field(description="or texts of a classifier")
    left_out: int = Field(description="sentences too long for the model's positions")
    post_process: str | None = Field(None, description="how subwords become words")
    tokenizer: str | None = None
    moses: str | None = Field(None, description="options of the tokenizer")
    lowercased: str | None = Field(None, description="sides whose raw text is lower-cased")
    source_subwords: str | None = Field(None, description="SHA-256 of the subword model of raw source text")
    target_subwords: str | None = Field(None, description="SHA-256 of the subword model of raw references")
    crop_source: int | None = Field(None, description="tokens that longer source sentences are cut to")
    source_front: str | None = Field(None, description="tokens in front of every source sentence")
    source_end: str | None = Field(None, description="tokens that end every source sentence, instead of </s>")
    target_front: str | None = Field(None, description="tokens that every translation begins with")
    target_end: str | None = Field(None, description="tokens that end every translation, instead of </s>")
    target_start: str | None = Field(None, description="token before the first word, instead of </s>")
    labels: str | None = Field(None, description="names of a classifier's labels, separated by commas")
    texts: str | None = Field(None, description="what a classifier reads: single texts, or pairs")
    columns: str | None = Field(None, description="of the table of texts and labels")
    cut_to: int | None = Field(None, description="tokens that longer texts of a classifier are cut to")
    engine: str
    search: dict[str, Any] | None = Field(
        None, description="beam, length penalty, limits, by their names on the command line; none of a classifier"
    )
    batches: dict[str, int | None] | None = None
    signature: str | None = Field(None, description="of sacrebleu, verbatim, or of a metric of labels")
    significance: dict[str, Any] | None = None


MEASURED_ON = frozenset(_Facts.model_fields)
"""Keys that say on what and how any command measured; others belong to a scorer."""


class _File(_Facts):
    version: int
    metric: str = Field(pattern="^(bleu|chrf|accuracy|f1|matthews)$")
    provenance: dict[str, Any] = Field(description="command, time, seed, inputs with their SHA-256, versions")


class ContenderOf(QualityOf):
    """The plan of one order at a step of ``--order auto``; without the metric if it was not translated."""

    order: str
    loss: float = Field(description="nats per token of the references")


class DecisionOf(_Model):
    """How ``--order auto`` chose the plan of a step."""

    order: str = Field(description="the order whose plan it is")
    lead: float | None = Field(description="points of the metric above the next one; null if only one was translated")
    contenders: list[ContenderOf]


class DirectionStep(QualityOf):
    """One of several directions at a point of a curve."""

    change: float = Field(description="from the unpruned model in this direction")
    ci: Interval = Field(description="95 % interval of the change, around the unpruned model's value")
    p: float = Field(description="two-sided p-value of the change, without correction")
    within_max_drop: bool


class WorstOf(_Model):
    """The direction that loses most."""

    direction: str
    change: float = Field(description="from the unpruned model in this direction")


class CurveStep(QualityOf):
    """A point of a curve of `greedy`."""

    removed: int = Field(description="units of the curve's kinds that are gone: heads, neurons, layers")
    kept: int = Field(description="units of the curve's kinds that are left")
    units: dict[str, int] | None = Field(
        None, description="heads, neurons and layers that are gone, by themselves or with their layers (version 2)"
    )
    macs: float | None = Field(None, description="multiply-accumulates as a share of the unpruned model's (version 2)")
    parameters: float | None = Field(None, description="trainable parameters, likewise (version 2)")
    speed: float | None = Field(None, description="times as fast as the unpruned model by the cost table (version 2)")
    ci: Interval = Field(description="95 % interval of the change, around the unpruned model's value")
    p: float = Field(description="two-sided p-value of the change, without correction")
    relative: float | None = Field(description="share of the unpruned model's value; null where that is not above 0")
    within_max_drop: bool
    plan: str = Field(description="path of the plan in the run folder")
    decision: DecisionOf | None = Field(None, description="of --order auto; absent for other orders")
    mean: float | None = Field(None, description="mean of the metric over several directions")
    worst: WorstOf | None = Field(None, description="of several directions")
    directions: dict[str, DirectionStep] | None = Field(None, description="each of several directions by its name")


class CurveOf(_Model):
    """A curve of `greedy`."""

    name: str
    checkpoint: str
    order: str
    sample: int | None = Field(description="number of a random order, from 1 on")
    kinds: list[str]
    steps: list[CurveStep]


class MeanStep(QualityOf):
    """A point of the mean of random orders."""

    removed: int = Field(description="mean number of units, rounded")
    sd: float = Field(description="sample standard deviation; 0 of a single sample")
    macs: float | None = Field(None, description="mean share of the multiply-accumulates (version 2)")


class MeanOf(_Model):
    """The random orders of a checkpoint together."""

    checkpoint: str
    order: Literal["random"]
    kinds: list[str]
    samples: int
    steps: list[MeanStep]


class CurveFile(_File):
    """``curve.json`` of `greedy`: version 1 where the steps are numbers of heads, else version 2."""

    format: Literal["nmtprune-curve"]
    version: Literal[1, 2]
    heads: int
    groups: list[str] | None = Field(None, description="what was removed: heads, neurons, layers (version 2)")
    units: dict[str, int] | None = Field(None, description="heads, neurons and layers of the model (version 2)")
    costs: dict[str, float] | None = Field(
        None,
        description="of the unpruned model: macs on the data, params, and speed in milliseconds by the cost table "
        "(version 2)",
    )
    budgets: list[str] | None = Field(None, description="steps of --budget, as they were given (version 2)")
    protected: list[str] | None = Field(None, description="heads that --protect kept")
    cost_table: dict[str, Any] | None = Field(None, description="what the times of the cost table are of (version 2)")
    importance: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None
    refit: dict[str, Any] | None = Field(None, description="calibration text, if models were refitted")
    curves: list[CurveOf]
    means: list[MeanOf]

    # How the scores of an order were measured, under the name of its scorer.
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _check_names(self) -> "CurveFile":
        """Refuse keys that are no scorers."""
        unknown = sorted(set(self.__pydantic_extra__) - set(SCORERS))
        if unknown:
            raise ValueError(f"unknown keys: {', '.join(unknown)}")
        return self


class Unpruned(QualityOf):
    """The model that gates were trained on."""

    heads: int
    neurons: int | None = Field(None, description="if neurons have gates")
    parameters: int


class SlimOf(QualityOf):
    """The slim model of a lambda."""

    parameters: int


class TraceOf(_Model):
    """Lambda where it adapts to a number of heads, after an update that was logged: means since the one before."""

    update: int
    l0_weight: float = Field(description="lambda; below 0 it opens gates")
    expected_heads: float = Field(description="heads with gates that are open on average")


class GatesOf(_Model):
    """What a lambda has led to."""

    l0_weight: float
    folder: str
    checkpoint: str
    kept: int
    kept_per_kind: dict[str, int]
    expected_heads: float | None = Field(
        None, description="heads with gates that were open on average at the end of training"
    )
    lambda_trace: list[TraceOf] | None = Field(None, description="if lambda adapts, while gates learn")
    kept_neurons: int | None = Field(None, description="if neurons have gates")
    kept_neurons_per_kind: dict[str, int] | None = None
    macs: float | None = Field(None, description="multiply-accumulates, as a share of those of the unpruned model")
    gated: QualityOf
    slim: SlimOf
    delta: float = Field(description="slim model minus unpruned model")
    ci: Interval
    p: float


class L0File(_File):
    """``l0.json`` of `l0`."""

    format: Literal["nmtprune-l0"]
    version: Literal[1]
    unpruned: Unpruned
    runs: list[GatesOf]


class IterationOf(QualityOf):
    """An iteration of the lottery."""

    iteration: int
    trained_heads: int
    validation: float | None = Field(description="fairseq-train's validation loss at the end of the iteration")
    beyond_max_drop: bool = False
    removed: int = Field(description="heads gone after it, in all")
    kept: int
    kept_per_layer: PerLayer
    folder: str


class ConvergedModel(QualityOf):
    """A model that was trained to convergence."""

    model: str
    iteration: int
    variant: str = Field(pattern="^(lottery|random|reinit)$")
    removed: int
    sparsity: float
    kept_per_layer: PerLayer
    delta: float | None = None
    ci: Interval | None = None
    p: float | None = None
    parameters: int
    updates: int = Field(description="update of the best checkpoint")
    last_update: int
    validation: float


class LotteryFile(_File):
    """``lottery.json`` of `lottery`."""

    format: Literal["nmtprune-lottery"]
    version: Literal[1]
    heads: int
    iterations: list[IterationOf]
    converged: list[ConvergedModel]
    confidence: dict[str, Any] | None = None
    order: str | None = Field(None, description="by which heads were removed; absent for confidence")
    refit: dict[str, Any] | None = Field(None, description="calibration text, if rewound models were refitted")
    file_bytes: dict[str, int]
    words_per_second: dict[str, float]
    times: dict[str, dict[str, float]] = Field(description="seconds of each iteration by what they went into")


@dataclass(frozen=True)
class Timing:
    """Speed of one model at one batch size.

    Attributes:
        batch_size: sentences, or texts of classifiers.
        seconds: for all sentences, by round.
        sentences_per_second: over the rounds.
        words_per_second: of detokenized text, over the rounds; None of classifiers, which write none.
        ratio: by how much less time it took than the first model, round by round.
        predicted: the first model's multiply-accumulates by this one's.
        peak_bytes: memory beyond what the loaded models take; None where it is not known.
    """

    batch_size: int
    seconds: tuple[float, ...]
    sentences_per_second: Spread
    words_per_second: Spread | None
    ratio: Spread
    predicted: float
    peak_bytes: int | None


class BenchedModel(_Model):
    """All that was measured of a model."""

    name: str
    heads: int
    parameters: int
    model_bytes: int
    file_bytes: int
    timings: tuple[Timing, ...] = Field(description="by batch size")
    latency_ms: Spread | None = Field(description="for one sentence alone; null where the engine is a process")
    bleu: float | None = Field(description="null without references, and of classifiers")
    accuracy: float | None = Field(None, description="of classifiers, in percent; null without labels")
    difference: Difference | None = Field(
        description="from the first model; null for that one, without references, and on too few sentences"
    )

    @property
    def noisy(self) -> list[Timing]:
        """Timings whose difference from the first model may be noise."""
        return [timing for timing in self.timings if not timing.ratio.certain]


class BenchFile(_Facts):
    """What `bench` writes, and prints with ``--format json``."""

    format: Literal["nmtprune-bench"]
    version: Literal[1]
    threads: int | None = None
    compute_type: str | None = Field(None, description="precision of CTranslate2; absent for other engines")
    repeat: int
    synthetic: dict[str, Any] | None = Field(None, description="shape and sentences that --synthetic made up")
    models: tuple[BenchedModel, ...] = Field(description="the first is what the others are compared with")
    provenance: dict[str, Any] | None = None

    @property
    def metric(self) -> str:
        """What quality is measured by: BLEU, or of classifiers accuracy."""
        return "bleu" if self.labels is None else "accuracy"


class Condition(_Model):
    """One condition of `check`, and what came of it."""

    option: str = Field(description="that asks for it")
    direction: str | None = Field(default=None, description="that it is about, of several")
    limit: float = Field(description="what it allows")
    value: float = Field(description="the figure that is compared with the limit")
    interval: Interval | None = Field(description="of the figure; null for one that is exact")
    passed: bool
    says: str = Field(description="the line that is printed")


class CheckAnswer(_Facts):
    """What `check --format json` prints."""

    format: Literal["nmtprune-check"]
    version: Literal[1]
    passed: bool
    conditions: tuple[Condition, ...]
    checkpoint: str
    baseline: str
    provenance: dict[str, Any] | None = Field(
        None, description="command, time, seed, inputs with their SHA-256, versions; null in older files"
    )


class ExportNote(_Model):
    """``nmtprune.json`` in an exported folder."""

    format: Literal["nmtprune-export"]
    version: Literal[1]
    base: Base
    lineage: Lineage | None
    quantization: str
    tokens: dict[str, str] = Field(default_factory=dict)
    provenance: dict[str, Any]

    @field_serializer("base")
    def _base_as_json(self, base: Base) -> dict[str, Any]:
        return base.as_json()

    @field_validator("lineage", mode="before")
    @classmethod
    def _lineage_of_json(cls, lineage: Any) -> Any:
        return Lineage.from_json(json.dumps(lineage)) if isinstance(lineage, dict) else lineage

    @field_serializer("lineage")
    def _lineage_as_json(self, lineage: Lineage | None) -> dict[str, Any] | None:
        found: dict[str, Any] | None = json.loads("null" if lineage is None else lineage.to_json())
        return found


FILES: dict[str, type[BaseModel]] = {
    "plan": Plan,
    "scores": Scores,
    "curve": CurveFile,
    "l0": L0File,
    "lottery": LotteryFile,
    "bench": BenchFile,
    "cost-table": CostTable,
    "functions": FunctionsFile,
    "check": CheckAnswer,
    "export": ExportNote,
}
"""Models by the name in ``format``, without its beginning ``nmtprune-``."""
