"""CHAIR on made-up captions: tokens, joined pairs, counts, and files of objects."""

import json

import numpy as np
import pytest

from lvlm_prune.eval.chair import REQUEST, SCORING, load
from lvlm_prune.eval.chair_scoring import COLUMNS, notes
from lvlm_prune.eval.chair_words import JOINED, coco_vocabulary, split

WORDS = coco_vocabulary()
OBJECTS = {
    "a.jpg": ["dog", "person"],
    "b.jpg": ["bus", "hot dog", "toilet"],
    "c.jpg": [],
    "d.jpg": ["teddy bear"],
}


@pytest.fixture
def benchmark(tmp_path):
    path = tmp_path / "objects.json"
    path.write_text(json.dumps(OBJECTS))
    return load(path)


def numbers(items, captions):
    """The layout of one run."""
    tally = SCORING.tally(items, captions, "official")
    found = SCORING.metrics(tally.columns, tally.total, "official")
    return SCORING.layout({name: float(value) for name, value in found.items()})


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("The dog's bowl, and 3,000 cats.", "the dog 's bowl , and 3,000 cats ."),
        ("A train. It can't stop!", "a train . it ca n't stop !"),
        ("a train.it", "a train.it"),
        ('He said "a cat." Then...', 'he said " a cat . " then ...'),
        ("1. A cat. 2. A dog at 10.", "1. a cat . 2. a dog at 10 ."),
        ("two cats/dogs (or 5%)", "two cats/dogs ( or 5 % )"),
        ("**Cats**: the dogs' bed", "* * cats * * : the dogs ' bed"),
        ("a cell-phone \u2014 we cannot 'see' it", "a cell-phone \u2014 we can not ' see ' it"),
        ("", ""),
    ],
)
def test_tokens(caption, tokens):
    assert split(caption) == tokens.split()


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two baby bears and an adult zebra", ["bear", "zebra"]),
        ("A baby and two adults", ["person", "person"]),
        ("a passenger train, passengers, a passenger jet", ["train", "person", "airplane"]),
        ("hot dogs on a hot day, a dog", ["hot dog", "dog"]),
        ("wine glasses; a wine glass; a glass of wine", ["wine glass", "wine glass"]),
        ("a bow tie and a bow", ["tie", "tie"]),
        ("train tracks at home plate", []),
        ("the seat of the toilet, a seat", ["toilet"]),
        ("toilet seats and a seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("buses, a bus, motor bikes, cheesecakes, canoes, ties", ["bus"]),
        ("a cell-phone, an iPhone, cell phones", ["cell phone"]),
        ("policemen, gentlemen and people", ["person", "person", "person"]),
        ("a stove top oven", ["oven", "oven"]),
        ("an ox, oxen, mice and geese", ["cow", "cow", "mouse", "bird"]),
    ],
)
def test_mentions(caption, objects):
    assert WORDS.mentions(caption) == objects


def join_slowly(tokens):
    """Take two tokens if they belong together, else one, until none is left."""
    if len(tokens) > 1 and f"{tokens[0]} {tokens[1]}" in JOINED:
        return [JOINED[f"{tokens[0]} {tokens[1]}"], *join_slowly(tokens[2:])]
    return [tokens[0], *join_slowly(tokens[1:])] if tokens else []


def test_pairs_are_joined_as_by_a_slow_loop():
    rng = np.random.default_rng(0)
    parts = sorted({part for pair in JOINED for part in pair.split()} | {"seat", "a", "red"})
    for _ in range(300):
        tokens = rng.choice(parts, rng.integers(1, 12)).tolist()
        single = [WORDS.singular.get(token, token) for token in tokens]
        joined = join_slowly(single)
        assert WORDS.tokens(" ".join(tokens)) == joined
        named = [word for word in joined if word in WORDS.head]
        if "toilet" in joined:
            named = [word for word in named if word != "seat"]
        assert WORDS.mentions(" ".join(tokens)) == [WORDS.head[word] for word in named]


