"""MME in the layouts it comes in: the same made-up questions, the same benchmark."""

import sys
from pathlib import Path

import pytest

from lvlm_prune.eval.mme import load
from lvlm_prune.eval.mme_parquet import from_rows
from lvlm_prune.eval.mme_scoring import COGNITION, HALLUCINATION, PERCEPTION, TASKS

PIXEL = b"not an image, but bytes"
COCO = "000000000042.jpg"


def questions(task: str) -> dict[str, list[tuple[str, str]]]:
    """Two images of a task, and the two questions about each."""
    names = (COCO, "000000000043.jpg") if task in HALLUCINATION else ("0001.png", "0002.png")
    return {
        name: [(f"Is this a {task}? {name}", "Yes"), (f"Is this no {task}? {name}", "No")]
        for name in names
    }


def eval_tool(folder: Path, response: str = "", tasks=TASKS) -> Path:
    """The eval tool's text files."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        lines = [
            "\t".join((name, question, answer)) + response
            for name, pair in questions(task).items()
            for question, answer in pair
        ]
        (folder / f"{task}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def release(folder: Path, flat: bool = True) -> Path:
    """The release; flat tasks hold images and questions in one folder."""
    for task in TASKS:
        images = folder / task / ("" if flat else "images")
        texts = folder / task / ("" if flat else "questions_answers_YN")
        for name, pair in questions(task).items():
            images.mkdir(parents=True, exist_ok=True)
            texts.mkdir(parents=True, exist_ok=True)
            (images / name).write_bytes(PIXEL)
            lines = (f"{question}\t{answer}\n" for question, answer in pair)
            (texts / name).with_suffix(".txt").write_text("".join(lines), encoding="utf-8")
    return folder


def hub_rows() -> list[dict]:
    """The hub's table."""
    return [
        {
            "question_id": f"{task}/{name}",
            "image": {"bytes": PIXEL, "path": None},
            "question": question,
            "answer": answer,
            "category": task,
        }
        for task in TASKS
        for name, pair in questions(task).items()
        for question, answer in pair
    ]


@pytest.mark.parametrize("layout", ["columns", "responses", "nested", "deeply nested", "folders"])
def test_all_layouts_give_the_same_questions(tmp_path, layout):
    reference = load(eval_tool(tmp_path / "reference"))
    nested = "MME_Benchmark_release_version"
    data = tmp_path / "data"
    if layout == "columns":
        release(data)
    elif layout == "responses":
        eval_tool(data, "\tno idea\twith a tab")
    elif layout == "nested":
        release(data / nested)
    elif layout == "deeply nested":
        release(data / nested / "MME_Benchmark", flat=False)
    else:
        release(data, flat=False)
    benchmark = load(data)
    assert benchmark.items == reference.items
    assert benchmark.version == reference.version
    if layout != "responses":
        assert all(path.read_bytes() == PIXEL for path in benchmark.files.values())


def test_lines_of_a_benchmark(tmp_path):
    benchmark = load(eval_tool(tmp_path))
    assert len(benchmark.items) == len({item.id for item in benchmark.items}) == 14 * 4
    first = benchmark.items[1]
    assert (first.id, first.image) == (f"mme/existence/{COCO}/2", COCO)
    assert (first.label, first.split, first.benchmark) == ("no", "existence", "mme")
    assert benchmark.items[-1].image == "code_reasoning/0002.png"
    assert set(benchmark.files) == set(benchmark.images)
    assert len(benchmark.images) == 2 + 10 * 2  # COCO's images serve four tasks
    assert set(benchmark.scorings) == set(benchmark.longest) == {"mme"}


