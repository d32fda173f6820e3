"""`lvlm-prune score` on made-up answers to every other benchmark, in the formats each comes in."""

import json
from itertools import product

import pytest
from made_up_answers import SUFFIX, mme_lines, write_lines, write_mme, write_table
from typer.testing import CliRunner

from lvlm_prune.cli import app

TASKS = ("existence", "count", "code_reasoning")
SAID = ("Yes", "no", "  Yes", "Answer: Yes", "**No**", "", "know", "YES, it is", "No.", "Yes\u00a0")


def score(benchmark, answers, *options) -> dict:
    """The JSON object of one call."""
    call = ["score", "--benchmark", benchmark, "--answers", str(answers), "--json"]
    result = CliRunner().invoke(app, [*call, *map(str, options)])
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert result.exit_code == ("error" in found), result.stderr
    return found


def refused(*call) -> str:
    """The name of the error."""
    return score(*call)["error"]["name"]


def answered(tasks=TASKS, images=10) -> dict[str, list[list[str]]]:
    """MME lines with answers that the official rule reads in all its ways."""
    lines = {task: mme_lines(task, images) for task in tasks}
    return {
        task: [
            [*line, SAID[(7 * place + number // 3) % len(SAID)]]
            for number, line in enumerate(lines[task])
        ]
        for place, task in enumerate(tasks)
    }


def slow_mme(lines: dict[str, list[list[str]]]) -> dict[str, float]:
    """The official score of each task, in pairs of lines that follow each other."""
    scores = {}
    for task, cells in lines.items():
        right = []
        for _, _, label, text in cells:
            text = text.lower()
            start = text if text in ("yes", "no") else text[:4]
            said = "yes" if "yes" in start else "no" if "no" in start else "other"
            right.append(said == label.lower())
        pairs = [first and second for first, second in zip(right[::2], right[1::2], strict=True)]
        scores[task] = 100 * sum(right) / len(right) + 100 * sum(pairs) / len(pairs)
    return scores


def flat(lines):
    """Task and cells of each line."""
    return [(task, *cells) for task in lines for cells in lines[task]]


def as_llava(lines):
    return [
        {
            "question_id": f"{task}/{image}",
            "prompt": question.replace("  Please answer yes or no.", "") + SUFFIX,
            "text": text,
        }
        for task, image, question, _, text in flat(lines)
    ]


def as_lmms_eval(lines):
    return [
        {
            "doc_id": number,
            "target": label,
            "filtered_resps": text,
            "input": question.replace("  Please answer yes or no.", SUFFIX),
            "mme_perception_score": {"question_id": f"{task}/{image}", "category": task},
        }
        for number, (task, image, question, label, text) in enumerate(flat(lines))
    ]


def as_vlmevalkit(lines):
    return [
        {
            "index": number,
            "question": question,
            "answer": label,
            "category": task,
            "image_path": f"{task}/{image}",
            "prediction": text,
        }
        for number, (task, image, question, label, text) in enumerate(flat(lines))
    ]


@pytest.mark.parametrize("writer", [as_llava, as_lmms_eval, as_vlmevalkit])
@pytest.mark.parametrize("turned", [False, True])
def test_mme_in_other_formats(tmp_path, writer, turned):
    lines = answered()
    labels = write_mme(tmp_path / "labels", {task: mme_lines(task, 10) for task in TASKS})
    records = writer(lines)[:: -1 if turned else 1]
    found = score("mme", write_lines(tmp_path / "answers", records), "--labels", labels)
    assert found["tasks"] == pytest.approx(slow_mme(lines))
    assert found["perception"] == pytest.approx(sum(list(slow_mme(lines).values())[:2]))
    assert found["cognition"] == pytest.approx(found["tasks"]["code_reasoning"])
    assert found["n"] == sum(found["counts"].values()) == 60


def test_mme_folder_is_paired_by_image(tmp_path):
    lines = answered()
    turned = {task: cells[::2] + cells[1::2] for task, cells in lines.items()}
    labels = write_mme(tmp_path / "labels", {task: mme_lines(task, 10) for task in TASKS})
    for name, options in (("in", ["--labels", labels]), ("by", ["--subset", ",".join(TASKS)])):
        folder = write_mme(tmp_path / name, turned)
        (folder / "readme.txt").write_text("made up")
        found = score("mme", folder, *options)
        assert found["tasks"] == pytest.approx(slow_mme(lines))
        assert "readme" in " ".join(found["notes"])
    one = score("mme", folder / "count.txt")
    assert one["tasks"] == pytest.approx({"count": slow_mme(lines)["count"]})


BROKEN_MME = {
    "tab": (lambda cells: [[*cells[0], "because"], *cells[1:]], "tab_in_answer"),
    "no answer": (lambda cells: [cells[0][:3], *cells[1:]], "missing_column"),
    "no answers": (lambda cells: [line[:3] for line in cells], "missing_column"),
    "blank": (lambda cells: [[""], *cells], "blank_line"),
    "label": (lambda cells: [[*cells[0][:2], "Maybe", "Yes"], *cells[1:]], "bad_label"),
    "one line": (lambda cells: cells[1:], "incomplete_pair"),
    "two lines": (lambda cells: cells[1:4] + cells[5:], "incomplete_pair"),
    "nothing read": (lambda cells: [[*line[:3], f"Answer: {line[3]}"] for line in cells], None),
}


@pytest.mark.parametrize("case", BROKEN_MME)
def test_broken_mme(tmp_path, case):
    change, name = BROKEN_MME[case]
    lines = answered(("existence",), 12)
    folder = write_mme(tmp_path / "mme", {"existence": change(lines["existence"])})
    options = ("--subset", "existence")
    assert refused("mme", folder, *options) == (name or "nothing_parsed")
    found = score("mme", folder, *options, "--allow-partial")
    if name == "incomplete_pair":
        lost = {"one line": lines["existence"][2:]}.get(
            case, lines["existence"][2:4] + lines["existence"][6:]
        )
        assert found["tasks"] == pytest.approx(slow_mme({"existence": lost}))
    elif name is None:
        assert found["error"]["name"] == "nothing_parsed"
        assert score("mme", folder, *options, "--parser", "first-word")["n"] == 24
    else:
        assert found["error"]["name"] == name


def test_mme_tasks_without_answers(tmp_path):
    folder = write_mme(tmp_path / "mme", answered())
    labels = write_mme(tmp_path / "labels", {task: mme_lines(task, 10) for task in (*TASKS, "OCR")})
    assert refused("mme", folder) == "missing_task"
    assert refused("mme", folder, "--labels", labels) == "missing_task"
    assert refused("mme", folder, "--labels", folder) == "missing_task"
    found = score("mme", folder, "--labels", labels, "--allow-partial")
    assert (found["n"], found["total"]) == (60, 80)
    assert "60/80" in " ".join(found["notes"])
    assert refused("mme", tmp_path) == "directory"
    (tmp_path / "only.txt").write_text("x")
    assert refused("mme", tmp_path) == "missing_task"


CAPTIONS = {
    41: "A dog and two cats on a sofa.",
    42: "A person rides a horse. A dog runs.",
    43: "Nothing.",
}
OBJECTS = {"41": ["dog", "couch"], "42": ["person", "horse"], "43": ["car"]}


@pytest.mark.parametrize("image", ["image_id", "image", "question_id"])
@pytest.mark.parametrize("text", ["caption", "text", "answer"])
@pytest.mark.parametrize("shape", [int, str, "COCO_val2014_{:012d}.jpg".format])
def test_captions(tmp_path, image, text, shape):
    labels = tmp_path / "objects.json"
    labels.write_text(json.dumps(OBJECTS))
    records = [{image: shape(key), text: caption} for key, caption in CAPTIONS.items()]
    file = write_lines(tmp_path / "captions.jsonl", records)
    found = score("chair", file, "--labels", labels)
    assert (found["mentions"], found["hallucinated"], found["hallucinated_captions"]) == (6, 2, 2)
    assert found["CHAIRs"] == pytest.approx(2 / 3)
    assert found["CHAIRi"] == pytest.approx(2 / 6)
    assert found["Recall"] == pytest.approx(4 / 5)
    part = write_lines(tmp_path / "part.jsonl", records[:2])
    assert refused("chair", part, "--labels", labels) == "missing_ids"
    assert score("chair", part, "--labels", labels, "--allow-partial")["n"] == 2
    assert refused("chair", write_lines(part, [*records, records[0]]), "--labels", labels) == (
        "duplicate_id"
    )


@pytest.mark.parametrize("key", ["image_id", "image", "question_id"])
def test_an_image_name_of_the_labels_is_matched_before_its_number(tmp_path, key):
    """`1.jpg` and `001.jpg` are two images; `02.jpg` can only be `2.jpg`."""
    labels = tmp_path / "objects.json"
    labels.write_text(json.dumps({"1.jpg": ["dog"], "001.jpg": ["cat"], "2.jpg": ["car"]}))
    captions = {"001.jpg": "A cat.", "02.jpg": "A car.", "1.jpg": "A dog."}
    records = [{key: name, "caption": text} for name, text in captions.items()]
    found = score("chair", write_lines(tmp_path / "a.jsonl", records), "--labels", labels)
    assert (found["n"], found["CHAIRi"], found["Recall"]) == (3, 0, 1)
    records[0][key] = "01.jpg"
    wrong = write_lines(tmp_path / "b.jsonl", records)
    assert refused("chair", wrong, "--labels", labels) == "unknown_ids"


def test_captions_without_any_object(tmp_path):
    labels = tmp_path / "objects.json"
    labels.write_text(json.dumps(OBJECTS))
    records = [{"image_id": key, "caption": "A picture."} for key in CAPTIONS]
    found = score("chair", write_lines(tmp_path / "a", records), "--labels", labels)
    assert (found["CHAIRs"], found["CHAIRi"], found["mentions"]) == (0, 0, 0)
    assert "not good" in " ".join(found["notes"])


def amber_folder(tmp_path):
    """Two descriptions, and yes/no questions of every kind."""
    kinds = ("attribute-state", "attribute-number", "attribute-action", "hallucination", "relation")
    known = [
        {"id": 1, "type": "generative", "truth": ["sky", "dog"], "hallu": ["cat"]},
        {"id": 2, "type": "generative", "truth": ["dog"], "hallu": ["sky"]},
    ]
    for kind, truth in product(kinds, ("yes", "no", "no")):
        number = len(known) + 1
        known.append({"id": number, "type": f"discriminative-{kind}", "truth": truth})
    queries = [
        {"id": one["id"], "image": f"AMBER_{one['id']}.jpg", "query": f"Is it {one['id']}?"}
        for one in known
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(known))
    (tmp_path / "query_all.json").write_text(json.dumps(queries))
    (tmp_path / "relation.json").write_text(json.dumps({"sky": [], "dog": ["puppy"], "cat": []}))
    (tmp_path / "safe_words.txt").write_text("view")
    return known


def test_amber(tmp_path):
    known = amber_folder(tmp_path)
    answers = [{"id": one["id"], "response": "No"} for one in known[2:]]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(answers))
    labels = ("--labels", tmp_path / "annotations.json")
    assert refused("amber", file, *labels) == "missing_ids"
    found = score("amber", file, *labels, "--allow-partial")
    assert (found["n"], found["total"]) == (15, 17)
    task = found["Descriminative Task"]
    assert (task["Accuracy"], task["Precision"], task["Recall"]) == (66.7, 66.7, 100.0)
    assert score("amber", file, *labels, "--subset", "discriminative")["n"] == 15
    nouns = [{"id": 1, "response": "puppy cat"}, {"id": 2, "response": ""}]
    file.write_text(json.dumps([*answers, *nouns]))
    both = score("amber", file, "--labels", tmp_path, "--parser", "all")
    assert both["Descriminative Task"] == task
    assert (both["Generative Task"]["CHAIR"], both["Generative Task"]["Hal"]) == (50.0, 50.0)
    assert both["counts"] == {"yes": 0, "no": 15, "unparsed": 0, "empty": 1, "error": 0}


def hallusion_records() -> list[dict]:
    names = ("set_id", "figure_id", "question_id")
    return [
        {
            "category": category,
            "subcategory": "chart",
            "visual_input": "1" if figure == "0" else "2",
            **dict(zip(names, ("0", figure, question), strict=True)),
            "question": f"Is {category} {figure} {question} so?",
            "gt_answer": str(int(question != figure)),
            "filename": f"./{category}/chart/0_{figure}.png",
        }
        for category, figure, question in product(("VD", "VS"), "01", "012")
    ]


def test_hallusionbench(tmp_path):
    records = hallusion_records()
    labels = tmp_path / "HallusionBench.json"
    labels.write_text(json.dumps(records))
    texts = ["Yes" if int(record["gt_answer"]) else "No." for record in records]
    texts[4] = "Yes and no" if texts[4] == "No." else "No"
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps(texts))
    asked = [
        {**record, "model_prediction": text} for record, text in zip(records, texts, strict=True)
    ]
    own = tmp_path / "own.json"
    own.write_text(json.dumps(asked[::-1]))
    rows = [
        {
            "index": "_".join(["hallusion", record["category"], "chart", "0"])
            + f"_{record['figure_id']}_{record['question_id']}",
            "question": record["question"],
            "answer": "Yes" if int(record["gt_answer"]) else "No",
            "category": record["category"],
            "l2-category": "chart",
            "prediction": text,
        }
        for record, text in zip(records, texts, strict=True)
    ]
    table = write_table(tmp_path / "table.tsv", rows, "\t")
    found = [score("hallusionbench", path, "--labels", labels) for path in (plain, own, table)]
    assert [{**each, "notes": []} for each in found] == [{**found[0], "notes": []}] * 3
    assert found[0]["aAcc"] == pytest.approx(100 * 11 / 12, abs=1e-3)
    assert "only the number of answers" in found[0]["notes"][0]
    plain.write_text(json.dumps([*texts[:-1], None]))
    assert refused("hallusionbench", plain, "--labels", labels) == "null_answer"
    plain.write_text(json.dumps(texts[:-1]))
    assert refused("hallusionbench", plain, "--labels", labels) == "line_count"
    part = score("hallusionbench", plain, "--labels", labels, "--allow-partial")
    assert (part["n"], part["total"]) == (11, 12)
    own.write_text(json.dumps([{**asked[0], "set_id": None}, *asked[1:]]))
    assert refused("hallusionbench", own, "--labels", labels) == "missing_key"


def test_mmvp(tmp_path):
    lines = ["Index,Question,Options,Correct Answer"]
    lines += [f"{number},Is it {number}?,(a) Open (b) Closed,({'ab'[number % 2]})" for number in
              range(1, 7)]  # fmt: skip
    labels = tmp_path / "Questions.csv"
    labels.write_text("\n".join(lines) + "\n")
    answers = [
        {"question_id": number, "prompt": f"Is it {number}?", "answer": "(a)", "response": "(b)"}
        for number in range(1, 7)
    ]
    found = score("mmvp", write_lines(tmp_path / "a.jsonl", answers), "--labels", labels)
    assert found["n"] == 6
    assert found["accuracy"] == pytest.approx(0.5) or found["accuracy"] == pytest.approx(50)
    swapped = write_lines(
        tmp_path / "b.jsonl", [{**answers[0], "prompt": "Is it 2?"}, *answers[1:]]
    )
    assert refused("mmvp", swapped, "--labels", labels) == "question_mismatch"


def test_do_you_see_me(tmp_path):
    for dimension in ("shapes", "letters"):
        (tmp_path / "data" / dimension).mkdir(parents=True)
        rows = ["filename,question,answer,sweep"]
        rows += [f"{number}.png,How many?,{number},1" for number in range(3)]
        (tmp_path / "data" / dimension / "dataset_info.csv").write_text("\n".join(rows) + "\n")
    answers = [
        {"id": number, "filename": f"{number}.png", "category": dimension, "response": str(number)}
        for dimension in ("letters", "shapes")
        for number in range(3)
    ]
    file = write_lines(tmp_path / "a.jsonl", answers)
    found = score("do-you-see-me", file, "--labels", tmp_path / "data")
    assert found["n"] == 6


def test_the_bundled_probe_needs_no_labels(tmp_path):
    from lvlm_prune.eval.benchmarks import load_benchmark

    items = load_benchmark("probe", None, "random").items
    rows = [{"id": item.id, "items": [item.id], "text": item.label} for item in items]
    found = score(
        "probe", write_lines(tmp_path / "rows.jsonl", rows), "--subset", "random", "--parser", "all"
    )
    assert (found["accuracy"], found["f1"], found["n"]) == (1, 1, len(items))
