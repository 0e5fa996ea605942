"""`nmtprune attention`: the page shows the weights that the model has, and text as text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from nmtprune.architecture import GroupId
from nmtprune.engines import native
from nmtprune.formats import load
from nmtprune.runs.attention_page import HeadMaps, SentenceMaps, page
from tests.support.cli import nmtprune, refused
from tests.support.oracles.transformer import Heads, scores

HOSTILE = "</script><script>alert(1)</script> & \"'"


class Elements(HTMLParser):
    """Tags with their attributes, text, and whether all elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_of_a_model_and_a_plan(tiny: Path, tmp_path: Path) -> None:
    """Weights are those of plain steps; removed heads are named, and the others are drawn twice."""
    plan, output = tmp_path / "plan.json", tmp_path / "page.html"
    assert nmtprune("plan", tiny, "--remove", "encoder.0.1 encoder.1.0", "-o", plan).code == 0
    data = ("--data-bin", tiny.parent / "data-bin", "--post-process", "none")
    heads = ("--heads", "encoder.0.0-1 cross.1.2")
    result = nmtprune("attention", tiny, "w1 w2 w3", HOSTILE, *data, *heads, "--plan", plan, "-o", output, "--beam", 1)
    assert (result.code, result.stdout) == (0, ""), result.stderr
    found = Elements(output.read_text())
    assert [tag for tag, _ in found.tags if tag in ("script", "img", "link", "iframe", "object")] == []
    assert not any(name.startswith("on") or name in ("src", "srcset") for _, own in found.tags for name in own)
    assert found.texts.count(HOSTILE) == 2
    assert found.texts.count("removed by the plan") == 2
    labels = [own["aria-label"] for tag, own in found.tags if tag == "svg"]
    assert labels[:4] == [
        "full attention of encoder.0.0", "pruned attention of encoder.0.0", "full attention of encoder.0.1",
        "full attention of cross.1.2",
    ]  # fmt: skip
    checkpoint = load(tiny)
    model, own = native.load(checkpoint), Heads()
    source = torch.tensor([5, 6, 7, 2])
    tensors = {name: tensor.double() for name, tensor in checkpoint.native_tensors().items()}
    scores(model.network, checkpoint.architecture, tensors, source, torch.tensor([2]), own)
    expected = own.observed[GroupId("encoder", 0)][0, 0]
    first = output.read_text().partition("</svg>")[0]
    shown = [float(text) for text in re.findall(r'fill-opacity="([0-9.]+)"', first)]
    assert shown == pytest.approx([value for value in expected.flatten().tolist() if value >= 0.02], abs=0.0051)
    assert "w1 → w1: " in first


def test_what_is_refused(tiny: Path, tiny_lm: Path, tmp_path: Path) -> None:
    data = ("--data-bin", tiny.parent / "data-bin", "--post-process", "none")
    output = ("-o", tmp_path / "page.html")
    assert refused("attention", tiny, "w1", " ", *data, *output) == (2, "sentence 2 is empty")
    assert refused("attention", tiny, "w1", *data, *output, "--heads", "encoder.7")[0] == 2
    code, said = refused("attention", tiny, "w1", *data[:2], *output)
    assert code == 2 and said.startswith("data: text needs --sentencepiece MODEL or --bpe-codes FILE")
    assert refused("attention", tiny, "w1", *data, "-o", "-") == (2, "-o -: a page is a file: name one")
    pdf = tmp_path / "page.pdf"
    assert refused("attention", tiny, "w1", *data, "-o", pdf) == (2, f"{pdf}: name a file that ends in .html")
    assert refused("attention", tiny, "w1", *data, *output, "--plan", tmp_path / "none.json")[0] == 4
    (tmp_path / "page.html").write_text("mine")
    assert refused("attention", tiny, "w1", *data, *output)[0] == 8
    assert (tmp_path / "page.html").read_text() == "mine"


def test_a_thousand_hostile_sentences_are_text() -> None:
    maps = HeadMaps(HOSTILE, ([HOSTILE], [HOSTILE]), torch.ones(1, 1).double().numpy(), None)
    found = Elements(page([SentenceMaps(HOSTILE, HOSTILE, HOSTILE, [maps])] * 1000, {HOSTILE: HOSTILE}))
    assert {tag for tag, _ in found.tags} & {"script", "b"} == set()
    assert sum(tag == "section" for tag, _ in found.tags) == 1000
