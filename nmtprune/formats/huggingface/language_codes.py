"""The tokenizers of transformers with language codes: their files, their codes, and where the codes stand."""

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nmtprune import strictjson
from nmtprune.errors import CheckpointError
from nmtprune.formats.huggingface.config import Config
from nmtprune.profile import LanguageTokens
from nmtprune.strictjson import is_int, show

CONFIG = "tokenizer_config.json"
_FAST, _ADDED = "tokenizer.json", "added_tokens.json"
_VOCABULARY, _PIECES = "vocab.json", "sentencepiece.bpe.model"
_MASK = "<mask>"
SETS = "language_codes"
"""Setting that names a set of languages."""
PLAIN = "MarianTokenizer"
"""The tokenizer without language codes, which models of any class can have."""
_USUAL = ("<s>", "<pad>", "</s>", "<unk>", _MASK)
_SYMBOL_OF_VOCABULARY = r">>[^<> ]+<<|<?madeupword\d+>?"
"""Language tokens of Marian's vocabularies, and names of rows that fairseq adds to make their number even."""

# fmt: off
_NLLB = """
    ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab
    ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
    bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn
    cjk_Latn ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn
    est_Latn eus_Latn ewe_Latn fao_Latn pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn
    gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn
    ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab
    kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn
    kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn
    lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn mkd_Cyrl plt_Latn mlt_Latn
    mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva nso_Latn nus_Latn
    nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab quy_Latn
    ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
    sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
    szl_Latn tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn
    tso_Latn tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn
    vie_Latn war_Latn wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
"""
_M2M100 = """
    af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy
    id ig ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru
    sd si sk sl so sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu
"""
_WMT21 = """
    en ha is ja cs ru zh de
"""
_MBART50 = """
    ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP
    nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN
    mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
# fmt: on


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer with language codes.

    Attributes:
        name: its class in transformers.
        vocabulary: file of its symbols.
        form: of the symbol of a language.
        spelling: pattern of such symbols, the code as its only group.
        codes: by the value of ``language_codes``, in the order of their ids, for folders that do not list them.
        others: symbols behind those.
    """

    name: str
    vocabulary: str
    form: str
    spelling: str
    codes: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...] = ()

    subwords = _PIECES


_SETS_DEFAULT = "m2m100"
NLLB = Tokenizer(
    "NllbTokenizer", _PIECES, "{}", r"([a-z]{2,3}_[A-Z][a-z]{3})", {_SETS_DEFAULT: tuple(_NLLB.split())}, (_MASK,)
)
M2M100 = Tokenizer(
    "M2M100Tokenizer", _VOCABULARY, "__{}__", r"__(\w+)__",
    {_SETS_DEFAULT: tuple(_M2M100.split()), "wmt21": tuple(_WMT21.split())},
)  # fmt: skip

MBART50 = Tokenizer(
    "MBart50Tokenizer", _PIECES, "{}", r"([a-z]{2}_[A-Z]{2})", {_SETS_DEFAULT: tuple(_MBART50.split())}, (_MASK,)
)

OF_FAMILY: Mapping[str, tuple[Tokenizer, ...]] = {"m2m_100": (NLLB, M2M100), "mbart": (MBART50,)}
"""By ``model_type``."""


@dataclass(frozen=True)
class FolderTokenizer:
    """The tokenizer of a folder.

    Attributes:
        tokenizer: what it is; None: one that nmtprune does not know.
        name: its class in transformers.
        tokens: language tokens of its sentences; None without a known tokenizer.
        added: ids of symbols by the folder's files.
        source: code of the source language that the folder names.
        target: likewise, of the target.
        known: classes that are known for such a model.
    """

    tokenizer: Tokenizer | None
    name: str
    tokens: LanguageTokens | None
    added: tuple[tuple[str, int], ...]
    source: str | None
    target: str | None
    known: tuple[str, ...]


