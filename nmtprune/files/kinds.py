"""What a file is, by its content: one phrase that says what somebody named instead of a model, and what to do.

Only the beginning of a file is read, and of an archive the names in it. Files that nmtprune itself may be able to read
(torch's and NumPy's archives) are no matter of this module: `describe` says None of them.
"""

import json
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

Recogniser = Callable[[bytes, Path], str | None]
"""From the beginning of a file and its path to what it is."""

SENTENCEPIECE = "a SentencePiece model"
"""What `describe` calls such a file, for readers of one who must say that it is damaged."""

HEAD = 4096
"""Bytes at the beginning of a file that tell what it is."""

_SHOWN = 30
_ZIP = b"PK\x03\x04"
_POINTER_BYTES = 1024
"""Git LFS writes no larger pointers."""

_GIT_LFS = re.compile(rb"version https://(git-lfs|hawser)\.github\.com/spec/v\d+\n")
_SIZE = re.compile(rb"^size (\d+)$", re.MULTILINE)
_PAGE = re.compile(rb"\s*<(!doctype html|html[ >].*<(head|body|title))", re.IGNORECASE | re.DOTALL)
_TEST_SET = re.compile(
    rb"\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE mteval|<(srcset|refset|tstset|mteval|dataset)\b)", re.IGNORECASE
)

_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"\x04\x22\x4d\x18": ("LZ4", "unlz4"),
}
"""First bytes -> how a file is compressed, and the program that undoes it."""

_ORIGINAL = "name the checkpoint of fairseq (.pt) or Marian (.npz) that it was made from"
_MAGIC = {
    b"7z\xbc\xaf\x27\x1c": "is a 7-Zip archive: unpack it and name the file in it",
    b"Rar!\x1a\x07": "is a RAR archive: unpack it and name the file in it",
    b"\x89HDF\r\n\x1a\n": f"is an HDF5 file, as Keras writes models: {_ORIGINAL}",
    b"GGUF": f"is a GGUF model (llama.cpp): {_ORIGINAL}",
    b"\x93NUMPY": "is a single NumPy array (.npy), no archive of a model's parameters",
    b"%PDF": "is a PDF document",
    b"\xf5\x17\x34\x01\xd5\x48\x1a\xf1": "is a lexical shortlist of Marian's, which goes beside a model",
    b"MMIDIDX\0": "is an index of fairseq-preprocess: it belongs to a data folder (`data_bin`)",
    b"TNTIDX\0": "is an index of fairseq-preprocess: it belongs to a data folder (`data_bin`)",
}

_MARIAN_VERSION = 1
_MARIANHEADER = struct.Struct("<QQQQ")
_MARIAN_MOST = 100_000
_MARIAN_CLASSES = {0x100: "int", 0x200: "uint", 0x400: "float", 0x800: "packed", 0x4100: "intgemm"}
_MARIAN_CPU = 0x3000
"""Bits of a type that say which instructions its packing is for."""

_MODEL_ENDINGS = ((".pt", ".npz"), (".pth", ".bin", ".safetensors"))
"""Endings of the models that nmtprune reads, and of others."""

_MOST_BYTES = 1 << 28
"""How far a compressed archive is unpacked for its names."""

_MOST_NAMES = 10_000
_NAMES_SHOWN = 3


def describe(path: Path) -> str | None:
    """What a file is, beginning with "is", and what to do; None for text, and for what nothing is known of.

    Returns None where the file cannot be read: who reads it says why.
    """
    return _first(_RECOGNISERS, path)


def no_model(path: Path) -> str | None:
    """What a file is that was named as a model, text included; None for what may be one."""
    return _first((*_RECOGNISERS, _json, _text), path)


def text_of_another_kind(head: bytes) -> str | None:
    """What stands in place of text or data: a pointer, a page that says why a download failed, markup of a test set.

    Args:
        head: the first 4096 bytes of the file, or all of a shorter one.
    """
    here = Path()
    return _pointer(head, here) or _test_set(head, here) or _web_page(head, here)


