"""The widgets in a browser: their numbers are Python's, each works by keyboard, in light, dark and on a phone."""

import json
import sys
import tempfile
from pathlib import Path

import browser
import numpy as np
import pytest
import torch
from test_docs import ROOT
from torch import tensor

from spinup.algos.ppo import policy_loss
from spinup.buffers import discount_cumsum, gae
from spinup.nets import SquashedGaussian

sys.path.insert(0, str(ROOT / "docs" / "pictures"))

import stills

pytestmark = pytest.mark.slow
PLACES = {
    "agent-environment": "introduction/key-concepts",
    "cartpole": "introduction/key-concepts",
    "value-iteration": "introduction/key-concepts",
    "gae": "introduction/policy-optimization",
    "ppo-clip": "algorithms/ppo",
    "trust-region": "algorithms/trpo",
    "replay": "algorithms/ddpg",
    "twin-critics": "algorithms/td3",
    "squashed-gaussian": "algorithms/sac",
    "block-sparse": "sparse",
}
WIDGETS = ("ppo-clip", "gae", "squashed-gaussian", "value-iteration", "cartpole")

# What is wrong with the texts of the pictures and widgets on a page: [fault, text] pairs. A text's background is the
# last filled shape under its middle, or the nearest element above with a background; partly transparent ones blend.
FAULTS = """(() => {
  const parse = (c) => {
    const mix = c.match(/^color\\(srgb (\\S+) (\\S+) (\\S+)(?: \\/ (\\S+))?\\)$/);
    if (mix) return [...mix.slice(1, 4).map((x) => 255 * x), +(mix[4] ?? 1)];
    const n = c.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1];
  };
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i]).concat(1);
  const ground = (e) => {
    const mine = parse(getComputedStyle(e).backgroundColor);
    return mine[3] === 1 || !e.parentElement ? over(mine, [255, 255, 255]) : over(mine, ground(e.parentElement));
  };
  const luminance = (c) => c.slice(0, 3).map((x) => x / 255)
    .map((x) => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    .reduce((s, x, i) => s + x * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05);
  };
  const faults = [];
  for (const svg of document.querySelectorAll("svg.picture")) {
    if (!svg.getBoundingClientRect().width) continue;
    const [, , width, height] = svg.getAttribute("viewBox").split(" ").map(Number);
    const scale = svg.getBoundingClientRect().width / width;
    const texts = [...svg.querySelectorAll("text")].filter((t) => t.textContent.trim());
    const boxes = texts.map((t) => t.getBBox());
    texts.forEach((text, k) => {
      const box = boxes[k], middle = new DOMPoint(box.x + box.width / 2, box.y + box.height / 2);
      let under = ground(svg);
      for (const shape of svg.querySelectorAll("rect, circle, polygon")) {
        const fill = getComputedStyle(shape).fill;
        if (fill !== "none" && shape.isPointInFill(middle)) under = over(parse(fill), under);
      }
      if (contrast(parse(getComputedStyle(text).fill), under) < 4.5) faults.push(["contrast", text.textContent]);
      if (parseFloat(getComputedStyle(text).fontSize) * scale < 10.5) faults.push(["small", text.textContent]);
      if (box.x < -1 || box.x + box.width > width + 1 || box.y < -1 || box.y + box.height > height + 1)
        faults.push(["outside", text.textContent]);
      for (let l = 0; l < k; l++) {
        const [x, y] = [["x", "width"], ["y", "height"]].map(([at, size]) =>
          Math.min(box[at] + box[size], boxes[l][at] + boxes[l][size]) - Math.max(box[at], boxes[l][at]));
        if (x > 1 && y > 4) faults.push(["overlap", text.textContent + " / " + texts[l].textContent]);
      }
    });
  }
  const words = ".widget-live :is(output, legend, label, button, td, th, caption, p), figcaption, .policies span, "
    + "[data-pause]";
  for (const e of document.querySelectorAll(words)) {
    const shown = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (shown && e.getBoundingClientRect().width && contrast(parse(getComputedStyle(e).color), ground(e)) < 4.5)
      faults.push(["contrast", e.textContent]);
  }
  return faults;
})()"""


