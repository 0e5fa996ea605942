"""`nmtprune functions`, and `plan --protect`: files, figures, and what is refused."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmtprune.formats import load
from nmtprune.plan import Plan
from tests.support.cli import documented, nmtprune, refused
from tests.support.huggingface_folders import folder_of
from tests.support.marian_files import VARIANTS, marian_model
from tests.support.marian_program import random_texts, vocabulary_file
from tests.support.subwords import ENGLISH, GERMAN

RELATIONS = ("nsubj", "obj", "amod", "advmod", "nsubj:pass", "det")


def texts(checkpoint: Path, language: str) -> list[list[str]]:
    return [line.split() for line in (checkpoint.parent / f"data-bin/valid.{language}").read_text().splitlines()]


def parses(sentences: list[list[str]]) -> str:
    """Random trees in which every word but the first depends on an earlier one."""
    rng = random.Random(1)
    lines = []
    for words in sentences:
        for number, word in enumerate(words, 1):
            head = rng.randrange(1, number) if number > 1 else 0
            relation = rng.choice(RELATIONS) if head else "root"
            lines.append("\t".join([str(number), word, "_", "_", "_", "_", str(head), relation, "_", "_"]))
        lines.append("")
    return "\n".join(lines) + "\n"


def alignments(source: list[list[str]], target: list[list[str]]) -> str:
    pairs = zip(source, target, strict=True)
    return "".join(" ".join(f"{n}-{n}" for n in range(min(map(len, pair)))) + "\n" for pair in pairs)


@pytest.fixture(scope="module")
def found(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run with all annotations."""
    folder = tmp_path_factory.mktemp("functions")
    (folder / "parses").write_text(parses(texts(tiny, "xx")))
    (folder / "aligned").write_text(alignments(texts(tiny, "xx"), texts(tiny, "yy")))
    given = ("--parses", folder / "parses", "--alignments", folder / "aligned")
    result = nmtprune("functions", tiny, *data(tiny), *given, "-o", folder / "f.json")
    assert result.code == 0, result.stderr
    assert "too few to tell a function from chance" in result.stderr
    assert "functions over 16 sentences, tokens counted in the dictionaries" in result.stdout
    return folder / "f.json"


def data(checkpoint: Path) -> tuple[Any, ...]:
    return "--data-bin", checkpoint.parent / "data-bin", "--subset", "valid"


def test_files(tiny: Path, found: Path) -> None:
    content = documented(found.read_text())
    assert content["base"]["sha256"] == load(tiny).base.sha256
    assert content["measured"] == ["positional", "rare", "syntactic", "alignment"]
    heads = {head["head"]: head for head in content["heads"]}
    assert list(heads) == [str(head) for head in load(tiny).architecture.head_ids()]
    trees = (found.parent / "parses").read_text()
    cases = sum(line.split("\t")[7] == "nsubj" for line in trees.splitlines() if line)
    assert heads["encoder.0.0"]["syntactic"]["nsubj to head"]["cases"] == cases
    words = sum(len(line.split()) for line in (found.parent / "aligned").read_text().splitlines())
    assert heads["cross.1.2"]["alignment"]["cases"] == words
    assert heads["cross.1.2"]["alignment"]["offset"] == 0 and heads["cross.1.2"]["alignment"]["baseline"] == 1
    assert "syntactic" not in heads["decoder.0.0"] and "alignment" not in heads["encoder.0.0"]
    rows = list(csv.DictReader(found.with_suffix(".tsv").read_text().splitlines(), dialect="excel-tab"))
    shown = next(row for row in rows if (row["head"], row["measured"]) == ("cross.1.2", "alignment"))
    assert float(shown["accuracy"]) == heads["cross.1.2"]["alignment"]["accuracy"]
    assert found.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_marian_model_and_the_encoder_alone(tmp_path: Path) -> None:
    """Without references the encoder can be measured; tokens are counted where no dictionary has."""
    model = marian_model(tmp_path / "model.npz", **VARIANTS["post-norm, all tied"])
    vocabulary_file(tmp_path)
    random_texts(tmp_path)
    vocabulary = tmp_path / "vocab.yml"
    raw = ("--source", tmp_path / "source", "--vocabs", vocabulary, vocabulary, "--post-process", "none")
    result = nmtprune("functions", model, *raw, "--kinds", "encoder", "--format", "json", "-o", tmp_path / "f.json")
    assert result.code == 0, result.stderr
    content = documented(result.stdout)
    assert {head["head"].split(".")[0] for head in content["heads"]} == {"encoder"}
    assert content["frequencies"] == "sentences"
    before = vocabulary.read_bytes()
    code, said = refused("functions", model, *raw, "--kinds", "encoder", "-o", vocabulary, "--force")
    assert code == 8 and said.startswith(f"{vocabulary}: is the input file") and vocabulary.read_bytes() == before
    assert refused("functions", model, *raw, "-o", tmp_path / "g.json") == (
        2,
        "decoder and cross heads are measured on references: give --reference FILE, or measure the encoder alone "
        "(--kinds encoder)",
    )


