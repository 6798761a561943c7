"""Uploading the model of a finished run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vqdiff.foundation.errors import InputError
from vqdiff.model.hub import check_push
from vqdiff.pipeline import Pipeline


@dataclass(frozen=True)
class HubUpload:
    """Where on the Hugging Face Hub the finished model goes; see `Pipeline.push_to_hub`."""

    push_to: str
    """owner/name."""
    private: bool = False
    revision: str | None = None

    def check(self) -> None:
        """Raise InputError, before the run, if huggingface_hub, a token that is accepted, or the network is missing."""
        check_push(self.push_to)

    def push(self, folder: Path) -> None:
        """Upload a model folder and print the address; InputError if that fails, with the command that tries again."""
        try:
            pipe = Pipeline.from_pretrained(folder)
            address = pipe.push_to_hub(self.push_to, private=self.private, revision=self.revision)
        except InputError as error:
            again = f"vqdiff push {folder} {self.push_to}" + " --private" * self.private
            again += f" --revision {self.revision}" if self.revision else ""
            raise InputError(f"{error}; the model is complete in {folder}: upload it with `{again}`") from error
        print(f"uploaded: {address}", flush=True)