@pytest.fixture(scope="module")
def page():
    if browser.find_chromium() is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    pytest.importorskip("websocket", reason="the extra docs is not installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, browser.chromium(Path(folder)) as page:
        page.look(1200, 900, dark=False)
        yield page


def show(page: browser.Page, site: Path, name: str) -> str:
    """Open the page of a widget or diagram; the selector of the widget."""
    page.open((site / f"{PLACES[name]}.html").as_uri())
    assert page.faults == []
    return f"[data-widget={name}]"


def maths(page: browser.Page, call: str, *arguments):
    """spinupMaths.call(*arguments) in the page."""
    return page.evaluate(f"spinupMaths.{call}({', '.join(map(json.dumps, arguments))})")


ARROW_RIGHT, ARROW_DOWN, TAB, SPACE = ("ArrowRight", 39), ("ArrowDown", 40), ("Tab", 9), (" ", 32)

# ---- values


@pytest.mark.parametrize("adv", [1.5, -0.5])
@pytest.mark.parametrize("ratio", [0.3, 0.8, 1.0, 1.1, 1.9])
def test_clipped_objective(site, page, ratio, adv):
    show(page, site, "ppo-clip")
    logp = tensor([np.log(ratio)]).requires_grad_()
    loss = policy_loss(logp, tensor([0.0], dtype=logp.dtype), tensor([adv], dtype=logp.dtype), 0.15)
    (slope,) = torch.autograd.grad(-loss, logp)
    assert maths(page, "clipped", ratio, adv, 0.15) == pytest.approx(-loss.item(), rel=1e-6)
    assert maths(page, "clippedSlope", ratio, adv, 0.15) == pytest.approx(slope.item() / ratio, abs=1e-6)


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
def test_gae(site, page, lam, terminated):
    show(page, site, "gae")
    r, v = [0.0, 1, 0, -1, 0, 2], [1.0, 1.6, 0.4, 0.8, 1.9, 1.2, 1.0]
    columns = [tensor(x, dtype=torch.float64)[:, None] for x in (r, v[:-1], v[1:])]
    ends = torch.zeros(6, 1, dtype=torch.bool)
    ends[-1] = True
    wanted, _ = gae(*columns, ends & terminated, ends, 0.9, lam)
    found = maths(page, "gae", r, v, 0.9, lam, terminated)
    np.testing.assert_allclose(found["adv"], wanted[:, 0], rtol=1e-12)
    np.testing.assert_allclose(found["delta"][:-1], (columns[0] + 0.9 * columns[2] - columns[1])[:-1, 0], rtol=1e-12)


def test_squashed_density(site, page):
    """As SquashedGaussian gives it, for its own samples; and for an u at which tanh rounds to 1."""
    show(page, site, "squashed-gaussian")
    torch.manual_seed(0)
    mu, log_std = torch.full((20, 1), 0.4).double(), torch.full((20, 1), -0.3).double()
    pi = SquashedGaussian(mu, log_std, torch.zeros(1).double(), torch.ones(1).double())
    a, logp = pi.rsample()
    found = [maths(page, "squashedLogDensity", u, 0.4, float(np.exp(-0.3))) for u in a.atanh()[:, 0].tolist()]
    np.testing.assert_allclose(found, logp, rtol=1e-6)
    assert maths(page, "squashedLogDensity", 30, 0, 1) == pytest.approx(float(stills.log_density(30, 0, 1)), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 1.0])
