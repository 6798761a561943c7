"""Models on the Hugging Face Hub; needs huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

from vqdiff.foundation.errors import InputError

_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)


def is_hub_id(source: str) -> bool:
    """Whether ``source`` is owner/name, optionally with @revision, and not a path: its first part does not exist."""
    is_file = source.endswith((".pth", ".pt", ".ckpt", ".safetensors"))
    return _NAME.fullmatch(source) is not None and not is_file and not Path(source.split("/")[0]).exists()


def download(source: str) -> Path:
    """Return the local folder of a Hub model, downloaded if needed, without files in half precision.

    Raises InputError if huggingface_hub, the model or the network is missing.
    """
    name = _NAME.fullmatch(source)
    assert name is not None
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise InputError(f"{source} is not here and cannot be downloaded: pip install 'vqdiff[hub]'") from error
    try:
        # A revision in half precision has its files under the usual names.
        folder = snapshot_download(name["repo"], revision=name["revision"], ignore_patterns=["*.fp16.*", "*.msgpack"])
    except Exception as error:  # its own errors, and those of the HTTP library it uses
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"cannot download {source} from the Hub, and there is no such folder or file: {reason}"
        ) from error
    return Path(folder)
