"""Tables of the hub become official files once: made-up rows, and a reader that fails."""

import io
import json

import pytest
from PIL import Image

from lvlm_prune.eval.benchmarks import BENCHMARKS, load_benchmark
from lvlm_prune.eval.hub import HubError, load_from_hub, read_rows
from lvlm_prune.eval.missing import missing_images


def picture(shade):
    """A tiny image as the hub keeps it."""
    file = io.BytesIO()
    Image.new("L", (4, 4), shade).save(file, "png")
    return {"bytes": file.getvalue(), "path": None}


def pope_rows():
    return [
        {
            "question_id": str(number),
            "question": f"Is there a {name} in the image?",
            "answer": answer,
            "image_source": f"COCO_val2014_{shade:012d}",
            "image": picture(shade),
            "category": split,
        }
        for split in ("adversarial", "popular", "random")
        for shade in (1, 2)
        for number, (name, answer) in enumerate((("cat", "yes"), ("dog", "no")), 2 * shade - 1)
    ]


def mme_rows():
    return [
        {
            "question_id": f"{task}/00{shade}.jpg",
            "image": picture(shade),
            "question": f"Is it {word}? Please answer yes or no.",
            "answer": answer,
            "category": task,
        }
        for task in ("posters", "scene")
        for shade in (1, 2)
        for word, answer in (("day", "Yes"), ("night", "No"))
    ]


def hallusionbench_rows():
    rows = []
    for figure in range(3):
        row = {
            "category": "VS",
            "subcategory": "map",
            "visual_input": str(figure),
            "set_id": "0",
            "figure_id": str(figure),
            "question_id": "0",
            "question": "Is A north of B?",
            "gt_answer": str(figure % 2),
            "filename": f"./VS/map/0_{figure}.png" if figure else None,
            "image": picture(figure) if figure else None,
        }
        rows.append(row)
    return rows


def mmvp_rows():
    options = "(a) Open (b) Closed"
    return [
        {
            "Index": number,
            "Question": "Is it open?",
            "Options": options,
            "Correct Answer": answer,
            "image": picture(number),
        }
        for number, answer in ((1, "(a)"), (2, "(b)"))
    ]


ROWS = {
    "pope": pope_rows,
    "mme": mme_rows,
    "hallusionbench": hallusionbench_rows,
    "mmvp": mmvp_rows,
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LVLM_PRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ROWS)
def test_rows_become_a_benchmark_whose_images_are_there(name, cache):
    rows = ROWS[name]()
    found = load_from_hub(BENCHMARKS[name], None, None, lambda *_: rows)
    assert len(found.items) == len(rows)
    assert missing_images(found) == []
    contents = {found.files[image].read_bytes() for image in found.images}
    assert contents == {row["image"]["bytes"] for row in rows if row["image"]}
    asked = {row["question"] if "question" in row else row["Question"] for row in rows}
    assert all(any(text in item.question for text in asked) for item in found.items)
    assert json.loads((cache / name / "hub.json").read_text())["dataset"].endswith(
        name.upper() if name != "hallusionbench" else "HallusionBench"
    )


def test_the_second_time_reads_the_cache(cache):
    first = load_from_hub(BENCHMARKS["pope"], None, None, lambda *_: pope_rows())
    again = load_benchmark("pope", subset="coco/random")
    assert [item for item in first.items if item.split == "random"] == list(again.items)
    assert [path.name for path in cache.iterdir()] == ["pope"]


def test_a_question_of_pope_is_written_as_pope_writes_it(cache):
    load_from_hub(BENCHMARKS["pope"], None, None, lambda *_: pope_rows())
    first = (cache / "pope" / "coco_pope_random.json").read_text().split("\n")[0]
    assert first == (
        '{"question_id": 1, "image": "COCO_val2014_000000000001.jpg", '
        '"text": "Is there a cat in the image?", "label": "yes"}'
    )


def test_a_broken_read_leaves_nothing(cache):
    tried = []

    def fails(name, splits):
        tried.append(name)
        yield pope_rows()[0]
        raise ConnectionError(f"cannot reach {name}\nwith a long tail")

    with pytest.raises(
        HubError, match="ConnectionError: cannot reach .*Pass --data with"
    ) as caught:
        load_from_hub(BENCHMARKS["pope"], None, None, fails)
    assert "long tail" not in str(caught.value)
    assert "images.cocodataset.org" in str(caught.value)
    assert list(cache.iterdir()) == []
    # Without a network another name is no better, and each costs its retries.
    assert len(tried) == 1


def test_a_name_that_is_gone_is_followed_by_its_old_one():
    def second(name, splits):
        if name != "lmms-lab/POPE":
            raise FileNotFoundError(name)
        return pope_rows()

    assert len(load_from_hub(BENCHMARKS["pope"], None, None, second).items) == 12


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pope", {"image": None}, "row 1 of POPE has no image bytes"),
        ("pope", {"image_source": "../../up"}, "not inside a folder of images"),
        ("pope", {"category": "../up"}, "not inside a folder of images"),
        ("mme", {"question": "Is it\tday?"}, "row 1 of MME has a tab"),
        ("mme", {"question_id": None}, "row 1 of MME has no question_id"),
        ("mmvp", {"Correct Answer": None}, "row 1 of MMVP has no correct answer or answer"),
    ],
)
def test_rows_of_another_table_are_named(name, change, message, cache):
    rows = ROWS[name]()
    rows[0].update(change)
    with pytest.raises(HubError, match=message):
        load_from_hub(BENCHMARKS[name], None, None, lambda *_: rows)
    assert list(cache.iterdir()) == []


def test_without_the_package_it_says_what_to_install_and_what_to_pass():
    def absent(name, splits):
        raise ImportError("the hub is read with the package datasets: pip install it")

    with pytest.raises(ImportError, match="package datasets.*Pass --data with Questions.csv"):
        load_from_hub(BENCHMARKS["mmvp"], None, None, absent)


@pytest.mark.parametrize("name", ["chair", "amber", "do-you-see-me"])
def test_what_the_hub_lacks_says_what_to_pass(name):
    with pytest.raises(HubError, match=f"{name} is not read from the hub. Pass --data with"):
        load_benchmark(name)


def test_parquet_files_are_read_without_decoding_images(tmp_path):
    datasets = pytest.importorskip("datasets", reason="the eval extra is not installed")
    (tmp_path / "table" / "data").mkdir(parents=True)
    table = datasets.Dataset.from_list(mmvp_rows()).cast_column("image", datasets.Image())
    table.to_parquet(str(tmp_path / "table" / "data" / "train-00000-of-00001.parquet"))
    rows = list(read_rows(str(tmp_path / "table"), ["train"]))
    assert [row["image"]["bytes"] for row in rows] == [row["image"]["bytes"] for row in mmvp_rows()]
    assert rows[0]["Correct Answer"] == "(a)"
