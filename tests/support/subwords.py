"""Subword models of two small languages, and the kinds of SentencePiece vocabularies, learnt in code."""

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ENGLISH = [
    "a man in an orange hat is staring at something", "two dogs are running through the grass",
    "a little girl climbs into a wooden playhouse", "the people are standing in front of the building",
    "a woman in a red dress is dancing with a man", "some children play in the water near the beach",
    "a dog is playing in the water with a man", "the woman is standing in front of the people",
    "two men in orange hats are dancing", "a little dog runs to the beach", "some people are staring at a red building",
    "the children are standing in the grass",
]  # fmt: skip
GERMAN = [
    "ein mann mit einem orangefarbenen hut starrt etwas an", "zwei hunde laufen durch das grüne gras",
    "ein kleines mädchen klettert in ein spielhaus aus holz", "die leute stehen vor dem gebäude",
    "eine frau in einem roten kleid tanzt mit einem mann", "einige kinder spielen im wasser am strand",
    "ein hund spielt im wasser mit einem mann", "die frau steht vor den leuten",
    "zwei männer mit orangefarbenen hüten tanzen", "ein kleiner hund läuft zum strand",
    "einige leute starren ein rotes gebäude an", "die kinder stehen im gras",
]  # fmt: skip

TEXT = [
    "the quick brown fox jumps over the lazy dog 12 times",
    "die Würde des Menschen ist unantastbar, sagt man 345 Mal",
    "well-known façade of naïve coöperation (really) & more...",
]
_MARIAN = {"bos_id": -1, "eos_id": 0, "unk_id": 1, "hard_vocab_limit": False}

KINDS: dict[str, dict[str, Any]] = {
    "byte fallback": {"byte_fallback": True, "character_coverage": 0.98, "vocab_size": 330},
    "unigram": {"vocab_size": 75},
    "bpe with byte fallback, digits apart": {
        "model_type": "bpe", "vocab_size": 335, "byte_fallback": True, "split_digits": True},
    "characters": {"model_type": "char", "vocab_size": 60},
    "words": {"model_type": "word", "vocab_size": 25},
    "symbols of the user": {
        "vocab_size": 80, "user_defined_symbols": [">>deu<<", "<sep>"], "control_symbols": ["<ctrl>"]},
    "identity": {"vocab_size": 75, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no blank in front": {"vocab_size": 75, "add_dummy_prefix": False},
    "blanks behind": {"vocab_size": 75, "treat_whitespace_as_suffix": True},
    "blanks as they are": {"model_type": "bpe", "vocab_size": 75, "split_by_whitespace": False},
    "lower case, another unknown word": {
        "vocab_size": 75, "normalization_rule_name": "nmt_nfkc_cf", "unk_surface": " ?? "},
    "other names and ids": {"vocab_size": 75, "bos_id": 1, "eos_id": 2, "unk_id": 0, "pad_id": 3, "eos_piece": "<end>",
                            "unk_piece": "<other>"},
}  # fmt: skip


def sentencepiece_model(
    path: Path, lines: Sequence[str], size: int = 160, *, model_type: str = "bpe", **options: object
) -> Path:
    """A model that has most words of the lines whole."""
    import sentencepiece

    with path.open("wb") as stream:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(list(lines) * 5), model_writer=stream, vocab_size=size, model_type=model_type,
            hard_vocab_limit=False, minloglevel=2, **options,
        )  # fmt: skip
    return path


def bpe_codes(path: Path, lines: Sequence[str], merges: int = 120) -> Path:
    """Codes that have most words of the lines whole."""
    from subword_nmt.learn_bpe import learn_bpe

    with path.open("w", encoding="utf-8") as stream:
        learn_bpe(io.StringIO("\n".join(list(lines) * 5)), stream, num_symbols=merges, min_frequency=2)
    return path


def pieces(model: Path, lines: Iterable[str]) -> list[str]:
    """Lines as ``spm_encode`` writes them."""
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=str(model))
    return [" ".join(own.encode(line, out_type=str)) for line in lines]


def subwords(codes: Path, lines: Iterable[str]) -> list[str]:
    """Lines as ``subword-nmt apply-bpe`` writes them."""
    from subword_nmt.apply_bpe import BPE

    with codes.open(encoding="utf-8") as stream:
        bpe = BPE(stream)
    return [str(bpe.process_line(line)) for line in lines]


def written(path: Path, lines: Iterable[str]) -> Path:
    """A text file."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def sentencepiece_vocabulary(folder: Path, **options: Any) -> Path:
    """A SentencePiece vocabulary as Marian takes one, made of TEXT."""
    import sentencepiece

    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 4), model_writer=stream, minloglevel=2, num_threads=1, **{**_MARIAN, **options}
    )
    path = folder / "vocab.spm"
    path.write_bytes(stream.getvalue())
    return path
