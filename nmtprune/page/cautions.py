"""What a reader should know before believing the numbers of the page."""

from collections.abc import Iterator, Sequence

from nmtprune.page.claims import PrunedModel
from nmtprune.page.identity import Reference, changed_paths, of_base, same_model
from nmtprune.page.inputs import CheckpointFile, Source, Unfinished
from nmtprune.page.lead import metric_name
from nmtprune.runs.functions_file import FunctionsFile
from nmtprune.runs.report import BenchFile, CheckAnswer, CurveFile, L0File, LotteryFile

_FEW_SENTENCES = 100


def cautions(sources: Sequence[Source], models: Sequence[PrunedModel]) -> list[tuple[str, str]]:
    """One line each, with the class of its mark, the worst first."""
    found = [
        *_of_runs(sources),
        *_of_models(models),
        *_of_data(sources),
        *_of_checkpoints(sources),
        *_of_paths(sources, models),
        *_of_baselines(sources),
    ]
    ordered = sorted(dict.fromkeys(found), key=lambda remark: not remark[1])
    return [(line, "bad" if bad else "note") for line, bad in ordered]


def _of_runs(sources: Sequence[Source]) -> Iterator[tuple[str, bool]]:
    for source in sources:
        if isinstance(source.content, Unfinished):
            yield f"{source.path}: the run is not finished; its results are not on this page.", True
        elif isinstance(source.content, CurveFile):
            broken = [step for curve in source.content.curves for step in curve.steps if not step.within_max_drop]
            if broken:
                yield f"{source.path}: {len(broken)} steps break the allowed drop (marked in the table).", False


def _of_models(models: Sequence[PrunedModel]) -> Iterator[tuple[str, bool]]:
    for model in models:
        for condition in model.conditions:
            if not condition.passed:
                yield f"{model.name}: check failed {condition.option}: {condition.says}.", True
        if model.qualities and all(quality.on_choice for quality in model.qualities):
            flatters = "was measured on the sentences on which the model was chosen, which flatters it"
            yield f"{model.name}: its quality {flatters}; nmtprune bench measures it on others.", False
        for quality in model.qualities:
            if quality.ci is None:
                yield f"{quality.source}: the change of {model.name} was not tested for significance.", False
        for speed in model.speeds:
            if speed.ci[0] <= 1 <= speed.ci[1]:
                yield f"{speed.source}: the speed of {model.name} ({speed.conditions}) differs from that of the full " \
                      "model by no more than the noise; measure more rounds with --repeat.", False  # fmt: skip


def _of_data(sources: Sequence[Source]) -> Iterator[tuple[str, bool]]:
    signatures: dict[str, list[str]] = {}
    for source in sources:
        if isinstance(source.content, FunctionsFile):
            count = source.content.data.get("sentences")
            if isinstance(count, int) and count < _FEW_SENTENCES:
                yield f"{source.path}: functions of heads were measured on {count} sentences, which are few.", False
        if not isinstance(source.content, BenchFile | CurveFile | L0File | LotteryFile):
            continue
        content = source.content
        if content.sentences < _FEW_SENTENCES:
            yield (
                f"{source.path}: {content.sentences} sentences are few: small changes cannot be told from chance.",
                False,
            )
        if content.left_out:
            yield f"{source.path}: {content.left_out} sentences were too long for the model and left out.", False
        if content.signature is not None:
            metric = content.metric
            signatures.setdefault(f"{metric_name(metric)}: {content.signature}", []).append(source.path)
    if len({signature.split(": ")[0] for signature in signatures}) < len(signatures):
        listed = "; ".join(f"{signature} in {', '.join(paths)}" for signature, paths in signatures.items())
        yield f"The files measure a metric in different ways, so their values do not compare: {listed}.", True


def _of_checkpoints(sources: Sequence[Source]) -> Iterator[tuple[str, bool]]:
    for source in sources:
        if isinstance(source.content, CheckpointFile):
            summary = source.content.summary
            if summary.not_finite:
                yield f"{source.path}: not finite: {summary.not_finite}.", True
            for sort in ("heads", "neurons"):
                if summary.masked(sort):
                    yield (
                        f"{source.path}: {summary.masked(sort)} {sort} are masked, not cut: do not train this file.",
                        True,
                    )
            yield from ((f"{source.path}: {note}", False) for note in summary.notes)


def _of_baselines(sources: Sequence[Source]) -> Iterator[tuple[str, bool]]:
    """Files that compare with a pruned model: the page speaks of the full one."""
    pruned = [
        Reference(source.path, source.sha256)
        for source in sources
        if isinstance(source.content, CheckpointFile) and source.content.lineage is not None
    ]
    for source in sources:
        if isinstance(source.content, BenchFile | CheckAnswer):
            (own,) = of_base(source)
            if any(same_model([[own], [other]])[1] == 0 for other in pruned):
                yield f"{source.path} compares with {own.path}, which is pruned itself, not with the full model.", True


def _of_paths(sources: Sequence[Source], models: Sequence[PrunedModel]) -> Iterator[tuple[str, bool]]:
    references: list[Reference] = [reference for source in sources for reference in of_base(source)]
    references += [reference for model in models for claim in model.claims for reference in claim.model]
    for path in changed_paths(references):
        yield f"{path}: the files of this page speak of different models under this path: one replaced the other " \
              "in between, and they are kept apart.", True  # fmt: skip
