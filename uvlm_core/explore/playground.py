"""The playground: set a watch, ask and let draw (`notebooks/playground.ipynb`; not in the paper).

Belongs here: the widgets, and what each of them changes. Not here: what a model answers or draws
(`model.py`), whether that is right (`scoring/answers.py`, `data/attributes.py`).

The first watch is shown before heavy imports. The models are loaded after it.
"""

import html
import io
from collections.abc import Callable, Sequence

import ipywidgets as widgets
import numpy as np
from IPython.display import display
from PIL import Image, ImageColor

from uvlm_core.data.attributes import ATTRIBUTES, read_caption
from uvlm_core.data.conversations import DRAW_WATCH, is_known_wording
from uvlm_core.data.smart_watch import CORNERS, WEATHERS, Watch, render, split_of
from uvlm_core.models.distortion import FAMILIES, Distortion
from uvlm_core.scoring.answers import score_answer

CHOSEN = ("VQ-VQ understanding", "VQ-VQ unified", "SigLIP-SigLIP unified")
_ASKED_FOR = {
    "time": "10:08:30",
    "weather": "raining",
    "battery": "60%",
    "weather_corner": "top left",
    "battery_corner": "bottom right",
}
_CLAUSES = [ATTRIBUTES[name].clauses[0].format(value) for name, value in _ASKED_FOR.items()]
REQUEST = f"{DRAW_WATCH[0]} {', '.join(_CLAUSES[:-1])} and {_CLAUSES[-1]}."
_RIGHT, _WRONG, _OPEN = "#d7f0d9", "#f6e0e0", "#eeeeee"
_ZOOM = 4  # a pixel of a watch on the screen
_WIDE = widgets.Layout(width="600px")


def playground(models: Sequence[str] = CHOSEN) -> None:
    """Show the playground, first its watch and then, as they are loaded, the chosen models.

    A model is a shipped one, by its name, or one of your own, by its folder. ValueError for any
    other.
    """
    made = Playground(models)
    display(made.widget)
    made.open()


