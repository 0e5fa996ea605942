"""How each of the two invented languages puts a sentence of grammar.py in words."""

from dataclasses import dataclass

from nmtprune.demo.grammar import Clause, Phrase, PlacePhrase, Sentence, SubjectPhrase
from nmtprune.demo.lexicon import (
    Lexicon,
    Verb,
    source_noun,
    source_verb,
    target_adjective,
    target_determiner,
    target_noun,
    target_verb,
)

_SUBJECT, _OBJECT = "nom", "acc"


@dataclass(frozen=True)
class SourceLanguage:
    """Verb in the middle, adjectives before the noun, prepositions; no gender, no case."""

    lexicon: Lexicon

    def words(self, sentence: Sentence) -> list[str]:
        """The words of the source sentence."""
        particles = self.lexicon.particles
        words = [particles["question"].source] if sentence.question else []
        words += self._clause(sentence.main)
        if sentence.conjunction is not None and sentence.subordinate is not None:
            words += [sentence.conjunction.source, *self._clause(sentence.subordinate)]
        return [*words, "?" if sentence.question else "."]

    def _clause(self, clause: Clause) -> list[str]:
        particles = self.lexicon.particles
        words = self._subject(clause.subject)
        if clause.negated:
            words.append(particles["not"].source)
        words += self._verb(clause.verb, clause.tense, clause.subject.number)
        if clause.object is not None:
            words += self._phrase(clause.object)
        if clause.place is not None:
            words += self._place(clause.place)
        if clause.adverb is not None:
            words.append(clause.adverb.source)
        if clause.complement is not None:
            words += [particles["that"].source, *self._clause(clause.complement)]
        return words

    def _subject(self, subject: SubjectPhrase) -> list[str]:
        if subject.pronoun:
            return [source_noun(self.lexicon.particles["pronoun"].source, subject.number)]
        words = self._phrase(subject.phrases[0])
        for phrase in subject.phrases[1:]:
            words += [self.lexicon.particles["and"].source, *self._phrase(phrase)]
        return words

    def _verb(self, verb: Verb, tense: str, number: str) -> list[str]:
        auxiliary = [self.lexicon.particles["future"].source] if tense == "future" else []
        return [*auxiliary, source_verb(verb.source, tense, number)]

    def _phrase(self, phrase: Phrase) -> list[str]:
        words: list[str] = []
        if phrase.determiner is not None:
            words.append(phrase.determiner.source[1 if phrase.number == "pl" else 0] or "")
        words += [adjective.source for adjective in phrase.adjectives]
        words.append(source_noun(phrase.noun.source, phrase.number))
        if phrase.place is not None:
            words += self._place(phrase.place)
        if phrase.relative is not None:
            relative = phrase.relative
            other = self._phrase(relative.other)
            number = phrase.number if relative.is_subject else relative.other.number
            verb = self._verb(relative.verb, relative.tense, number)
            words += [
                self.lexicon.particles["relative"].source,
                *([*verb, *other] if relative.is_subject else [*other, *verb]),
            ]
        return words

    def _place(self, place: PlacePhrase) -> list[str]:
        return [place.preposition.source, *self._phrase(place.phrase)]


@dataclass(frozen=True)
class TargetLanguage:
    """Verb at the end, adjectives after the noun, postpositions; determiners, adjectives, pronouns and verbs agree."""

    lexicon: Lexicon

    def words(self, sentence: Sentence) -> list[str]:
        """The words of the target sentence."""
        words: list[str] = []
        if sentence.conjunction is not None and sentence.subordinate is not None:
            words += [*self._clause(sentence.subordinate), sentence.conjunction.target, ","]
        words += self._clause(sentence.main)
        if sentence.question:
            words.append(self.lexicon.particles["question"].target)
        return [*words, "?" if sentence.question else "."]

    def _clause(self, clause: Clause) -> list[str]:
        particles = self.lexicon.particles
        words = self._subject(clause.subject)
        if clause.adverb is not None:
            words.append(clause.adverb.target)
        if clause.place is not None:
            words += self._place(clause.place)
        if clause.object is not None:
            words += self._phrase(clause.object, _OBJECT)
        if clause.complement is not None:
            words += [particles["that"].target, *self._clause(clause.complement), ","]
        words.append(target_verb(clause.verb.target, clause.tense, clause.subject.number))
        if clause.negated:
            words.append(particles["not"].target)
        return words

    def _subject(self, subject: SubjectPhrase) -> list[str]:
        if subject.pronoun:
            stem = self.lexicon.particles["pronoun"].target
            return [target_determiner(stem, subject.gender, subject.number, _SUBJECT)]
        words = self._phrase(subject.phrases[0], _SUBJECT)
        for phrase in subject.phrases[1:]:
            words += [self.lexicon.particles["and"].target, *self._phrase(phrase, _SUBJECT)]
        return words

    def _phrase(self, phrase: Phrase, case: str) -> list[str]:
        gender, number = phrase.noun.gender, phrase.number
        words: list[str] = []
        if phrase.determiner is None:
            words.append(phrase.noun.target)
        else:
            words.append(target_determiner(phrase.determiner.target, gender, number, case))
            words.append(target_noun(phrase.noun.target, gender, number))
        words += [target_adjective(adjective.target, gender, number) for adjective in reversed(phrase.adjectives)]
        if phrase.place is not None:
            words += self._place(phrase.place)
        return words + (self._relative(phrase) if phrase.relative is not None else [])

    def _relative(self, phrase: Phrase) -> list[str]:
        relative = phrase.relative
        if relative is None:
            return []
        stem = self.lexicon.particles["relative"].target
        case, other_case = (_SUBJECT, _OBJECT) if relative.is_subject else (_OBJECT, _SUBJECT)
        number = phrase.number if relative.is_subject else relative.other.number
        pronoun = target_determiner(stem, phrase.noun.gender, phrase.number, case)
        verb = target_verb(relative.verb.target, relative.tense, number)
        return [pronoun, *self._phrase(relative.other, other_case), verb, ","]

    def _place(self, place: PlacePhrase) -> list[str]:
        return [*self._phrase(place.phrase, _OBJECT), place.preposition.target]
