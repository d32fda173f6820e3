"""What people do on the page, in a real browser: ask, choose, compare, cancel, make mistakes."""

import pytest
from demo_extra.shown import SLOW, shows

from lvlm_prune.assets import asset
from lvlm_prune.config import EVERYTHING
from lvlm_prune.methods import METHODS

pytestmark = pytest.mark.e2e
SCENE = asset("probe", "images", "scene_000012.jpg")


def type_question(page, text: str) -> None:
    page.locator("#question textarea").fill(text)


def choose(page, part: str, name: str) -> None:
    """Pick an entry of a drop-down list with the mouse."""
    page.locator(f"#{part} input").click()
    page.get_by_role("option", name=name, exact=True).click()


def answered(page, question: str) -> None:
    """Wait until the answers to a question are there, with their pictures."""
    from playwright.sync_api import expect

    shows(page, "#answers .question", question)
    shows(page, "#message", "Done.")
    for picture in page.locator("#kept img").all():
        expect(picture).to_be_visible(timeout=SLOW)
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 0


def kept(page) -> str:
    """The picture of what the model still sees."""
    return page.locator("#kept img:not(.whole)").get_attribute("src")


def picture_is_not(page, before: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#kept img:not(.whole)")).not_to_have_attribute("src", before, timeout=SLOW)


def test_an_upload_is_asked_about(visit):
    page = visit()
    before = kept(page)
    page.locator("#image input[type=file]").set_input_files(str(SCENE))
    page.locator('#image img[src*="scene_000012"]').wait_for(timeout=SLOW)
    type_question(page, "Is there an airplane in the upload?")
    page.locator("#ask").click()
    answered(page, "Is there an airplane in the upload?")
    assert page.locator("#answers .card").count() == 2
    for number in ("Visual tokens", "LLM prefill", "KV cache"):
        shows(page, "#answers .card.full", number)
        shows(page, "#answers .card.pruned", number)
    picture_is_not(page, before)
    assert page.locator("#scores img").count() == 2
    shows(page, "#scores", "tokens were merged into")


def test_another_method_is_explained_and_used(visit):
    page = visit()
    before, line = kept(page), page.locator("#method-text").inner_text()
    choose(page, "method", "divprune")
    shows(page, "#method-text", METHODS["divprune"].summary[1:].rstrip("."))
    assert page.locator("#method-text").inner_text() != line
    page.locator("#ask").click()
    shows(page, "#answers .card.pruned", "Pruned by divprune")
    picture_is_not(page, before)


@pytest.mark.parametrize("tokens", [10, 120])
def test_the_slider_sets_the_budget(visit, tokens):
    page = visit()
    budget = page.locator("#keep input[type=range]")
    budget.scroll_into_view_if_needed()
    box = budget.bounding_box()
    share = (tokens - 1) / 195
    page.mouse.move(box["x"] + 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2, steps=8)
    page.mouse.up()
    chosen = int(budget.input_value())
    assert abs(chosen - tokens) <= 8
    shows(page, "#keep-text", f"{chosen} of 196 visual tokens")
    page.locator("#ask").click()
    shows(page, "#answers .verdict", f"With {chosen} of 196 visual tokens")
    shows(page, "#kept", f"{chosen} of 196 visual tokens")


def test_a_reweighting_and_a_sink_policy_are_used(visit):
    page = visit()
    page.locator("#more button").first.click()
    choose(page, "reweight", "pai")
    page.locator("#sinks label").filter(has_text="drop: never kept").click()
    page.locator("#ask").click()
    shows(page, "#answers .card.pruned", "Pruned by visionzip + pai")
    shows(page, "#message", "Done.")


@pytest.mark.parametrize("number", [2, 4])
def test_an_example_is_shown_and_asked_in_one_click(visit, number):
    page = visit()
    before = page.locator("#image img").first.get_attribute("src")
    example = page.locator(f"#example-{number}")
    question = example.inner_text().strip()
    example.click()
    answered(page, question)
    assert page.locator("#question textarea").input_value() == question
    assert page.locator("#image img").first.get_attribute("src") != before


def test_all_methods_are_compared_in_a_grid(visit):
    page = visit()
    page.locator("#compare-methods").click()
    shows(page, "#progress", "Done:")
    tiles = page.locator("#grid figure.tile")
    names = [name for name in METHODS if name != EVERYTHING]
    labels = tiles.locator("figcaption b").all_inner_texts()
    assert labels == ["full model", *names]
    assert page.locator("#grid figure.tile.full").count() == 1
    sizes = tiles.locator("img").evaluate_all(
        "images => Promise.all(images.map(one => one.decode().then(() => one.naturalWidth)))"
    )
    assert len(sizes) == len(labels) - page.locator("#grid figure.tile.refused").count()
    assert all(size > 0 for size in sizes)
    for said in tiles.locator(".said").all_inner_texts()[1:]:
        assert said.startswith(("=", "≠"))


def test_one_method_is_compared_over_budgets(visit):
    page = visit()
    page.locator("#compare-budgets").click()
    shows(page, "#progress", "Done:")
    labels = page.locator("#grid figcaption b").all_inner_texts()
    tokens = [int(label.split()[0]) for label in labels[1:]]
    assert tokens == sorted(tokens, reverse=True)
    assert 49 in tokens


def test_a_comparison_is_cancelled_and_the_page_goes_on(visit):
    page = visit()
    type_question(page, "How many umbrellas and elephants are in the image?")
    page.locator("#compare-methods").click()
    shows(page, "#progress", "done, now")
    page.locator("#cancel-compare").click()
    shows(page, "#progress", "Cancelled.")
    page.wait_for_timeout(500)
    assert page.locator("#grid figure.tile").count() < len(METHODS)
    assert "Cancelled." in page.locator("#progress").inner_text()
    page.locator("#ask").click()
    answered(page, "How many umbrellas and elephants are in the image?")


def test_a_question_is_cancelled(visit):
    page = visit()
    page.locator("#cancel").click()
    shows(page, "#message", "Nothing is running.")
    type_question(page, "Describe every animal of this image.")
    page.locator("#ask").click()
    page.locator("#cancel").click()
    shows(page, "#message", "Cancelled.")
    page.wait_for_timeout(1500)
    assert "Cancelled." in page.locator("#message").inner_text()
    page.locator("#ask").click()
    answered(page, "Describe every animal of this image.")


def test_mistakes_are_sentences_and_are_mended(visit):
    page = visit()
    type_question(page, "  ")
    page.locator("#ask").click()
    shows(page, "#message [role=alert]", "Type a question about the image first.")
    type_question(page, "Is there a tree in the image?")
    page.get_by_role("button", name="Remove Image").click()
    page.locator("#ask").click()
    shows(page, "#message [role=alert]", "Choose an image first")
    page.locator("#compare-methods").click()
    shows(page, "#progress [role=alert]", "Choose an image first")
    page.locator("#example-1").click()
    answered(page, page.locator("#example-1").inner_text().strip())
    assert page.locator("#message [role=alert]").count() == 0


def test_a_broken_upload_is_a_sentence(visit, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(SCENE.read_bytes()[:900])
    page = visit()
    page.locator("#image input[type=file]").set_input_files(str(broken))
    page.locator('#image img[src*="broken"]').wait_for(state="attached", timeout=SLOW)
    page.locator("#ask").click()
    shows(page, "#message [role=alert]", "is damaged or incomplete")


def test_two_pages_at_once_keep_what_is_theirs(visit):
    left, right = visit(), visit(390, 844)
    choose(left, "method", "random")
    choose(right, "method", "grid")
    for page, tokens in ((left, "30"), (right, "90")):
        page.locator("#keep input[type=number]").fill(tokens)
        shows(page, "#keep-text", f"{tokens} of 196")
    type_question(left, "Is there a boat on the left page?")
    type_question(right, "Is there a bus on the right page?")
    left.locator("#ask").click()
    right.locator("#ask").click()
    answered(left, "Is there a boat on the left page?")
    answered(right, "Is there a bus on the right page?")
    shows(left, "#answers .card.pruned", "Pruned by random")
    shows(left, "#answers .verdict", "With 30 of 196")
    shows(right, "#answers .card.pruned", "Pruned by grid")
    shows(right, "#answers .verdict", "With 90 of 196")


def test_a_reloaded_page_opens_as_it_did(visit):
    page = visit()
    question = page.locator("#answers .question").inner_text()
    type_question(page, "Is there a chair in the image?")
    page.locator("#ask").click()
    answered(page, "Is there a chair in the image?")
    page.reload(wait_until="domcontentloaded")
    shows(page, "#answers .question", question)