def _pointer(head: bytes, _path: Path) -> str | None:
    if len(head) <= _POINTER_BYTES and _GIT_LFS.match(head):
        size = _SIZE.search(head)
        of = f" of {int(size[1])} bytes" if size else ""
        return f"is a Git LFS pointer, not the file{of} itself: run git lfs pull, or download the file"
    if len(head) <= _POINTER_BYTES and head.startswith(b"/annex/objects/"):
        return "is a git-annex pointer, not the file itself: run git annex get"
    return None


def _web_page(head: bytes, _path: Path) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf")
    if _PAGE.match(text):
        return "is an HTML page, as a failed download leaves it: download the file again, by its direct link"
    if text.lstrip().startswith(b"<?xml"):
        return "is an XML document, as a failed download leaves it: download the file again, by its direct link"
    return None


def _test_set(head: bytes, _path: Path) -> str | None:
    if not _TEST_SET.match(head.removeprefix(b"\xef\xbb\xbf")):
        return None
    return "is a test set with its markup (SGML or XML): take the sentences out of it, as sacrebleu --echo does"


def _magic(head: bytes, _path: Path) -> str | None:
    return next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)


def _compressed(head: bytes, path: Path) -> str | None:
    for magic, (name, program) in _COMPRESSED.items():
        if head.startswith(magic):
            inside = _in_tar(path, compressed=True)
            if inside is not None:
                return f"is a tar archive compressed by {name}{_listed(inside)}"
            return f"is compressed by {name}: unpack it first ({program} {path.name})"
    return None


def _tar(head: bytes, path: Path) -> str | None:
    inside = _in_tar(path, compressed=False) if head[257:262] == b"ustar" else None
    return None if inside is None else f"is a tar archive{_listed(inside)}"


def _zip(head: bytes, path: Path) -> str | None:
    """A zip archive that is neither torch's nor NumPy's own."""
    if not head.startswith(_ZIP):
        return None
    try:
        inside = _in_zip(path)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    if not inside or any(name.endswith((".npy", "/data.pkl")) for name in inside):
        return None
    return f"is a zip archive{_listed(inside)}"


