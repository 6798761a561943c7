from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from vqdiff.recipes.emoji.build import Contents, packages_for
from vqdiff.recipes.emoji.packages import Package

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> dict[Package, Path]:
    """The pinned packages, cut down to a few icons each and to what is known about them."""
    contents = json.loads((HERE / "packages.json").read_text("utf-8"))
    folder = tmp_path_factory.mktemp("packages")
    paths = {package: folder / package.archive for package in packages_for(Contents(faces=0.0))}
    for path in paths.values():
        with tarfile.open(path, "w:gz") as tar:
            for name, content in contents[path.name].items():
                data = base64.b64decode(content["base64"]) if "base64" in content else json.dumps(content).encode()
                entry = tarfile.TarInfo(f"package/{name}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return paths


@pytest.fixture(scope="session")
def expected_rows() -> list[dict[str, Any]]:
    """Rows recorded from an independent build of the whole set."""
    return json.loads((HERE / "expected_rows.json").read_text("utf-8"))
