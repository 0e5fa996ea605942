"""Models with language tokens: sentences, translations and losses are those of stock fairseq with the same task."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch

from nmtprune import slim
from nmtprune.architecture import GroupId, UnitId
from nmtprune.data.batching import BatchLimits
from nmtprune.data.corpus import Corpus, load_corpus
from nmtprune.data.options import DataOptions
from nmtprune.engines import EngineSettings, native, open_engine, toolkit
from nmtprune.errors import DataError, UsageError
from nmtprune.formats import load
from nmtprune.model.search import SearchOptions
from nmtprune.plan import Plan
from tests.support import fairseq_commands, multilingual
from tests.support.multilingual import DIRECTIONS, TASKS, Multilingual

GREEDY, BEAM = SearchOptions(beam=1, max_len_b=9), SearchOptions(beam=4, max_len_b=9)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Multilingual]:
    made: dict[str, Multilingual] = {}

    def make(name: str) -> Multilingual:
        if name not in made:
            made[name] = multilingual.train(tmp_path_factory.mktemp("multilingual"), name)
        return made[name]

    return make


@pytest.fixture(scope="module", autouse=True)
def args_of_a_task() -> Iterator[None]:
    """fairseq 0.12 forgets to give the task for pretrained BART the settings that it looks for."""
    from fairseq.tasks.translation_from_pretrained_bart import TranslationFromPretrainedBARTTask as Task

    with mock.patch.object(Task, "args", property(lambda self: self.cfg), create=True):
        yield


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolkit, "run", fairseq_commands.in_this_process)


def _data(model: Multilingual, direction: str, **options: str | None) -> DataOptions:
    source, target = direction.split("-")
    named = {"subset": "test", "source_lang": source, "target_lang": target, **options}
    return DataOptions(data_bin=model.data, post_process="none", **named)  # type: ignore[arg-type]


def _corpus(model: Multilingual, direction: str, **options: str | None) -> Corpus:
    return load_corpus(_data(model, direction, **options), load(model.path).profile(), targets=True)


def _settings(search: SearchOptions) -> EngineSettings:
    return EngineSettings(search, BatchLimits.of(400), torch.device("cpu"), 1)


def _directions(name: str) -> tuple[str, ...]:
    return DIRECTIONS if name == "front" else DIRECTIONS[:1]


@pytest.mark.parametrize("name", TASKS)
def test_translations_and_losses_are_those_of_the_task(
    trained: Callable[[str], Multilingual], in_this_process: None, name: str
) -> None:
    model = trained(name)
    checkpoint = load(model.path)
    for direction in _directions(name):
        corpus = _corpus(model, direction)
        assert corpus.notes == ()
        for search in (GREEDY, BEAM):
            found = open_engine("native", checkpoint, _settings(search)).translate(corpus, {})
            printed = model.generate(direction, "--beam", search.beam, "--max-len-b", 9)
            assert [corpus.decode(own[0].tokens) for own in found] == fairseq_commands.hypotheses(printed)
            expected = [score * math.log(2) for score in fairseq_commands.scores(printed)]
            assert [own[0].score for own in found] == pytest.approx(expected, abs=1e-4)
        theirs = open_engine("fairseq", checkpoint, _settings(BEAM)).translate(corpus, {})
        assert [[each.tokens for each in own] for own in theirs] == [
            [tuple(word for word in each.tokens if word) for each in own] for own in found
        ]
        lines = [line[2:].split("\t") for line in printed.splitlines() if line.startswith("T-")]
        assert list((corpus.references or ())[0]) == [text for _, text in sorted(lines, key=lambda line: int(line[0]))]
        losses = open_engine("native", checkpoint, _settings(GREEDY)).ablation(corpus).losses([{}])[0]
        options = (*model.options(direction), "--valid-subset", "test", "--required-batch-size-multiple", 1)
        assert sum(losses) == pytest.approx(sum(fairseq_commands.validate(model.path, model.data, *options)), rel=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_ctranslate2_says_the_same(trained: Callable[[str], Multilingual], name: str) -> None:
    model = trained(name)
    checkpoint, corpus = load(model.path), _corpus(model, "en-de")
    own, theirs = (
        open_engine(engine, checkpoint, _settings(GREEDY)).translate(corpus, {}) for engine in ("native", "ctranslate2")
    )
    assert [each[0].tokens for each in theirs] == [each[0].tokens for each in own]


@pytest.mark.parametrize("search", [GREEDY, BEAM], ids=lambda search: f"beam {search.beam}")
@pytest.mark.parametrize("name", ["front", "behind"])
def test_masked_searches_are_searches_from_scratch(
    trained: Callable[[str], Multilingual], name: str, search: SearchOptions
) -> None:
    model = trained(name)
    checkpoint, settings = load(model.path), _settings(search)
    corpus = _corpus(model, "en-de")
    systems = [{group.id: [0, 2]} for group in list(checkpoint.architecture)[1::2]]
    engine = native.NativeEngine(checkpoint, settings)
    found = engine.ablation(corpus).best(systems)
    for kept, texts in zip(systems, found, strict=True):
        assert texts == [own[0].tokens for own in engine.translate(corpus, kept)]


@pytest.mark.parametrize("search", [GREEDY, BEAM], ids=lambda search: f"beam {search.beam}")
def test_prefixes_are_those_of_fairseq_generate(
    tiny: Path, in_this_process: None, tmp_path: Path, search: SearchOptions
) -> None:
    """Data whose sentences have the words in front, and fairseq's --prefix-size."""
    checkpoint = load(tiny)
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    plain = load_corpus(data, checkpoint.profile(), targets=True)
    words = [plain.source_vocabulary.symbols[4], *plain.target_vocabulary.symbols[5:7]]
    named = replace(data, source_prefix=words[0], target_prefix=" ".join(words[1:]))
    corpus = load_corpus(named, checkpoint.profile(), targets=True)
    assert corpus.target is not None and plain.target is not None
    assert corpus.source[3].tolist() == [4, *plain.source[3].tolist()]
    assert corpus.target[3].tolist() == [5, 6, *plain.target[3].tolist()]
    own = open_engine("native", checkpoint, _settings(search)).translate(corpus, {})
    theirs = open_engine("fairseq", checkpoint, _settings(search)).translate(corpus, {})
    assert [[each.tokens for each in found] for found in theirs] == [
        [tuple(word for word in each.tokens if word) for each in found] for found in own
    ]
    assert all(found[0].tokens[:2] == (5, 6) for found in own)
    assert corpus.decode(own[0][0].tokens) == corpus.decode(own[0][0].tokens[2:])
    assert corpus.references == plain.references
    assert [corpus.source_text(place) for place in range(3)] == [plain.source_text(place) for place in range(3)]


