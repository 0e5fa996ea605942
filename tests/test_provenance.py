"""Provenance: JSON that says how a file was made."""

import hashlib
import json
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest

from nmtprune.errors import DataError
from nmtprune.provenance import collect


def test_what_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scores.json").write_bytes(b"scores")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/nmtprune", "plan", "ü \udcff"])
    record = collect(seed=0, inputs=[tmp_path / "scores.json"], method="random")
    assert json.loads(json.dumps(record)) == record
    assert record["command"] == ["nmtprune", "plan", "ü \udcff"]
    assert record["seed"] == 0
    assert record["method"] == "random"
    digest = hashlib.sha256(b"scores").hexdigest()
    assert record["inputs"] == [{"path": str(tmp_path / "scores.json"), "sha256": digest}]
    assert record["versions"]["torch"] == version("torch")
    assert record["versions"]["nmtprune"] == version("nmtprune")
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert abs((datetime.now(UTC) - datetime.fromisoformat(record["time"])).total_seconds()) < 10
    assert record["platform"]


def test_what_was_not_given_is_absent() -> None:
    assert set(collect()) == {"command", "time", "versions", "platform"}


def test_unreadable_input(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        collect(inputs=[tmp_path / "none"])
    assert str(caught.value) == f"{tmp_path}/none: cannot be read: No such file or directory"


def test_no_package_is_imported_for_its_version() -> None:
    code = (
        "import sys\nfrom nmtprune.provenance import collect\n"
        "assert 'torch' in collect()['versions']\nsys.exit('torch' in sys.modules or 'fairseq' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