def test_words_that_the_official_code_cannot_see():
    assert len(WORDS.objects) == 80
    unseen = {word for word in WORDS.head if WORDS.mentions(word) == []}
    assert unseen == {"bus", "minibus", "airbus", " motor bike", " cheesecake", "iPhone"}


def test_numbers_by_hand(benchmark):
    captions = ["A man, a dog and two cats, a cat.", "Buses. A bus!", "Nothing.", "a teddy bear"]
    assert numbers(benchmark.items, captions) == {
        "CHAIRs": 1 / 4,
        "CHAIRi": 2 / 6,
        "Recall": 4 / 6,
        "Len": (12 + 5 + 2 + 2) / 4,
        "mentions": 6,
        "hallucinated": 2,
        "hallucinated_captions": 1,
        "gt_objects": 6,
        "recalled": 4,
        "captions": 4,
    }


def test_numbers_equal_a_slow_count_also_of_summed_draws(benchmark):
    rng = np.random.default_rng(1)
    words = ["dog", "man", "buses", "hot dog", "cat", "toilet", "tree", "teddy bear"]
    captions = [" , ".join(rng.choice(words, rng.integers(0, 6))) for _ in benchmark.items]
    tally = SCORING.tally(benchmark.items, captions, "official")
    draws = rng.multinomial(4, [1 / 4] * 4, 20)
    found = SCORING.metrics(tally.columns, draws @ tally.counts, "official")
    for place, times in enumerate(draws):
        cell = dict.fromkeys(("captions", "bad", "mentions", "wrong", "there", "seen"), 0)
        for item, caption, often in zip(benchmark.items, captions, times, strict=True):
            named, there = WORDS.mentions(caption), set(item.facts["objects"])
            wrong = [name for name in named if name not in there]
            cell["captions"] += often
            cell["bad"] += often * bool(wrong)
            cell["mentions"] += often * len(named)
            cell["wrong"] += often * len(wrong)
            cell["there"] += often * len(there)
            cell["seen"] += often * len(there & set(named))
        assert found["CHAIRs"][place] == pytest.approx(cell["bad"] / cell["captions"])
        assert found["CHAIRi"][place] == pytest.approx(cell["wrong"] / max(cell["mentions"], 1))
        assert found["Recall"][place] == pytest.approx(cell["seen"] / max(cell["there"], 1))


def test_captions_without_objects_are_zeros_with_a_note(benchmark):
    found = numbers(benchmark.items, ["", "Nothing.", "?", "A tree."])
    assert (found["CHAIRs"], found["CHAIRi"], found["Recall"]) == (0, 0, 0)
    assert "not good" in notes(found)[0]
    assert not notes(numbers(benchmark.items, ["a dog"] * 4))
    assert numbers(benchmark.items, [None] * 4)["captions"] == 0


def test_failed_calls_are_left_out(benchmark):
    tally = SCORING.tally(benchmark.items, [None, "a cat", None, ""], "official")
    assert tally.units == tuple(OBJECTS)
    assert tally.counts[:, COLUMNS.index("captions")].tolist() == [0, 1, 0, 1]
    assert tally.counts[0].sum() == 0
    says = [SCORING.parse(benchmark.items[0], text, "official") for text in ("a cat", " \n")]
    assert says == ["caption", "empty"]


def test_items_of_a_file_of_objects(benchmark, tmp_path):
    assert [item.id for item in benchmark.items] == [f"chair/{name}" for name in OBJECTS]
    assert {item.question for item in benchmark.items} == {REQUEST}
    assert benchmark.files["a.jpg"] == tmp_path / "images" / "a.jpg"
    (tmp_path / "numbers.json").write_text('{"42": ["man", "dog", "puppy"]}')
    (item,) = load(tmp_path / "numbers.json", images=tmp_path).items
    assert (item.id, item.image) == ("chair/42", "COCO_val2014_000000000042.jpg")
    assert item.facts["objects"] == ("dog", "person"), "synonyms are named by their group"


