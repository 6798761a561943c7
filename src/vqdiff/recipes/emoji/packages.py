"""The pinned packages of the emoji set, their licences, and how they are fetched."""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vqdiff.foundation.errors import InputError


@dataclass(frozen=True)
class Package:
    """One npm package, fixed to a version and to the exact bytes of its archive."""

    name: str
    version: str
    integrity: str
    """sha512 of the archive in base64, as recorded by the registry."""

    @property
    def archive(self) -> str:
        """File name of the archive, as given by ``npm pack``."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Style:
    """One drawing style: the package of its drawings and the licence of the art."""

    name: str
    package: Package
    license: str
    attribution: str
    url: str
    note: str = ""


EMOJIBASE = Package(
    "emojibase-data",
    "17.0.0",
    "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
EMOJILIB = Package(
    "emojilib",
    "4.0.3",
    "KbWiYre9aRSaPbHrHZIz9zmoM+21LAsK1VFJtnTh1VCtWE/rNMDviGhQTmselFl95dhqtGlY22iH0leG5BuW0g==",
)

CC_BY, CC0 = "CC-BY-4.0", "CC0-1.0"
_FLUENT = "https://github.com/microsoft/fluentui-emoji"
_NOTO = "https://github.com/googlefonts/noto-emoji"

# The order matters: of two styles with the same image, the first keeps it.
STYLES = (
    Style(
        "noto",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        "Apache-2.0",
        "Google",
        _NOTO,
    ),
    Style(
        "blob",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        "Apache-2.0",
        "Google",
        _NOTO,
    ),
    Style(
        "twemoji",
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
        "CC-BY-4.0",
        "Twitter, Inc. and contributors",
        "https://github.com/jdecked/twemoji",
    ),
    Style(
        "flat",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        "MIT",
        "Microsoft Corporation",
        _FLUENT,
    ),
    Style(
        "gradient",
        Package(
            "@iconify-json/fluent-emoji",
            "1.2.7",
            "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        "MIT",
        "Microsoft Corporation",
        _FLUENT,
    ),
    Style(
        "3d",
        Package(
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        "MIT",
        "Microsoft Corporation, LobeHub",
        _FLUENT,
        "The package also has flags, which Fluent Emoji does not; their origin is not stated.",
    ),
    Style(
        "emojione",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        "CC-BY-4.0",
        "EmojiOne",
        "https://github.com/EmojiTwo/emojitwo",
        "EmojiOne 2.3; later versions are not free.",
    ),
    Style(
        "firefox",
        Package(
            "@iconify-json/fxemoji",
            "1.2.2",
            "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        ),
        "CC-BY-4.0",
        "Mozilla",
        "https://github.com/mozilla/fxemoji",
        "Upstream's LICENSE.md: the code is Apache-2.0, the drawings are CC-BY-4.0.",
    ),
    Style(
        "outline",
        Package(
            "@iconify-json/streamline-emojis",
            "1.2.4",
            "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        ),
        "CC-BY-4.0",
        "Streamline",
        "https://github.com/webalys-hq/streamline-vectors",
    ),
)
PACKAGES = (EMOJIBASE, EMOJILIB, *(style.package for style in STYLES))

LICENSE_URLS = {
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    CC_BY: "https://creativecommons.org/licenses/by/4.0/",
    CC0: "https://creativecommons.org/publicdomain/zero/1.0/",
    "MIT": "https://opensource.org/license/mit",
}


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's archive in the folder ``cache``, fetched with ``npm pack`` if it is not there yet.

    Raises InputError if npm is missing, the registry cannot be reached, or the archive is not the pinned one.
    """
    path = cache / package.archive
    if path.exists():
        _verify(package, path)
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise InputError("npm is needed to fetch the emoji packages but is not on the PATH; install Node.js with npm")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as room:
        command = [npm, "pack", "--loglevel=error", "--pack-destination", room, f"{package.name}@{package.version}"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise InputError(f"npm could not fetch {package.name}@{package.version} ({reason}); check the network")
        _verify(package, Path(room) / package.archive)
        os.replace(Path(room) / package.archive, path)
    return path


def _verify(package: Package, path: Path) -> None:
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    if digest != package.integrity:
        raise InputError(f"{path} is not {package.name}@{package.version}: its sha512 differs; remove it and try again")


def read(archive: Path, *members: str) -> dict[str, bytes]:
    """The files of an archive whose path, without the leading ``package/``, starts with one of ``members``."""
    with tarfile.open(archive) as tar:
        return {
            entry.name.removeprefix("package/"): stream.read()
            for entry in tar
            if entry.name.removeprefix("package/").startswith(members) and (stream := tar.extractfile(entry))
        }
