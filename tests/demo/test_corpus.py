"""The generated corpus: the same bytes anywhere, disjoint sets, agreement, reordering, words that context decides."""

import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from random import Random

import pytest

from nmtprune.demo.corpus import WORDS, generate, write_corpus
from nmtprune.demo.grammar import Grammar, Phrase, Sentence
from nmtprune.demo.languages import SourceLanguage, TargetLanguage
from nmtprune.demo.lexicon import GENDERS, NUMBERS, TENSES, Lexicon, below, pick
from nmtprune.errors import OutputError, UsageError

SENTENCES = 12_000
CORPUS = generate(1, SENTENCES)
LEXICON = Lexicon.draw(1)


def _trees(count: int, seed: int = 7) -> list[Sentence]:
    random, grammar = Random(seed), Grammar(LEXICON)
    return [grammar.draw(random) for _ in range(count)]


def test_the_same_seed_gives_the_same_bytes_on_any_machine() -> None:
    text = "\n".join("\t".join(pair) for pair in zip(*generate(1, 500), strict=True))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "87c8443e4805054bfc386dc9a9f75aedc5066a7337b0f087757f4303a3d32330"
    )


def test_hash_randomization_does_not_reach_the_corpus() -> None:
    code = "from nmtprune.demo.corpus import generate; print(generate(5, 20))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1")
    }
    assert len(outputs) == 1


def test_a_longer_corpus_begins_with_the_shorter_one() -> None:
    assert [side[:50] for side in generate(1, 100)] == list(generate(1, 50))


def test_other_seeds_give_other_words() -> None:
    assert not set(generate(1, 200)[0]) & set(generate(2, 200)[0])


def test_no_source_line_occurs_twice() -> None:
    assert len(set(CORPUS[0])) == SENTENCES


def test_lengths_are_in_bounds_and_spread_over_them() -> None:
    for side in CORPUS:
        lengths = Counter(len(line.split(" ")) for line in side)
        assert set(lengths) == set(range(WORDS[0], WORDS[1] + 1))


def test_each_language_has_several_hundred_word_types_of_its_own() -> None:
    source, target = ({word for line in side for word in line.split(" ")} for side in CORPUS)
    assert 400 < len(source) < 600
    assert 800 < len(target) < 1100
    names = {name.source for name in LEXICON.names}
    assert source & target == names | {".", "?"}


def test_written_sets_are_disjoint_and_of_the_size_asked_for(tmp_path: Path) -> None:
    paths = write_corpus(tmp_path / "corpus", 3, train=300, val=20, test=30)
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in paths}
    assert {name: len(content) for name, content in lines.items()} == {
        "train.src": 300, "train.tgt": 300, "val.src": 20, "val.tgt": 20, "test.src": 30, "test.tgt": 30
    }  # fmt: skip
    assert len({line for name in ("train", "val", "test") for line in lines[f"{name}.src"]}) == 350
    pairs = dict(zip(*generate(3, 350), strict=True))
    for name in ("train", "val", "test"):
        assert [pairs[line] for line in lines[f"{name}.src"]] == lines[f"{name}.tgt"]


def test_held_out_sets_do_not_change_with_the_training_set(tmp_path: Path) -> None:
    for size in (10, 200):
        write_corpus(tmp_path / str(size), 3, train=size, val=20, test=30)
    for name in ("val.src", "val.tgt", "test.src", "test.tgt"):
        assert (tmp_path / "10" / name).read_bytes() == (tmp_path / "200" / name).read_bytes()


def test_no_file_is_overwritten_and_none_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "test.tgt").write_text("mine\n")
    with pytest.raises(OutputError, match=r"test\.tgt: exists"):
        write_corpus(tmp_path, 1, train=10, val=1, test=1)
    assert [path.name for path in tmp_path.iterdir()] == ["test.tgt"]
    assert (tmp_path / "test.tgt").read_text() == "mine\n"


