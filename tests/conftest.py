"""Shape checks on every annotated call, one seed per test, one bundled model, and tests that run only on request."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that needs the network says so with its marker

if already := [name for name in sys.modules if name.startswith("vqdiff.")]:
    raise RuntimeError(f"imported before the shape checks were switched on: {already}")
install_import_hook("vqdiff", "beartype.beartype")

import hypothesis  # noqa: E402
import torch  # noqa: E402

hypothesis.settings.register_profile("patient", deadline=None)  # machines differ, and pause
hypothesis.settings.load_profile("patient")
if TYPE_CHECKING:
    from vqdiff.pipeline import Pipeline

torch.set_num_threads(1)  # the tensors are tiny, and the test processes share the cores


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--network", action="store_true", help="also run the tests marked network")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skips = {
        "slow": None if config.getoption("--slow") else "takes long: run with --slow",
        "network": None if config.getoption("--network") else "needs the network: run with --network",
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
    }
    items.sort(key=lambda item: "training" not in item.path.parts)  # the longest first: both processes end together
    for item in items:
        for name, reason in skips.items():
            if reason and name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred rows of the emoji set, in its own format; a copy, because loading leaves a cache in it."""
    fixtures = Path(__file__).parent / "fixtures"
    return shutil.copytree(fixtures / "emoji-sample", tmp_path_factory.mktemp("sample") / "set")


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    """The bundled model on the CPU, loaded once per process: no test may change it."""
    from bundled_model import bundled_pipeline

    return bundled_pipeline()