def test_losses_do_not_count_a_prefix(tiny: Path) -> None:
    checkpoint, data = load(tiny), DataOptions(data_bin=tiny.parent / "data-bin", subset="valid")
    settings = _settings(GREEDY)
    symbols = load_corpus(data, checkpoint.profile()).target_vocabulary.symbols
    corpus = load_corpus(replace(data, target_prefix=symbols[5]), checkpoint.profile(), targets=True)
    losses = native.NativeEngine(checkpoint, settings).ablation(corpus).losses([{}])[0]
    model = native.load(checkpoint)
    batch = corpus.batch(torch.arange(len(corpus)).numpy())
    assert batch.previous is not None and corpus.target is not None
    scores = model(batch.source, batch.previous).log_softmax(-1)
    for row, place in enumerate(batch.positions.tolist()):
        words = corpus.target[place].tolist()
        expected = -sum(float(scores[row, step, word]) for step, word in enumerate(words) if step)
        assert losses[place] == pytest.approx(expected, rel=1e-4)
    assert corpus.counted.tolist() == (corpus.target.sizes - 1).tolist()


def test_stock_fairseq_runs_a_slim_model(trained: Callable[[str], Multilingual], tmp_path: Path) -> None:
    """Without the plug-in."""
    model = trained("front")
    checkpoint = load(model.path)
    neurons = [UnitId(group.id, number) for group in checkpoint.architecture.feed_forwards for number in range(8)]
    result = slim.apply(
        Plan.removing(checkpoint.base, [*neurons, UnitId(GroupId.layers_of("decoder"), 0)]), checkpoint, "cut"
    )
    result.save(tmp_path / "slim.pt")
    read = load(tmp_path / "slim.pt")
    corpus = load_corpus(_data(model, "en-de"), read.profile(), targets=True)
    found = open_engine("native", read, _settings(BEAM)).translate(corpus, {})
    printed = fairseq_commands.run_stock(
        *("generate", str(model.data), "--path", tmp_path / "slim.pt", *model.options("en-de"), "--max-tokens", 400),
        *("--required-batch-size-multiple", 1, "--beam", 4, "--max-len-b", 9, "--cpu", "--num-workers", 0),
    )
    assert [corpus.decode(own[0].tokens) for own in found] == fairseq_commands.hypotheses(printed)