def test_temperature(site, page, alpha):
    """The sums agree with Python's, the means with a fine quadrature, and the best settings with Python's search."""
    show(page, site, "squashed-gaussian")
    found = maths(page, "softObjective", 0.3, 0.6, alpha)
    assert found["objective"] == pytest.approx(stills.soft_objective(0.3, 0.6, alpha), rel=1e-9)
    u = np.linspace(0.3 - 5, 0.3 + 5, 200_001)
    density = np.exp(-0.5 * ((u - 0.3) / 0.6) ** 2) / (0.6 * np.sqrt(2 * np.pi))

    def integral(y):
        return y.sum() * (u[1] - u[0])

    assert found["q"] == pytest.approx(integral(density * stills.hills(np.tanh(u))), abs=1e-4)
    assert found["entropy"] == pytest.approx(integral(-density * stills.log_density(u, 0.3, 0.6)), abs=1e-3)
    best = maths(page, "bestSquashed", alpha)
    assert (best["mu"], best["sigma"]) == pytest.approx(stills.best_squashed(alpha))


@pytest.mark.parametrize(("gamma", "slip"), [(0.9, 0.2), (0.99, 0.0), (0.6, 0.6)])
def test_value_iteration(site, page, gamma, slip):
    show(page, site, "value-iteration")
    assert page.evaluate("spinupMaths.world") == stills.WORLD
    ours = theirs = np.zeros((4, 5))
    for _ in range(5):
        ours, theirs = stills.sweep(ours, gamma, slip), maths(page, "sweep", np.asarray(theirs).tolist(), gamma, slip)
        np.testing.assert_allclose(theirs, ours, atol=1e-12)


def test_rewards_to_go(site, page):
    show(page, site, "cartpole")
    wanted = discount_cumsum(torch.ones(50, 1).double(), torch.full((50, 1), 0.99, dtype=torch.float64))[:, 0]
    np.testing.assert_allclose(maths(page, "rewardsToGo", 50, 0.99), wanted, rtol=1e-9)


# ---- what a reader sees and does


def status(page: browser.Page, widget: str) -> str:
    return page.evaluate(f"document.querySelector('{widget} [role=status]').textContent")


@pytest.mark.parametrize("name", WIDGETS)
def test_keyboard_and_labels(site, page, name):
    """Tab goes through the controls in their order; arrows move sliders and radio buttons; Space presses buttons."""
    widget = show(page, site, name)
    page.evaluate(
        f"window.controls = [...document.querySelectorAll('{widget} :is(input[type=range], input:checked, button)')];"
        "controls[0].focus()"
    )
    kinds = page.evaluate("controls.map((c) => c.type)")
    assert "range" in kinds
    assert page.evaluate("controls.every((c) => c.type !== 'range' || +c.value < +c.max)")
    shown = f"[...document.querySelectorAll('{widget} :is(svg, table, [role=status])')].map((e) => e.innerHTML).join()"
    for i, kind in enumerate(kinds):
        assert page.evaluate(f"document.activeElement === controls[{i}]"), (i, kind)
        named = f"(controls[{i}].type === 'button' ? controls[{i}] : controls[{i}].labels[0]).textContent.trim().length"
        assert page.evaluate(named) >= 4
        if name == "value-iteration":
            page.evaluate(
                f"document.querySelector('{widget} button').click()"
            )  # all values are 0 else, as at the start
        before = page.evaluate(shown)
        if kind == "button":
            page.press(*SPACE)
        elif kind == "range":
            page.press(*ARROW_RIGHT)
        else:
            page.press(*ARROW_DOWN)
            page.evaluate(f"controls[{i}] = document.activeElement")
        page.wait(f"{shown} !== {json.dumps(before)}")
        if name == "cartpole" and kind == "button":
            page.press(*SPACE)  # pauses
        page.press(*TAB)
    assert page.evaluate(f"!document.querySelector('{widget}').contains(document.activeElement)")
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    page.press(*TAB, shift=True)
    assert page.evaluate(f"controls.includes(document.activeElement) && {outline}") == "solid"
    live = f"document.querySelector('{widget} .widget-live')"
    assert page.evaluate(f"{live}.getAttribute('aria-label').length") > 10
    assert page.evaluate(f"[...{live}.querySelectorAll('svg')].every((s) => s.getAttribute('aria-hidden'))")
    assert page.faults == []


