"""The list of benchmarks, the probe as one of them, and runs on the first images."""

import csv
import json

import pytest
from tiny_probe import write_probe

from lvlm_prune.assets import ASSETS
from lvlm_prune.eval.benchmark import Item
from lvlm_prune.eval.benchmarks import BENCHMARKS, load_benchmark
from lvlm_prune.eval.probe import load_probe

NAMES = ["probe", "pope", "mme", "chair", "amber", "hallusionbench", "mmvp", "do-you-see-me"]


@pytest.fixture
def probe(tmp_path):
    return write_probe(tmp_path / "probe", images=4)


@pytest.fixture
def sets(tmp_path):
    """Three HallusionBench sets: a question without a figure, and two figures."""
    records = [
        {
            "category": "VS",
            "subcategory": "map",
            "visual_input": str(figure),
            "set_id": str(number),
            "figure_id": str(figure),
            "question_id": "0",
            "question": f"Is A north of B on map {number}?",
            "gt_answer": "1",
            "filename": f"./VS/map/{number}_{figure}.png" if figure else None,
        }
        for figure in range(3)
        for number in range(3)
    ]
    (tmp_path / "HallusionBench.json").write_text(json.dumps(records))
    return tmp_path


@pytest.fixture
def pairs(tmp_path):
    """Four MMVP pairs."""
    with (tmp_path / "Questions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Index", "Question", "Options", "Correct Answer"])
        writer.writerows([n, "Is it?", "(a) Yes (b) No", "(ba)"[n % 2 + 1]] for n in range(1, 9))
    return tmp_path


def test_every_loader_is_there():
    assert list(BENCHMARKS) == NAMES
    for name, entry in BENCHMARKS.items():
        assert entry.name == name
        with pytest.raises((FileNotFoundError, ValueError)):
            entry.load(ASSETS / "models", None, None)


@pytest.mark.parametrize(
    ("subset", "keys"),
    [
        (None, {"pope", "mme"}),
        ("pope", {"pope"}),
        ("caption", {"caption"}),
        ("mme, caption", {"mme", "caption"}),
        ("all", {"pope", "mme", "caption"}),
        ("existence,random", {"pope", "mme"}),
    ],
)
def test_the_probe_has_a_scoring_rule_for_each_of_its_lines(probe, subset, keys):
    found = load_benchmark("probe", probe, subset)
    assert {item.benchmark for item in found.items} == keys
    assert set(found.scorings) == keys <= set(found.longest)
    for key in keys:
        own = [item for item in found.items if item.benchmark == key]
        scoring = found.scorings[key]
        counted = scoring.tally(own, ["yes"] * len(own), "official")
        assert scoring.headline in scoring.metrics(counted.columns, counted.total, "official")
    assert all(found.files[image].is_file() for image in found.images)


def test_the_probe_keeps_its_lines_and_its_item(probe):
    assert load_benchmark("probe", probe).items == tuple(load_probe(probe).items)
    assert all(type(item) is Item for item in load_probe(probe).items)
    only = load_benchmark("probe", probe, "existence")
    assert {item.split for item in only.items} == {"existence"}


def test_the_bundled_probe_needs_no_folder():
    if not (ASSETS / "probe" / "pope_random.jsonl").is_file():
        pytest.skip("the bundled probe is absent")
    found = load_benchmark("probe", limit=3)
    assert len(found.images) == len(found.files) == 3
    assert all(path.is_file() for path in found.files.values())


def test_the_version_follows_the_questions(probe, tmp_path):
    before = load_benchmark("probe", probe).version
    assert load_benchmark("probe", write_probe(tmp_path / "again", images=4)).version == before
    path = probe / "pope_random.jsonl"
    path.write_text(path.read_text().replace("cat", "dog"))
    after = load_benchmark("probe", probe).version
    assert {name for name in before if before[name] != after[name]} == {"pope_random.jsonl"}
    assert load_benchmark("probe", probe, "mme").version != after
    assert load_benchmark("probe", probe, limit=2).version != after


def test_first_images_come_with_all_their_questions(probe):
    whole, part = (
        load_benchmark("probe", probe, "all"),
        load_benchmark("probe", probe, "all", None, 2),
    )
    assert part.images == whole.images[:2]
    assert list(part.items) == [item for item in whole.items if item.image in part.images]
    assert set(part.files) == set(part.images)
    assert load_benchmark("probe", probe, "all", None, 99).items == whole.items


@pytest.mark.parametrize(("limit", "taken"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (99, 3)])
def test_sets_stay_complete(sets, limit, taken):
    whole, part = (load_benchmark("hallusionbench", sets, limit=n) for n in (None, limit))
    kept = {item.facts["set"] for item in part.items}
    assert kept == {f"VS/map/{number}" for number in range(taken)}
    assert list(part.items) == [item for item in whole.items if item.facts["set"] in kept]


def test_a_set_without_figures_counts_as_one_image(sets):
    assert len(load_benchmark("hallusionbench", sets, "text", limit=2).items) == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_pairs_stay_complete(pairs, limit):
    items = load_benchmark("mmvp", pairs, limit=limit).items
    assert [item.id for item in items] == [f"mmvp/{n + 1}" for n in range(2 * -(-limit // 2))]


def test_a_subset_is_another_version(pairs):
    whole, original = (load_benchmark("mmvp", pairs, subset) for subset in (None, "original"))
    assert original.version["subset"] == "original"
    assert "subset" not in whole.version


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "popes"}, f"no benchmark 'popes'; there are {', '.join(NAMES)}"),
        ({"name": "probe", "limit": 0}, "limit is 0; pass how many images to use"),
        ({"name": "probe", "subset": "far,pope"}, "no subset 'far' of the probe; there are all"),
    ],
)
def test_what_does_not_exist_is_named(probe, arguments, message):
    with pytest.raises(ValueError, match=message):
        load_benchmark(data=probe, **arguments)


def test_an_absent_folder_says_what_it_should_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is absent; --data of mmvp takes: Questio"):
        load_benchmark("mmvp", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no dataset_info.csv"):
        load_benchmark("Do_You_See_Me", tmp_path)
