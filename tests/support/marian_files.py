"""Tiny Marian models with random weights, made in code in the layout that Marian writes."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from nmtprune.formats.marian import MarianCheckpoint
from nmtprune.plan import Plan

OPTIONS: dict[str, Any] = {
    "type": "transformer",
    "dim-emb": 16,
    "enc-depth": 2,
    "dec-depth": 2,
    "dim-vocabs": [40, 40],
    "transformer-heads": 4,
    "transformer-dim-ffn": 24,
    "transformer-decoder-dim-ffn": 0,
    "transformer-ffn-depth": 2,
    "transformer-ffn-activation": "swish",
    "transformer-preprocess": "",
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": "",
    "transformer-decoder-autoreg": "self-attention",
    "transformer-tied-layers": [],
    "transformer-no-projection": False,
    "dec-cell": "gru",
    "tied-embeddings": False,
    "tied-embeddings-all": True,
    "tied-embeddings-src": False,
    "output-omit-bias": False,
    "version": "v1.12.42",
}

SSRU = {
    "transformer_decoder_autoreg": "rnn",
    "dec_cell": "ssru",
    "transformer_tied_layers": [1, 1],
    "tied_embeddings_all": False,
    "tied_embeddings": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "post-norm, all tied": {},
    "pre-norm with norms at both ends": {
        "transformer_preprocess": "n",
        "transformer_postprocess": "da",
        "transformer_postprocess_emb": "nd",
        "transformer_postprocess_top": "n",
    },
    "untied": {"tied_embeddings_all": False, "transformer_ffn_activation": "relu"},
    "target table tied to the output": {"tied_embeddings_all": False, "tied_embeddings": True},
    "uneven depths and widths": {"enc_depth": 3, "dec_depth": 1, "transformer_decoder_dim_ffn": 20},
    "tied decoder layers": {"dec_depth": 3, "transformer_tied_layers": [1, 1, 3]},
    "SSRU decoder of tied layers": SSRU,
    "pre-norm SSRU decoder": {
        **SSRU,
        "transformer_tied_layers": [],
        "transformer_preprocess": "n",
        "transformer_postprocess": "da",
    },
}
"""Options of `marian_arrays` for everything that the native model supports."""

Arrays = dict[str, NDArray[Any]]


def marian_arrays(words: int = 40, seed: int = 1, **changes: Any) -> Arrays:
    """The entries of a model; options by Marian's names with underscores for hyphens."""
    options = {
        **OPTIONS,
        "dim-vocabs": [words, words],
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    rng = np.random.default_rng(seed)
    found: Arrays = {}
    for name, shape in sorted(_shapes(options, words).items()):
        scale = 0.3 if len(name.split("_ln_")) == 1 else 0.05
        values = rng.normal(1.0 if "_ln_scale" in name else 0.0, scale, shape)
        found[name] = values.astype(np.float32)
    text = yaml.safe_dump(options).encode()
    found["special:model.yml"] = np.frombuffer(text + b"\0" * (512 - len(text) % 512), dtype=np.int8).copy()
    return found


def marian_model(path: Path, **changes: Any) -> Path:
    """Write a model as Marian does: stored, no zip64 fields."""
    return write(path, marian_arrays(**changes))


def write(path: Path, arrays: Arrays, compression: int = zipfile.ZIP_STORED) -> Path:
    """Write any arrays."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return path


def random_plan(checkpoint: MarianCheckpoint, seed: int, share: float) -> Plan:
    """A plan that removes about a share of all heads."""
    rng = np.random.default_rng(seed)
    heads = checkpoint.architecture.head_ids()
    return Plan.removing(checkpoint.base, [head for head in heads if rng.random() < share])


def _shapes(options: dict[str, Any], words: int) -> dict[str, tuple[int, int]]:
    width = options["dim-emb"]
    shapes: dict[str, tuple[int, int]] = {"decoder_ff_logit_out_b": (1, words)}
    if options["tied-embeddings-all"]:
        shapes["Wemb"] = (words, width)
    else:
        shapes |= {"encoder_Wemb": (words, width), "decoder_Wemb": (words, width)}
        if not options["tied-embeddings"]:
            shapes["decoder_ff_logit_out_Wt"] = (words, width)
    tied = options["transformer-tied-layers"] or range(1, options["dec-depth"] + 1)
    for stack, numbers in (("encoder", range(1, options["enc-depth"] + 1)), ("decoder", sorted({*tied}))):
        if "n" in options["transformer-postprocess-emb"]:
            shapes |= _norm(f"{stack}_emb", "_pre", width)
        if "n" in options["transformer-postprocess-top"]:
            shapes |= _norm(f"{stack}_top", "", width)
        for number in numbers:
            shapes |= _layer(options, stack, f"{stack}_l{number}")
    return shapes


def _layer(options: dict[str, Any], stack: str, own: str) -> dict[str, tuple[int, int]]:
    width, ssru = options["dim-emb"], options["transformer-decoder-autoreg"] == "rnn"
    inner = (stack == "decoder" and options["transformer-decoder-dim-ffn"]) or options["transformer-dim-ffn"]
    modules = [f"{own}_self"] if stack == "encoder" else [f"{own}_context", *([] if ssru else [f"{own}_self"])]
    sublayers = [f"{own}_ffn_ffn", *(f"{module}_Wo" for module in modules)]
    shapes = {f"{own}_ffn_W1": (width, inner), f"{own}_ffn_b1": (1, inner)}
    shapes |= {f"{own}_ffn_W2": (inner, width), f"{own}_ffn_b2": (1, width)}
    letters = "qkv" if options["transformer-no-projection"] else "qkvo"
    for module in modules:
        shapes |= {f"{module}_W{letter}": (width, width) for letter in letters}
        shapes |= {f"{module}_b{letter}": (1, width) for letter in letters}
    if stack == "decoder" and ssru:
        shapes |= {f"{own}_rnn_W": (width, width), f"{own}_rnn_Wf": (width, width), f"{own}_rnn_bf": (1, width)}
        # Marian names the norm before the recurrence otherwise than the one after it.
        shapes |= _norm(f"{own}_rnn", "_pre", width) if "n" in options["transformer-preprocess"] else {}
        shapes |= _norm(f"{own}_rnn_ffn", "", width) if "n" in options["transformer-postprocess"] else {}
    for sublayer in sublayers:
        if "n" in options["transformer-preprocess"]:
            shapes |= _norm(sublayer, "_pre", width)
        if "n" in options["transformer-postprocess"]:
            shapes |= _norm(sublayer, "", width)
    return shapes


def _norm(own: str, ending: str, width: int) -> dict[str, tuple[int, int]]:
    return {f"{own}_ln_{what}{ending}": (1, width) for what in ("scale", "bias")}
