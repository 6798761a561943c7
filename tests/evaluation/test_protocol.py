"""Results keep how they were taken, refuse to be compared with others, and notice when they were changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vqdiff.evaluation.protocol import Measurement, Result, Subject, compare, table
from vqdiff.foundation.errors import InputError
from vqdiff.metrics import Estimate, summary

MEASUREMENT = Measurement(
    task="text to picture",
    num_pictures=500,
    prompts="test",
    prompts_hash="aa",
    reference="test",
    num_reference=400,
    reference_hash="bb",
    image_size=64,
    resize="bicubic",
    seeds=(0, 1, 2),
    features="EfficientNet-Lite0",
    features_hash="cc",
    scorer="emoji scorer",
    scorer_hash="dd",
    choices=100,
)
SUBJECT = Subject("emoji", "ee", "float32", "cpu", {"sampler": "purity", "guidance": 3.0, "steps": 25}, "learned")
RESULT = Result(
    subject=SUBJECT,
    measurement=MEASUREMENT,
    versions={"vqdiff": "0.1", "torch": "2.13.0"},
    scores={"text score": Estimate(0.812, 0.009, 3), "Fréchet distance": Estimate(12.5, None, 1)},
    command="vqdiff evaluate config.toml",
)


# --- files ------------------------------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "guidance-1.5")
    assert Result.load(tmp_path / "guidance-1.5.json") == RESULT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guidance-1.5.json", "guidance-1.5.md"]


floats = st.floats(allow_nan=False, allow_infinity=False)
estimates = st.builds(Estimate, floats, st.none() | floats.map(abs), st.integers(1, 99))


@given(
    st.dictionaries(st.text(), estimates), st.dictionaries(st.text(), st.none() | floats | st.text() | st.integers())
)
def test_any_scores_and_settings_come_back(
    tmp_path_factory: pytest.TempPathFactory, scores: dict[str, Estimate], settings: dict[str, Any]
) -> None:
    path = tmp_path_factory.mktemp("results") / "result"
    result = replace(RESULT, scores=scores, subject=replace(SUBJECT, settings=settings))
    result.save(path)
    assert Result.load(path.with_suffix(".json")) == result


def test_the_json_names_its_hashes(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result")
    content = json.loads((tmp_path / "result.json").read_text("utf-8"))
    assert content["hash"] == MEASUREMENT.hash
    assert content["id"] == RESULT.id


def test_saving_replaces(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result")
    newer = replace(RESULT, command="vqdiff evaluate newer.toml")
    newer.save(tmp_path / "result")
    assert Result.load(tmp_path / "result.json") == newer
    assert "newer.toml" in (tmp_path / "result.md").read_text("utf-8")


class Unprintable(Result):
    """A result without a table."""

    def markdown(self) -> str:
        raise RuntimeError("no markdown")


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    RESULT.save(tmp_path / "result")
    before = {path: path.read_text("utf-8") for path in tmp_path.iterdir()}

    with pytest.raises(RuntimeError, match="no markdown"):
        Unprintable(**vars(replace(RESULT, command="other"))).save(tmp_path / "result")
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(RESULT, scores={"x": Estimate(float("nan"), None, 1)}).save(tmp_path / "result")
    assert {path: path.read_text("utf-8") for path in tmp_path.iterdir()} == before


def test_neither_file_is_written_if_one_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "result.md").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*result\.md"):
        RESULT.save(tmp_path / "result")
    assert [path.name for path in tmp_path.iterdir()] == ["result.md"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot read the result .*result.json: No such file"),
        (b'{"half": ', "result.json is not valid JSON"),
        (b"\xff\xfe", "result.json is not valid JSON"),
        (b"[1]", "result.json is not the result of an evaluation: name"),
        (b'{"model": "emoji"}', "result.json is not the result of an evaluation: name"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path: Path, text: bytes | None, says: str) -> None:
    file = tmp_path / "result.json"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(InputError, match=says) as error:
        Result.load(file)
    assert "\n" not in str(error.value)


# --- hashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{name: "x"} for name in vars(MEASUREMENT) if name not in ("task", "seeds")])
def test_each_part_of_the_measurement_counts(change: dict[str, Any]) -> None:
    if isinstance(vars(MEASUREMENT)[next(iter(change))], int):
        change = dict.fromkeys(change, 1)
    changed = replace(MEASUREMENT, **change)
    assert changed.hash != MEASUREMENT.hash
    assert replace(RESULT, measurement=changed).id != RESULT.id


def test_hashes_of_the_rest() -> None:
    assert replace(MEASUREMENT, task="reconstruction").hash != MEASUREMENT.hash
    assert replace(MEASUREMENT, seeds=(0, 1)).hash != MEASUREMENT.hash
    assert len(MEASUREMENT.hash) == 12
    assert int(MEASUREMENT.hash, 16)


def test_the_id_is_of_what_was_measured_and_how_only() -> None:
    assert replace(RESULT, versions={}, scores={}, command="").id == RESULT.id
    other = replace(SUBJECT, settings=SUBJECT.settings | {"guidance": 4.0})
    assert replace(RESULT, subject=other).id != RESULT.id
    assert replace(RESULT, subject=replace(SUBJECT, settings=dict(reversed(SUBJECT.settings.items())))).id == RESULT.id


# --- tables -----------------------------------------------------------------------------------------------------------


def test_markdown_has_scores_then_protocol_then_command() -> None:
    text = RESULT.markdown()
    rows = [
        "# emoji: text to picture",
        "| score | mean ± std | n |",
        "| text score | 0.812 ± 0.009 | 3 |",
        "| Fréchet distance | 12.5 | 1 |",
        "| settings.guidance | 3.0 |",
        "| resize | bicubic |",
        "| seeds | 0, 1, 2 |",
        "| torch version | 2.13.0 |",
        f"| measurement hash | {MEASUREMENT.hash} |",
        "```sh\nvqdiff evaluate config.toml\n```",
    ]
    places = [text.find(row) for row in rows]
    assert -1 not in places
    assert places == sorted(places)


def test_a_cell_cannot_break_the_table() -> None:
    assert table(("a", "b"), [("x|y\nz", 1)]) == "| a | b |\n| --- | --- |\n| x\\|y z | 1 |"


# --- comparison -------------------------------------------------------------------------------------------------------


def other(**scores: Estimate) -> Result:
    subject = replace(SUBJECT, settings={"sampler": "random", "guidance": 3.0, "steps": 25})
    return replace(RESULT, subject=subject, scores=scores, versions={"vqdiff": "0.2"})


@pytest.mark.parametrize(
    ("second", "row"),
    [
        ([0.89, 0.90, 0.91], "| score | 0.800 ± 0.100 | 0.900 ± 0.010 | +0.1 | no |"),  # against 0.7, 0.8, 0.9
        ([0.72, 0.83, 0.92], "| score | 0.800 ± 0.100 | 0.823 ± 0.100 | +0.0233 | yes |"),  # little, but every time
        ([0.70, 0.80, 0.90], "| score | 0.800 ± 0.100 | 0.800 ± 0.100 | +0 | no |"),
        ([0.9], "| score | 0.800 ± 0.100 | 0.900 | +0.1 | unknown |"),
    ],
)
def test_compare_says_whether_the_error_is_exceeded(second: list[float], row: str) -> None:
    first = replace(RESULT, scores={"score": summary([0.7, 0.8, 0.9])})
    lines = compare(first, other(score=summary(second))).splitlines()
    assert row in lines
    assert "| settings.sampler | purity | random |" in lines
    assert not any("guidance" in line for line in lines)


def test_compare_shows_scores_that_only_one_has() -> None:
    first = replace(RESULT, scores={"a": Estimate(1.0, 0.1, 2)})
    text = compare(first, other(b=Estimate(2.0, 0.1, 2)))
    assert "| a | 1.00 ± 0.10 | — | — | — |" in text
    assert "| b | — | 2.00 ± 0.10 | — | — |" in text


def test_the_same_subject_has_no_table_of_differences() -> None:
    assert compare(RESULT, RESULT).startswith("| score |")


def test_different_measurements_are_not_compared() -> None:
    unlike = replace(RESULT, measurement=replace(MEASUREMENT, resize="area", num_pictures=5000))
    with pytest.raises(InputError) as error:
        compare(RESULT, unlike)
    assert "resize is bicubic and area" in str(error.value)
    assert "num_pictures is 500 and 5000" in str(error.value)
    assert "prompts" not in str(error.value)
    assert "\n" not in str(error.value)