def test_directions_and_languages(trained: Callable[[str], Multilingual], tmp_path: Path) -> None:
    model = trained("front")
    with pytest.raises(DataError, match=r"no language token for it: the model has tokens for en, de, fr$"):
        _corpus(model, "en-it")
    assert _corpus(model, "de-en").notes == ("the model was not trained on de-en (but on en-de, en-fr)",)
    with pytest.raises(DataError, match="unclear languages: it holds en-de, en-fr"):
        load_corpus(DataOptions(data_bin=model.data, subset="test"), load(model.path).profile())
    with pytest.raises(UsageError, match=r"^`source_prefix`: models of the task 'translation_multi_simple_epoch' have"):
        _corpus(model, "en-de", source_prefix="w1")
    with pytest.raises(UsageError, match="translations begin with 1 given tokens, and may have 0"):
        settings = _settings(SearchOptions(beam=1, max_len_b=0, min_len=0))
        open_engine("native", load(model.path), settings).translate(_corpus(model, "en-de"), {})


def test_languages_in_a_file_and_tokens_in_the_dictionary(trained: Callable[[str], Multilingual]) -> None:
    model = trained("target in front")
    listed, dictionary = model.data / "langs.txt", model.data / "dict.de.txt"
    text, words = listed.read_text(), dictionary.read_text()
    expected = _corpus(model, "en-de").source[0].tolist()
    try:
        dictionary.write_text(words + "[en] 1\n[de] 1\n[fr] 1\n<mask> 1\n")
        assert _corpus(model, "en-de").source[0].tolist() == expected
        dictionary.write_text(words + "[en] 1\n[de] 1\n[it] 1\n")
        with pytest.raises(DataError, match="the dictionary of another model: 34 symbols"):
            _corpus(model, "en-de")
        listed.unlink()
        with pytest.raises(DataError, match=r"langs\.txt: no such file: it lists the languages that have a token"):
            _corpus(model, "en-de")
    finally:
        listed.write_text(text)
        dictionary.write_text(words)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"source_prefix": "<2de> w1"}, r"^`source_prefix`: '<2de>'.* is no word of dict"),
     ({"target_prefix": "</s>"}, r"^`target_prefix`: '</s>' is no word of")],
)  # fmt: skip
def test_prefixes_that_are_not_in_the_vocabulary(tiny: Path, options: dict[str, str], text: str) -> None:
    data = DataOptions(data_bin=tiny.parent / "data-bin", subset="valid", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=text):
        load_corpus(data, load(tiny).profile())


def test_a_prefix_that_leaves_no_room(tiny: Path) -> None:
    profile = replace(load(tiny).profile(), max_target_positions=3)
    vocabulary = load_corpus(DataOptions(data_bin=tiny.parent / "data-bin", subset="valid"), load(tiny).profile())
    prefix = " ".join(vocabulary.target_vocabulary.symbols[4:7])
    with pytest.raises(DataError, match="`target_prefix` has 3 tokens, and the model has 3 target positions"):
        load_corpus(DataOptions(data_bin=tiny.parent / "data-bin", subset="valid", target_prefix=prefix), profile)


def test_training_commands_refuse_such_models(trained: Callable[[str], Multilingual]) -> None:
    from nmtprune.errors import CheckpointError

    with pytest.raises(CheckpointError, match="l0 and lottery train for one language pair"):
        load(trained("front").path).trainable()