def test_a_folder_of_hugging_face(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "opus")
    for name, lines in (("en", ENGLISH), ("de", GERMAN)):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines[:8]))
    (tmp_path / "parses").write_text(parses([line.split() for line in ENGLISH[:8]]))
    given = ("--source", tmp_path / "en", "--reference", tmp_path / "de", "--parses", tmp_path / "parses")
    result = nmtprune("functions", folder, *given, "--format", "json", "-o", tmp_path / "f.json")
    assert result.code == 0, result.stderr
    assert "left out" not in result.stderr
    content = documented(result.stdout)
    assert len(content["heads"]) == 2 * 4 + 3 * 4 + 3 * 4


def dropped(lines: list[str]) -> list[str]:
    return lines[: lines.index("") + 1]


def shifted(lines: list[str]) -> list[str]:
    first = lines.index("") + 1
    return [*lines[first:], *lines[:first]]


@pytest.mark.parametrize(
    ("option", "change", "message"),
    [
        ("parses", dropped, "1 sentences, but valid.xx-yy has 16; 1 of 1 parses have the characters of the sentences"),
        ("parses", shifted, "sentence 1 (line 1) is the first that does not: '"),
        ("parses", lambda lines: ["1 x", *lines], "no CoNLL-U: line 1: 1 columns between tabs, not 10"),
        ("aligned", lambda lines: lines[1:], "15 lines, but valid.xx-yy has 16 sentences"),
        (
            "aligned",
            lambda lines: ["30-0", *lines[1:]],
            "15 of 16 lines fit the words of valid.xx-yy: line 1: 30-0, but",
        ),
        ("aligned", lambda lines: ["0:0", *lines[1:]], "line 1: '0:0' is not SOURCE-TARGET, such as 0-2"),
        ("aligned", lambda lines: [""] * len(lines), "no word is aligned"),
    ],
)
def test_annotations_that_do_not_fit(
    tiny: Path, found: Path, tmp_path: Path, option: str, change: Callable[[list[str]], list[str]], message: str
) -> None:
    path = tmp_path / "changed"
    lines = change((found.parent / option).read_text().splitlines())
    path.write_text("".join(f"{line}\n" for line in lines))
    name = {"parses": "--parses", "aligned": "--alignments"}[option]
    code, said = refused("functions", tiny, *data(tiny), name, path, "-o", tmp_path / "f.json")
    assert (code, list(tmp_path.iterdir())) == (5, [path])
    assert said.startswith(f"{path}: ") and message in said


def test_a_language_model(tiny_lm: Path, tmp_path: Path) -> None:
    code, said = refused("functions", tiny_lm, *data(tiny_lm), "-o", tmp_path / "f.json")
    assert (code, said) == (3, f"{tiny_lm}: a language model: functions of heads are those of translation models")


@pytest.fixture
def protecting(found: Path, tmp_path: Path) -> Path:
    """A file in which some heads are positional and one aligns."""
    content = json.loads(found.read_text())
    for head in content["heads"]:
        positional = head["head"] in ("encoder.0.0", "encoder.0.3", "decoder.1.1")
        head["functions"] = ["positional"] if positional else ["alignment"] if head["head"] == "cross.1.2" else []
    path = tmp_path / "protect.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ("options", "removed"),
    [
        (["--random", "20"], 20),
        (["--random", "50%", "--per", "kind"], 12),
        (["--random", "75%", "--uniform"], None),
        (["--keep", "encoder=21 cross=11"], 11),
        (["--keep", "2/1/1"], 20),
        (["--remove", "encoder.0 cross.1.2 decoder.0.0"], 3),
        (["--empty-layers", "top:2"], 20),
        (["--lowest", "20", "--scores"], 20),
    ],
)
def test_protected_heads_stay_and_others_go(
    tiny: Path, protecting: Path, tmp_path: Path, options: list[Any], removed: int | None
) -> None:
    protected = {"encoder.0.0", "encoder.0.3", "decoder.1.1", "cross.1.2"}
    if "--scores" in options:
        base = load(tiny)
        entries = [
            {"head": str(head), "score": float(str(head) not in protected)} for head in base.architecture.head_ids()
        ]
        scores = {"format": "nmtprune-scores", "version": 1, "metric": "bleu", "mode": "ablate", "baseline": {},
                  "heads": entries, "provenance": {}}  # fmt: skip
        (tmp_path / "scores.json").write_text(json.dumps(scores))
        options = [*options, tmp_path / "scores.json"]
    path = tmp_path / "plan.json"
    result = nmtprune("plan", tiny, *options, "--protect", f"{protecting}:positional,alignment", "-o", path)
    assert result.code == 0, result.stderr
    assert f"{protecting}: 4 heads are protected (positional,alignment)" in result.stderr
    gone = set(map(str, Plan.read(path).removed()))
    assert not gone & protected
    assert removed is None or len(gone) == removed
    if "--remove" in options:
        assert "protected, and therefore kept: encoder.0.0, encoder.0.3, cross.1.2" in result.stderr


