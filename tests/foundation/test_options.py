"""Options: what their bounds say, and the sliders that follow from them."""

from __future__ import annotations

import math

import pytest

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import Number, Whole


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (Number(help="", least=0, most=1), 2, "x is 2: it must be between 0 and 1"),
        (Number(help="", above=0, most=10, off=1), 0, "x is 0: it must be above 0 and at most 10, 1 is off"),
        (Number(help="", above=0), -1, "x is -1: it must be above 0"),
        (Whole(help="", least=1), 0, "x is 0: at least 1 is needed"),
        (Number(help="", least=0, most=1), math.nan, "x is nan: it must be between 0 and 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(option: Number, value: int | float, message: str) -> None:
    with pytest.raises(InputError) as error:
        option.check("x", value)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (Number(help="", least=0, most=1), (0, 1, 0.01)),
        (Number(help="", above=0, most=10), (0.1, 10, 0.1)),
        (Number(help="", least=2), (2, 3, 0.01)),
        (Number(help="", least=-1e6, most=1e6, slider=(0, 5, 0.5)), (0, 5, 0.5)),
    ],
)
def test_a_slider_has_the_range_of_its_option(option: Number, expected: tuple[float, ...]) -> None:
    assert option.range == pytest.approx(expected)
    option.check("x", option.range[0])
    option.check("x", option.range[1])
