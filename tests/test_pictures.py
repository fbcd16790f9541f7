"""The pages' pictures: they are what their scripts write, say what they show, and keep to the palette."""

import re
import sys

import numpy as np
import pytest
from test_docs import PAGES, ROOT, name_of

sys.path.insert(0, str(ROOT / "benchmarks"))
sys.path.insert(0, str(ROOT / "docs" / "pictures"))

import details
import diagrams
import language
import palette
import programs
import reference
import results
import stills
import svg

DRAWN = diagrams.DIAGRAMS | stills.STILLS | results.RESULTS | language.FIGURES | programs.FIGURES | details.FIGURES
PICTURES = ROOT / "docs" / "pictures"
NUMBER = re.compile(r"-?\d+\.\d+|-?\d+")


@pytest.mark.parametrize("name", DRAWN)
def test_files_are_what_the_scripts_write(name):
    """The same text, and the same numbers but for their last digit."""
    file, now = ((PICTURES / f"{name}.svg").read_text(encoding="utf-8"), DRAWN[name]().svg(name))
    assert NUMBER.sub("", file) == NUMBER.sub("", now)
    numbers = [np.array(NUMBER.findall(text), float) for text in (file, now)]
    np.testing.assert_allclose(*numbers, atol=0.11)


def test_no_picture_is_left_over():
    assert {file.stem for file in PICTURES.glob("*.svg")} == set(DRAWN)


def used(kind: str) -> set[str]:
    return {name for page in PAGES for name in re.findall(rf"^```{{{kind}}} (\S+)$", page.read_text("utf-8"), re.M)}


def test_every_picture_is_on_a_page():
    widgets = used("widget")
    assert widgets == {*stills.STILLS, "ppo-clip"}
    assert used("diagram") | widgets | {"clip-surface"} == {*DRAWN, "ppo-clip"}


@pytest.mark.parametrize("name", DRAWN)
def test_pictures_say_what_they_show(name):
    picture = DRAWN[name]()
    assert len(picture.title) >= 6
    assert len(picture.description) >= 80
    assert 'role="img"' in picture.svg(name)


def images(markdown: str) -> list[str]:
    """The alternative texts of a page's images."""
    return re.findall(r"!\[([^\]]*)\]\(", re.sub(r"`[^`\n]*`", "", markdown))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_images_have_alternative_texts(page):
    assert [text for text in images(page.read_text(encoding="utf-8")) if len(text) < 20] == []


# ---- contrast, as the Web Content Accessibility Guidelines define it


def luminance(color: str) -> float:
    channels = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    low, high = sorted([luminance(a), luminance(b)])
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_hand():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(("colors", "page"), [(palette.LIGHT, "#ffffff"), (palette.DARK, "#131416")])
def test_palette_has_contrast(colors, page):
    """4.5 for text, on the page and on every fill; 3 for lines."""
    color = {key.removeprefix("picture-"): value for key, value in colors.items()}
    for ground in (page, color["fill"], color["blue-fill"], color["red-fill"]):
        for ink in ("ink", "note", "blue", "red"):
            assert contrast(color[ink], ground) >= 4.5, f"{ink} on {ground}"
        assert contrast(color["line"], ground) >= 3, f"line on {ground}"
    assert palette.LIGHT.keys() == palette.DARK.keys()


# ---- the numbers in them


def test_clipped_objective_by_hand():
    np.testing.assert_allclose(diagrams.clipped(np.array([0.5, 1, 1.3]), 2.0), [1.0, 2.0, 2.4])
    np.testing.assert_allclose(diagrams.clipped(np.array([0.5, 1, 1.3]), -2.0), [-1.6, -2.0, -2.6])


def test_mean_curve_by_hand():
    """Two seeds, each known at other steps: the mean is over what both reached."""
    seeds = [(np.array([0.0, 10, 20]), np.array([0.0, 10, 20])), (np.array([5.0, 15]), np.array([1.0, 3]))]
    steps, mean = results.mean_curve(seeds)
    np.testing.assert_allclose(steps, [5, 10, 15])
    np.testing.assert_allclose(mean, [3, 6, 9])


@pytest.mark.parametrize("algo", results.PANELS)
def test_pages_name_the_flags_of_results(algo):
    page = (ROOT / "docs" / "algorithms" / f"{algo}.md").read_text(encoding="utf-8")
    for panel in results.PANELS[algo]:
        if panel.source == "reference":
            flags = re.sub(r"--epochs \d+ ?", "", reference.FLAGS[panel.env, algo]).strip()
            assert flags == panel.flags
            assert not flags or f"`{flags}`" in page


@pytest.mark.parametrize("algo", results.PANELS)
def test_results_have_their_seeds(algo):
    for panel in results.PANELS[algo]:
        found = results.curves(algo, panel)
        least = 5 if panel.source == "reference" or algo in ("crossq", "dqn", "ppo", "ppo_rnn", "sac") else 3
        assert len(found) == least or ((algo, panel.env) == ("sac", "Hopper-v5") and len(found) > least)
        low, high = panel.returns
        for _, values in found:  # no curve leaves its panel, by more than a line's width
            assert low - 0.01 * (high - low) < values.min() < values.max() <= high


def test_marked_up():
    assert svg.marked_up("*s*_{t+1} < π") == (
        '<tspan font-style="italic">s</tspan><tspan class="small" dy="3.5">t+1</tspan><tspan dy="-3.5"> &lt; π</tspan>'
    )


def test_value_iteration_reaches_the_fixed_point():
    v = np.zeros((4, 5))
    for _ in range(200):
        v = stills.sweep(v, 0.9, 0.2)
    np.testing.assert_allclose(stills.sweep(v, 0.9, 0.2), v, atol=1e-9)
    assert v[0, 3] == v.max()
    assert v[0, 3] == pytest.approx(0.8 + 0.1 * 0.9 * v[0, 3] + 0.1 * 0.9 * v[1, 3])  # right; slips up (stays) or down


def test_images_are_found():
    assert images("a ![short](x.png) `![code](y.png)` ![](z.svg)") == ["short", ""]
