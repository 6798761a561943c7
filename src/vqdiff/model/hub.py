"""Models on the Hugging Face Hub, where huggingface_hub is installed and a caller names one."""

from __future__ import annotations

import re
from pathlib import Path

from vqdiff.foundation.errors import InputError

_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Whether ``source`` is owner/name, perhaps with @revision, and no path: its first part is no folder here."""
    is_file = source.endswith((".pth", ".pt", ".ckpt", ".safetensors"))
    return _NAME.fullmatch(source) is not None and not is_file and not Path(source.split("/")[0]).exists()


def download(source: str) -> Path:
    """The local folder of a Hub model, fetched where it is not there yet; files in half precision are left out.

    Raises InputError, in one line, if huggingface_hub is missing, or the model or the network is.
    """
    name = _NAME.fullmatch(source)
    assert name is not None
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(f"{source} is neither here nor can it be fetched: pip install huggingface_hub") from error
    try:
        # A revision in half precision has its files under the plain names.
        folder = snapshot_download(name["repo"], revision=name["revision"], ignore_patterns=["*.fp16.*", "*.msgpack"])
    except Exception as error:  # its own errors, and those of whichever HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot fetch {source} from the Hub, and there is no such folder or file: {reason}"
        ) from error
    return Path(folder)
