"""The page in a real browser: every task by mouse and keyboard, in light and dark, on a phone, with a token."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import wave

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from tests.browser import served
from tests.support import task_models
from tests.support.waiting import until

from edgeml_agent.http_api.auth import Rules

TOKEN = "a-token-of-24-characters"
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
DESK = {"viewport": {"width": 1280, "height": 900}}
#: Longer than a token of the slow models takes.
STILL_MS = 500
TASKS = ("mood", "names", "gaps", "answers", "meaning", "writer", "colors", "finder", "noise", "ears", "line")
ANYTHING = re.compile(r"version \d|ended by itself|as long as allowed")
SPEED = re.compile(
    r"^First token after [\d.]+ m?s, then [\d.]+ tokens a second; (\d+) in [\d.]+ m?s, (stopped|as long)"
)


def green(width=64):
    """A picture's file."""
    held = io.BytesIO()
    Image.new("RGB", (width, width), (20, 200, 40)).save(held, "PNG")
    return {"name": "meadow.png", "mimeType": "image/png", "buffer": held.getvalue()}


def dark():
    """A picture's file, black."""
    held = io.BytesIO()
    Image.new("RGB", (32, 32)).save(held, "PNG")
    return green() | {"name": "night.png", "buffer": held.getvalue()}


def meadow():
    """A picture's file, of another shape than the model's: dark on the left, green on the right."""
    held = io.BytesIO()
    picture = Image.new("RGB", (120, 80))
    picture.paste((20, 200, 40), (60, 0, 120, 80))
    picture.save(held, "PNG")
    return green() | {"buffer": held.getvalue()}


def loud(rate_hz=44_100, channels=2, seconds=1):
    """A sound's file, at another rate than the model's and in stereo: the page converts it."""
    samples = 0.6 * np.sin(2 * np.pi * 440 * np.arange(seconds * rate_hz) / rate_hz)
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(np.repeat((samples * 32767).astype("<i2"), channels).tobytes())
    return {"name": "alarm.wav", "mimeType": "audio/wav", "buffer": held.getvalue()}


FILES = {"colors": green, "finder": meadow, "noise": loud, "ears": loud}


def prepare(page: Page, model: str) -> None:
    """Give the form what it can't have by itself."""
    if model in FILES:
        page.set_input_files("input[type=file]", FILES[model]())


