"""The candidates of one image in the engine, each of which takes its steps whenever it has a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from vqdiff.sampling import Batch
from vqdiff.sampling.candidates import best, rungs
from vqdiff.settings import SamplingSettings

Score = Callable[[Sequence[Batch], bool], list[float]]
"""(batches of one row each, whether the candidates are finished) -> a score of each; see `vqdiff.ranking.Ranker`."""


class Contest:
    """Where the candidates of an image stand.

    A candidate pauses at its last step and, with pruning, where the worse ones leave (`rungs`), to be scored. When all
    have paused, the best ones go on. Of those that do not have a row, only the tokens and the plan are kept.

    steps: of each candidate; the longest determines where they pause.
    """

    def __init__(self, settings: SamplingSettings, steps: Sequence[int]) -> None:
        self._stops = [*rungs(settings, max(steps)).items(), (max(steps), 1)]
        """After which steps candidates are ranked, and how many are left then; the first is the next."""
        self._left = set(range(len(steps)))
        self._paused = dict[int, Batch]()
        self._scores = dict[int, float]()
        self.waiting = dict[int, Batch]()
        """The candidates that go on, but have no row yet."""
        self.winner: tuple[int, Batch] | None = None
        """The best candidate, when it is known."""

    def pauses(self, taken: int, left: int) -> bool:
        """Return whether a candidate with so many steps taken, and left, is to be scored now."""
        return left == 0 or taken >= self._stops[0][0]

    def arrive(self, arrived: Mapping[int, Batch], score: Score) -> list[int]:
        """Add candidates that have paused; return those that go on now, which are in `waiting`."""
        (_, count), last = self._stops[0], len(self._stops) == 1
        if len(self._left) > count:
            self._scores |= dict(zip(arrived, score(list(arrived.values()), last), strict=True))
        self._paused |= arrived
        if len(self._paused) < len(self._left):
            return []
        among = sorted(self._left)
        kept = [among[i] for i in best([self._scores.get(one, 0.0) for one in among], count)]
        if last:
            self.winner = kept[0], self._paused[kept[0]]
            return []
        paused = {one: self._paused[one] for one in kept}
        self._stops, self._left, self._paused, self._scores = self._stops[1:], set(kept), {}, {}
        finished = {one: batch for one, batch in paused.items() if not batch.left.any()}
        self.waiting = {one: batch for one, batch in paused.items() if one not in finished}
        going = list(self.waiting)
        return [*going, *self.arrive(finished, score)] if finished else going
