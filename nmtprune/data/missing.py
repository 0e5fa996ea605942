"""Why a data folder lacks what is wanted: several folders in one path, text that nobody binarized, one language."""

import re
from pathlib import Path

from nmtprune.files.places import parts, some

_TRAIN = "train"


def describe_folder(folder: Path) -> str | None:
    """What a path is that names no data folder, and what to do; None where nothing is known of it."""
    several = parts(folder)
    if several:
        return (
            f"{' and '.join(several)} are several folders (fairseq-train takes them in turns): name one; valid and "
            "test are those of the first"
        )
    if folder.is_file():
        return f"is a file: name the folder that it lies in ({folder.parent})"
    if not folder.exists() and folder.parent.is_dir():
        names = sorted(path.name for path in folder.parent.iterdir() if path.name.startswith(f"{folder.name}."))
        if names:
            return f"is the beginning of file names ({some(names)}): name the folder ({folder.parent}), and --subset"
    return None


def describe_subset(folder: Path, subset: str, names: list[str]) -> str:
    """What a folder has in place of a binarized subset, and what to do.

    Args:
        folder: that should hold it.
        subset: its name.
        names: of the files in the folder.
    """
    own = sorted(name for name in names if name.startswith(f"{subset}."))
    pref = {"train": "--trainpref", "valid": "--validpref"}.get(subset, "--testpref")
    if f"{subset}.idx" in own:
        return f"{subset}.idx is of a language model: text of one side, without a language pair in its name"
    lonely = [name for name in own if name.endswith(".bin") and f"{name.removesuffix('.bin')}.idx" not in own]
    if lonely:
        return f"{some(lonely)} without the .idx that belongs to it: copy both"
    pairs = [name for name in own if re.fullmatch(r"[^.]+-[^.]+\.[^.]+", name.removeprefix(f"{subset}."))]
    pairs = [name for name in pairs if not name.endswith((".bin", ".idx"))]
    if pairs:
        return f"{some(pairs)} are text (--dataset-impl raw): run fairseq-preprocess with --dataset-impl mmap"
    if own:
        return f"{some(own)} are not binarized: run fairseq-preprocess ({pref} {folder / subset})"
    if subset == _TRAIN:
        return f"what trains, and importance, need it: binarize it (fairseq-preprocess {pref})"
    return ""
