"""Yes or no in a raw answer, as each harness reads it."""

import random

import pytest

from lvlm_prune.eval import parsers

# answer: POPE, lmms-eval, VLMEvalKit, first word, MME, lmms-eval on MME
READINGS = {
    "Yes": "yes yes yes yes yes yes",
    "no": "no no no no no no",
    "YES": "yes yes yes yes yes yes",
    "NO": "yes no no no no no",
    "Yes.": "yes unparsed yes yes yes yes",
    "No.": "no unparsed no no no no",
    "No!": "yes unparsed no no no no",
    " No ": "no no no no no no",
    "\nNo": "yes no no no no no",
    "  Yes": "yes yes yes yes unparsed yes",
    "**Yes**": "yes unparsed unparsed yes unparsed unparsed",
    "**No**": "yes unparsed unparsed no no no",
    '"No"': "yes unparsed no no no no",
    "Answer: Yes": "yes unparsed yes yes unparsed unparsed",
    "Nope": "yes unparsed unparsed unparsed no no",
    "I know": "yes unparsed unparsed unparsed unparsed unparsed",
    "It is not there": "no unparsed unparsed unparsed unparsed unparsed",
    "There isn't": "yes unparsed unparsed unparsed unparsed unparsed",
    "The no. 5 bus": "no unparsed no no unparsed unparsed",
    "Yes. No.": "yes unparsed unparsed yes yes yes",
    "Yes, there is no doubt": "no unparsed unparsed yes yes yes",
    "yes-no": "yes unparsed unparsed yes yes yes",
    ". No": "yes unparsed no no no no",
    "y": "yes unparsed unparsed unparsed unparsed yes",
    "N.": "yes unparsed unparsed unparsed unparsed no",
    "是的": "yes unparsed unparsed unparsed unparsed unparsed",
    "...": "yes unparsed unparsed unparsed unparsed unparsed",
    "": "yes empty empty empty empty empty",
    " \n": "yes empty empty empty empty empty",
}
RULES = (
    parsers.pope_official,
    parsers.exact,
    parsers.one_of_two,
    parsers.first_word,
    parsers.mme_official,
    parsers.mme_stripped,
)


@pytest.mark.parametrize("answer", READINGS)
def test_each_rule_reads_its_own_way(answer):
    assert [rule(answer) for rule in RULES] == READINGS[answer].split()


@pytest.mark.parametrize(
    ("answer", "if_yes", "if_no"),
    [
        ("Yes", "yes", "yes"),
        ("No", "no", "no"),
        ("Yes, there is no doubt", "yes", "no"),
        ("I do not know", "no", "no"),
        ("nothing", "no", "no"),
        ("eyes", "yes", "yes"),
        ("maybe", "no", "yes"),
        ("", "no", "yes"),
    ],
)
def test_a_rule_that_looks_at_the_label(answer, if_yes, if_no):
    assert parsers.substring(answer, "yes") == if_yes
    assert parsers.substring(answer, "no") == if_no


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("yes,no", "unparsed"),  # a comma without spaces becomes one: two words
        ("yes,sir", "yes"),
        ("yes,no room", "unparsed"),
        ("no-one, I say", "no"),  # the hyphen becomes a space
        ("no-one - I say", "unparsed"),  # a hyphen beside a space: all hyphens go
        ("no-one of 1,000", "unparsed"),  # digits in groups: all marks go
        ("yes's", "unparsed"),
        ("a.yes", "unparsed"),
        ("." * 32 + "yes", "yes"),
        ("." * 33 + "yes", "unparsed"),
    ],
)
def test_marks_between_words(answer, said):
    assert parsers.one_of_two(answer) == said


def test_what_the_official_script_did_not_understand():
    named = [parsers.first_sentence(answer) for answer in ("YES, a cat", "maybe", "No!", " ", "No")]
    assert named == ["yes", "unparsed", "unparsed", "empty", "no"]


def pope_script(text: str) -> str:
    """POPE's script, step by step."""
    kept = ""
    for character in text:
        if character == ".":
            break
        kept += "" if character == "," else character
    word, words = "", []
    for character in [*kept, " "]:
        if character == " ":
            words.append(word)
            word = ""
        else:
            word += character
    return "no" if any(word in ("No", "not", "no") for word in words) else "yes"


def mme_script(text: str) -> str:
    """MME's script, step by step."""
    lower = "".join(character.lower() for character in text)
    if lower in ("yes", "no"):
        return lower
    start = [lower[place : place + size] for size in (3, 2) for place in range(4 - size + 1)]
    start = [part for part in start if part in ("yes", "no")]
    return start[0] if start else "other"


def test_thousands_of_made_up_answers():
    rng = random.Random(0)
    parts = [
        "yes",
        "Yes",
        "no",
        "No",
        "not",
        "NO",
        " ",
        "  ",
        ".",
        ",",
        "\n",
        "!",
        "a",
        "know",
        "5",
    ]
    for _ in range(5000):
        answer = "".join(rng.choices(parts, k=rng.randint(0, 7)))
        assert parsers.pope_official(answer) == pope_script(answer)
        said = parsers.mme_official(answer)
        assert (said if said in ("yes", "no") else "other") == mme_script(answer)
        assert (parsers.first_word(answer) == "empty") == (not answer.split())
