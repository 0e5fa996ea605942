"""fairseq's configurations without the half second that Hydra takes for each: equal ones, a test says."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock


@contextlib.contextmanager
def composed_quickly() -> Iterator[None]:
    """Let fairseq turn command lines into configurations from parts that Hydra composes once per process."""
    import fairseq.dataclass.utils

    no_search = mock.Mock(return_value=contextlib.nullcontext())
    with mock.patch.multiple(fairseq.dataclass.utils, compose=_compose, initialize=no_search):
        yield


def _compose(config_name: str, overrides: Sequence[str], strict: bool) -> Any:
    """What `hydra.compose` returns: chosen groups as Hydra composes them, then ``group.setting=value`` one by one."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from omegaconf import OmegaConf

    groups = tuple(each for each in overrides if "." not in each.partition("=")[0])
    settings = [_parsed(each) for each in overrides if "." in each.partition("=")[0]]
    config = copy.deepcopy(_composed(config_name, groups))
    OmegaConf.set_struct(config, True)
    ConfigLoaderImpl._apply_overrides_to_config(settings, config)
    OmegaConf.set_struct(config, strict)
    return config


@cache
def _composed(config_name: str, groups: tuple[str, ...]) -> Any:
    import fairseq
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(Path(fairseq.__file__).parent / "config"), version_base="1.1"):
        return compose(config_name, overrides=list(groups))


@cache
def _parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override)
