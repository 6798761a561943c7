"""The fields of a tab, and the request made from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from fastapi.exceptions import RequestValidationError
from gradio.components import Component
from pydantic import ValidationError

from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import Choice, Interval, Number, Option, Whole, options_of
from vqdiff.model import Model
from vqdiff.serving.limits import Limits
from vqdiff.serving.page.running import QUIET, reporting_errors
from vqdiff.serving.schemas import ImageRequest
from vqdiff.serving.service import Service
from vqdiff.settings import SamplingSettings

_STYLES = ("noto", "blob", "twemoji", "flat", "gradient", "3d", "emojione", "firefox", "outline")
_ANY = "any"
_OWN = "the model's own"
"""Stands for no preset."""
_OPTIONS = {name: one for name, one in options_of(SamplingSettings).items() if not isinstance(one, Interval)}
"""The settings with a control."""
_MAXIMA: dict[str, Callable[[Limits, Model], int]] = {
    "steps": lambda limits, model: min(limits.max_steps, model.num_tokens),
    "best_of": lambda limits, model: limits.max_best_of,
}
"""Maxima that depend on the server and the model, in place of those of the options."""

Values = Sequence[Any]


class Controls:
    """Fields for a prompt, a style if the model knows any, a seed and, folded away, the settings.

    Their values come from the client unchecked: the request is checked like a request to the API. count: label and
    default of the number of images, if there is a choice. seed: the default seed, None for a random one each time.
    """

    def __init__(
        self,
        service: Service,
        model: gr.Dropdown,
        *,
        prompt: str = "a red apple",
        count: tuple[str, int] | None = None,
        seed: int | None = None,
    ) -> None:
        self._service, self._model, self._prompt = service, model, prompt
        limits, first = service.limits, next(iter(service.pipes.values())).model
        own = self._properties(first)
        self.parts: dict[str, Component] = {}
        self.prompt = gr.Textbox(max_lines=3, elem_classes="vq-prompt", **own["prompt"])
        self._add("prompt", self.prompt)
        self._add("style", gr.Radio(label="Style", elem_classes="vq-styles", **own["style"]))
        with gr.Row(equal_height=True):
            if count is not None:
                most = min(limits.max_images, 10)
                self._add("n", gr.Slider(1, most, min(count[1], most), step=1, label=count[0], scale=2, min_width=160))
            # A text field: browsers round numbers above 2**53.
            self._add("seed", gr.Textbox(str(seed or 0), label="Seed", max_lines=1, max_length=19, min_width=100))
            self._add("random", gr.Checkbox(seed is None, label="random", min_width=90, elem_classes="vq-random"))
        self.more = gr.Accordion("More settings", open=False)
        with self.more:
            preset = gr.Dropdown(label="Preset", info="sets the fields below", **own["preset"])
            self._add("preset", preset)
            self._add("negative", gr.Textbox(label="Negative prompt", placeholder="none"))
            for name, one in _OPTIONS.items():
                self._add(name, _control(name, one, own[name]))
        self.inputs = [model, *self.parts.values()]
        settings = [self.parts[name] for name in _OPTIONS]
        preset.input(reporting_errors(self._values), [model, preset], settings, **QUIET)
        if len(service.pipes) > 1:
            names = list(own)
            outputs = [self.parts[name] for name in names]
            model.change(reporting_errors(self._follow), model, outputs, preprocess=False, show_progress="hidden")

    def drawing(self, values: Values, **more: object) -> ImageRequest:
        """Return the request for these values of `inputs`; raises InputError or RequestValidationError."""
        name, *rest = values
        given = dict(zip(self.parts, rest, strict=True))
        style, random, negative = given.pop("style"), given.pop("random"), given.pop("negative")
        preset = None if given["preset"] == _OWN else given["preset"]
        model = self._service.pipe(name if isinstance(name, str) else None)[1].model
        sent: dict[str, Any] = {"model": name, "seed": None if random else given["seed"], "negative": negative or None}
        sent |= {"prompt": given["prompt"], "n": given.get("n", 1), "preset": preset}
        try:
            own = model.settings(preset=preset if isinstance(preset, str) else None)
            sent |= self._changed(own, given) | more
            drawing = ImageRequest(**sent)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error
        if style in (None, _ANY):
            return drawing
        if style not in styles_of(model):
            raise InputError(f"this model has no style {style!r}: choose another")
        return drawing.model_copy(update={"prompt": f"{drawing.prompt}, {style} style"})

    def filled(self, drawing: ImageRequest) -> list[Any]:
        """Return updates of `inputs` that reproduce a request."""
        _, pipe = self._service.pipe(drawing.model)
        given = {"prompt": ""} | drawing.model_dump(exclude_none=True) | vars(drawing.settings(pipe.model))
        fields = {name: given.get(name) for name in self.parts} | {"preset": drawing.preset or _OWN}
        fields |= {"seed": str(drawing.seed), "style": _ANY, "random": False, "negative": drawing.negative or ""}
        return [drawing.model, *(gr.skip() if name == "n" else fields[name] for name in self.parts)]

    def _add(self, name: str, part: Component) -> None:
        self.parts[name] = part

    def _follow(self, name: Any) -> list[Any]:
        return [gr.update(**one) for one in self._properties(self._service.pipe(name)[1].model).values()]

    def _values(self, name: Any, preset: Any) -> list[Any]:
        """Return the values of the settings of a preset."""
        chosen = self._service.pipe(name)[1].model.settings(preset=None if preset == _OWN else preset)
        return [getattr(chosen, one) for one in _OPTIONS]

    def _properties(self, model: Model) -> dict[str, dict[str, Any]]:
        """Return the properties of the fields that depend on the model."""
        own, known = model.sampling, styles_of(model)
        if model.text_encoder is not None:
            hint = "such as: a (red:2) apple, where a word has a weight"
            prompt = {"label": "Prompt", "value": self._prompt, "visible": True, "placeholder": hint}
        else:
            label, names = f"Label, 0 to {(model.num_classes or 1) - 1}", model.class_names
            label = f"Class: {', '.join(names[:12])}{', …' if len(names) > 12 else ''}" if names else label
            value = names[0] if names else "0"
            prompt = {"label": label, "value": value, "visible": model.num_classes is not None, "placeholder": None}
        return {
            "prompt": prompt,
            "style": {"choices": [_ANY, *known], "value": _ANY, "visible": bool(known)},
            "preset": {"choices": [_OWN, *model.own_presets], "value": _OWN},
        } | {name: {"value": getattr(own, name)} | self._maximum(name, model) for name in _OPTIONS}

    def _maximum(self, name: str, model: Model) -> dict[str, Any]:
        """Return the maximum of a whole number; the range of other numbers is that of their slider."""
        described = _OPTIONS[name]
        if not isinstance(described, Whole):
            return {}
        return {"maximum": _MAXIMA[name](self._service.limits, model) if name in _MAXIMA else described.most}

    @staticmethod
    def _changed(own: SamplingSettings, given: dict[str, Any]) -> dict[str, Any]:
        """Return the settings that differ from those of the preset, or the model; only these are in the request."""
        return {name: given[name] for name in _OPTIONS if given[name] != getattr(own, name)}


def _control(name: str, described: Option, own: dict[str, Any]) -> Component:
    """Return a control for a setting."""
    label = described.label or name.capitalize()
    if isinstance(described, Choice):
        return gr.Dropdown(list(described.names()), label=label, info=None, **own)
    if isinstance(described, Whole):
        return gr.Slider(described.least, step=1, label=label, **own)
    assert isinstance(described, Number)
    (low, high, step), off = described.range, "" if math.isnan(described.off) else f" ({described.off:g} is off)"
    return gr.Slider(low, high, step=step, label=label + off, **own)


def styles_of(model: Model) -> list[str]:
    """Return the drawing styles that a model's card names."""
    return [style for style in _STYLES if style in model.card.licenses]
