"""The page by keyboard, on a phone, with odd numbers and markup typed into it."""

import pytest
from demo_extra.shown import shows

pytestmark = pytest.mark.e2e


def focused(page) -> str:
    """The `elem_id` of the part that the keyboard is in."""
    return page.evaluate(
        """() => {
            for (let part = document.activeElement; part; part = part.parentElement)
                if (/^(?!html-|root)[a-z][a-z-]*[0-9]?$/.test(part.id)) return part.id;
            return "";
        }"""
    )


def test_the_keyboard_reaches_every_control_in_reading_order_and_shows_where_it_is(visit):
    page = visit()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        place = focused(page)
        if place:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline == "solid", place
        if place and place not in reached:
            reached.append(place)
    controls = ["image", *(f"example-{number}" for number in range(1, 7)), "question", "method"]
    controls += ["keep", "ask", "cancel", "more", "kept", "compare-methods", "compare-budgets"]
    assert [place for place in reached if place in controls] == controls


def test_the_keyboard_alone_asks_and_moves_both_sliders(visit):
    page = visit()
    budget = page.locator("#keep input[type=range]")
    more = int(budget.input_value()) + 3
    budget.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    shows(page, "#keep-text", f"{more} of 196 visual tokens")
    page.locator("#question textarea").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("Is there an umbrella in the image?")
    page.keyboard.press("Enter")
    shows(page, "#message", "Done.")
    shows(page, "#answers .question", "Is there an umbrella in the image?")
    shows(page, "#answers .verdict", f"{more} of 196")
    border = page.locator("#kept input[type=range]")
    border.focus()
    before = border.input_value()
    page.keyboard.press("ArrowRight")
    assert float(border.input_value()) > float(before)


@pytest.mark.parametrize("typed", ["9999", "", "0", "2.5", "-3"])
def test_an_odd_number_of_tokens_breaks_nothing(visit, server, typed):
    page = visit()
    logged = server.log.read_text().count("Traceback")
    number = page.locator("#keep input[type=number]")
    number.fill(typed)
    page.wait_for_timeout(500)  # the words follow the number; nothing tells that they will not
    assert "NaN" not in page.locator("#keep-text").inner_text()
    number.press("Tab")
    page.locator("#ask").click()
    shows(page, "#message", "Done." if typed != "2.5" else "must be a whole number")
    assert server.log.read_text().count("Traceback") == logged


def test_typed_markup_is_text(visit):
    page = visit()
    attack = "<img src=x onerror=alert(1)><b id=bold>Is there a dog?</b>"
    page.locator("#question textarea").fill(attack)
    page.locator("#ask").click()
    shows(page, "#answers .question", attack)
    shows(page, "#message", "Done.")
    assert page.locator("#bold").count() == 0
    page.locator("#compare-budgets").click()
    shows(page, "#progress", "Done:")
    assert page.locator("#bold").count() == 0


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_window_needs_no_scrolling_aside(visit, width):
    page = visit(width, 844, has_touch=True)
    page.locator("#compare-budgets").click()
    shows(page, "#progress", "Done:")
    page.locator("#more button").first.click()
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = page.evaluate(
        """width => [...document.querySelectorAll("button, input, textarea, img, .card, .tile")]
            .filter(part => part.offsetParent && part.getBoundingClientRect().right > width + 1)
            .map(part => part.outerHTML.slice(0, 120))""",
        width,
    )
    assert outside == []


def test_every_control_has_a_name(visit):
    page = visit()
    page.locator("#more button").first.click()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea")]
            .filter(part => part.offsetParent)
            .filter(part => !(part.getAttribute("aria-label") || part.title || part.innerText ||
                [...(part.labels || [])].map(label => label.innerText).join("")).trim())
            .map(part => part.outerHTML.slice(0, 120))"""
    )
    assert nameless == []


def test_the_page_explains_every_control(visit):
    page = visit()
    page.locator("#more button").first.click()
    for part in ("question", "method", "keep", "reweight", "sinks"):
        assert len(page.locator(f"#{part}").inner_text().strip().split("\n")) > 1, part
    words = page.locator("#ask-part").inner_text() + page.locator("#compare-part").inner_text()
    for start in ("Ask: ", "Cancel: ", "All methods: ", "Over budgets: "):
        assert start in words


def test_on_a_phone_an_example_brings_the_answer_into_view(visit):
    page = visit(390, 844, reduced_motion="reduce")
    page.locator("#example-2").click()
    shows(page, "#message", "Done.")
    box = page.locator("#message").bounding_box()
    assert 0 <= box["y"] < 300


@pytest.mark.parametrize(
    "change",
    [
        lambda page: page.locator("#question textarea").press_sequentially("Is it a boat?"),
        lambda page: page.locator("#keep input[type=number]").fill("30"),
        lambda page: (
            page.locator("#method input").click(),
            page.get_by_role("option", name="divprune", exact=True).click(),
        ),
        lambda page: page.get_by_role("button", name="Remove Image").click(),
    ],
    ids=["question", "budget", "method", "image"],
)
def test_what_is_set_anew_is_said_not_to_be_shown_yet(visit, change):
    page = visit()
    page.locator("#example-4").click()
    shows(page, "#message", "Done.")
    change(page)
    shows(page, "#message", "press Ask to see what comes of it")


def test_names_of_all_comparisons_stand_above_them(visit):
    page = visit()
    page.locator("#compare-budgets").click()
    shows(page, "#progress", "Done:")
    shows(page, "#grid h3", "visionzip over budgets: “Is there a cat in the image?”")
    page.locator("#compare-methods").click()
    shows(page, "#grid h3", "Every method, 12 of 196 visual tokens")
    shows(page, "#progress", "Done:")
    assert page.locator("#grid .tag").count() == 4
