"""`functions`: what every attention head does (Voita et al. 2019, section 5)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from nmtprune import plots
from nmtprune.architecture import UnitId, parse_kinds
from nmtprune.data.annotations import Alignments, Parse, Parses, read_alignments, read_parses
from nmtprune.data.options import DataOptions
from nmtprune.data.ragged import Ids
from nmtprune.data.words import Spelling, Words, escaped
from nmtprune.errors import CheckpointError, DataError, UsageError
from nmtprune.evaluate.significance import correct
from nmtprune.methods.head_functions import (
    ALPHA,
    MARGIN,
    POSITIONAL,
    RARE_TIMES_CHANCE,
    Annotated,
    HeadFindings,
    Links,
    functions_of,
    head_functions,
)
from nmtprune.methods.measuring import batches
from nmtprune.runs.baseline import check_direction
from nmtprune.runs.device import choose_device
from nmtprune.runs.functions_file import FORMAT, FunctionsFile, HeadOf
from nmtprune.runs.report import Report
from nmtprune.runs.run import ReportRun, Session, started
from nmtprune.runs.state import NO_SETTING
from nmtprune.runs.tsv import tsv

if TYPE_CHECKING:
    from nmtprune.data.batching import Batch
    from nmtprune.data.corpus import Corpus
    from nmtprune.formats.base import Checkpoint
    from nmtprune.progress import Progress

RELATIONS = {"nsubj": "nsubj", "dobj": "dobj", "obj": "dobj", "amod": "amod", "advmod": "advmod"}
"""Dependency relations that are looked for; what Universal Dependencies call ``obj`` is the paper's ``dobj``."""

_PASSIVE = "nsubj:pass"
"""A relation of its own (``nsubjpass``) in the paper's parses."""

_FITTING = 0.9
"""Share of the parses that must fit the sentences; those of a file of other sentences do not."""

_FEW = 30
"""Cases of a relation below which a remark is made."""

CRITERIA = {
    "positional_accuracy": POSITIONAL,
    "rare_times_chance": RARE_TIMES_CHANCE,
    "rare_alpha": ALPHA,
    "link_margin": MARGIN,
}
"""What makes a head one of a function, for the file."""