def _marian_binary(head: bytes, path: Path) -> str | None:
    """Marian's ``.bin``: version, number of headers, and of each header length of name, type, dimensions, bytes."""
    if len(head) < 16 + _MARIANHEADER.size:
        return None
    version, count = struct.unpack_from("<QQ", head)
    if version != _MARIAN_VERSION or not 0 < count < _MARIAN_MOST:
        return None
    within = min(count, (len(head) - 16) // _MARIANHEADER.size)
    headers = [_MARIANHEADER.unpack_from(head, 16 + number * _MARIANHEADER.size) for number in range(within)]
    names = [_marian_type(code) for _, code, _, _ in headers]
    if not all(names) or any(not 0 < length < HEAD or axes > 8 for length, _, axes, _ in headers):
        return None
    quantized = sorted({str(name) for name in names if str(name).startswith(("packed", "intgemm"))})
    if quantized:
        what = f"with quantized weights ({', '.join(quantized)}): name the .npz that it was made from"
    else:
        what = f": name the .npz that it was made from, or make one: marian-conv -f {path.name} -t MODEL.npz"
    return f"is a model in Marian's binary form {what}".replace(" :", ":")


def _marian_type(code: int) -> str | None:
    kind, size = _MARIAN_CLASSES.get(code & ~0xFF & ~_MARIAN_CPU), code & 0xFF
    return None if kind is None or size not in (1, 2, 4, 8) else f"{kind}{8 * size}"


def _ctranslate2(head: bytes, _path: Path) -> str | None:
    """CTranslate2's ``model.bin``: version, then the name of a specification with its length."""
    if len(head) < 8:
        return None
    version, length = struct.unpack_from("<IH", head)
    name = head[6 : 6 + length]
    if not (0 < version < 100 and 4 < length < 100 and name.endswith(b"\0") and b"Spec" in name):
        return None
    return f"is a model of CTranslate2 (model.bin): {_ORIGINAL}"


def _safetensors(head: bytes, path: Path) -> str | None:
    length = int.from_bytes(head[:8], "little")
    if head[8:10] != b'{"' or not 0 < length <= path.stat().st_size - 8:
        return None
    return "is a safetensors file, as Hugging Face's models are: name the folder that it is in, with its config.json"


def _onnx(head: bytes, _path: Path) -> str | None:
    """ONNX: a protocol buffer that begins with a small version, then names its producer or holds a graph."""
    if len(head) < 4 or head[0] != 0x08 or not 0 < head[1] < 0x20 or head[2] not in b"\x12\x1a\x22\x3a\x42":
        return None
    return f"is an ONNX model: {_ORIGINAL}"


def _sentencepiece(head: bytes, _path: Path) -> str | None:
    """A SentencePiece model: a protocol buffer of pieces, each with its length, text and score."""
    if len(head) < 8 or head[0] != 0x0A or head[2] != 0x0A or len(head) <= 4 + head[3] or head[4 + head[3]] != 0x15:
        return None
    return f"is {SENTENCEPIECE}: it goes with `sentencepiece` or, Marian's, with `vocabs`"


def _json(head: bytes, path: Path) -> str | None:
    """JSON: of nmtprune, with its format; else only told from other text where it is whole and short."""
    if not head.lstrip().startswith(b"{"):
        return None
    own = re.search(rb'"format": *"(nmtprune-[a-z0-9]+)"', head)
    if own:
        return f"is a file of nmtprune's ({own[1].decode()}), no checkpoint"
    try:
        if path.stat().st_size <= HEAD:
            json.loads(head)
            return "is a JSON file, no checkpoint"
    except (ValueError, RecursionError):
        pass
    return None


def _text(head: bytes, path: Path) -> str | None:
    """Text: characters of UTF-8 without control characters; what is cut off at the end of the head is no fault."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if len(head) < HEAD or error.start < len(head) - 3:
            return None
        text = head[: error.start].decode("utf-8")
    if _ZIP.startswith(head) or any(ord(char) < 32 and char not in "\t\n\r\f" for char in text):
        return None
    if path.suffix in (".yml", ".yaml"):
        return "is a file of settings (YAML), no model: name the model that it goes with"
    begins = text.strip().split("\n")[0][:_SHOWN]
    return f"is a text file (it begins with {ascii(begins)}), no checkpoint"


def _tensorflow(_head: bytes, path: Path) -> str | None:
    if re.search(r"\.(index|meta|data-\d{5}-of-\d{5})$", path.name) and "ckpt" in path.name:
        return f"is a part of a TensorFlow checkpoint: {_ORIGINAL}"
    return None


_RECOGNISERS: tuple[Recogniser, ...] = (
    _pointer, _web_page, _magic, _compressed, _tar, _zip, _marian_binary, _ctranslate2, _safetensors, _sentencepiece,
    _onnx, _tensorflow,
)  # fmt: skip


def _first(recognisers: Iterable[Recogniser], path: Path) -> str | None:
    try:
        with open(path, "rb") as file:
            head = file.read(HEAD)
    except OSError:
        return None
    return next((found for found in (recognise(head, path) for recognise in recognisers) if found), None)


def _in_zip(path: Path) -> list[str]:
    """Names of the files in a zip archive.

    Raises:
        OSError, ValueError, zipfile.BadZipFile, NotImplementedError: it is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        return [entry.filename for entry in archive.infolist() if not entry.is_dir()]


def _in_tar(path: Path, *, compressed: bool) -> list[str] | None:
    """Names of the files in a tar archive; None for something else, or with nothing in it.

    Args:
        path: the archive.
        compressed: its names lie behind data that must be unpacked to get there: the first ones do.
    """
    found: list[str] = []
    try:
        with tarfile.open(path, "r:*") as archive:
            while len(found) < _MOST_NAMES and (member := archive.next()) is not None:
                if member.isfile():
                    found.append(member.name)
                if compressed and member.offset_data + member.size > _MOST_BYTES:
                    break
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error):
        pass
    return found or None


def _listed(names: list[str]) -> str:
    """The models in an archive, as a message goes on behind "is an archive", and what to do."""
    models = [name for endings in _MODEL_ENDINGS for name in sorted(names) if name.endswith(endings)]
    likely = [name for name in models if name.endswith(_MODEL_ENDINGS[0])]
    models = likely or models
    if not models:
        return ", without a model that nmtprune knows in it"
    more = f" and {len(models) - _NAMES_SHOWN} more" if len(models) > _NAMES_SHOWN else ""
    return f" that holds {', '.join(models[:_NAMES_SHOWN])}{more}: unpack it and name the file in it"
