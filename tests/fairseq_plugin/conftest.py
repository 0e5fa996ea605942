"""Tiny trained checkpoints and slim files of them, made once for all tests of the plug-in."""

import pytest

from tests.support.fairseq_files import Files, make_files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("translation"), dropout=0.2)


@pytest.fixture(scope="session")
def lm_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    removed = "decoder.0.1-3 decoder.1"
    return make_files(
        tmp_path_factory.mktemp("lm"), removed, arch="transformer_lm_gpt", share_decoder_input_output_embed=True
    )