class Playground:
    """The widgets of the playground; `widget` holds all of them."""

    def __init__(self, models: Sequence[str] = CHOSEN):
        self.chosen, self.loaded = tuple(models), {}
        label = {"description_width": "110px"}
        set_by = {"continuous_update": False, "style": label}
        self.hour, self.minute, self.second, self.battery = (
            widgets.IntSlider(value, 0, most, description=name, **set_by)
            for name, value, most in (
                ("hour", 10, 11),
                ("minute", 8, 59),
                ("second", 30, 59),
                ("battery", 60, 100),
            )
        )
        self.weather, self.weather_corner, self.battery_corner = (
            widgets.Dropdown(options=options, value=value, description=name, style=label)
            for name, options, value in (
                ("weather", WEATHERS, "raining"),
                ("weather icon at", CORNERS, "top left"),
                ("battery at", CORNERS, "bottom right"),
            )
        )
        self.colour = widgets.ColorPicker(value="#7828a0", description="colour", style=label)
        self.picture = widgets.Image(width=64 * _ZOOM)
        self.known = widgets.HTML()
        self.models = widgets.SelectMultiple(
            description="models", rows=6, style=label, layout=_WIDE
        )
        self.question = widgets.Text("what does the icon say?", description="ask", layout=_WIDE)
        self.family = widgets.Dropdown(
            options=("none", *(name for name in FAMILIES if name != "width")),
            description="distort",
            style=label,
        )
        self.dose = widgets.FloatSlider(0.2, min=0, max=1, step=0.05, description="dose", **set_by)
        self.answers = widgets.HTML()
        self.drawer = widgets.Dropdown(description="model", style=label)
        self.request = widgets.Textarea(REQUEST, description="draw", rows=3, layout=_WIDE)
        self.drawn, self.read = widgets.Image(width=64 * _ZOOM), widgets.HTML()
        self.looker = widgets.Dropdown(description="model", style=label)
        self.asked = widgets.Dropdown(
            options=[each.questions[0] for each in ATTRIBUTES.values()],
            description="question",
            style=label,
        )
        self.looks = widgets.Image()
        self.message = widgets.HTML()
        for each in (self.question, self.request):
            each.continuous_update = False
        self.widget = self._laid_out()
        self.show_watch()

    def _laid_out(self) -> widgets.Widget:
        watch = widgets.VBox(
            [
                *(self.picture, self.known, self.hour, self.minute, self.second, self.battery),
                *(self.weather, self.weather_corner, self.battery_corner, self.colour),
            ],
            layout={"flex": "0 0 330px"},
        )
        note = widgets.HTML(
            _small(
                "The dose is a share of the family's largest. The models were trained without the "
                "distortion. So this is <b>not</b> the paper's experiment, which trains with it "
                "(notebook 04)."
            )
        )
        ask = [self.models, self.question, self.family, self.dose, note, self.answers]
        draw = [self.drawer, self.request, widgets.HBox([self.drawn, self.read])]
        caption = widgets.HTML(
            _small(
                "Layer by layer from left to right: the share of its attention that the last "
                "token before the answer pays to each part of the image. Attention shows where a "
                "model looks, not what it takes from there."
            )
        )
        look = [self.looker, self.asked, self.looks, caption]
        parts = [widgets.VBox(each) for each in (ask, draw, look)]
        titles = ("Ask", "Draw", "What it looks at")
        tabs = widgets.Tab(parts, titles=titles, layout={"flex": "1 1 auto"})
        return widgets.VBox([self.message, widgets.HBox([watch, tabs])])

    def open(self) -> None:
        """Load the chosen models, answer, draw, and from now on follow every change."""
        from uvlm_core.explore import model  # late: these import torch
        from uvlm_core.training.networks import read_spec

        self.load = model.load
        specs = {name: read_spec(folder) for name, folder in model.folders(self.chosen).items()}
        asked = [name for name, spec in specs.items() if spec.understands]
        drawn = [name for name, spec in specs.items() if spec.generates]
        self.models.options = self.looker.options = asked
        self.models.value = [name for name in self.chosen if name in asked]
        self.looker.value = next(iter(self.models.value), asked[0])
        self.drawer.options = drawn
        self.drawer.value = next((name for name in self.chosen if name in drawn), drawn[0])
        watch = (
            *(self.hour, self.minute, self.second, self.battery, self.weather),
            *(self.weather_corner, self.battery_corner, self.colour),
        )
        for changes, what in (
            (watch, (self.show_watch, self.show_answers, self.show_looks)),
            ((self.models, self.question, self.family, self.dose), (self.show_answers,)),
            ((self.drawer, self.request), (self.show_drawing,)),
            ((self.looker, self.asked), (self.show_looks,)),
        ):
            for each in changes:
                each.observe(lambda change, what=what: self._update(*what), "value")
        self._update(self.show_answers, self.show_drawing, self.show_looks)

    def _update(self, *shown: Callable[[], None]) -> None:
        """Show again what has changed; an error is told above the watch."""
        self.message.value = ""
        try:
            for each in shown:
                each()
        except ValueError as error:
            self.message.value = f"<b style='color:#b00020'>{html.escape(str(error))}</b>"

    def model(self, name: str):
        """Return a model, loaded once."""
        if name not in self.loaded:
            self.loaded[name] = self.load(name)
        return self.loaded[name]

    @property
    def watch(self) -> Watch:
        """The watch that is set; ValueError for two icons in one corner."""
        # the widget also takes names, and short forms such as #fff
        colour = ImageColor.getrgb(self.colour.value)
        return Watch(
            *(self.hour.value, self.minute.value, self.second.value),
            *(self.weather.value, self.battery.value),
            *(self.weather_corner.value, self.battery_corner.value, colour),
        )

    def show_watch(self) -> None:
        """Draw the watch, and say whether models may have seen it."""
        watch = self.watch
        self.picture.value = _png(render(watch).resize((64 * _ZOOM,) * 2, Image.NEAREST))
        train = split_of(watch) == "train"
        self.known.value = _small(
            f"{'Training may have shown' if train else 'No training has shown'} a watch with "
            "these attributes."
        )

    def show_answers(self) -> None:
        """Ask the chosen models the five questions and the user's own."""
        watch = self.watch
        image = render(watch)
        asked = {each.questions[0]: each for each in ATTRIBUTES.values()}
        about = {text: each for each in ATTRIBUTES.values() for text in each.questions}
        own = self.question.value.strip()
        questions = [*asked, *([own] if own else [])]
        distortion = None
        if self.family.value != "none":
            most = FAMILIES[self.family.value]
            distortion = Distortion(self.family.value, self.dose.value * most)
        columns = {
            name: self.model(name).answers(image, questions, distortion)
            for name in self.models.value
        }
        rows = []
        for place, question in enumerate(questions):
            attribute = about.get(question.lower())
            cells = [
                _cell(answers[place], attribute and attribute.truth(watch), attribute)
                for answers in columns.values()
            ]
            odd = "" if is_known_wording(question, "vqa") else "<br><small>not trained on</small>"
            truth = attribute.truth(watch) if attribute else "?"
            rows.append([f"{html.escape(question)}{odd}", truth, *cells])
        self.answers.value = _table(["question", "truth", *columns], rows)

    def show_drawing(self) -> None:
        """Let the chosen model draw, and compare what a reader sees with the request."""
        made = self.model(self.drawer.value).drawing(self.request.value)
        self.drawn.value = _png(made.image.resize((64 * _ZOOM,) * 2, Image.NEAREST))
        wanted = read_caption(self.request.value)
        rows = []
        for name, seen in made.read.items():
            attribute = ATTRIBUTES[name]
            value = attribute.parse(wanted[name]) if name in wanted else None
            if value is None:
                rows.append([name.replace("_", " "), "not said", _cell(seen)])
                continue
            credit = np.mean(
                [
                    attribute.read_back_credit(part, made.parts[part], true)
                    for part, true in zip(attribute.parts, attribute.split(value), strict=True)
                ]
            )
            marked = _marked(seen, credit == 1, credit)
            rows.append([name.replace("_", " "), attribute.said(value), marked])
        notes = [
            "" if made.triggered else "The model did not begin an image by itself.",
            ""
            if is_known_wording(self.request.value, "generation")
            else "No training had a request in these words.",
        ]
        self.read.value = _table(["", "asked for", "read back"], rows) + " ".join(notes)

    def show_looks(self) -> None:
        """Show where the chosen model looks before it answers, a picture for each layer."""
        image = render(self.watch)
        shares = self.model(self.looker.value).attention(image, self.asked.value)
        self.looks.value = _png(_overlaid(np.asarray(image), shares))