def ask(page: Page) -> None:
    """Press the button, and wait for what comes."""
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text=ANYTHING)).to_be_visible()


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("mood", "The film is quiet.", "positive"),
        ("names", "Nurse Anna was in Berlin.", "Anna"),
        ("gaps", "Check the new [MASK].", "check the new filter."),
        ("answers", "What sounded twice?", "Its alarm"),
        ("meaning", "the cow\ncattle", "Similarity"),
        ("line", '{"x": [[1, 2, 3, 4]]}', "3 5 7 9"),
        ("colors", "", "green"),
        ("finder", "", "green"),
        ("noise", "", "loud"),
        ("ears", "", "loud"),
        ("writer", "water boils", "water boils at a lower temperature in high mountains"),
    ],
)
def test_every_task_is_tried_by_mouse(opened, model, given, expected):
    """The model is chosen in the list, its form filled, and its answer drawn."""
    page = opened()
    page.get_by_role("link", name=re.compile(rf"^{model}\b")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(model)
    prepare(page, model)
    if given:
        page.locator("form.try textarea, form.try input[type=text]").first.fill(given)
    ask(page)
    expect(page.locator("form.try")).to_contain_text(expected)
    expect(page.get_by_role("img", name=re.compile("Latencies"))).to_be_visible()


def test_what_is_found_is_framed_and_listed(opened):
    """The box lies over its part of the picture, and the list says the same in words; of a dark picture nothing."""
    page = opened("finder")
    prepare(page, "finder")
    ask(page)
    listed = page.get_by_role("list", name="Found, the surest first").get_by_role("listitem")
    expect(listed).to_have_count(1)
    expect(listed).to_have_text(re.compile(r"green 8\d\.\d % 60 . 80 pixels at 60, 0"))
    picture, box = page.locator(".seen img").bounding_box(), page.locator(".seen .box").bounding_box()
    assert box["x"] == pytest.approx(picture["x"] + picture["width"] / 2, abs=1)
    assert box["width"] == pytest.approx(picture["width"] / 2, abs=1)
    assert (box["y"], box["height"]) == pytest.approx((picture["y"], picture["height"]), abs=1)
    page.set_input_files("input[type=file]", dark())
    ask(page)
    expect(page.locator(".answer")).to_contain_text("Nothing was found")
    expect(page.locator(".seen .box")).to_have_count(0)


def test_two_texts_are_sent_as_a_pair(opened):
    """The second field is empty at first, and nothing is sent of it then."""
    page, asked = opened("mood"), []
    page.on("request", lambda it: asked.append(it.post_data_json) if it.method == "POST" else None)
    page.get_by_role("textbox", name="Text", exact=True).fill("quiet")
    ask(page)
    page.get_by_role("textbox", name="Second text, if any").fill("loud quiet quiet")
    ask(page)
    expect(page.locator("form.try")).to_contain_text("positive")
    assert asked == [{"text": "quiet"}, {"text": "quiet", "text_pair": "loud quiet quiet"}]


def test_a_text_or_sound_that_is_cut_is_said_to_be(opened):
    """In tokens or seconds, below the answer."""
    page = opened("mood")
    page.get_by_role("textbox", name="Text", exact=True).fill("quiet " * 70)
    ask(page)
    expect(page.locator(".answer")).to_contain_text("takes the first 64 of 72 tokens")
    page.get_by_role("textbox", name="Text", exact=True).fill("quiet")
    ask(page)
    expect(page.locator(".answer .note")).to_have_count(0)
    page.get_by_role("link", name=re.compile("^noise")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("noise")
    page.set_input_files("input[type=file]", loud(rate_hz=16_000, channels=1, seconds=12))
    ask(page)
    expect(page.locator(".answer")).to_contain_text("takes the first 10.0 of 12.0 seconds")


def test_the_card_and_what_was_asked_are_shown(opened, site):
    """Its figures, its warnings, and one more answered request after each."""
    page = opened("mood")
    figures = page.locator(".figures")
    for text in ("22.3 MB", "25.0 % of fp32", "91.0 %", "fp32 92.0 %, 300 rows", "onnxruntime"):
        expect(figures).to_contain_text(text)
    expect(page.locator("article")).to_contain_text(task_models.WARNING)
    before = site.models.counts.codes("mood").get("ok", 0)
    ask(page)
    expect(figures.locator("div", has_text="Answered")).to_contain_text(f"{before + 1}")


def test_the_page_is_used_by_keyboard_alone(opened):
    """From the address bar to another model's answer and its Python, without a mouse; focus is always to be seen."""
    page = opened("answers")
    expect(page.get_by_role("heading", level=1)).to_have_text("answers")
    focus(page, "a[href='#mood']")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("mood")
    assert page.evaluate("document.activeElement.hash") == "#mood"
    focus(page, "textarea")
    page.keyboard.press("Control+a")
    page.keyboard.type("bad, bad pump")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".labels tr").first).to_contain_text("negative")
    focus(page, "summary")
    page.keyboard.press("Enter")
    expect(page.locator("details pre")).to_contain_text('"labels"')
    focus(page, "input[type=radio]")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".program")).to_contain_text("import json")
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def focus(page: Page, selector: str) -> None:
    """Press Tab until an element has the focus, which must be drawn."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("it => document.activeElement.matches(it)", selector):
            break
    drawn = "(it => it.matches('.visually-hidden') ? it.nextElementSibling : it)(document.activeElement)"
    assert page.evaluate(f"getComputedStyle({drawn}).outlineStyle") == "solid", selector


@pytest.mark.parametrize("model", TASKS)
def test_what_is_copied_runs(opened, tmp_path, model):
    """The programs from the clipboard, run as they stand beside the file, print the answer that the page shows."""
    page = opened(model)
    prepare(page, model)
    for name, given in (("meadow.png", meadow()), ("sound.wav", loud(rate_hz=16_000, channels=1))):
        (tmp_path / name).write_bytes(given["buffer"])
    for language in ("curl", "Python"):
        page.locator("label", has_text=language).click()
        shown = page.locator(".program").text_content()
        copy(page)
        # The button may still tell of the language before.
        until(lambda shown=shown: page.evaluate("navigator.clipboard.readText()") == shown, "the program is copied")
        printed = run(shown, language, tmp_path)
        assert EXPECTED[model] in printed.replace(" ", "").replace("'", '"')


def copy(page: Page) -> None:
    """Press the button that copies the program; it says so for a moment, here for as long as it takes to see that."""
    page.evaluate("window.setTimeout = () => 0")
    page.get_by_role("button", name=re.compile("^Cop")).click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()


#: What each task's answer to the page's own sample has in it, without spaces.
EXPECTED = {
    "mood": '"labels":[{"label":"positive"',
    "names": '"token":"nurse"',
    "gaps": '"token_str":"filter"',
    "answers": '"answer":"Itsalarm"',
    "meaning": '"embedding":[',
    "writer": '"finish_reason":"length"',
    "colors": '"labels":[{"label":"green"',
    "finder": '"boxes":[{"label":"green"',
    "ears": '"text":"loud',
    "noise": '"labels":[{"label":"loud"',
    "line": '{"y":[[2.0,2.0,2.0,2.0]]}',
}


def run(program: str, language: str, folder, environment=None) -> str:
    """What a program prints."""
    command = ["bash", "-c", program] if language == "curl" else [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=30, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_text_comes_as_it_is_made_and_can_be_stopped(opened, site):
    """A slow writer: the first words stand there while it goes on; after Stop the device writes nothing more."""
    page = opened("slow-writer")
    page.get_by_role("textbox", name="Prompt").fill("water boils")
    page.get_by_text("Settings").click()
    page.get_by_label("Tokens at most").fill("400")
    page.get_by_role("button", name="Ask").click()
    turn = page.locator(".turn.assistant")
    expect(turn).to_contain_text("lower temperature")
    assert turn.get_attribute("aria-busy") == "true"
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status").filter(has_text="stopped")).to_have_text(SPEED)
    until(lambda: not site.models.find("slow-writer").queue_depth, "the device has stopped")
    written = site.models.counts.tokens("slow-writer")
    assert turn.get_attribute("aria-busy") == "false"
    shown = turn.inner_text()
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    page.wait_for_timeout(STILL_MS)
    assert turn.inner_text() == shown
    assert len(shown.split()) <= site.models.counts.tokens("slow-writer") == written < 390


def test_a_conversation_goes_on_and_begins_anew(opened):
    """Each message takes what was said before along; a new conversation forgets it."""
    page = opened("nurse")
    asked = []
    page.on("request", lambda it: asked.append(it.post_data_json) if it.method == "POST" else None)
    page.get_by_text("Settings").click()
    page.get_by_label("Tokens at most").fill("4")
    message = page.get_by_role("textbox", name="Message")
    message.fill("what should i do ?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".turn.assistant")).to_have_text(re.compile("check the valve,"))
    expect(message).to_have_value("")
    expect(page.get_by_role("status").filter(has_text="tokens")).to_have_text(SPEED)
    message.fill("then")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("log").locator(".turn")).to_have_count(4)
    expect(page.locator(".turn.assistant").last).to_contain_text("the")
    page.get_by_role("link", name=re.compile("^mood")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("mood")
    page.reload()
    page.get_by_role("link", name=re.compile("^nurse")).click()
    expect(page.get_by_role("log").locator(".turn")).to_have_count(4)
    message.fill("what")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("log").locator(".turn")).to_have_count(6)
    conversations = [it["messages"] for it in asked]
    assert [len(it) for it in conversations] == [1, 3, 5]
    assert conversations[2][:3] == conversations[1]
    page.get_by_role("button", name="New conversation").click()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("nurse")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_chat_is_held_by_keyboard_and_heard_whole(opened, site):
    """Enter sends, Escape stops, the focus stays; a screen reader hears the answer once, when it has ended."""
    page = opened("slow-nurse")
    message = page.get_by_role("textbox", name="Message")
    message.press("Control+a")
    page.keyboard.type("what should")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("i do ?")
    page.keyboard.press("Enter")
    answer = page.locator(".turn.assistant")
    expect(answer).to_contain_text("check the valve, then")
    expect(message).to_have_value("")
    live = "it => it.closest('[aria-live], [role=log], [role=status]').getAttribute('aria-live')"
    assert answer.evaluate(live) == "off"
    expect(page.get_by_role("log")).to_be_empty()
    page.keyboard.type("then")
    page.keyboard.press("Enter")
    expect(message).to_have_value("then")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status").filter(has_text="stopped")).to_have_text(SPEED)
    expect(page.get_by_role("log")).to_have_text(
        re.compile("You: what should\ni do [?]slow-nurse: check the valve, then")
    )
    expect(message).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    expect(answer.last).to_contain_text("valve")
    page.keyboard.press("Enter")
    expect(page.get_by_role("log").locator(".turn")).to_have_count(4)
    expect(message).to_be_focused()
    until(lambda: not site.models.find("slow-nurse").queue_depth, "the device has stopped")


def test_an_answer_ends_with_its_panel(opened, site):
    """Another model is chosen while one writes: the device stops, and what was written stays in the conversation."""
    page = opened("slow-nurse")
    page.get_by_role("textbox", name="Message").fill("what should i do ?")
    page.get_by_role("button", name="Ask").click()
    expect(page.locator(".turn.assistant")).to_contain_text("valve")
    page.get_by_role("link", name=re.compile("^mood")).click()
    until(lambda: not site.models.find("slow-nurse").queue_depth, "the device has stopped")
    page.get_by_role("link", name=re.compile("^slow-nurse")).click()
    expect(page.get_by_role("log").locator(".turn")).to_have_count(2)
    expect(page.get_by_role("log")).to_contain_text("check the valve")


def test_a_message_that_fails_can_be_sent_again(opened, site):
    """It returns to its field; nothing of it stays in the conversation."""
    page = opened("nurse")
    message = page.get_by_role("textbox", name="Message")
    message.fill("then " * 600)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text="tokens")).to_have_class(re.compile("problem"))
    expect(page.locator(".turn")).to_have_count(0)
    expect(message).to_have_value("then " * 600)


def test_a_sound_is_recorded(opened):
    """From the browser's own microphone, which beeps."""
    page = opened("noise")
    page.get_by_role("button", name="Record", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    page.wait_for_timeout(700)
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator(".drop")).to_contain_text(re.compile(r"recorded, \d\.\d s at 16 kHz"))
    ask(page)
    expect(page.locator(".labels tr")).to_have_count(2)