def test_words_follow_the_sliders(site, page):
    widget = show(page, site, "ppo-clip")
    assert status(page, widget).startswith("Objective 1.00, slope 1.00: the gradient raises")
    page.evaluate(f"document.querySelector('{widget} input[type=range]').value = 1.5")
    page.evaluate(f"document.querySelector('{widget} input[type=range]').dispatchEvent(new Event('input'))")
    assert status(page, widget).startswith("Objective 1.20, slope 0.00: the clip is active")


def test_sweeps_by_button(site, page):
    widget = show(page, site, "value-iteration")
    page.evaluate(f"[...document.querySelectorAll('{widget} button')][1].click()")
    v = np.zeros((4, 5))
    for _ in range(100):
        v = stills.sweep(v, 0.9, 0.2)
    cells = page.evaluate(f"[...document.querySelectorAll('{widget} td')].map((c) => c.textContent)")
    shown = {i: float(text[:-1]) for i, text in enumerate(cells) if text and text[-1] in "↑→↓←·"}
    assert shown == {i: pytest.approx(v.flat[i], abs=0.006) for i in shown}
    assert len(shown) == 16


def test_cartpole_plays_to_its_end(site, page):
    widget = show(page, site, "cartpole")
    page.evaluate(f"document.querySelector('{widget} input[type=range]').value = 210")
    page.evaluate(f"document.querySelector('{widget} button').click()")
    assert page.evaluate(f"document.querySelector('{widget} button').textContent") == "Pause"
    page.wait(f"document.querySelector('{widget} button').textContent === 'Play'")
    assert status(page, widget).startswith("Step 222:")


@pytest.mark.parametrize("name", WIDGETS)
def test_picture_without_scripts(site, page, name):
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.open((site / f"{PLACES[name]}.html").as_uri())
        shown = f"document.querySelector('[data-widget={name}] .widget-still svg')"
        assert page.evaluate(f"{shown}.getBoundingClientRect().height") > 100
        described = f"document.getElementById({shown}.getAttribute('aria-labelledby').split(' ')[1]).textContent.length"
        assert page.evaluate(described) >= 80
        assert page.evaluate(f"document.querySelector('[data-widget={name}] noscript p')?.offsetHeight") > 0
        assert page.evaluate(f"document.querySelector('[data-widget={name}] .widget-live')") is None
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (390, False), (390, True)])
def test_legible(site, page, width, dark):
    """Contrast 4.5, letters of 10.5 pixels, nothing outside its picture, no text on another, no page too wide."""
    page.look(width, 900, dark)
    try:
        faults = []
        for place in sorted({*PLACES.values(), "index"}):
            page.open((site / f"{place}.html").as_uri())
            faults += [(place, *fault) for fault in page.evaluate(FAULTS)]
            if page.evaluate("document.documentElement.scrollWidth") > width:
                faults.append((place, "too wide"))
        assert faults == []
    finally:
        page.look(1200, 900, dark=False)


def test_faults_are_found(page, tmp_path):
    """The check of legibility finds each fault in a picture that has one."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<body style='background: #fff; width: 360px'><svg class='picture' viewBox='0 0 360 90' width='360'>"
        "<rect x='0' y='0' width='90' height='30' fill='#333'/><text x='9' y='20' font-size='13'>dark</text>"
        "<text x='120' y='20' font-size='9'>tiny</text><text x='340' y='20' font-size='13'>outside</text>"
        "<text x='9' y='70' font-size='13'>one over</text><text x='15' y='72' font-size='13'>another</text></svg>"
        "<figure><figcaption style='color: #aaa'>pale</figcaption></figure>"
    )
    page.open(bad.as_uri())
    assert page.evaluate(FAULTS) == [
        ["contrast", "dark"],
        ["small", "tiny"],
        ["outside", "outside"],
        ["overlap", "another / one over"],
        ["contrast", "pale"],
    ]