def tokenizer_of(folder: Path, config: Config) -> FolderTokenizer | None:
    """The tokenizer of a folder; None for models without language codes.

    Raises:
        CheckpointError: its settings cannot be read, or hold something else.
    """
    if not config.family.languages:
        return None
    settings = settings_in(folder / CONFIG)
    own = OF_FAMILY[config.family.model_type]
    name = settings.get("tokenizer_class") or config.values.get("tokenizer_class")
    if not isinstance(name, str):
        name = next((each.name for each in reversed(own) if (folder / each.vocabulary).is_file()), own[0].name)
    name, known = name.removesuffix("Fast"), tuple(each.name for each in own)
    if name == PLAIN:
        return None
    found = next((each for each in own if each.name == name), None)
    source, target = (_text(settings.get(side)) for side in ("src_lang", "tgt_lang"))
    if found is None:
        return FolderTokenizer(None, name, None, (), source, target, known)
    added = dict(_added(folder, settings))
    codes = tuple(match[1] for symbol in added if (match := re.fullmatch(found.spelling, symbol)))
    if not codes:
        added = {}
        codes = found.codes.get(str(settings.get(SETS, _SETS_DEFAULT)), ())
        if not codes:
            raise CheckpointError(f"{folder / CONFIG}: {SETS} {show(settings[SETS])} is not one of {_sets(found)}")
    legacy = settings.get("legacy_behaviour") is True and found is NLLB
    tokens = LanguageTokens(
        languages=codes, languages_file=None, forms=(found.form,), others=found.others, source=found.form,
        source_side="source", target=found.form, place="suffix" if legacy else "front", directions=(),
        models=f"models with {name}",
    )  # fmt: skip
    return FolderTokenizer(found, name, tokens, tuple(added.items()), source, target, known)


def unread_tokens(folder: Path, tokenizer: FolderTokenizer | None) -> list[str]:
    """Tokens that a user has added to the tokenizer of a folder: transformers leaves them whole, nmtprune does not.

    Raises:
        CheckpointError: as for `tokenizer_of`.
    """
    listed = _added(folder, settings_in(folder / CONFIG)) if tokenizer is None else iter(tokenizer.added)
    tokens = None if tokenizer is None else tokenizer.tokens
    known = set(_USUAL)
    if tokens is not None:
        known |= {form.format(language) for form in tokens.forms for language in tokens.languages or ()}
    return [symbol for symbol, _ in listed if symbol not in known and not re.fullmatch(_SYMBOL_OF_VOCABULARY, symbol)]


def _sets(tokenizer: Tokenizer) -> str:
    return ", ".join(tokenizer.codes)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def settings_in(path: Path) -> Mapping[str, Any]:
    """The settings in a file, none where there is no such file.

    Raises:
        CheckpointError: it cannot be read, or holds something else.
    """
    if not path.is_file():
        return {}
    found = strictjson.loads(strictjson.read(path, CheckpointError), str(path), CheckpointError)
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds {show(found)}, no settings")
    return found


def _added(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Symbols that the folder lists with their ids, from the first of its files that lists any."""
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict) and listed:
        where, pairs = CONFIG, [(_content(entry), int(id) if id.isdecimal() else id) for id, entry in listed.items()]
    elif found := settings_in(folder / _ADDED):
        where, pairs = _ADDED, list(found.items())
    else:
        where, pairs = _FAST, _fast_tokens(folder / _FAST)
    for symbol, id in pairs:
        if not isinstance(symbol, str) or not is_int(id) or id < 0:
            raise CheckpointError(f"{folder / where}: the id of the token {show(symbol)} is {show(id)}")
        yield symbol, id


def _fast_tokens(path: Path) -> list[tuple[Any, Any]]:
    """Symbols and ids of a ``tokenizer.json``, tens of MB that a run parses once."""
    state = path.stat() if path.is_file() else None
    return [] if state is None else list(_parsed(path, state.st_mtime_ns, state.st_size))


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, _changed: int, _size: int) -> tuple[tuple[Any, Any], ...]:
    entries = settings_in(path).get("added_tokens") or []
    entries = entries if isinstance(entries, list) else [entries]
    return tuple((_content(entry), entry.get("id") if isinstance(entry, dict) else None) for entry in entries)


def _content(entry: Any) -> Any:
    return entry.get("content") if isinstance(entry, dict) else entry
