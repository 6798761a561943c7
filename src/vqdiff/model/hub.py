"""Models on the Hugging Face Hub: downloading and uploading; needs huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.extras import require

_NAME = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)
_STALE = ("denoiser/", "weaker_denoiser/", "image_tokenizer/", "null_condition/", "text_encoder/", "LICENSES.md")
"""The folders of a model, and the file, of which nothing from an earlier upload may stay."""


class HubOptions(TypedDict, total=False):
    """How a model is downloaded: a branch, tag or commit; a token in place of the stored one; the folder to keep it."""

    revision: str | None
    token: str | None
    cache_dir: str | Path | None


def is_hub_id(source: str) -> bool:
    """Whether ``source`` is owner/name, optionally with @revision, and not a path: its first part does not exist."""
    is_file = source.endswith((".pth", ".pt", ".ckpt", ".safetensors"))
    return _NAME.fullmatch(source) is not None and not is_file and not Path(source.split("/")[0]).exists()


def download(source: str, options: HubOptions | None = None) -> Path:
    """Return the local folder of a Hub model, downloaded if needed, without files in half precision.

    Raises InputError if huggingface_hub, the model or the network is missing, for a token that is not accepted, and
    for a revision that is given twice.
    """
    name = _NAME.fullmatch(source)
    assert name is not None
    given: dict[str, Any] = {key: value for key, value in (options or {}).items() if value is not None}
    revision = given.pop("revision", None)
    if name["revision"] and revision:
        raise InputError(f"{source} names a revision, and so does revision={revision!r}: give one of them")
    hub = _hub(f"{source} is not here, and downloading it")
    with _one_line(f"cannot download {source} from the Hub, and there is no such folder or file"):
        # A revision in half precision has its files under the usual names.
        ignored = ["*.fp16.*", "*.msgpack"]
        return Path(
            hub.snapshot_download(name["repo"], revision=revision or name["revision"], ignore_patterns=ignored, **given)
        )


def check_name(repo: str) -> None:
    """Raise InputError unless ``repo`` can be the name of a model on the Hub: owner/name."""
    name = _NAME.fullmatch(repo)
    if name is None or name["revision"] or ".." in repo or "--" in repo:
        raise InputError(f"{repo!r} is not a name on the Hub: give owner/name, of letters, digits, '.', '-' and '_'")


def check_push(repo: str, token: str | None = None) -> None:
    """Ask the Hub whether it accepts the token, before the work: a push to ``repo`` would fail after it.

    Raises InputError for a name that is not owner/name, if huggingface_hub, a token or the network is missing, and
    for a token that is not accepted.
    """
    check_name(repo)
    hub = _hub(f"pushing to {repo}")
    token = token or hub.get_token()
    if token is None:
        raise InputError(f"no token to push to {repo} with: log in with `hf auth login`, or set HF_TOKEN")
    with _one_line(f"cannot push to {repo}"):
        hub.HfApi().whoami(token=token)


def push(
    folder: Path,
    repo: str,
    *,
    message: str,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload the files of a model folder in one commit, and return the commit's address.

    The repository ``repo``, owner/name, and the branch ``revision`` are created if they are missing; one that exists
    stays public or private as it is. Files of an earlier model in the folders of the parts and its LICENSES.md are
    removed, others stay.

    Raises InputError if huggingface_hub, the token or the network fails; the repository then has no new commit.
    """
    check_name(repo)
    hub = _hub(f"pushing to {repo}")
    api = hub.HfApi(token=token)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    with _one_line(f"cannot push to {repo}"):
        api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        there = api.list_repo_files(repo, revision=revision)
        stale = [name for name in there if name.startswith(_STALE) and name not in files]
        changes = [hub.CommitOperationDelete(name) for name in stale]
        changes += [hub.CommitOperationAdd(name, path) for name, path in files.items()]
        return str(api.create_commit(repo, changes, commit_message=message, revision=revision).commit_url)


def _hub(what: str) -> Any:
    """Return the package huggingface_hub; InputError, which begins with ``what`` needs it, if it is missing."""
    require(what, "hub")
    import huggingface_hub

    return huggingface_hub


@contextmanager
def _one_line(failure: str) -> Iterator[None]:
    """Convert whatever the client raises, its own errors and those of the HTTP library it uses, to an InputError."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{failure}: {_reason(error)}") from error


_REASONS = {
    401: "it is private or not there, or the token is wrong: log in with `hf auth login`, or set HF_TOKEN",
    403: "the token does not allow it: use one with the permission to write there",
    404: "there is no such repository or revision, or it is private and the token has no access to it",
}


def _reason(error: Exception) -> str:
    response: Any = getattr(error, "response", None)
    if response is not None and response.status_code == 401 and str(response.url).endswith("whoami-v2"):
        return "the token is wrong: log in with `hf auth login`, or set HF_TOKEN"
    if response is not None and response.status_code in _REASONS:
        return _REASONS[response.status_code]
    cause: BaseException | None = error  # a download that finds nothing cached either wraps the failure of the network
    while cause is not None:
        if type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError"):
            return f"no connection ({cause}): try again when the network is up"
        cause = cause.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
