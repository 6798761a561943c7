from __future__ import annotations

from itertools import chain, pairwise

import pytest

from diary import Diary
from vqdiff.bench.workers import Worker, take_turns
from vqdiff.foundation.errors import InputError


def test_programs_work_in_turn_and_never_at_once() -> None:
    with Worker("one", Diary, 0.03) as one, Worker("other", Diary, 0.01) as other:
        notes = take_turns([one, other], "work", 4, 4, "work")
        assert other.ask("double", 3) == 6
    assert [len(each) for each in notes] == [4, 4]
    in_turn = chain.from_iterable(zip(*notes, strict=True))
    assert all(end <= start for (_, end), (start, _) in pairwise(in_turn))


def test_mistakes_of_a_program_come_here() -> None:
    with Worker("one", Diary, 0.0) as worker, pytest.raises(InputError, match="not on a Sunday"):
        worker.ask("refuse")
    with Worker("one", Diary, 0.0) as worker, pytest.raises(RuntimeError, match=r"one failed(.|\n)*KeyError: 'keys'"):
        worker.ask("fail")
    with pytest.raises(InputError, match="nobody"):
        Worker("one", Diary, -1.0)


def test_a_killed_program_is_reported_with_what_may_help() -> None:
    says = r"one was killed \(exit code -9\).*--batch"
    with Worker("one", Diary, 0.0) as worker, pytest.raises(InputError, match=says):
        worker.ask("die")
