"""The assembled model: its parts, its folder, how it is located, and where it runs."""

from __future__ import annotations

from vqdiff.model.bound import BoundDenoiser
from vqdiff.model.components import load_component, save_component
from vqdiff.model.job import Job
from vqdiff.model.model import Card, Model

__all__ = ["BoundDenoiser", "Card", "Job", "Model", "load_component", "save_component"]
