"""Corpora and test sets that recipes name exist, and every recipe is complete."""

import csv

import pytest

from tests.support.recipes import NAMES, RECIPES, settings_of


def origins_of(recipe: str) -> dict[str, str]:
    (sets,) = settings_of(recipe, "SETS")
    return dict(item.split("=", 1) for item in sets.split())


def test_there_are_recipes_for_the_published_experiments() -> None:
    assert {"wmt-en-ru-voita", "wmt-en-fr-michel", "wmt-tr-en-behnke", "multi30k", "ci-slim"} <= set(NAMES)


@pytest.mark.parametrize("recipe", NAMES)
def test_every_recipe_has_its_four_files(recipe: str) -> None:
    folder = RECIPES / recipe
    assert all((folder / name).is_file() for name in ("README.md", "settings.sh", "run.sh", "expected.tsv"))
    text = (folder / "README.md").read_text()
    assert "GPU hour" in text and "What differs" in text and f"recipes/{recipe}/run.sh" in text
    assert recipe in (RECIPES / "README.md").read_text()


@pytest.mark.parametrize("recipe", NAMES)
def test_expected_numbers_can_be_read_and_stand_once(recipe: str) -> None:
    with (RECIPES / recipe / "expected.tsv").open(newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    keys = [(line["row"], line["column"]) for line in lines]
    assert keys and len(keys) == len(set(keys))
    assert all(float(line["tolerance"]) > 0 and float(line["expected"]) < 100_000 for line in lines)
    tests = {name.split(".")[0] for name in origins_of(recipe)}
    named = {column.split(".")[0] for _, column in keys if column.startswith(("newstest", "test_20"))}
    assert named <= tests


def test_corpora_and_test_sets_of_both_packages_are_named() -> None:
    """The tests below look at these two kinds."""
    kinds = {origin.partition(":")[0] for recipe in NAMES for origin in origins_of(recipe).values()}
    assert {"mtdata", "sacrebleu"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("recipe", NAMES)
def test_every_mtdata_name_is_in_the_index_of_its_package(recipe: str) -> None:
    index = pytest.importorskip("mtdata.index").INDEX
    identify = pytest.importorskip("mtdata.entry").DatasetId.parse
    (pair,) = settings_of(recipe, "MTDATA_LANGS")
    for origin in origins_of(recipe).values():
        kind, _, names = origin.partition(":")
        for name in names.split(",") if kind == "mtdata" else ():
            entry = identify(name)
            assert entry in index, name
            assert sorted(str(language)[:3] for language in entry.langs) == sorted(pair.split("-")), name


@pytest.mark.parametrize("recipe", NAMES)
def test_every_test_set_of_sacrebleu_has_the_languages(recipe: str) -> None:
    from sacrebleu.dataset import DATASETS

    source, target = settings_of(recipe, "SOURCE_LANG", "TARGET_LANG")
    for origin in origins_of(recipe).values():
        kind, _, name = origin.partition(":")
        if kind == "sacrebleu":
            assert f"{source}-{target}" in DATASETS[name].langpairs, name


@pytest.mark.slow
def test_the_guard_sees_a_name_that_there_is_not() -> None:
    index = pytest.importorskip("mtdata.index").INDEX
    identify = pytest.importorskip("mtdata.entry").DatasetId.parse
    assert identify("Statmt-nowhere-1-rus-eng") not in index
