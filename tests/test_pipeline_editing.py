"""Pictures resampled in part with the bundled model; few steps, since how good they are is not at stake here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import vqdiff
from picture_sets import GREY16
from vqdiff import Blend, Guidance
from vqdiff.foundation.errors import InputError
from vqdiff.foundation.options import whole
from vqdiff.pipeline import Pipeline
from vqdiff.requests import tokenize
from vqdiff.sampling import Canvas, get_sampler, least_confident, samplers

STEPS = 3


@pytest.fixture(scope="module")
def apple(pipe: Pipeline) -> Image.Image:
    return pipe("a red apple", steps=STEPS, seed=1)[0]


@pytest.fixture
def mask() -> Image.Image:
    mask = Image.new("L", (128, 128))
    ImageDraw.Draw(mask).polygon([(10, 20), (100, 33), (60, 90)], fill=255)
    return mask


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def test_an_edit_redraws_the_white_part_alone(pipe: Pipeline, apple: Image.Image, mask: Image.Image) -> None:
    edited = pipe.edit(apple, mask, "a green tree", seed=0, steps=STEPS)
    white = np.asarray(mask) > 0
    assert (pixels(edited)[~white] == pixels(apple)[~white]).all()
    assert (pixels(edited)[white] != pixels(apple)[white]).any()
    assert edited.tobytes() == pipe.edit(apple, mask, "a green tree", seed=0, steps=STEPS).tobytes()
    for other in ({"seed": 1}, {"negative": "green"}, {"guidance": 1.0}):
        asked = {"seed": 0, "steps": STEPS} | other
        assert pipe.edit(apple, mask, "a green tree", **asked).tobytes() != edited.tobytes()


@pytest.mark.parametrize("sampler", [one for one in samplers() if one not in ("ancestral", "posterior-guided")])
def test_every_sampler_resamples_a_part(pipe: Pipeline, apple: Image.Image, mask: Image.Image, sampler: str) -> None:
    """`corrected` with steps that draw known positions anew, too, which must stay; ancestral takes a hundred calls."""
    options = {"sampler": sampler, "seed": 5, "corrector_share": 0.5, "renoise": 1.0, "fix_share": 0.5}
    edited = pipe.edit(apple, mask, "a green tree", steps=4, **options)
    white = np.asarray(mask) > 0
    assert (pixels(edited)[~white] == pixels(apple)[~white]).all()
    assert (pixels(edited)[white] != pixels(apple)[white]).any()


@pytest.mark.parametrize("sampler", ["purity", "strided"])
def test_masks_without_black_and_without_white(pipe: Pipeline, apple: Image.Image, sampler: str) -> None:
    black, white = (Image.new("L", (128, 128), value) for value in (0, 255))
    options = {"sampler": sampler, "steps": STEPS, "seed": 4}
    assert pipe.edit(apple, black, "a cat", **options).tobytes() == apple.tobytes()
    fresh = pipe("a cat", **options)[0]
    assert pipe.edit(apple, white, "a cat", **options).tobytes() == fresh.tobytes()
    assert pipe.vary(apple, 1.0, "a cat", **options)[0].tobytes() == fresh.tobytes()


def test_kept_tokens_never_change_alone_or_in_a_batch(pipe: Pipeline) -> None:
    schedule, settings = pipe.model.schedule, pipe.settings(steps=STEPS, sampler="strided")
    x0 = torch.randint(schedule.num_codes, (3, 256))
    redraw = torch.rand(3, 256) < torch.tensor([[0.1], [0.5], [0.9]])
    prompts, seeds, sampler = ["a cat", "a red apple", "a tree"], [5, 6, 7], get_sampler(settings.sampler)
    canvas = Canvas.noised(schedule, sampler, x0, seeds, redraw=redraw)
    frames = list(pipe.frames(prompts, seeds, settings, canvas=canvas))
    for frame in frames:
        assert (frame.tokens[~redraw] == x0[~redraw]).all()
    for row in range(3):
        one = slice(row, row + 1)
        canvas = Canvas.noised(schedule, sampler, x0[one], seeds[one], redraw=redraw[one])
        *_, alone = pipe.frames(prompts[one], seeds[one], settings, canvas=canvas)
        assert (alone.tokens[0] == frames[-1].tokens[row]).all()


def test_a_variation_belongs_to_its_seed(pipe: Pipeline, apple: Image.Image) -> None:
    three = pipe.vary(apple, 0.5, num_images=3, seed=2, steps=STEPS)
    by_two = pipe.vary(apple, 0.5, num_images=3, seed=2, steps=STEPS, batch_size=2)
    assert [one.tobytes() for one in three] == [one.tobytes() for one in by_two]
    assert pipe.vary(apple, 0.5, seed=4, steps=STEPS)[0].tobytes() == three[2].tobytes()
    assert len({one.tobytes() for one in three}) == 3


def test_strength_is_the_way_from_the_reconstruction(pipe: Pipeline, apple: Image.Image) -> None:
    tokens = tokenize(pipe.model, apple)
    reconstruction = pipe.decode(tokens)[0]
    for prompt in (None, "a cat"):
        assert pipe.vary(apple, 0.0, prompt, steps=STEPS)[0].tobytes() == reconstruction.tobytes()
    kept = []
    for strength in (0.25, 0.75):
        varied = pipe.vary(apple, strength, "a cat", steps=STEPS)[0]
        kept.append((pixels(varied) == pixels(reconstruction)).mean())
    assert 1 > kept[0] > kept[1]


@pytest.mark.parametrize("size", [(64, 64), (200, 90), (37, 150)])
def test_pictures_of_other_sizes(pipe: Pipeline, apple: Image.Image, size: tuple[int, int]) -> None:
    image, mask = apple.resize(size), Image.new("L", size)
    ImageDraw.Draw(mask).rectangle((5, 5, 20, 30), fill=255)
    white = np.asarray(mask) > 0
    edited = pipe.edit(image, mask, "a cat", steps=1)
    assert edited.size == size
    assert (pixels(edited)[~white] == pixels(image)[~white]).all()
    assert (pixels(edited)[white] != pixels(image)[white]).any()
    assert pipe.vary(image, 0.5, steps=1)[0].size == size
    assert pipe.revise(image, steps=1).size == size


def test_expanding_keeps_the_picture(pipe: Pipeline, apple: Image.Image) -> None:
    wide = pipe.expand(apple, "a red apple", left=40, bottom=10, steps=STEPS)
    assert wide.size == (168, 138)
    assert wide.crop((40, 0, 168, 128)).tobytes() == apple.tobytes()


def test_revising_resamples_a_share(pipe: Pipeline, apple: Image.Image) -> None:
    reconstruction = pipe.decode(tokenize(pipe.model, apple))[0]
    assert pipe.revise(apple, 0.0, "a cat", steps=STEPS).tobytes() == reconstruction.tobytes()
    changed = []
    for share in (0.05, 0.5):
        revised = pipe.revise(apple, share, "a cat", steps=STEPS)
        assert revised.tobytes() == pipe.revise(apple, share, "a cat", steps=STEPS).tobytes()
        changed.append((pixels(revised) != pixels(reconstruction)).mean())
    assert 0 < changed[0] < changed[1] < 1
    fresh = pipe("a cat", steps=STEPS, seed=3)[0]
    assert pipe.revise(apple, 1.0, "a cat", steps=STEPS, seed=3).tobytes() == fresh.tobytes()


def test_tokens_of_other_pictures_are_doubted(pipe: Pipeline) -> None:
    prompts = ["a red apple", "a house"]
    *_, last = pipe.frames(prompts, [0, 1], pipe.settings())
    wrong = (torch.rand(2, 256) < 0.1) & (last.tokens != last.tokens.flip(0))
    spoilt = torch.where(wrong, last.tokens.flip(0), last.tokens)
    found = least_confident(pipe.model.bind(pipe.model.encode(prompts)), pipe.model.schedule, spoilt, 0.2)
    assert found.sum(1).tolist() == [51, 51]
    assert (found & wrong).sum() / wrong.sum() > 0.5  # 0.2 by chance


def test_blends_meet_the_prompts_at_their_ends(pipe: Pipeline) -> None:
    encode = pipe.model.encode
    cat, dog, none = encode(["a cat"]), encode(["a dog with a hat"]), encode([None])
    assert (encode([Blend("a cat", "a dog with a hat", 0.0)]) == cat).all()
    assert (encode([Blend("a cat", "a dog with a hat", 1.0)]) == dog).all()
    torch.testing.assert_close(encode([Blend("a cat", "a dog with a hat", 0.25)]), 0.75 * cat + 0.25 * dog)
    assert (none == pipe.model.null(1)).all()
    start = pipe(Blend("a cat", "a red apple", 0.0), steps=STEPS)[0]
    assert start.tobytes() == pipe("a cat", steps=STEPS)[0].tobytes()
    middle = pipe([Blend("a cat", "a red apple"), "a house"], steps=STEPS)
    assert middle[0].tobytes() != start.tobytes()


def test_a_negative_prompt_takes_the_place_of_null(pipe: Pipeline) -> None:
    settings = pipe.settings(steps=STEPS)
    *_, plain = pipe.frames(["a cat"], [0], settings)
    *_, same = pipe.frames(["a cat"], [0], settings, "a cat")
    *_, unguided = pipe.frames(["a cat"], [0], pipe.settings(steps=STEPS, guidance=1.0))
    assert (same.tokens == unguided.tokens).all()  # from the prompt to itself there is no way
    assert (plain.tokens != unguided.tokens).any()
    drawn = pipe(["a cat", "a house"], negative="green", steps=STEPS)
    assert pipe("a house", negative="green", seed=1, steps=STEPS)[0].tobytes() == drawn[1].tobytes()
    *_, preview = pipe.stream("a cat", negative="green", steps=STEPS)
    assert preview.image.tobytes() == drawn[0].tobytes()


def test_guidance_schedules_everywhere(pipe: Pipeline, apple: Image.Image, mask: Image.Image, tmp_path: Path) -> None:
    linear, off = Guidance(4.0, "linear"), Guidance(4.0, interval=(0.99, 1.0))
    for make in (
        lambda guidance: pipe("a cat", steps=STEPS, guidance=guidance)[0],
        lambda guidance: pipe.edit(apple, mask, "a cat", steps=STEPS, guidance=guidance),
        lambda guidance: pipe.vary(apple, 0.8, "a cat", steps=STEPS, guidance=guidance)[0],
        lambda guidance: list(pipe.stream("a cat", steps=STEPS, guidance=guidance))[-1].image,
    ):
        assert make(linear).tobytes() != make(4.0).tobytes()
        assert make(off).tobytes() == make(1.0).tobytes()  # no step of three falls into the interval
    pipe.model.sampling, own = pipe.settings(guidance=linear), pipe.model.sampling
    try:
        pipe.save(tmp_path / "model")
    finally:
        pipe.model.sampling = own
    assert vqdiff.load(tmp_path / "model", device="cpu").model.sampling == pipe.settings(guidance=linear)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe, image: pipe.edit(image, Image.new("L", (9, 9)), "a cat"), "the mask is 9×9 pixels"),
        (lambda pipe, image: pipe.edit(image, Image.new("L", image.size), " "), "prompt is empty"),
        (lambda pipe, image: pipe.edit(image, Image.new("L", image.size), "a cat", feather=-1), "feather is -1"),
        (lambda pipe, image: pipe.expand(image, "a cat"), "nothing to add"),
        (lambda pipe, image: pipe.vary(image, 1.5), "strength is 1.5"),
        (lambda pipe, image: pipe.vary(image, float("nan")), "strength is nan"),
        (lambda pipe, image: pipe.vary(image, steps=0), "steps is 0"),
        (lambda pipe, image: pipe.revise(image, -0.5), "share is -0.5"),
        (lambda pipe, image: pipe("a cat", negative=" "), "prompt is empty"),
        (lambda pipe, image: pipe("a cat", negative="a dog", guidance=1.0), "guidance, which is off"),
        (lambda pipe, image: pipe("a cat", negative="a dog", guidance=Guidance(1.0)), "guidance, which is off"),
        (lambda pipe, image: pipe(Blend("a cat", "")), "prompt is empty"),
        (lambda pipe, image: pipe(Blend("a cat", "a dog", 1.5)), "weight between two prompts is 1.5"),
        (lambda pipe, image: pipe(Blend("a cat", "dog " * 40)), "limit is 30"),
    ],
)
def test_mistakes_are_named(pipe: Pipeline, apple: Image.Image, call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(pipe, apple)  # type: ignore[operator]


@pytest.mark.gpu
def test_editing_on_cuda(apple: Image.Image, mask: Image.Image) -> None:
    pipe = vqdiff.load("emoji", device="cuda")
    edited = pipe.edit(apple, mask, "a cat", negative="a dog", guidance=Guidance(3.0, "linear", (0.1, 0.9)))
    white = np.asarray(mask) > 0
    assert (pixels(edited)[~white] == pixels(apple)[~white]).all()
    assert pipe.vary(apple, 1.0, "a cat", seed=2)[0].tobytes() == pipe("a cat", seed=2)[0].tobytes()
    assert pipe.revise(apple, 0.1, "a cat").size == apple.size


# What a caller may give


def test_paths_and_arrays_do_as_images_do(
    pipe: Pipeline, apple: Image.Image, mask: Image.Image, tmp_path: Path
) -> None:
    apple.save(tmp_path / "a.png")
    white = np.asarray(mask) > 0
    edited = pipe.edit(apple, mask, "a pear", seed=3, steps=STEPS).tobytes()
    for image in (str(tmp_path / "a.png"), tmp_path / "a.png", np.asarray(apple), np.asarray(apple) / 255):
        assert pipe.edit(image, white, "a pear", seed=3, steps=STEPS).tobytes() == edited
    array = np.asarray(apple)
    assert pipe.vary(array, steps=STEPS)[0].tobytes() == pipe.vary(apple, steps=STEPS)[0].tobytes()
    assert pipe.revise(array, steps=STEPS).tobytes() == pipe.revise(apple, steps=STEPS).tobytes()
    assert pipe.expand(array, left=8, steps=STEPS).tobytes() == pipe.expand(apple, left=8, steps=STEPS).tobytes()


def test_what_is_kept_of_a_16_bit_picture_is_not_whitened(pipe: Pipeline) -> None:
    with Image.open(GREY16) as image:
        expected, size = (np.asarray(image) / 257).round(), image.size
    right = Image.new("L", size)
    right.paste(255, (size[0] // 2, 0, *size))
    edited = pixels(pipe.edit(GREY16, right, "a pear", steps=STEPS))
    kept = np.asarray(right) == 0
    assert (edited[kept] == expected[kept][:, None]).all()


def test_a_picture_is_edited_upright(pipe: Pipeline, apple: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    apple.crop((0, 0, 128, 64)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert pipe.vary(image, steps=STEPS)[0].size == (64, 128)


def test_whole_numbers_of_any_type(pipe: Pipeline, apple: Image.Image) -> None:
    plain = [image.tobytes() for image in pipe("a pear", num_images=2, seed=1, batch_size=1, steps=2)]
    others: list[dict] = [
        {"num_images": np.int64(2), "seed": np.uint8(1), "batch_size": np.int32(1), "steps": np.int64(2)},
        {"num_images": 2.0, "seed": 1.0, "batch_size": 1.0, "steps": 2.0},
    ]
    for given in others:
        assert [image.tobytes() for image in pipe("a pear", **given)] == plain
    same = [pipe.expand(apple, left=width, feather=width, steps=2).tobytes() for width in (8, np.int16(8), 8.0)]
    assert len(set(same)) == 1
    assert (
        pipe("a pear", guidance=np.float32(2), steps=2)[0].tobytes()
        == pipe("a pear", guidance=2.0, steps=2)[0].tobytes()
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [(1.5, "seed is 1.5: give a whole number"), ("1", "seed is '1'"), (None, "seed is None"), (True, "seed is True"),
     (float("nan"), "seed is nan"), (float("inf"), "seed is inf"), (np.float64(0.5), "seed is 0.5"),
     (np.array([1]), "seed is array"), (-1, "seed is -1: at least 0 is needed")],
)  # fmt: skip
def test_other_numbers_are_named(value: object, says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        whole("seed", value, least=0)


MISTAKES = {
    "pipe('a pear', num_images=0)": "num_images is 0: at least 1 is needed",
    "pipe('a pear', batch_size=0)": "batch_size is 0: at least 1 is needed",
    "pipe('a pear', seed='one')": "seed is 'one': give a whole number",
    "pipe('a pear', steps='4')": "steps is '4': give a whole number",
    "pipe('a pear', guidance='high')": "guidance is 'high': give a number",
    "pipe(1.5)": "the prompt is 1.5: give text",
    "pipe(b'pear')": "the prompt is b'pear': give text",
    "pipe(['a pear', None])": "the prompt is None: give text",
    "pipe({'a pear': 1})": "the prompt is {'a pear': 1}: give text",
    "pipe({'a pear'})": "the prompt is {'a pear'}: give text",
    "pipe(5)": "the prompt is 5, but this model is conditioned on text",
    "pipe('a pear', steps=4.5)": "steps is 4.5: give a whole number",
    "pipe('a pear', negative=['a plum', 'a fig'])": "2 prompts where one is needed",
    "pipe('a pear', guidance_interval=0.5)": "guidance_interval is 0.5: give two rising numbers",
    "pipe('a pear', guidance_interval=('a', 'b'))": "guidance_interval is ('a', 'b'): give two rising numbers",
    "pipe(vqdiff.Blend('a pear', 5))": "a Blend is of two prompts, not of 5",
    "pipe(vqdiff.Blend('a pear', 'a plum', 'half'))": "the weight between two prompts is 'half': give a number",
    "next(pipe.stream(['a pear', 'a plum']))": "stream generates one image at a time",
    "vqdiff.load(5)": "the model is 5: give a name",
    "vqdiff.Pipeline.from_pretrained(5)": "the model is 5: give a name",
    "vqdiff.load(device=3)": "the device '3' is not there",
    "pipe([['a pear']])": "the prompt is ['a pear']: give text",
    "pipe('caf' + chr(0xdce9))": "contains half a character",
    "pipe('a pear', negative='caf' + chr(0xdce9))": "contains half a character",
    "pipe(vqdiff.Blend('a pear', chr(0xd83d)))": "contains half a character",
    "pipe.edit([1, 2], 'mask.png')": "an image must be a PIL image, a path or a NumPy array, not list",
    "pipe.edit('nowhere.png', 'mask.png')": "cannot read the image nowhere.png: No such file",
    "pipe.edit(array, None)": "an image must be a PIL image, a path or a NumPy array, not NoneType",
    "pipe.edit(array, array[..., 0], feather=0.5)": "feather is 0.5: give a whole number",
    "pipe.vary(array.astype(int))": "an array of int64, 9×9×3",
    "pipe.vary(array, num_images=0)": "num_images is 0: at least 1 is needed",
    "pipe.revise(array / 9)": "floats from 0 to 28.3333: they must be from 0 to 1",
    "pipe.expand(array, left=1.5)": "left is 1.5: give a whole number",
    "next(pipe.stream('a pear', seed=0.5))": "seed is 0.5: give a whole number",
}


def test_every_mistake_is_one_line() -> None:
    """As users meet it, without the checks of types that the tests switch on."""
    code = f"""
import numpy as np, vqdiff
from vqdiff.foundation.errors import InputError
pipe = vqdiff.load("emoji", device="cpu")
array = np.full((9, 9, 3), 255, np.uint8)
array[0] = 0
for mistake in {list(MISTAKES)}:
    try:
        eval(mistake)
        print()
    except InputError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for (mistake, says), line in zip(MISTAKES.items(), done.stdout.splitlines(), strict=True):
        assert says in line, mistake
