"""Registries of what other packages may add by name. Imports nothing heavy: entries are imported when used."""

from __future__ import annotations

from typing import Any

from vqdiff.foundation.registry import Registry

SAMPLERS: Registry[Any] = Registry("sampler", "vqdiff.samplers", home="vqdiff.sampling.samplers")
