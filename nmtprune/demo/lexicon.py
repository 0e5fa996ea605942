"""Two invented vocabularies: stems composed of syllables, and the endings that inflect them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

Item = TypeVar("Item")

GENDERS = ("m", "f")
NUMBERS = ("sg", "pl")
TENSES = ("present", "past", "future")
DOMAINS = (0, 1)
"""Subjects of conversation: an adjective belongs to one, and tells the two senses of a homonym apart."""

_SOURCE_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "bl", "dr", "st", "tr")
_SOURCE_VOWELS = ("a", "e", "i", "o", "u")
_SOURCE_CODAS = ("k", "l", "m", "n", "p", "r", "t")
_TARGET_ONSETS = ("ch", "h", "j", "k", "l", "m", "n", "r", "s", "v", "z", "č", "š", "ž", "kv", "zn")
_TARGET_VOWELS = ("a", "e", "i", "ä", "ö", "ü")
_TARGET_CODAS = ("d", "g", "k", "l", "n", "r", "z", "š")


@dataclass(frozen=True)
class Noun:
    """A noun in one sense.

    Attributes:
        source: source stem; two nouns share one where it is a homonym.
        target: target stem.
        gender: target gender; the source language has none.
        animate: what tells the two translations of some verbs apart.
        domain: the domain of the adjectives that it must come with; None for a noun that has one sense only.
    """

    source: str
    target: str
    gender: str
    animate: bool
    domain: int | None = None


@dataclass(frozen=True)
class Adjective:
    """An adjective: invariable and before the noun in the source, agreeing and after it in the target."""

    source: str
    target: str
    domain: int


@dataclass(frozen=True)
class Verb:
    """A verb in one sense; `object_animate` is what its object must be, None where any object will do."""

    source: str
    target: str
    object_animate: bool | None = None


@dataclass(frozen=True)
class Determiner:
    """A determiner: one source form per number (None where it has none), one target stem that is inflected."""

    source: tuple[str | None, str | None]
    target: str


@dataclass(frozen=True)
class Pair:
    """A word that neither language inflects."""

    source: str
    target: str


@dataclass(frozen=True)
class Lexicon:
    """All words of both languages; most frequent first in every class.

    `particles` holds what occurs once in the grammar by name: not, question, that, and, relative, pronoun, future.
    """

    nouns: tuple[Noun, ...]
    adjectives: tuple[Adjective, ...]
    transitive: tuple[Verb, ...]
    intransitive: tuple[Verb, ...]
    speech: tuple[Verb, ...]
    adverbs: tuple[Pair, ...]
    prepositions: tuple[Pair, ...]
    conjunctions: tuple[Pair, ...]
    names: tuple[Noun, ...]
    determiners: tuple[Determiner, ...]
    particles: dict[str, Pair]

    @classmethod
    def draw(cls, seed: int) -> "Lexicon":
        """The vocabulary of a seed, the same on any machine."""
        return _Builder(Random(f"nmtprune lexicon {seed}")).lexicon()


def below(random: Random, count: int) -> int:
    """A whole number below `count`: only `Random.random` promises the same sequence in every version of Python."""
    return int(random.random() * count)


def pick(random: Random, items: Sequence[Item]) -> Item:
    """One of the items: the first is drawn about three times as often as the last."""
    first, second = below(random, len(items)), below(random, len(items))
    return items[min(first, second) if random.random() < 0.5 else first]


def source_noun(stem: str, number: str) -> str:
    """A source noun: its plural ends like the singular of a verb in the present tense."""
    return stem + ("s" if number == "pl" else "")


def source_verb(stem: str, tense: str, number: str) -> str:
    """A source verb; the future is a particle before the bare stem."""
    if tense == "past":
        return stem + "ed"
    return stem + ("s" if (tense, number) == ("present", "sg") else "")


def target_noun(stem: str, gender: str, number: str) -> str:
    """A target noun: the plural ending shows the gender, the singular does not."""
    return stem + ("" if number == "sg" else {"m": "or", "f": "im"}[gender])


def target_adjective(stem: str, gender: str, number: str) -> str:
    """A target adjective, agreeing with its noun in gender and number."""
    return stem + {"m": "o", "f": "a"}[gender] + {"sg": "", "pl": "k"}[number]


def target_determiner(stem: str, gender: str, number: str, case: str) -> str:
    """A target determiner, relative or personal pronoun: the only words that show the case."""
    return stem + {"m": "e", "f": "i"}[gender] + {"sg": "", "pl": "s"}[number] + {"nom": "", "acc": "nu"}[case]


def target_verb(stem: str, tense: str, number: str) -> str:
    """A target verb, agreeing with its subject in number; one word in every tense."""
    return stem + {"present": "et", "past": "ur", "future": "ov"}[tense] + {"sg": "", "pl": "en"}[number]


class _Builder:
    """Draws stems of which none begins another, so that inflected forms of different stems never coincide."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._taken: tuple[list[str], list[str]] = ([], [])

    def lexicon(self) -> Lexicon:
        particles = {
            name: self._pair(1) for name in ("not", "question", "that", "and", "relative", "pronoun", "future")
        }
        determiners = self._determiners()
        prepositions, conjunctions = self._pairs(8, 1), self._pairs(4, 1)
        single, homonyms = self._nouns(88), self._homonyms(8)
        intransitive = self._intransitive(24, single)
        return Lexicon(
            nouns=self._shuffled([*single, *homonyms]),
            adjectives=tuple(Adjective(*self._stems(2), rank % 2) for rank in range(48)),
            transitive=self._shuffled(self._transitive(24, ambiguous=8)),
            intransitive=intransitive,
            speech=tuple(Verb(*self._stems(2)) for _ in range(6)),
            adverbs=self._pairs(16, 2),
            prepositions=prepositions,
            conjunctions=conjunctions,
            names=self._names(16),
            determiners=determiners,
            particles=particles,
        )

    def _stem(self, language: int, syllables: int) -> str:
        onsets, vowels, codas = (
            (_SOURCE_ONSETS, _SOURCE_VOWELS, _SOURCE_CODAS),
            (_TARGET_ONSETS, _TARGET_VOWELS, _TARGET_CODAS),
        )[language]
        taken = self._taken[language]
        while True:
            parts = [self._uniform(onsets) + self._uniform(vowels) for _ in range(syllables)]
            stem = "".join(parts) + self._uniform(codas)
            if not any(stem.startswith(other) or other.startswith(stem) for other in taken):
                taken.append(stem)
                return stem

    def _uniform(self, items: Sequence[Item]) -> Item:
        return items[below(self._random, len(items))]

    def _stems(self, syllables: int) -> tuple[str, str]:
        return self._stem(0, syllables), self._stem(1, syllables)

    def _pair(self, syllables: int) -> Pair:
        return Pair(*self._stems(syllables))

    def _pairs(self, count: int, syllables: int) -> tuple[Pair, ...]:
        return tuple(self._pair(syllables) for _ in range(count))

    def _determiners(self) -> tuple[Determiner, ...]:
        definite, indefinite, near, far, every, many, two = (self._stems(1) for _ in range(7))
        near_plural, far_plural = self._stem(0, 1), self._stem(0, 1)
        return (
            Determiner((definite[0], definite[0]), definite[1]),
            Determiner((indefinite[0], None), indefinite[1]),
            Determiner((near[0], near_plural), near[1]),
            Determiner((None, many[0]), many[1]),
            Determiner((far[0], far_plural), far[1]),
            Determiner((every[0], None), every[1]),
            Determiner((None, two[0]), two[1]),
        )

    def _nouns(self, count: int) -> list[Noun]:
        """Nouns of one sense, of both genders and both animacies."""
        return [Noun(*self._stems(2), self._uniform(GENDERS), animate=rank % 2 == 0) for rank in range(count)]

    def _homonyms(self, count: int) -> list[Noun]:
        """Nouns of which two share a source stem: one sense for each domain, of different gender."""
        nouns: list[Noun] = []
        for rank in range(count):
            source = self._stem(0, 2)
            for domain in DOMAINS:
                gender = GENDERS[(rank + domain) % 2]
                nouns.append(Noun(source, self._stem(1, 2), gender, animate=rank % 4 < 2, domain=domain))
        return nouns

    def _transitive(self, count: int, ambiguous: int) -> list[Verb]:
        """`count` verbs of one sense, and `ambiguous` pairs whose translation depends on the object."""
        verbs = [Verb(*self._stems(2)) for _ in range(count)]
        for _ in range(ambiguous):
            source = self._stem(0, 2)
            verbs += [Verb(source, self._stem(1, 2), animate) for animate in (True, False)]
        return verbs

    def _shuffled(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """The items in random order, so that no kind of word is rarer than another."""
        left = list(items)
        return tuple(left.pop(below(self._random, len(left))) for _ in items)

    def _intransitive(self, count: int, nouns: Sequence[Noun]) -> tuple[Verb, ...]:
        """Intransitive verbs; every fourth one is spelled like a noun in the source."""
        return tuple(
            Verb(nouns[rank].source if rank % 4 == 3 else self._stem(0, 2), self._stem(1, 2)) for rank in range(count)
        )

    def _names(self, count: int) -> tuple[Noun, ...]:
        """Names: the same in both languages, with a capital."""
        return tuple(
            Noun(name, name, GENDERS[rank % 2], animate=True)
            for rank, name in enumerate(self._stem(0, 2).capitalize() for _ in range(count))
        )
