"""Searches find the sentence that they translate, whoever else translates it."""

import torch

from nmtprune.model.search.sources import ActiveSources, SourceCaches
from tests.support import searches
from tests.support.fairseq_files import Build


def test_as_many_searches_as_sentences_may_share_one(build: Build) -> None:
    model = searches.model_of(searches.checkpoint(build, "post-norm, separate embeddings", trained=False))
    source = searches.batch(model.words[0], (7, 4))
    source_cache = model.cache_source(model.encode(source))
    found, groups = ActiveSources(SourceCaches((source_cache,), 2)).of(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert groups.owner.tolist() == [0, 1]
    for own, expected in zip(found.cross, source_cache.cross, strict=True):
        assert own is not None and expected is not None
        assert torch.equal(own[:, 0], expected[:, 0]) and torch.equal(own[:, 1], expected[:, 0])