def test_empty_sets_are_refused_all_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        write_corpus(tmp_path, 1, train=0, val=1, test=0)
    assert str(caught.value) == "every set needs at least 1 sentence: test has 0 sentences; train has 0 sentences"
    with pytest.raises(UsageError, match="at least 1"):
        generate(1, 0)


def test_no_stem_begins_another() -> None:
    """Else inflected forms of different words could coincide by accident."""
    for language in ("source", "target"):
        entries = (LEXICON.nouns, LEXICON.adjectives, LEXICON.transitive, LEXICON.intransitive, LEXICON.adverbs)
        stems = sorted({getattr(entry, language) for part in entries for entry in part})
        assert not [(a, b) for a, b in zip(stems, stems[1:], strict=False) if b.startswith(a)]


def test_determiner_and_adjectives_agree_with_their_noun() -> None:
    """Read back from the words alone: gender from the noun's stem, number from its ending."""
    nouns = {}
    for noun in LEXICON.nouns:
        nouns[noun.target] = (noun.gender, "sg")
        nouns[noun.target + ("or" if noun.gender == "m" else "im")] = (noun.gender, "pl")
    endings = {("m", "sg"): "e", ("f", "sg"): "i", ("m", "pl"): "es", ("f", "pl"): "is"}
    determiners = {
        word.target + ending + case: features
        for word in LEXICON.determiners
        for features, ending in endings.items()
        for case in ("", "nu")
    }
    adjective_endings = {("m", "sg"): "o", ("f", "sg"): "a", ("m", "pl"): "ok", ("f", "pl"): "ak"}
    adjectives = {
        word.target + ending: features for word in LEXICON.adjectives for features, ending in adjective_endings.items()
    }
    seen: Counter[tuple[str, str]] = Counter()
    for line in CORPUS[1]:
        words = line.split(" ")
        for position, word in enumerate(words):
            if word not in nouns:
                continue
            assert determiners[words[position - 1]] == nouns[word]
            following = position + 1
            while words[following] in adjectives:
                assert adjectives[words[following]] == nouns[word]
                following += 1
                seen[nouns[word]] += 1
    assert min(seen[gender, number] for gender in GENDERS for number in NUMBERS) > 500


def test_verbs_agree_with_their_subject_in_both_languages() -> None:
    source, target = SourceLanguage(LEXICON), TargetLanguage(LEXICON)
    seen: Counter[tuple[str, str]] = Counter()
    for sentence in _trees(2_000):
        clause = sentence.main
        number = "pl" if len(clause.subject.phrases) == 2 or clause.subject.phrases[0].number == "pl" else "sg"
        form = clause.verb.target + {"present": "et", "past": "ur", "future": "ov"}[clause.tense]
        assert form + ("en" if number == "pl" else "") in target.words(sentence)
        if clause.tense == "present":
            assert clause.verb.source + ("s" if number == "sg" else "") in source.words(sentence)
        seen[clause.tense, number] += 1
    assert min(seen[tense, number] for tense in TENSES for number in NUMBERS) > 100


def test_the_verb_moves_to_the_end_and_adjectives_behind_their_noun_in_mirrored_order() -> None:
    source, target = SourceLanguage(LEXICON), TargetLanguage(LEXICON)
    moved = mirrored = 0
    for sentence in _trees(3_000):
        clause = sentence.main
        before, after = source.words(sentence), target.words(sentence)
        if sentence.subordinate is None and not sentence.question and not clause.negated:
            assert after[-2].startswith(clause.verb.target)
            moved += clause.object is not None and before[-2] != clause.verb.source
        noun = clause.subject.phrases[0]
        if sentence.subordinate is None and len(noun.adjectives) == 2:
            first, second = noun.adjectives
            at = before.index(first.source)
            assert before[at + 1] == second.source
            assert before[at + 2].startswith(noun.noun.source)
            stems = [word for word in after if word.startswith((first.target, second.target, noun.noun.target))]
            assert stems[0].startswith(noun.noun.target)
            assert stems[1].startswith(second.target)
            mirrored += 1
    assert moved > 500
    assert mirrored > 100