def test_what_is_wrong_is_said_where_one_looks(opened):
    """A file of another kind, numbers of another shape, half of a JSON text: said in words, and no more happens."""
    page = opened("colors")
    page.set_input_files("input[type=file]", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"x"})
    expect(page.get_by_role("alert").filter(has_text="notes.txt is no image file")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.set_input_files("input[type=file]", {"name": "no.png", "mimeType": "image/png", "buffer": b"x"})
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text="image")).to_have_class(re.compile("problem"))
    page.get_by_role("link", name=re.compile("^line")).click()
    page.get_by_role("textbox").fill('{"x": [[1, 2]')
    expect(page.get_by_text("This is not JSON yet")).to_be_visible()
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.get_by_role("textbox").fill('{"x": [[1, 2]]}')
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_role("status").filter(has_text="shape")).to_be_visible()


def test_no_text_becomes_markup(opened):
    """What is typed is shown as it stands; the browser itself refuses markup made of text."""
    page = opened("meaning")
    text = "<img src=x onerror=alert(1)>"
    page.get_by_role("textbox").fill(text)
    ask(page)
    expect(page.locator(".strip p")).to_have_text(text)
    with pytest.raises(Exception, match="TrustedHTML"):
        page.evaluate("text => { document.body.innerHTML = text }", text)


