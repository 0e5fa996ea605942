"""Random sentences for methods that calibrate, in the batches of a model."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nmtprune.methods.measuring import Texts
from nmtprune.model import Transformer


def texts_of(model: Transformer, batches: int, sentences: int = 7, seed: int = 1) -> list[Texts]:
    """Batches of sentences of 2 to 9 words, padded as fairseq does; a language model's have an empty source."""
    generator = torch.Generator().manual_seed(seed)
    return [_batch(model, sentences, generator) for _ in range(batches)]


def joined(texts: list[Texts], padding: int) -> Texts:
    """The sentences of all batches in one."""
    sides = ("source", "previous", "target")
    tokens = {side: [row for batch in texts for row in getattr(batch, side)] for side in sides}
    source = pad_sequence([row.flip(0) for row in tokens["source"]], True, padding).flip(1)
    previous, target = (pad_sequence(tokens[side], True, padding) for side in sides[1:])
    return Texts(source, previous, target, source != padding, target != padding)


def alone(texts: list[Texts]) -> list[Texts]:
    """The same sentences, each in a batch of its own."""
    found = []
    for batch in texts:
        for row in range(len(batch.target)):
            source = batch.source[row][batch.real_source[row]].unsqueeze(0)
            real = batch.real_target[row]
            previous, target = batch.previous[row][real].unsqueeze(0), batch.target[row][real].unsqueeze(0)
            found.append(Texts(source, previous, target, torch.ones_like(source) > 0, torch.ones_like(target) > 0))
    return found


def _batch(model: Transformer, sentences: int, generator: torch.Generator) -> Texts:
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
    return Texts(left, previous, after, left != padding, after != padding)
