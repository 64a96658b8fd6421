"""`scripts/build`, as who publishes a version runs it."""

from __future__ import annotations

import json
import re
import subprocess
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = ("hive", "redis", "postgres", "pandas", "traces")


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.further
def test_a_build_has_kernels_and_names_all_that_an_installation_consists_of(tmp_path: Path) -> None:
    subprocess.run([ROOT / "scripts" / "build", tmp_path], check=True, timeout=600)
    [wheel], [source], [bill] = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz"), tmp_path.glob("*.cdx.json")
    assert {"libtrees.so", "libmd5.so", "liblines.so"} <= {
        Path(name).name for name in zipfile.ZipFile(wheel).namelist()
    }
    with tarfile.open(source) as archive:
        assert not [name for name in archive.getnames() if name.endswith(".so")]
    text = bill.read_text()
    assert "file:" not in text
    assert str(tmp_path.parent.parent) not in text
    document = json.loads(text)
    assert document["bomFormat"] == "CycloneDX"
    assert document["metadata"]["component"]["name"] == "fedpredict"
    found = {_plain(each["name"]): each["version"] for each in document["components"]}
    lines = (ROOT / "requirements" / "constraints.txt").read_text().splitlines()
    pins = {_plain(name): version for name, _, version in (line.partition("==") for line in lines) if version}
    assert {name: version for name, version in found.items() if pins[name] != version} == {}
    declared = requires("fedpredict")
    assert declared is not None
    needed = {
        _plain(re.match(r"[\w.-]+", each).group())  # type: ignore[union-attr]  # a requirement begins with a name
        for each in declared
        if "extra ==" not in each or re.search(r"extra == ['\"](\w+)['\"]", each).group(1) in EXTRAS  # type: ignore[union-attr]
    }
    assert len(needed) > 25
    assert needed <= set(found)
    # nobody who reads the bill has to guess which of them a wheel depends on
    [links] = [each["dependsOn"] for each in document["dependencies"] if each["ref"] == "root-component"]
    assert len(links) > 20