@pytest.mark.parametrize(
    ("options", "names", "code", "message"),
    [
        (["--random", "21"], "positional,alignment", 4, "21 heads cannot be removed: 0 to 20 of the 24 heads"),
        (["--keep", "encoder=14"], "positional", 4, "encoder.0 keeps 1 of its heads, and 2 of them are protected"),
        (["--remove-layers", "decoder=1"], "alignment", 4, "layers that go have protected heads: cross.1.2"),
        (["--random", "2"], "smart", 2, "unknown function 'smart' (there are positional, rare, syntactic, alignment)"),
        (["--remove-neurons", "50%"], "positional", 2, "--protect goes with --keep"),
    ],
)
def test_what_protection_forbids(
    tiny: Path, protecting: Path, tmp_path: Path, options: list[str], names: str, code: int, message: str
) -> None:
    path = tmp_path / "plan.json"
    found_code, said = refused("plan", tiny, *options, "--protect", f"{protecting}:{names}", "-o", path)
    assert found_code == code and message in said and not path.exists()


def test_files_of_other_models_and_kinds(tiny: Path, build: Any, protecting: Path, tmp_path: Path) -> None:
    other = build(seed=5, encoder_normalize_before=True, decoder_normalize_before=True, share_all_embeddings=True)
    rest = ("--random", "2", "-o", tmp_path / "plan.json", "--protect")
    assert refused("plan", other, *rest, f"{protecting}:positional") == (
        4,
        f"{protecting}: these are functions of a model with the same shape but other weights: run nmtprune functions "
        "on this one",
    )
    content = json.loads(protecting.read_text())
    protecting.write_text(json.dumps(content | {"measured": ["positional", "rare"]}))
    assert refused("plan", tiny, *rest, f"{protecting}:alignment") == (
        4,
        f"{protecting}: no file of functions of heads: the file: cross.1.2 has the function 'alignment', which was not "
        "looked for",
    )
    unaligned = [head | {"functions": [name for name in head["functions"] if name != "alignment"]}
                 for head in content["heads"]]  # fmt: skip
    protecting.write_text(json.dumps(content | {"measured": ["positional", "rare"], "heads": unaligned}))
    reason = "alignment was not measured: nmtprune functions measures it with --alignments FILE"
    assert refused("plan", tiny, *rest, f"{protecting}:alignment") == (2, f"{protecting}: {reason}")
    for changed, fault in (
        (content["heads"][1:], "encoder.0.0 is missing"),
        ([*content["heads"], content["heads"][3]], "encoder.0.3 is there twice"),
        ([*content["heads"], content["heads"][3] | {"head": "cross.7.0"}], "cross.7.0 is no head of the model"),
    ):
        protecting.write_text(json.dumps(content | {"heads": changed}))
        code, said = refused("plan", tiny, *rest, f"{protecting}:positional")
        assert code == 4 and said.endswith(fault)
    protecting.write_text(json.dumps(content | {"heads": [{"head": "encoder.0"}]}))
    assert refused("plan", tiny, *rest, f"{protecting}:positional")[0] == 4
    protecting.write_text("{}")
    message = f"{protecting}: no file of functions of heads: nmtprune functions writes one"
    assert refused("plan", tiny, *rest, f"{protecting}:positional") == (4, message)
    code, said = refused("plan", tiny, *rest, "functions.json")
    assert code == 2 and "write FILE:FUNCTIONS" in said