_COLUMNS = (
    "head", "kind", "layer", "index", "functions", "measured", "accuracy", "chance", "baseline", "offset", "cases", "p"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FunctionsRun(ReportRun):
    """Settings of a `functions` run.

    Attributes:
        checkpoint: the model.
        parses: dependency parses of the source, CoNLL-U; None: syntactic functions are not measured.
        alignments: word alignments, Pharaoh; None: alignment is not measured.
        kinds: kinds of attention, comma-separated; None for all.
        device: as `--device` names it.
        threads: CPU threads; None leaves the number to torch.
    """

    data: DataOptions = field(metadata=NO_SETTING)
    checkpoint: Path = field(metadata=NO_SETTING)
    parses: Path | None = field(default=None, metadata=NO_SETTING)
    alignments: Path | None = field(default=None, metadata=NO_SETTING)
    kinds: str | None = None
    device: str = field(default="auto", metadata=NO_SETTING)
    threads: int | None = field(default=None, metadata=NO_SETTING)

    @property
    def inputs(self) -> list[Path]:
        """Files that must not be written over."""
        return [self.checkpoint, *self.data.files, *(path for path in (self.parses, self.alignments) if path)]

    def check(self) -> None:
        """Refuse a device that is not there, and annotations of kinds that are not measured."""
        choose_device(self.device)
        kinds = None if self.kinds is None else parse_kinds(self.kinds)
        if kinds is not None and self.parses and "encoder" not in kinds:
            raise UsageError("--parses are of the source: they go with encoder heads (--kinds)")
        if kinds is not None and self.alignments and "cross" not in kinds:
            raise UsageError("--alignments go with cross heads (--kinds)")
        if self.data.source is not None and not self.data.reference and kinds != ("encoder",):
            raise UsageError(
                "decoder and cross heads are measured on references: give `reference` FILE, or measure the encoder "
                "alone (--kinds encoder)"
            )


def functions(run: FunctionsRun, progress: "Progress") -> FunctionsFile:
    """Measure every head and write the files.

    Raises:
        NmtpruneError: anything that is wrong with options, outputs, checkpoint, data or annotations.
    """
    from nmtprune.formats import load

    with started(run, progress) as session:
        checkpoint = load(run.checkpoint)
        kinds = _kinds(run, checkpoint)
        corpus = session.corpora.read(run.data, checkpoint.profile(), references=False, targets=kinds != ("encoder",))
        session.note(corpus)
        for remark in check_direction(corpus):
            session.remark(remark)
        annotated, facts = _annotated(run, corpus, session)
        found = _measured(run, checkpoint, corpus, annotated, kinds)
        annotations = {"syntactic": run.parses, "alignment": run.alignments}
        made = FunctionsFile(
            format=FORMAT,
            version=1,
            data=corpus.describe(),
            frequencies=facts["frequencies"],
            measured=("positional", "rare", *(name for name, path in annotations.items() if path is not None)),
            criteria=CRITERIA,
            base=checkpoint.base,
            heads=_heads(found),
            provenance=session.provenance(checkpoint=str(run.checkpoint), data={**corpus.inputs, **facts["inputs"]}),
        )
        functions_report(made).write(run.outputs, force=run.force, inputs=run.inputs)
    return made


def functions_report(made: FunctionsFile) -> Report:
    """The file, its table and its picture."""
    functions = {head.id: head.functions for head in made.heads}
    return Report(json=made.to_json(), tsv=functions_table(made), png=plots.functions_png(functions))


def functions_table(made: FunctionsFile) -> str:
    """A row for everything that was measured of every head."""
    return tsv(
        _COLUMNS,
        (
            (
                *(head.head, head.id.group.kind, head.id.group.layer, head.id.number, ",".join(head.functions), name),
                *(found.accuracy, found.chance, found.baseline, found.offset, found.cases, found.p),
            )
            for head in made.heads
            for name, found in head.findings.items()
        ),
    )


def _kinds(run: FunctionsRun, checkpoint: "Checkpoint") -> tuple[str, ...]:
    architecture = checkpoint.architecture
    if not checkpoint.network().encoder:
        raise CheckpointError(f"{run.checkpoint}: a language model: functions of heads are those of translation models")
    return architecture.kinds if run.kinds is None else parse_kinds(run.kinds, architecture)


def _measured(
    run: FunctionsRun, checkpoint: "Checkpoint", corpus: "Corpus", annotated: Annotated, kinds: tuple[str, ...]
) -> dict[UnitId, HeadFindings]:
    import torch

    from nmtprune.engines import native

    if run.threads is not None:
        torch.set_num_threads(run.threads)
    model = native.load(checkpoint, choose_device(run.device))
    return head_functions(model, cast("Iterator[Batch]", batches(corpus)), annotated, kinds)


def _heads(found: Mapping[UnitId, HeadFindings]) -> tuple[HeadOf, ...]:
    tested = [head for head, own in found.items() if own.rare is not None]
    p_values = [own.rare.p for own in found.values() if own.rare is not None]
    corrected = dict(zip(tested, correct(p_values, "holm"), strict=True))
    return tuple(_head(head, own, corrected.get(head)) for head, own in found.items())


def _head(head: UnitId, found: HeadFindings, p_rare: float | None) -> HeadOf:
    kind = head.group.kind
    links: dict[str, Any] = {}
    if found.links:
        links = {"syntactic": dict(found.links)} if kind == "encoder" else {"alignment": found.links["alignment"]}
    return HeadOf(
        head=str(head),
        functions=functions_of(kind, found, 1.0 if p_rare is None else p_rare),
        positional=found.positional,
        rare=found.rare,
        rare_p_corrected=p_rare,
        outside=found.outside,
        **links,
    )


def _annotated(run: FunctionsRun, corpus: "Corpus", session: Session) -> tuple[Annotated, dict[str, Any]]:
    """What is known of the sentences, and where from: ``inputs``, ``frequencies``."""
    source = [Spelling.of(corpus, "source", place) for place in range(len(corpus))]
    target = [] if corpus.target is None else [Spelling.of(corpus, "target", place) for place in range(len(corpus))]
    links: dict[str, dict[int, Links]] = {}
    inputs = {}
    if run.parses is not None:
        parses = read_parses(run.parses)
        links["encoder"] = _syntactic(corpus, parses, source, session)
        inputs[parses.name] = parses.sha256
    if run.alignments is not None:
        alignments = read_alignments(run.alignments)
        links["cross"] = _aligned(corpus, alignments, source, target)
        inputs[alignments.name] = alignments.sha256
    in_words = [[np.array([symbol is not None for symbol in own.symbols]) for own in side] for side in (source, target)]
    rarity, frequencies = _rarity(corpus)
    return Annotated(in_words[0], in_words[1], rarity, links), {"inputs": inputs, "frequencies": frequencies}


def _rarity(corpus: "Corpus") -> tuple[tuple[Ids, Ids], str]:
    """How often each token occurs, by side and id, and in what: fairseq's dictionaries count the training text."""
    sides = (corpus.source_vocabulary, corpus.target_vocabulary)
    counted = [np.array(getattr(vocabulary, "counts", ()), dtype=np.int64) for vocabulary in sides]
    if all(len(set(counts[4:].tolist())) > 1 for counts in counted):
        return (counted[0], counted[1]), "dictionaries"
    found = []
    for vocabulary, sentences in zip(sides, (corpus.source, corpus.target), strict=True):
        tokens = [] if sentences is None else list(sentences)
        every = np.concatenate(tokens) if tokens else np.empty(0, dtype=np.int64)
        found.append(np.bincount(every, minlength=len(vocabulary)))
    return (found[0], found[1]), "sentences"


def _syntactic(corpus: "Corpus", parses: Parses, spelled: list[Spelling], session: Session) -> dict[int, Links]:
    """Dependencies of the source, by position; sentences whose characters differ from those of the parse are left out.

    Raises:
        DataError: other sentences than those of DATA.
    """
    own = dict(zip(corpus.numbers.tolist(), range(len(corpus)), strict=True))
    pairs = [(own[number], parse) for number, parse in enumerate(parses.sentences) if number in own]
    words = {place: _parsed_words(spelled[place], parse) for place, parse in pairs}
    unfit = [(place, parse) for place, parse in pairs if words[place] is None]
    first = ""
    if unfit:
        place, parse = unfit[0]
        first = (
            f": sentence {corpus.numbers[place] + 1} (line {parse.line}) is the first that does not: "
            f"'{' '.join(parse.forms)[:60]}' against '{spelled[place].text[:60]}'"
        )
    fitting = f"{len(pairs) - len(unfit)} of {len(pairs)} parses have the characters of the sentences of {corpus.name}"
    if len(parses.sentences) != corpus.total:
        raise DataError(
            f"{parses.name}: {len(parses.sentences)} sentences, but {corpus.name} has {corpus.total}; {fitting}{first}"
        )
    if len(pairs) - len(unfit) < _FITTING * len(pairs):
        raise DataError(f"{parses.name}: {fitting}{first}")
    if unfit:
        session.remark(f"{parses.name}: {fitting}; the others are left out{first}")
    found = {place: Links.of(known, known, _dependencies(parse)) for place, parse in pairs if (known := words[place])}
    cases = {name: sum(len(links.relations.get(name, ())) for links in found.values()) for name in _names()}
    if not any(cases.values()):
        raise DataError(f"{parses.name}: has none of the relations {', '.join(RELATIONS)}")
    for name, count in cases.items():
        if count < _FEW:
            session.remark(f"{parses.name}: {count} cases of {name}: too few to tell a function from chance")
    return found


def _parsed_words(spelled: Spelling, parse: Parse) -> Words | None:
    """The tokens of the words of a parse; None where it is of another sentence."""
    found = spelled.by_characters(parse.forms) or spelled.by_characters(escaped(parse.forms))
    if found is None:
        return None
    first = np.array([*parse.first, -1])  # tokens without a word stay so
    return Words(first[found.of_token], len(parse.heads))


def _dependencies(parse: Parse) -> Iterator[tuple[str, int, int]]:
    """Triples of `Links.of` for a parse: from the word to its head and back."""
    for word, (head, relation) in enumerate(zip(parse.heads, parse.relations, strict=True)):
        name = RELATIONS.get(relation.partition(":")[0])
        if name is not None and head >= 0 and not relation.startswith(_PASSIVE):
            yield f"{name} to head", word, head
            yield f"{name} from head", head, word


def _names() -> list[str]:
    return [f"{name} {way} head" for name in dict.fromkeys(RELATIONS.values()) for way in ("to", "from")]


def _aligned(
    corpus: "Corpus", alignments: Alignments, source: list[Spelling], target: list[Spelling]
) -> dict[int, Links]:
    """The words of the source that words of the target are aligned with, by position.

    Raises:
        DataError: another number of sentences, or words that sentences do not have.
    """
    if len(alignments.sentences) != corpus.total:
        raise DataError(
            f"{alignments.name}: {len(alignments.sentences)} lines, but {corpus.name} has {corpus.total} sentences"
        )
    found, unfit = {}, []
    for place, number in enumerate(corpus.numbers.tolist()):
        keys, queries = source[place].by_marks(), target[place].by_marks()
        own = alignments.sentences[number]
        beyond = next(((s, t) for s, t in own if s >= keys.count or t >= queries.count), None)
        if beyond is not None:
            unfit.append(
                f"line {number + 1}: {beyond[0]}-{beyond[1]}, but the sentence has {keys.count} source and "
                f"{queries.count} target words between blanks"
            )
        found[place] = Links.of(queries, keys, (("alignment", t, s) for s, t in own))
    if unfit:
        fitting = f"{len(corpus) - len(unfit)} of {len(corpus)} lines fit the words of {corpus.name}"
        raise DataError(f"{alignments.name}: {fitting}: {unfit[0]}")
    if not any(links.relations for links in found.values()):
        raise DataError(f"{alignments.name}: no word is aligned")
    return found