@pytest.mark.parametrize(
    ("subset", "tasks"),
    [
        (None, TASKS),
        ("hallucination", HALLUCINATION),
        ("perception", PERCEPTION),
        ("cognition", COGNITION),
        ("OCR", ("OCR",)),
        ("OCR,count", ("count", "OCR")),
    ],
)
def test_subsets(tmp_path, subset, tasks):
    benchmark = load(eval_tool(tmp_path), subset)
    assert tuple(dict.fromkeys(item.split for item in benchmark.items)) == tasks
    assert benchmark.version["subset"] == ",".join(tasks)


def test_one_text_file(tmp_path):
    assert len(load(eval_tool(tmp_path) / "scene.txt").items) == 4


@pytest.mark.parametrize(
    "place",
    [
        f"existence/images/{COCO}",
        f"images/existence/{COCO}",
        f"images/{COCO}",
        COCO,
        f"COCO_val2014_{COCO}",
        f"train2014/COCO_train2014_{COCO}",
    ],
)
def test_images_of_text_files(tmp_path, place):
    eval_tool(tmp_path / "data", tasks=["existence"])
    path = tmp_path / "coco" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(PIXEL)
    assert load(tmp_path / "data", images=tmp_path / "coco").files[COCO] == path


def test_images_that_are_missing_have_a_place_too(tmp_path):
    files = load(eval_tool(tmp_path)).files
    assert files["scene/0001.png"] == tmp_path / "scene/images/0001.png"


def test_rows_of_the_hub_write_their_images(tmp_path):
    lines = from_rows(hub_rows(), HALLUCINATION, tmp_path, "rows")
    assert len(lines) == 16
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.jpg")} == set(
        HALLUCINATION
    )
    written = tmp_path / "count" / COCO
    assert written.read_bytes() == PIXEL
    before = written.stat().st_mtime_ns
    from_rows(hub_rows(), HALLUCINATION, tmp_path, "rows")
    assert written.stat().st_mtime_ns == before


def test_parquet_files_give_the_same_questions(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (tmp_path / "data").mkdir()
    rows = hub_rows()
    for number, half in enumerate((rows[:25], rows[25:])):
        table = pyarrow.Table.from_pylist(half)
        parquet.write_table(table, tmp_path / f"data/test-{number}-of-2.parquet")
    benchmark, reference = load(tmp_path), load(eval_tool(tmp_path / "reference"))
    assert benchmark.items == reference.items
    assert benchmark.version == reference.version
    assert all(path.read_bytes() == PIXEL for path in benchmark.files.values())
    (tmp_path / "data/test-2-of-2.parquet").write_bytes(b"PAR1 and not more")
    with pytest.raises(ValueError, match="cannot be read as a parquet file"):
        load(tmp_path)


def test_parquet_files_without_their_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(ImportError, match=r"pip install 'lvlm-prune\[eval\]'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg\tIs it?", "line 5 has 2 columns between tabs, not 3"),
        ("a.jpg\tIs it?\tPerhaps", "line 5 has the label 'Perhaps'"),
        ("../a.jpg\tIs it?\tYes", "line 5 has the image '../a.jpg'"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, message):
    path = eval_tool(tmp_path) / "posters.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "count/1.jpg holds no image bytes"),
        ({"answer": 1}, "needs a text under answer"),
        ({"question_id": "count/../../1.jpg"}, "not inside a folder of images"),
    ],
)
def test_broken_rows_are_named(tmp_path, change, message):
    row = {
        "question_id": "count/1.jpg",
        "image": {"bytes": PIXEL},
        "question": "Is it?",
        "answer": "Yes",
        "category": "count",
    }
    with pytest.raises(ValueError, match=message):
        from_rows([{**row, **change}], TASKS, tmp_path, "rows")


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no MME"):
        load(tmp_path)
    with pytest.raises(ValueError, match="no MME subset 'objects'; allowed: perception"):
        load(eval_tool(tmp_path), "objects")
    (tmp_path / "color.txt").unlink()
    assert "without color" in load(tmp_path).source
    with pytest.raises(FileNotFoundError, match="lacks MME's color"):
        load(tmp_path, "hallucination")