def test_the_page_follows_the_device(opened, site):
    """Without a reload: a model that is unloaded, a version that takes over, a device that is gone and comes back."""
    site.activate("text-classification", name="moving")
    page = opened("moving", clock=True)
    state = page.locator(".title .pill")
    expect(state).to_have_text("live")
    site.do(site.models.unload("moving"))
    page.clock.fast_forward(5000)
    expect(state).to_have_text("unloaded")
    site.activate("text-classification", name="moving", version="2.0")
    page.clock.fast_forward(5000)
    expect(page.locator(".title .version")).to_have_text("2.0")
    page.context.set_offline(True)
    page.clock.fast_forward(5000)
    expect(page.locator("#health")).to_have_text("unreachable")
    page.context.set_offline(False)
    page.clock.fast_forward(5000)
    expect(page.locator("#health")).to_have_text("ready")
    site.do(site.models.deactivate("moving"))
    page.clock.fast_forward(5000)
    expect(page.get_by_role("heading", level=1)).to_have_text("answers")


def test_a_device_that_wants_a_token_asks_for_it(opened, tmp_path):
    """Nothing is told before; a wrong one is refused; the right one is kept for this tab, and never copied."""
    with served.site(tmp_path, Rules(local_only=False, token=TOKEN)) as guarded:
        guarded.activate("text-classification")
        page = opened(url=guarded.url.replace("127.0.0.1", served.ELSEWHERE))
        field = page.get_by_label("This device asks for its token")
        expect(field).to_be_focused()
        assert "agent 1.2.3" not in page.content()
        field.fill("another-token-of-length")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert").filter(has_text="not this device's token")).to_be_visible()
        field.fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("mood")
        ask(page)
        page.reload()
        expect(page.get_by_role("heading", level=1)).to_have_text("mood")
        for language in ("curl", "Python"):
            page.locator("label", has_text=language).click()
            program = pasted(page).replace(served.ELSEWHERE, "127.0.0.1")
            assert TOKEN not in program
            printed = run(program, language, tmp_path, {"PATH": "/usr/bin:/bin", "EDGEML_TOKEN": TOKEN})
            assert "positive" in printed


