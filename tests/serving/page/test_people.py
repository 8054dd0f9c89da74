"""For everybody: by keyboard alone, in the dark, on a small screen, in words."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow

CONTRAST = 4.5
"""WCAG 2.2, AA, for text."""

TEXTS = [
    "h1", "header p", ".notice", "#answer p", "[data-why] li", ".case .report", ".facts dt",
    ".facts dd.number", "button.main", "button.quiet", "mark", ".legend", "label",
]  # fmt: skip

MEASURE = """element => {
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  let page = element;
  while (rgb(getComputedStyle(page).backgroundColor)[3] === 0) page = page.parentElement;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(page).backgroundColor]
    .map(c => luminance(rgb(c))).sort((x, y) => y - x);
  return [(a + 0.05) / (b + 0.05), luminance(rgb(getComputedStyle(page).backgroundColor))];
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_both_schemes(open_tab, server, corpus, scheme):
    tab = open_tab(server, color_scheme=scheme)
    tab.film(corpus.images[0])
    tab.ask(corpus.question)
    for selector in TEXTS:
        contrast, page = tab.page.locator(selector).first.evaluate(MEASURE)
        assert contrast >= CONTRAST, selector
        if selector == ".facts dt":
            assert (page < 0.1) == (scheme == "dark")


def test_the_switch_overrides_the_system(open_tab, server):
    tab = open_tab(server, color_scheme="dark")
    levels = []
    for _ in range(3):
        levels.append(tab.page.locator("body").evaluate(MEASURE)[1])
        tab.page.click("#theme")
    dark, light, dark_again = levels
    assert dark == dark_again < 0.1 < light


def tab_to(tab, selector, most=60):
    """Press Tab until the element has the focus, which can be seen at every stop."""
    for _ in range(most):
        tab.page.keyboard.press("Tab")
        stop = tab.page.evaluate(
            """selector => {
              const at = document.activeElement;
              const style = getComputedStyle(at);
              return [at.matches(selector), style.outlineStyle !== 'none'
                && parseFloat(style.outlineWidth) >= 2, at.outerHTML.slice(0, 80)];
            }""",
            selector,
        )
        there, visible, what = stop
        assert visible or what.startswith("<body"), what
        if there:
            return
    pytest.fail(f"the keyboard does not reach {selector}")


def test_everything_can_be_done_by_keyboard(tab, corpus):
    keyboard = tab.page.keyboard
    tab_to(tab, "#file")
    with tab.page.expect_file_chooser() as chooser:
        keyboard.press("Space")
    chooser.value.set_files(str(corpus.images[0]))
    tab.page.wait_for_selector("[data-film][data-ready]")
    tab.page.evaluate("document.activeElement.blur()")
    tab_to(tab, ".viewer canvas")
    before = tab.levels()
    keyboard.press("ArrowRight")
    tab.drawn()
    assert tab.levels() != before
    tab_to(tab, "#weight-image_text")
    value = tab.page.input_value("#weight-image_text")
    keyboard.press("ArrowRight")
    assert tab.page.input_value("#weight-image_text") != value
    tab_to(tab, "#question")
    keyboard.type(corpus.question)
    keyboard.press("Enter")
    tab.answered()
    tab_to(tab, "[data-case] button[hx-post='/page/without']")
    keyboard.press("Enter")
    tab.page.wait_for_selector("[data-side=without]")


def test_what_the_eye_sees_is_said_in_words(tab, corpus):
    tab.film(corpus.images[0])
    tab.ask(corpus.question)
    assert tab.page.get_attribute("#answer", "aria-live") == "polite"
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll('button, input:not([type=hidden]), select, canvas')]
          .filter(x => !(x.labels?.length || x.getAttribute('aria-label') || x.textContent.trim()))
          .map(x => x.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    pictures = tab.page.eval_on_selector_all("img", "all => all.map(x => x.hasAttribute('alt'))")
    assert all(pictures)


def test_a_small_screen_scrolls_one_way(open_tab, server, corpus):
    tab = open_tab(server, viewport={"width": 390, "height": 800})
    tab.film(corpus.images[0])
    tab.ask(corpus.question)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    order = ["#film", "#question", "#answer", "#cases", "#ranking"]
    tops = [tab.page.locator(place).bounding_box()["y"] for place in order]
    assert tops == sorted(tops)
