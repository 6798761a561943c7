"""A trial notices what would make its numbers meaningless."""

from __future__ import annotations

from pathlib import Path

import pytest

from vqdiff.evaluation.trial import Trial
from vqdiff.training.resuming import RunRecord


@pytest.mark.parametrize(
    ("settings", "remarked"),
    [
        ({"data": "pictures", "validation": 0.05}, True),
        ({"data": "pictures", "validation": 0.1}, False),
        ({"data": "others", "validation": 0.05}, False),
        ({"data": "pictures"}, False),
    ],
)
def test_a_model_that_was_trained_on_the_split_is_remarked_on(
    tmp_path: Path, settings: dict[str, object], remarked: bool
) -> None:
    trial, model = Trial("pictures", validation=0.1), tmp_path / "model"
    assert trial.overlap(str(model)) is None  # a name, or a model without a run
    RunRecord(settings, "").write(tmp_path)
    for folder in (tmp_path, model):
        remark = trial.overlap(str(folder))
        assert (remark is not None) == remarked
        assert not remarked or "validation = 0.05, and trial.validation is 0.1" in str(remark)