def pasted(page: Page) -> str:
    """What the button copies, where a page can't read the clipboard: a person pastes it."""
    copy(page)
    page.get_by_role("textbox").first.press("Control+a")
    page.keyboard.press("Control+v")
    return page.get_by_role("textbox").first.input_value()


def test_a_device_without_models_says_what_to_do(opened, tmp_path):
    """Not an empty page; and while a device starts, not that it has none."""
    is_ready = []
    with served.site(tmp_path, ready=lambda: bool(is_ready)) as bare:
        page = opened(url=bare.url, clock=True)
        expect(page.locator("#health")).to_have_text("starting")
        expect(page.locator("main")).to_have_text("The models are being loaded.")
        is_ready.append(True)
        page.clock.fast_forward(5000)
        expect(page.get_by_role("heading", level=1)).to_have_text("No model yet")
        expect(page.locator("main")).to_contain_text("edgeml fleet deploy")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desk", "phone"])
def test_everything_can_be_read_and_reached(opened, screen, scheme):
    """No sideways scrolling, every text at least 4.5 to 1 against its ground, everything to touch 24 pixels or more.

    Source: WCAG 2.2, 1.4.3, 1.4.10 and 2.5.8.
    """
    page = opened(color_scheme=scheme, **screen)
    for model in (*TASKS, "nurse"):
        page.evaluate("model => { location.hash = model }", model)
        expect(page.get_by_role("heading", level=1)).to_have_text(model)
        prepare(page, model)
        ask(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, model
        assert page.evaluate(FAINT) == [], model
        assert page.evaluate(SMALL) == [], model


#: The visible texts whose color is less than 4.5 to 1 against the ground behind them, opacity and layers included.
FAINT = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const over = (colors) => {
    context.clearRect(0, 0, 1, 1);
    for (const color of colors) { context.fillStyle = color; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const grounds = (it) => (it ? [...grounds(it.parentElement), getComputedStyle(it).backgroundColor] : ["white"]);
  const faint = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const it = texts.currentNode.parentElement;
    const said = texts.currentNode.textContent.trim();
    if (!said || !it.checkVisibility() || it.closest("[disabled], noscript, title")) continue;
    const behind = grounds(it);
    const [a, b] = [light(over(behind)), light(over([...behind, getComputedStyle(it).color]))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${it.tagName}.${it.className}: ${said} ${ratio.toFixed(2)}`);
  }
  return faint;
}"""

#: What can be touched and is smaller than 24 pixels.
SMALL = """() => [...document.querySelectorAll("a, button, summary, textarea, label:has(input), input")]
  .filter((it) => it.checkVisibility() && !it.matches("#skip, .visually-hidden"))
  .filter((it) => { const { width, height } = it.getBoundingClientRect(); return Math.min(width, height) < 24; })
  .map((it) => it.outerHTML.slice(0, 80))"""
