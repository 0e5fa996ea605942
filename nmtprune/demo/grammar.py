"""Sentences as trees, drawn at random; languages.py says how each of the two invented languages puts them in words.

The source language puts the verb in the middle, adjectives before their noun and prepositions before their phrase; its
nouns have no gender, its determiners no case. The target language puts the verb at the end of every clause, adjectives
in mirrored order after their noun, postpositions after their phrase and subordinate clauses before the main one; its
determiners, adjectives, pronouns and verbs agree. What the source leaves open, the context decides: the sense of a
homonym (the adjectives beside it), of some verbs (whether the object is animate), the form of a pronoun (the subject
of the main clause), and whether a word is a noun or a verb.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from nmtprune.demo.lexicon import (
    DOMAINS,
    TENSES,
    Adjective,
    Determiner,
    Lexicon,
    Noun,
    Pair,
    Verb,
    pick,
)

Drawn = TypeVar("Drawn")


@dataclass(frozen=True)
class Phrase:
    """A noun with all that belongs to it; a name has no determiner."""

    noun: Noun
    number: str
    determiner: Determiner | None = None
    adjectives: tuple[Adjective, ...] = ()
    place: "PlacePhrase | None" = None
    relative: "Relative | None" = None


@dataclass(frozen=True)
class PlacePhrase:
    """A phrase with a preposition (source) or postposition (target)."""

    preposition: Pair
    phrase: Phrase


@dataclass(frozen=True)
class Relative:
    """A relative clause; its noun is the subject of the clause if `is_subject`, else the object."""

    verb: Verb
    tense: str
    other: Phrase
    is_subject: bool


@dataclass(frozen=True)
class SubjectPhrase:
    """One phrase or two joined by "and"; `pronoun` says that a pronoun stands for them."""

    phrases: tuple[Phrase, ...]
    pronoun: bool = False

    @property
    def number(self) -> str:
        """Number with which the verb agrees."""
        return "pl" if len(self.phrases) > 1 else self.phrases[0].number

    @property
    def gender(self) -> str:
        """Gender with which a pronoun agrees; of a mixed pair, the masculine."""
        return "m" if any(phrase.noun.gender == "m" for phrase in self.phrases) else "f"


@dataclass(frozen=True)
class Clause:
    """A subject and what is said of it; `complement` is what a verb of speech reports.

    There is an object or a place but not both: in the source, a place after an object could belong to either.
    """

    subject: SubjectPhrase
    verb: Verb
    tense: str
    object: Phrase | None = None
    place: PlacePhrase | None = None
    adverb: Pair | None = None
    negated: bool = False
    complement: "Clause | None" = None


@dataclass(frozen=True)
class Sentence:
    """A main clause, with at most one subordinate clause, as a statement or a question."""

    main: Clause
    conjunction: Pair | None = None
    subordinate: Clause | None = None
    question: bool = False


@dataclass(frozen=True)
class Grammar:
    """Draws sentences from a lexicon."""

    lexicon: Lexicon

    def draw(self, random: Random) -> Sentence:
        """One random sentence."""
        main = self._main(random)
        if main.complement is None and random.random() < 0.2:
            conjunction = pick(random, self.lexicon.conjunctions)
            pronoun = SubjectPhrase(main.subject.phrases, pronoun=True)
            subject = pronoun if random.random() < 0.6 else self._subject(random)
            return Sentence(main, conjunction, self._clause(random, subject))
        return Sentence(main, question=random.random() < 0.15)

    def _main(self, random: Random) -> Clause:
        subject = self._subject(random)
        if random.random() < 0.15:
            reported = self._clause(random, self._subject(random))
            return Clause(subject, pick(random, self.lexicon.speech), pick(random, TENSES), complement=reported)
        return self._clause(random, subject)

    def _clause(self, random: Random, subject: SubjectPhrase) -> Clause:
        found: Phrase | None = None
        if random.random() < 0.65:
            found = self._phrase(random, depth=1)
            verb = self._verb_for(random, found)
        else:
            verb = pick(random, self.lexicon.intransitive)
        place = self._place(random) if found is None and random.random() < 0.4 else None
        adverb = pick(random, self.lexicon.adverbs) if random.random() < 0.3 else None
        return Clause(subject, verb, pick(random, TENSES), found, place, adverb, negated=random.random() < 0.12)

    def _subject(self, random: Random) -> SubjectPhrase:
        first = self._phrase(random, depth=1)
        if first.relative is None and first.place is None and random.random() < 0.12:
            return SubjectPhrase((first, self._phrase(random, depth=0)))
        return SubjectPhrase((first,))

    def _verb_for(self, random: Random, found: Phrase) -> Verb:
        wanted = (None, found.noun.animate)
        return _until(lambda: pick(random, self.lexicon.transitive), lambda verb: verb.object_animate in wanted)

    def _phrase(self, random: Random, depth: int) -> Phrase:
        """A phrase; `depth` is how often another phrase may stand inside it."""
        if random.random() < 0.1:
            return Phrase(pick(random, self.lexicon.names), "sg")
        noun = pick(random, self.lexicon.nouns)
        number = "pl" if random.random() < 0.4 else "sg"
        form = 1 if number == "pl" else 0
        determiner = _until(lambda: pick(random, self.lexicon.determiners), lambda word: word.source[form] is not None)
        place = self._place(random) if depth and random.random() < 0.12 else None
        relative = self._relative(random, noun) if depth and place is None and random.random() < 0.15 else None
        return Phrase(noun, number, determiner, self._adjectives(random, noun), place, relative)

    def _adjectives(self, random: Random, noun: Noun) -> tuple[Adjective, ...]:
        """None, one or two different adjectives; at least one for a homonym, all of its domain."""
        chance = random.random()
        count = 2 if chance < 0.12 else 1 if chance < 0.42 or noun.domain is not None else 0
        domains = DOMAINS if noun.domain is None else (noun.domain,)
        chosen: list[Adjective] = []
        while len(chosen) < count:
            adjective = pick(random, self.lexicon.adjectives)
            if adjective.domain in domains and adjective not in chosen:
                chosen.append(adjective)
        return tuple(chosen)

    def _place(self, random: Random) -> PlacePhrase:
        return PlacePhrase(pick(random, self.lexicon.prepositions), self._phrase(random, depth=0))

    def _relative(self, random: Random, noun: Noun) -> Relative:
        other = self._phrase(random, depth=0)
        is_subject = random.random() < 0.6
        object_animate = other.noun.animate if is_subject else noun.animate
        verb = _until(
            lambda: pick(random, self.lexicon.transitive), lambda verb: verb.object_animate in (None, object_animate)
        )
        return Relative(verb, pick(random, TENSES), other, is_subject)


def _until(draw: Callable[[], Drawn], accept: Callable[[Drawn], bool]) -> Drawn:
    while True:
        drawn = draw()
        if accept(drawn):
            return drawn
