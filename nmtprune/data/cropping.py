"""Sources that are cut to a number of tokens: ``--max-length-crop`` of Marian, ``--truncate-source`` of fairseq."""

from dataclasses import replace

import numpy as np

from nmtprune.data.content import Content
from nmtprune.data.sentences import Sentences


def cropped(content: Content, limit: int | None, eos: int, why: str) -> Content:
    """Sources of at most `limit` tokens, the end-of-sentence symbol included; None cuts nothing.

    Args:
        content: sentences; a remark says how many were cut.
        limit: number of tokens.
        eos: id that the last token becomes.
        why: the option that cuts, for the remark.
    """
    longer = 0 if limit is None else int((content.source.sizes > limit).sum())
    if limit is None or not longer:
        return content
    cut = (np.append(ids[: limit - 1], eos) if len(ids) > limit else ids for ids in content.source)
    note = f"{why}: {longer} of {len(content.source)} sources are cut to {limit} tokens"
    return replace(content, source=Sentences.of(cut), notes=(*content.notes, note))
