"""Which settings and data make a run another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vqdiff.foundation.errors import InputError
from vqdiff.model import Card
from vqdiff.sampling import SamplingSettings
from vqdiff.training.denoiser_settings import ClassicSizes, DenoiserSizes, DiffusionTraining, Noise
from vqdiff.training.loop import RunConfig
from vqdiff.training.resuming import RunRecord, data_fingerprint, flat

CONFIG = DiffusionTraining(
    data="pictures",
    output=Path("run"),
    image_tokenizer=Path("tokenizer"),
    condition="class",
    run=RunConfig(steps=10, batch_size=4, learning_rate=1e-3),
    emphasis={"kind": {"face": 2.0}},
)


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    RunRecord.of(CONFIG, "0123").write(tmp_path)
    found = RunRecord.read(tmp_path)
    assert found is not None
    return found


def test_a_record_is_read_as_it_was_written(record: RunRecord, tmp_path: Path) -> None:
    assert record.changes(CONFIG) == []
    assert RunRecord.read(tmp_path / "nowhere") is None


def test_what_shows_measures_and_places_may_change(record: RunRecord) -> None:
    changed = replace(
        CONFIG,
        data="moved",
        prompts=("a",),
        compile=False,
        sampling=SamplingSettings(steps=3),
        card=Card("name"),
        run=replace(CONFIG.run, trackers=("wandb",), learning_rate=1e-4, steps=11),
    )
    lines = [str(change) for change in record.changes(changed)]
    assert "data: pictures → moved" in lines
    assert "run.steps: 10 → 11" in lines
    assert "run.learning_rate: 0.001 → 0.0001" in lines
    assert len(lines) == 8


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (replace(CONFIG, model=DenoiserSizes(width=32)), "model.width: 320 → 32"),
        (replace(CONFIG, classic=ClassicSizes()), "classic: None → {'width': 1024"),
        (replace(CONFIG, noise=Noise(alpha_bar=(0.9, 0.1))), "noise: None → {'num_steps': 100, 'alpha_bar': [0.9, 0."),
        (replace(CONFIG, emphasis={}), "emphasis: {'kind': {'face': 2.0}} → {}"),
        (replace(CONFIG, drop=0.2, run=replace(CONFIG.run, batch_size=8)), "run.batch_size: 4 → 8; drop: 0.1 → 0.2"),
    ],
)
def test_another_run_is_refused(changed: DiffusionTraining, words: str, record: RunRecord) -> None:
    with pytest.raises(InputError, match="this would not be the same run: ") as error:
        record.changes(changed)
    assert words in str(error.value)


def test_a_setting_that_an_older_version_did_not_have_is_its_default(record: RunRecord) -> None:
    older = {name: value for name, value in record.settings.items() if name not in ("drop", "loss")}
    assert replace(record, settings=older).changes(CONFIG) == []
    with pytest.raises(InputError, match=r"drop: 0\.1 → 0\.3"):
        replace(record, settings=older).changes(replace(CONFIG, drop=0.3))


def test_the_fingerprint_is_of_the_content() -> None:
    tokens, captions, labels = np.arange(600).reshape(300, 2), [["a"]] * 300, np.zeros(300, np.int64)
    one = data_fingerprint(tokens, captions, labels)
    assert one == data_fingerprint(tokens.copy(), list(captions), labels.copy())
    others = [
        data_fingerprint(tokens[:-1], captions[:-1], labels[:-1]),
        data_fingerprint(tokens + 1, captions, labels),
        data_fingerprint(tokens, [["b"]] * 300, labels),
        data_fingerprint(tokens, captions, labels + 1),
        data_fingerprint(tokens, captions, None),
    ]
    assert len({one, *others}) == 6


def test_trackers_take_plain_values() -> None:
    values = flat(CONFIG)
    assert values["run.steps"] == 10
    assert values["image_tokenizer"] == "tokenizer"
    assert values["emphasis.kind.face"] == 2.0
    assert values["run.betas"] == "[0.9, 0.99]"
    assert all(isinstance(value, int | float | str) for value in values.values())