def test_a_list_chooses_images_in_its_order(benchmark, tmp_path):
    chosen = tmp_path / "list.txt"
    chosen.write_text("d.jpg\na.jpg\n\nd.jpg\n")
    found = load(tmp_path / "objects.json", str(chosen))
    assert found.images == ["d.jpg", "a.jpg"]
    assert found.version != benchmark.version
    chosen.write_text("z.jpg")
    with pytest.raises(ValueError, match="no objects are known of z.jpg"):
        load(tmp_path / "objects.json", str(chosen))
    with pytest.raises(FileNotFoundError, match="no subset 'half' of CHAIR"):
        load(tmp_path / "objects.json", "half")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a.jpg": ["dragon"]}', "a.jpg holds 'dragon'"),
        ('{"a.jpg": "dog"}', "not a list of words"),
        ('{"a.jpg": [1]}', "not a list of words"),
        ('{"a.jpg": [], "a.jpg": ["dog"]}', "twice in the file: a.jpg"),
        ("[]", "holds no"),
        ("{}", "holds no"),
        ('{"a.jpg": ["dog"]', "no JSON"),
    ],
)
def test_broken_files_of_objects_are_refused(tmp_path, text, says):
    (tmp_path / "objects.json").write_text(text)
    with pytest.raises(ValueError, match=says):
        load(tmp_path / "objects.json")


def write_coco(folder, part, number, caption):
    """A COCO annotations file pair with one image that holds one dog and a caption."""
    image = {"id": number, "file_name": f"COCO_{part}2014_{number:012d}.jpg"}
    instances = {
        "images": [image],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": number, "category_id": 18}] * 2,
    }
    captions = {"annotations": [{"image_id": number, "caption": caption}]}
    (folder / f"instances_{part}2014.json").write_text(json.dumps(instances))
    (folder / f"captions_{part}2014.json").write_text(json.dumps(captions))


def test_a_coco_folder_joins_instances_and_captions(tmp_path):
    folder = tmp_path / "annotations"
    folder.mkdir()
    write_coco(folder, "val", 7, "Two men at a table.")
    with pytest.raises(FileNotFoundError, match="lacks instances_train2014.json and captions_tr"):
        load(folder)
    (item,) = load(folder, "val").items
    assert item.facts["objects"] == ("dining table", "dog", "person")
    write_coco(folder, "train", 9, "A puppy.")
    both = load(folder)
    assert [item.facts["objects"] for item in both.items] == [("dog",), item.facts["objects"]]
    assert both.files[both.images[0]] == tmp_path / "train2014" / both.images[0]
    assert set(both.version) == {path.name for path in folder.iterdir()}
    (tmp_path / "list.txt").write_text("7\n")
    assert load(folder, str(tmp_path / "list.txt")).items == (item,)


@pytest.mark.parametrize("broken", [{"images": []}, [], {"images": [7]}, {"images": None}])
def test_a_broken_coco_folder_is_refused(tmp_path, broken):
    write_coco(tmp_path, "val", 7, "Two men.")
    (tmp_path / "instances_val2014.json").write_text(json.dumps(broken))
    with pytest.raises(
        ValueError, match="instances_val2014.json and captions_val2014.json are not"
    ):
        load(tmp_path, "val")


def test_an_unknown_parser_is_refused(benchmark):
    with pytest.raises(ValueError, match="no CHAIR parser 'first-word'"):
        SCORING.tally(benchmark.items, ["a"] * 4, "first-word")


def test_a_name_in_a_list_is_matched_before_its_number(tmp_path):
    data, listed = tmp_path / "objects.json", tmp_path / "list.txt"
    data.write_text(json.dumps({"1.jpg": ["dog"], "001.jpg": ["cat"], "2.jpg": ["car"]}))
    listed.write_text("1.jpg\n02.jpg\n001.jpg\n")
    found = load(data, str(listed)).items
    assert [item.image for item in found] == ["1.jpg", "2.jpg", "001.jpg"]
    listed.write_text("01.jpg\n")
    with pytest.raises(ValueError, match="'01.jpg' may be 1.jpg or 001.jpg"):
        load(data, str(listed))