def test_subordinate_clauses_come_first_and_pronouns_agree_with_the_main_subject() -> None:
    target = TargetLanguage(LEXICON)
    stem = LEXICON.particles["pronoun"].target
    endings = {("m", "sg"): "e", ("f", "sg"): "i", ("m", "pl"): "es", ("f", "pl"): "is"}
    seen: Counter[str] = Counter()
    for sentence in _trees(6_000):
        if sentence.subordinate is None or sentence.conjunction is None:
            continue
        words = target.words(sentence)
        assert sentence.conjunction.target in words[: words.index(",", words.index(sentence.conjunction.target))]
        if sentence.subordinate.subject.pronoun:
            phrases = sentence.main.subject.phrases
            gender = "m" if any(phrase.noun.gender == "m" for phrase in phrases) else "f"
            number = "pl" if len(phrases) > 1 else phrases[0].number
            assert words[0] == stem + endings[gender, number]
            seen[words[0]] += 1
    assert len(seen) == 4


def test_context_decides_the_sense_of_homonyms() -> None:
    senses: dict[str, set[str]] = defaultdict(set)
    for noun in LEXICON.nouns:
        senses[noun.source].add(noun.target)
    homonyms = {source for source, targets in senses.items() if len(targets) > 1}
    assert len(homonyms) == 8
    phrases = [phrase for tree in _trees(4_000) for phrase in tree.main.subject.phrases]
    told_apart = defaultdict(set)
    for phrase in phrases:
        if phrase.noun.source in homonyms:
            domains = {adjective.domain for adjective in phrase.adjectives}
            assert domains == {phrase.noun.domain}
            told_apart[phrase.noun.source].add(phrase.noun.target)
    assert all(len(targets) == 2 for targets in told_apart.values())


def test_context_decides_the_sense_of_verbs_and_the_part_of_speech() -> None:
    senses: dict[str, set[str]] = defaultdict(set)
    for verb in LEXICON.transitive:
        senses[verb.source].add(verb.target)
    ambiguous = {source for source, targets in senses.items() if len(targets) > 1}
    assert len(ambiguous) == 8
    for sentence in _trees(4_000):
        if sentence.main.object is not None and sentence.main.verb.source in ambiguous:
            assert sentence.main.verb.object_animate == sentence.main.object.noun.animate
    spelled_alike = {noun.source for noun in LEXICON.nouns} & {verb.source for verb in LEXICON.intransitive}
    assert len(spelled_alike) == 6


def test_the_source_has_one_translation() -> None:
    """No source line is said in two ways: what a model gets wrong is not noise in the corpus."""
    source, target = SourceLanguage(LEXICON), TargetLanguage(LEXICON)
    translations: dict[str, set[str]] = defaultdict(set)
    for sentence in _trees(20_000):
        translations[" ".join(source.words(sentence))].add(" ".join(target.words(sentence)))
    assert [line for line, found in translations.items() if len(found) > 1] == []


def test_draws_are_within_bounds_and_prefer_the_first() -> None:
    random = Random(3)
    drawn = Counter(pick(random, "abcd") for _ in range(8_000))
    assert drawn["a"] > drawn["b"] > drawn["c"] > drawn["d"] > 300
    assert {below(random, 3) for _ in range(100)} == {0, 1, 2}


def test_names_stand_without_determiner() -> None:
    names = [phrase for tree in _trees(500) for phrase in tree.main.subject.phrases if phrase.noun in LEXICON.names]
    assert names
    assert all(phrase == Phrase(phrase.noun, "sg") for phrase in names)


def test_as_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "nmtprune.demo.corpus", str(tmp_path / "c"), "--train", "5", "--val", "2"]
    done = subprocess.run([*command, "--test", "3"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == str(tmp_path / "c" / "val.src")
    again = subprocess.run(command, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (
        8,
        f"Error: {tmp_path}/c/val.src: exists\n",
    )
