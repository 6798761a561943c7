"""The output of a run: ``log.jsonl``, trackers, and lines on the console."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.files import atomic_path
from vqdiff.foundation.progress import LINE_EVERY, still
from vqdiff.training.preflight import Preflight


class RunLogger:
    """Means of the steps' metrics over all processes, written by the main one.

    A context manager that starts and ends the trackers.
    """

    def __init__(
        self, accelerator: Accelerator, output: Path, steps: int, batch_size: int, settings: Mapping[str, Any]
    ) -> None:
        """``settings``, plain values by name, go to the trackers other than TensorBoard."""
        self.accelerator, self.file = accelerator, output / "log.jsonl"
        self.steps, self.batch_size, self.settings = steps, batch_size, dict(settings)

    def __enter__(self) -> RunLogger:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.accelerator.init_trackers(self.file.parent.name)
        except Exception as error:  # each service has its own
            raise InputError(f"run.trackers: {error}") from error
        for tracker in self.accelerator.trackers:
            if tracker.name != "tensorboard":  # whose form of it is another folder in output
                tracker.store_init_configuration(self.settings)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def begin(self, step: int, meters: Mapping[str, Any], plan: Preflight) -> None:
        """Print the plan, and remove the records of steps that will be repeated."""
        self.sums, self.counted = dict(meters.get("sums", {})), meters.get("counted", 0.0)
        self.last = step
        self.clock = self.printed = time.monotonic()
        # Images per second, if the devices did nothing but matrix products.
        self.fastest = plan.peak * self.accelerator.num_processes / max(plan.flops, 1)
        if self.accelerator.is_main_process and self.file.exists():
            lines = self.file.read_text().splitlines(keepends=True)
            # A line without an end was being written when the run was killed.
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
            with atomic_path(self.file) as path:
                path.write_text("".join(kept))
        on = f"resuming at step {step:,} of {self.steps:,}; " if step else ""
        self._say(f"{on}{plan}; {self.steps - step:,} steps of {self.batch_size} images")

    def add(self, metrics: Mapping[str, Tensor], weight: float) -> None:
        """Add the metrics of a step with the given weight."""
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value.detach().double()
        self.counted += weight

    def progress(self, step: int) -> None:
        """Print a line if none was printed for half a minute."""
        if step > self.last and time.monotonic() - self.printed > LINE_EVERY:
            rate = self._rate(step)
            self._say(f"step {step}/{self.steps}  {rate:.3g} images/s  {self._left(step, rate)} left")

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """A context whose time does not count as training, and which says every half minute that it goes on."""
        start = time.monotonic()
        with still(what, self._say):
            yield
        self.clock += time.monotonic() - start

    def meters(self) -> dict[str, Any]:
        """The sums since the means were last written, over all processes; for :meth:`begin`."""
        if self.sums:
            together = self.accelerator.reduce(torch.stack(list(self.sums.values())), "mean")
            assert isinstance(together, Tensor)
            self.sums = dict(zip(self.sums, together, strict=True))
        return {"sums": {name: value.cpu() for name, value in self.sums.items()}, "counted": self.counted}

    def write_means(self, step: int, learning_rate: float) -> None:
        """Write the means since the last call, and the speed."""
        values = {name: float(total) / self.counted for name, total in self.meters()["sums"].items()}
        self.sums, self.counted = {}, 0.0
        rate = self._rate(step)
        self.last, self.clock = step, time.monotonic()
        share = rate / self.fastest
        self._record(
            step, values | {"learning_rate": learning_rate, "pictures_per_s": rate, "share_of_matmul_peak": share}
        )
        self._say(
            f"step {step}/{self.steps}  {_numbers(values)}  {rate:.1f} images/s ({share:.0%} of peak)  "
            f"{self._left(step, rate)} left"
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write held-out metrics."""
        self._record(step, values)
        self._say(f"step {step}  held out: {_numbers(values)}")

    def _rate(self, step: int) -> float:
        """Images per second since the means were last written."""
        return (step - self.last) * self.batch_size / (time.monotonic() - self.clock)

    def _left(self, step: int, rate: float) -> str:
        return _clock((self.steps - step) * self.batch_size / rate)

    def _record(self, step: int, values: Mapping[str, float]) -> None:
        if self.accelerator.is_main_process:
            try:
                with self.file.open("a") as log:
                    log.write(json.dumps({"step": step, **values}) + "\n")
            except OSError as error:
                raise InputError(f"cannot write {self.file}: {error.strerror}; make room and --resume") from error
            self.accelerator.log(dict(values), step)

    def _say(self, line: str) -> None:
        self.printed = time.monotonic()
        self.accelerator.print(line, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"


def _numbers(values: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
