"""The JSON files and answers of commands as models: what the manual's JSON schemas are made of.

The files are written elsewhere, by plain dictionaries; tests hold that what commands write fits these models, and that
nothing is in a file which its model does not have. Plans and score files have models of their own.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nmtprune.plan import Base, Lineage, Plan
from nmtprune.scores import Scores

Interval = tuple[float, float]
PerLayer = dict[str, list[int]]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Quality(_Model):
    """The metric of a model, under the name that ``metric`` says."""

    bleu: float | None = Field(None, description="BLEU of sacrebleu, 0 to 100")
    chrf: float | None = Field(None, description="chrF of sacrebleu, 0 to 100")


class _Facts(_Model):
    """On what and how a command measured."""

    data: str = Field(description="subset and languages, or the source file")
    languages: str | None
    sentences: int
    left_out: int = Field(description="sentences too long for the model's positions")
    post_process: str | None = Field(description="how subwords become words")
    tokenizer: str | None
    moses: str | None = Field(None, description="options of the tokenizer")
    lowercased: str | None = Field(None, description="sides whose raw text is lower-cased")
    source_subwords: str | None = Field(None, description="SHA-256 of the subword model of raw source text")
    target_subwords: str | None = Field(None, description="SHA-256 of the subword model of raw references")
    engine: str
    search: dict[str, Any] = Field(description="beam, length penalty, limits, by their names on the command line")
    batches: dict[str, int | None] | None = None
    signature: str | None = Field(None, description="of sacrebleu, verbatim")
    significance: dict[str, Any] | None = None


class _File(_Facts):
    version: Literal[1]
    metric: Literal["bleu", "chrf"]
    provenance: dict[str, Any] = Field(description="command, time, seed, inputs with their SHA-256, versions")


class CurveStep(_Quality):
    """A point of a curve of `greedy`."""

    removed: int = Field(description="heads of the curve's kinds that are gone")
    kept: int = Field(description="heads of the curve's kinds that are left")
    ci: Interval = Field(description="95 % interval of the change, around the unpruned model's value")
    p: float = Field(description="two-sided p-value of the change, without correction")
    relative: float | None = Field(description="share of the unpruned model's value; null where that is 0")
    within_max_drop: bool
    plan: str = Field(description="path of the plan in the run folder")


class CurveOf(_Model):
    """A curve of `greedy`."""

    name: str
    checkpoint: str
    order: str
    sample: int | None = Field(description="number of a random order, from 1 on")
    kinds: list[str]
    steps: list[CurveStep]


class MeanStep(_Quality):
    """A point of the mean of random orders."""

    removed: int
    sd: float = Field(description="sample standard deviation; 0 of a single sample")


class MeanOf(_Model):
    """The random orders of a checkpoint together."""

    checkpoint: str
    order: Literal["random"]
    kinds: list[str]
    samples: int
    steps: list[MeanStep]


class CurveFile(_File):
    """``curve.json`` of `greedy`."""

    format: Literal["nmtprune-curve"]
    heads: int
    importance: dict[str, Any] | None = None
    confidence: dict[str, Any] | None = None
    curves: list[CurveOf]
    means: list[MeanOf]


class Unpruned(_Quality):
    """The model that gates were trained on."""

    heads: int
    parameters: int


class SlimOf(_Quality):
    """The slim model of a lambda."""

    parameters: int


class GatesOf(_Model):
    """What a lambda has led to."""

    l0_weight: float
    folder: str
    checkpoint: str
    kept: int
    kept_per_kind: dict[str, int]
    gated: _Quality
    slim: SlimOf
    delta: float = Field(description="slim model minus unpruned model")
    ci: Interval
    p: float


class L0File(_File):
    """``l0.json`` of `l0`."""

    format: Literal["nmtprune-l0"]
    unpruned: Unpruned
    runs: list[GatesOf]


class IterationOf(_Quality):
    """An iteration of the lottery."""

    iteration: int
    trained_heads: int
    validation: float = Field(description="fairseq-train's validation loss at the end of the iteration")
    beyond_max_drop: bool = False
    removed: int = Field(description="heads gone after it, in all")
    kept: int
    kept_per_layer: PerLayer
    folder: str


class ConvergedModel(_Quality):
    """A model that was trained to convergence."""

    model: str
    iteration: int
    variant: Literal["lottery", "random", "reinit"]
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
    heads: int
    iterations: list[IterationOf]
    converged: list[ConvergedModel]
    confidence: dict[str, Any] | None = None
    file_bytes: dict[str, int]
    words_per_second: dict[str, float]
    times: dict[str, dict[str, float]] = Field(description="seconds of each iteration by what they went into")


class SpreadOf(_Model):
    """The median of rounds and the ends of its interval."""

    median: float
    low: float
    high: float


class DifferenceOf(_Model):
    """A change from the first model, and its test."""

    delta: float
    ci: Interval
    p: float
    p_corrected: float
    p_sacrebleu: float | None
    significant: bool
    better: float = Field(description="share of the resamples in which the model beats the first")
    worse: float


class TimingOf(_Model):
    """A model at a batch size."""

    batch_size: int
    seconds: list[float] = Field(description="for all sentences, by round")
    sentences_per_second: SpreadOf
    words_per_second: SpreadOf
    ratio: SpreadOf = Field(description="how many times as fast as the first model, round by round")
    predicted: float = Field(description="the same by multiply-accumulates")
    peak_bytes: int | None = Field(description="memory beyond what the loaded models take")


class BenchedModel(_Model):
    """All that was measured of a model."""

    name: str
    heads: int
    parameters: int
    model_bytes: int
    file_bytes: int
    timings: list[TimingOf]
    latency_ms: SpreadOf | None = Field(description="for one sentence alone")
    bleu: float | None
    difference: DifferenceOf | None


class BenchFile(_Facts):
    """What `bench` writes, and prints with ``--format json``."""

    format: Literal["nmtprune-bench"]
    version: Literal[1]
    threads: int | None = None
    repeat: int
    synthetic: dict[str, Any] | None = Field(None, description="shape and sentences that --synthetic made up")
    models: list[BenchedModel] = Field(description="the first is what the others are compared with")
    provenance: dict[str, Any] | None = None


class ConditionOf(_Model):
    """One condition of `check`."""

    option: str
    limit: float
    value: float
    interval: Interval | None
    passed: bool
    says: str = Field(description="the line that is printed")


class CheckAnswer(_Facts):
    """What `check --format json` prints."""

    format: Literal["nmtprune-check"]
    version: Literal[1]
    passed: bool
    conditions: list[ConditionOf]
    checkpoint: str
    baseline: str


class ExportNote(_Model):
    """``nmtprune.json`` in an exported folder."""

    format: Literal["nmtprune-export"]
    version: Literal[1]
    base: Base
    lineage: Lineage | None
    quantization: str
    provenance: dict[str, Any]


FILES: dict[str, type[BaseModel]] = {
    "plan": Plan,
    "scores": Scores,
    "curve": CurveFile,
    "l0": L0File,
    "lottery": LotteryFile,
    "bench": BenchFile,
    "check": CheckAnswer,
    "export": ExportNote,
}
"""Models by the name in ``format``, without its beginning ``nmtprune-``."""
