"""Interim."""
import torch
from nmtprune.model.search import Symbols, translate


class Naive:
    def __init__(self, model, corpus, search, limits):
        self.model, self.corpus, self.search, self.limits = model, corpus, search, limits

    def _run(self, masks):
        v = self.corpus.target_vocabulary
        out = [None] * len(self.corpus)
        for positions in self.corpus.batches(self.limits):
            batch = self.corpus.batch(positions)
            for p, h in zip(batch.positions.tolist(), translate(self.model, batch.source, self.search, Symbols(v.pad, v.eos, v.unk), masks), strict=True):
                out[p] = h[0] if h else None
        return out

    def baseline(self):
        return self._run({})

    def masked(self, module, kept):
        H = self.model.architecture[module].heads
        for k in kept:
            m = torch.zeros(H); m[list(k)] = 1
            yield self._run({module: m})

    def losses(self, module=None, kept=((),)):
        import torch.nn.functional as F
        res = []
        for k in kept:
            masks = {}
            if module is not None:
                H = self.model.architecture[module].heads
                m = torch.zeros(H); m[list(k)] = 1
                masks = {module: m}
            out = [0.0] * len(self.corpus)
            with torch.no_grad():
                for positions in self.corpus.batches(self.limits):
                    b = self.corpus.batch(positions)
                    lp = self.model(b.source, b.previous, masks).log_softmax(-1)
                    pad = self.corpus.target_vocabulary.pad
                    l = F.nll_loss(lp.transpose(1, 2), b.target, ignore_index=pad, reduction="none").double().sum(1)
                    for p, x in zip(b.positions.tolist(), l.tolist(), strict=True):
                        out[p] = x
            res.append(out)
        return res


class NaiveEngine:
    def __init__(self, checkpoint, run, device, kept):
        from nmtprune.engines.native import load
        self.model = load(checkpoint, device)
        self.run = run
        self.masks = {}
        for m, heads in kept.items():
            t = torch.zeros(self.model.architecture[m].heads); t[list(heads)] = 1
            self.masks[m] = t

    def translate(self, corpus):
        v = corpus.target_vocabulary
        out = [[]] * len(corpus)
        if not len(corpus):
            return out
        for positions in corpus.batches(self.run.limits):
            batch = corpus.batch(positions)
            for p, h in zip(batch.positions.tolist(), translate(self.model, batch.source, self.run.search, Symbols(v.pad, v.eos, v.unk), self.masks), strict=True):
                out[p] = h
        return out
