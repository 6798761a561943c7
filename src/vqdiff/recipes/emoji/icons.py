"""Coloured icon sets besides the emoji, and the meaning of their drawings' names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from vqdiff.recipes.emoji import packages
from vqdiff.recipes.emoji.captions import concept_is_held_out, kind_captions
from vqdiff.recipes.emoji.entries import EmojiNames, Extra
from vqdiff.recipes.emoji.names import slug
from vqdiff.recipes.emoji.packages import CC_BY, Package, Style
from vqdiff.recipes.emoji.render import svg_document
from vqdiff.recipes.emoji.unicode import normalise

_STREAMLINE = "https://github.com/webalys-hq/streamline-vectors"
_NUMBERS = "one|two|three|four|five|six|seven|eight|nine|ten"


def _iconify(name: str, version: str, integrity: str) -> Package:
    return Package(f"@iconify-json/{name}", version, integrity)


def _streamline(style: str, name: str, integrity: str) -> Style:
    return Style(style, _iconify(f"streamline-{name}-color", "1.2.2", integrity), CC_BY, "Streamline", _STREAMLINE)


@dataclass(frozen=True)
class IconSet:
    """An icon set and its conventions for names."""

    style: Style
    without: str = r"(?!)"
    """A pattern for the names of icons to leave out: alternative versions and other sizes."""
    strip: str = r"-\d+$"
    """A pattern for what to remove from names."""
    flags: bool = False
    """Whether names are country codes."""


ICON_SETS = (
    IconSet(
        Style(
            "icon park",
            _iconify(
                "icon-park",
                "1.2.4",
                "S8fVl49LG/M9hvwb7ruFGInK21AHMv3IJehOJRJgXPLE39OOCP3wbfTWjro/XzsjxRwdvX/lYdGetFOZI0TaJQ==",
            ),
            "Apache-2.0",
            "ByteDance",
            "https://github.com/bytedance/IconPark",
        ),
        strip=rf"(?<=.)(-({_NUMBERS}|[a-z]))+$",
    ),
    IconSet(
        Style(
            "flat icon",
            _iconify(
                "flat-color-icons",
                "1.2.3",
                "KcmJ7CY0TKFv5GuBjiS4/v++jEcNXna1jfY+yq014tnw/MN/jMI2oYpoMHGuIpYtUqDu7eove+WySnOYO8nS3w==",
            ),
            "MIT",
            "Icons8",
            "https://github.com/icons8/flat-color-icons",
        ),
    ),
    IconSet(
        Style(
            "fluent icon",
            _iconify(
                "fluent-color",
                "1.2.21",
                "VETjGx7BMpVsCR3HV5g5t6oBGZ92XKzIRClS5xUvDn1YHAkQTF9OyF/aFdtxYOC8JROoI1SNO/Ql6jZeK7mroA==",
            ),
            "MIT",
            "Microsoft Corporation",
            "https://github.com/microsoft/fluentui-system-icons",
            "One size of each icon.",
        ),
    ),
    IconSet(
        Style(
            "round flag",
            _iconify(
                "circle-flags",
                "1.2.11",
                "vrx2btOkTQ4/P75ElEDnjXShmNTwInXuhhpIQQ6U6YUTdxfWyvm/4ijNG8FX8iWFr+sqqQRCvXpm2RfRtjVXfg==",
            ),
            "MIT",
            "HatScripts",
            "https://github.com/HatScripts/circle-flags",
            "The flags that Unicode names.",
        ),
        without="ar|ie|io|la",  # languages, not countries
        strip=r"(?!)",
        flags=True,
    ),
    IconSet(
        Style(
            "plain flag",
            _iconify(
                "flag",
                "1.2.12",
                "B5zphOSTn54UX9v1sKsR1atuhyuXExiAkjuLQA8aeDcB68+P6oiStEDeEEVkbHgwvFvklPM2G7GhqFw6VMnXhw==",
            ),
            "MIT",
            "Panayiotis Lipiridis",
            "https://github.com/lipis/flag-icons",
            "The flags that Unicode names, 4 × 3.",
        ),
        without=r".*-1x1",
        strip=r"-4x3$",
        flags=True,
    ),
    IconSet(
        Style(
            "weather icon",
            _iconify(
                "meteocons",
                "1.2.4",
                "E7YV02ql5WmJgAOpXU/hoF9Mdshq73KjwR6fBxZ5SrqMJghMa3CIcRG6NQGwP4I1uBOhIjOFlAikYoPAKuT56A==",
            ),
            "MIT",
            "Bas Milius",
            "https://github.com/basmilius/weather-icons",
            "The filled version of each icon.",
        ),
        without=r"(?!.*-fill$).*|pressure.*|(uv-index|wind-beaufort).*",
        strip=r"-fill$",
    ),
    IconSet(
        _streamline(
            "freehand",
            "freehand",
            "ql3aN0gPHIClR74SkG89oykRB1LxmwhIWYDM425bVsoZRNhl2uHtNMmIs6CADrCcyhdNQwtieaj49BIT0Idu5A==",
        )
    ),
    IconSet(
        _streamline(
            "kameleon",
            "kameleon",
            "6vFS3ILSmy3w6R1v2nVolNFf9pLuUihOUqyUNVXp0HliWIR6RpJIsWue0Fc6MVri7wde+SWzMJeLAXWU3zE43g==",
        ),
        without=r".*-duo",
    ),
    IconSet(
        _streamline(
            "plump",
            "plump",
            "nMLbsfwKt/IJCUDpndY7sW5aZsFUOhQGS2Jdeap+CAfbQMDIzsyEHqe8m3u65wM23q1jBlWoblE7oUXukcvTvw==",
        ),
        without=r".*-flat",
    ),
    IconSet(
        _streamline(
            "stickies",
            "stickies",
            "OisPU3Q/VMAHTtJbzRa2lmK8UN+n7D5US0txeL488yrEmoALvRerzIOS8zTNiojNDghJ2/6cp0eh5IK4ezukpA==",
        ),
        without=r".*-duo",
    ),
    IconSet(
        _streamline(
            "ultimate",
            "ultimate",
            "NAbD3xLtg3069865B5CLUulp/eowPNCiDfJBxVAmA+LKLPpxU7EIEJ2+mSfWriPd+ahORWyqjRnoPVkTJopEgg==",
        )
    ),
)

# Trade marks and protected characters: the drawings are free, but what they show is not.
_MARKS = re.compile(
    r"\b(logo|adobe|alipay|amazon|android|apple store|app store|behance|benz|blackberry|blogger|chrome|dribb?ble"
    r"|dropbox|facebook|facetime|figma|foursquare|github|gitlab|google|instagram|lark|lincoln|linkedin|mac|microsoft|mitsubishi"
    r"|netflix|nintendo|osx|pacman|paypal|pinterest|pokeball|predator|qq|r2d2|reddit|renault|safari|skype|snapchat"
    r"|spiderman|spider man|spongebob|spotify|taobao|telegram|tencent|tetris|tiktok|tumblr|twitter|vimeo|vk|volkswagen"
    r"|wall e|wechat|weibo|weixin|whatsapp|wii|wikipedia|windows|xbox|yout(u|o)be|bytedance|html|css|java|php|python"
    r"|dian ?ziqian|dongchedi|faceu|fanqie\w*|feiyu|huoshan\w*|jinri\w*|oceanengine|pangle|qingniao|qiyehao|topbuzz"
    r"|tuchong|ulikecam|vigo|xiaodu|xigua|xingfuli|xingtu|zijinyunying|bitcoin|ethereum|litecoin|namecoin)\b"
)

# Other words for held-out concepts.
_HELD_OUT_WORDS = (
    "folder", "football", "soccer", "fire truck", "fire engine", "delivery", "eyeglasses", "spectacles", "graduation",
    "degree hat", "city", "sweet potato", "heart organ", "tropical", "cheers", "mail post", "post box", "letterbox",
    "denim", "petri", "cinema", "movie camera", "photography", "truck", "raccoon", "fuji",
)  # fmt: skip


class HeldOutNames:
    """The names that refer to a held-out concept."""

    def __init__(self, names: EmojiNames) -> None:
        held = {hexcode for hexcode, emoji in names.table.items() if concept_is_held_out(emoji.role)}
        slugs = {slug(names.table[hexcode].name) for hexcode in held} | {slug(words) for words in _HELD_OUT_WORDS}
        slugs |= {slug(name) for name, hexcode in names.pairs if normalise(hexcode) in held}
        self._names = {f"-{name}-" for name in slugs if len(name) > 3}

    def __contains__(self, name: str) -> bool:
        words = f"-{slug(name)}-"
        plain = re.sub("s-", "-", words)  # also "cameras"
        return any(name in words or name in plain for name in self._names)


def read_icons(archives: Mapping[Package, Path], names: EmojiNames) -> Iterator[Extra]:
    """The drawings of all icon sets, except trade marks and held-out concepts."""
    index, held_out = names.index(), HeldOutNames(names)
    for icons in ICON_SETS:
        files = packages.read(archives[icons.style.package], "icons.json", "metadata.json")
        icon_set, metadata = json.loads(files["icons.json"]), json.loads(files["metadata.json"])
        topics = {icon: topic for topic, found in metadata.get("categories", {}).items() for icon in found}
        for icon, name in _choose(icons, icon_set["icons"]):
            hexcode = _country(name) if icons.flags else index.find(name)
            emoji = names.table.get(hexcode or "")
            if (icons.flags and not emoji) or (emoji and concept_is_held_out(emoji.role)) or name in held_out:
                continue
            text = emoji.name if emoji and icons.flags else name
            if _MARKS.search(text):
                continue
            topic = re.sub("(?<=[a-z])(?=[A-Z])", " ", topics.get(icon, "")).lower()
            words = [*(emoji.keywords[:6] if emoji else ()), *([topic] if topic not in ("", "others") else [])]
            yield Extra(
                kind="icon",
                style=icons.style,
                icon=icon,
                artwork=svg_document(icon_set, icon),
                name=text,
                captions=kind_captions(text, icons.style.name, words, key=icon),
                keywords=tuple(words),
                role=emoji.role if emoji else f"icon {slug(text)}",
                group=emoji.group if emoji else "icons",
                subgroup=emoji.subgroup if emoji else topic,
            )


def _choose(icons: IconSet, drawings: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield icons with their names; of several sizes with one name, the last (largest)."""
    without, strip = re.compile(icons.without), re.compile(icons.strip)
    chosen: dict[str, list[str]] = {}
    for icon in drawings:
        if not without.fullmatch(icon):
            chosen.setdefault(icons.strip and strip.sub("", icon), []).append(icon)
    sizes = icons.style.package.name.endswith("fluent-color")
    for name, found in sorted(chosen.items()):
        for icon in [max(found, key=lambda icon: int(icon.rpartition("-")[2]))] if sizes else sorted(found):
            yield icon, name.replace("-", " ")


def _country(code: str) -> str:
    """``fr`` or ``gb sct`` → the hexcode of that flag; empty for other names."""
    letters = code.replace(" ", "")
    if re.fullmatch("[a-z]{2}", letters):
        return "-".join(f"{0x1F1E6 + ord(letter) - ord('a'):X}" for letter in letters)
    tags = "-".join(f"E00{ord(letter):02X}" for letter in letters)
    return f"1F3F4-{tags}-E007F" if re.fullmatch("gb(eng|sct|wls)", letters) else ""
