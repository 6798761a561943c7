"""Take the screenshots in docs/serving.md of a running ``vqdiff serve``, with Chromium."""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

FOLDER = Path(__file__).parents[1] / "serving"


def fill(page: Page, tab: str, prompt: str, style: str, seed: int) -> None:
    """Fill in a tab's fields."""
    page.get_by_role("tab", name=tab, exact=True).click()
    panel = page.locator("[role=tabpanel]:visible")
    panel.get_by_label("Prompt").fill(prompt)
    panel.locator(".vq-styles").get_by_text(style, exact=True).click()
    panel.get_by_label("random").uncheck()
    panel.get_by_label("Seed").fill(str(seed))


def shoot(page: Page, name: str) -> None:
    """Save a screenshot of the page, in 256 colours."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    image.save(FOLDER / f"{name}.png", optimize=True)


def main() -> None:
    """Go through the tabs."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 900})
        page.goto("http://127.0.0.1:8000")
        fill(page, "Draw", "cat face", "noto", 4)
        page.get_by_role("button", name="Draw", exact=True).click()
        expect(page.locator("#pictures a[download]")).to_have_count(4, timeout=60_000)
        shoot(page, "draw")
        page.locator("#pictures").get_by_role("button", name="Why?").first.click()
        expect(page.locator("#why .vq-words")).to_contain_text("Step", timeout=60_000)
        page.locator("#why input[type=range]").fill("6")
        shoot(page, "why")
        page.get_by_role("tab", name="Draw", exact=True).click()
        page.locator("#pictures").get_by_role("button", name="Edit").first.click()
        box = page.locator("#brush canvas").bounding_box()
        assert box is not None
        page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.75 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.75 * box["height"], steps=9)
        page.mouse.up()
        fill(page, "Edit", "cat face with tears of joy", "noto", 0)
        page.get_by_role("button", name="Resample what is painted").click()
        expect(page.locator("#edited a[download]")).to_have_count(3, timeout=60_000)
        shoot(page, "edit")
        fill(page, "Compare", "cat face", "noto", 0)
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator("#table a[download]")).to_have_count(12, timeout=120_000)
        shoot(page, "compare")
        browser.close()


if __name__ == "__main__":
    main()
