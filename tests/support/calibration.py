"""Random sentences, or labelled texts, for methods that calibrate, in the batches of a model."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nmtprune.methods.texts import LabelledTexts, SentencePairs
from nmtprune.model import Classifier, Model, Transformer


def texts_of(model: Model, batches: int, sentences: int = 7, seed: int = 1) -> list[Any]:
    """Batches of sentences of 2 to 9 words, padded as fairseq does; a language model's have an empty source.

    Those of a classifier have labels and two segments.
    """
    generator = torch.Generator().manual_seed(seed)
    if isinstance(model, Classifier):
        return [labelled_texts(model, sentences, generator) for _ in range(batches)]
    return [_batch(model, sentences, generator) for _ in range(batches)]


def labelled_texts(model: Classifier, texts: int, generator: torch.Generator) -> LabelledTexts:
    """Texts of 2 to 9 tokens with labels."""
    stack, padding = model.network.encoder, model.network.padding

    def drawn() -> Tensor:
        return torch.randint(max(4, padding + 1), model.words, (int(torch.randint(2, 10, (1,), generator=generator)),),
                             generator=generator)  # fmt: skip

    tokens = pad_sequence([drawn() for _ in range(texts)], True, padding)
    segments = torch.randint(stack.segments, tokens.shape, generator=generator) if stack.segments else None
    labels = torch.randint(model.outputs, (texts,), generator=generator)
    return LabelledTexts(tokens, segments, labels, tokens != padding)


def joined(texts: list[SentencePairs], padding: int) -> SentencePairs:
    """The sentences of all batches in one."""
    sides = ("source", "previous", "target")
    tokens = {side: [row for batch in texts for row in getattr(batch, side)] for side in sides}
    source = pad_sequence([row.flip(0) for row in tokens["source"]], True, padding).flip(1)
    previous, target = (pad_sequence(tokens[side], True, padding) for side in sides[1:])
    return SentencePairs(source, previous, target, source != padding, target != padding)


def alone(texts: list[SentencePairs]) -> list[SentencePairs]:
    """The same sentences, each in a batch of its own."""
    found = []
    for batch in texts:
        for row in range(len(batch.target)):
            source = batch.source[row][batch.real_source[row]].unsqueeze(0)
            real = batch.real_target[row]
            previous, target = batch.previous[row][real].unsqueeze(0), batch.target[row][real].unsqueeze(0)
            found.append(
                SentencePairs(source, previous, target, torch.ones_like(source) > 0, torch.ones_like(target) > 0)
            )
    return found


def _batch(model: Transformer, sentences: int, generator: torch.Generator) -> SentencePairs:
    padding, eos = model.network.padding, model.network.eos
    source_words, target_words = model.words

    def drawn(words: int) -> Tensor:
        length = int(torch.randint(2, 10, (1,), generator=generator))
        return torch.cat([torch.randint(4, words, (length,), generator=generator), torch.tensor([eos])])

    target = [drawn(target_words) for _ in range(sentences)]
    before = [torch.cat([sentence[-1:], sentence[:-1]]) for sentence in target]
    source = [drawn(source_words) for _ in range(sentences)] if model.encoder is not None else []
    left = (
        pad_sequence([row.flip(0) for row in source], True, padding).flip(1)
        if source
        else torch.zeros(sentences, 0, dtype=torch.long)
    )
    previous, after = pad_sequence(before, True, padding), pad_sequence(target, True, padding)
    return SentencePairs(left, previous, after, left != padding, after != padding)