def _small(text: str) -> str:
    """Return a note in small print; widgets give lines too much room."""
    return f"<div style='font-size: 85%; line-height: 1.35'>{text}</div>"


def _cell(said: str, truth: str | None = None, attribute=None) -> str:
    """Return an answer as a cell, marked right or wrong by the scorer if there is a truth."""
    if truth is None:
        return f"<td style='background:{_OPEN}'>{html.escape(said)}</td>"
    exact, partial = (
        score_answer(attribute.name, said, truth, how) for how in ("exact", "partial")
    )
    return _marked(said, exact == 1, partial)


def _marked(said: str, right: bool, credit: float) -> str:
    """Return a cell that says whether it is right, by a mark, a colour and the partial credit."""
    mark = "✓" if right else f"✗ <small>credit {credit:.2f}</small>"
    colour = _RIGHT if right else _WRONG
    return f"<td style='background:{colour}'>{html.escape(said)} {mark}</td>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an HTML table; a cell that is one already stays as it is."""
    cell = "<td>{}</td>".format
    top = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr>{''.join(each if each.startswith('<td') else cell(each) for each in row)}</tr>"
        for row in rows
    )
    style = "<style>.uvlm td, .uvlm th {padding: 3px 10px; line-height: 1.3}</style>"
    return f"{style}<table class='uvlm'><tr>{top}</tr>{body}</table>"


def _overlaid(image: np.ndarray, shares: np.ndarray) -> Image.Image:
    """Return the image once per layer, side by side, red where attention goes.

    Args:
        image: uint8 (height, width, 3).
        shares: (layers, rows, columns); the largest share of all layers is fully red.
    """
    panels = []
    for layer in shares / shares.max():
        grid = Image.fromarray(layer.astype(np.float32))  # its cells need not divide the image
        heat = np.asarray(grid.resize(image.shape[1::-1], Image.NEAREST))[..., None]  # (h, w, 1)
        grey = 0.5 * image.mean(-1, keepdims=True) + 127  # pale, so that red stands out
        panel = (1 - heat) * grey + heat * np.array([220.0, 0, 0])
        panels.append(np.pad(panel, ((0, 0), (0, 4), (0, 0)), constant_values=255))
    strip = Image.fromarray(np.concatenate(panels, 1).round().astype(np.uint8))
    return strip.resize((3 * strip.width, 3 * strip.height), Image.NEAREST)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()
