"""Made-up POPE and MME questions, and the same answers to them in every format that people have."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from lvlm_prune.eval.row import Row

THINGS = ("kite", "lamp", "owl", "drum", "fork", "apple")
# Read differently by most rules: each harness gives other numbers for the same answers.
ANSWERS = ("Yes", "No.", "yes", "no, none", "Maybe", "", "Yes, there is no doubt", "NO", "Nope")
SUFFIX = "\nAnswer the question using a single word or phrase."
SPLITS = ("random", "popular", "adversarial")


def pope_records(split: str, images: int = 4) -> list[dict]:
    """Questions of one split; those about what is there are the same in all splits."""
    shift = SPLITS.index(split) if split in SPLITS else 0
    records = []
    for image in range(images):
        for number in range(6):
            absent = number % 2
            thing = f"{THINGS[number]}{(shift + 1) * absent or ''}"
            article = "an" if thing[0] in "aeiou" else "a"
            records.append(
                {
                    "question_id": len(records) + 1,
                    "image": f"COCO_val2014_{image + 41:012d}.jpg",
                    "text": f"Is there {article} {thing} in the image?",
                    "label": "no" if absent else "yes",
                }
            )
    return records


def said(records: Sequence[dict], shift: int = 0) -> list[str]:
    """Answers that depend on image and question only, so that all splits share them."""
    names = [f"{record['image']} {record['text']}" for record in records]
    return [ANSWERS[(sum(map(ord, name)) + shift) % len(ANSWERS)] for name in names]


def write_lines(path: Path, records: Sequence[object]) -> Path:
    """JSON Lines."""
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def as_pope(records: Sequence[dict], answers: Sequence[str], _split: str) -> list[dict]:
    return [
        {"question": record["text"], "answer": text}
        for record, text in zip(records, answers, strict=True)
    ]


def as_llava(records: Sequence[dict], answers: Sequence[str], _split: str) -> list[dict]:
    return [
        {"question_id": record["question_id"], "prompt": record["text"] + SUFFIX, "text": text}
        for record, text in zip(records, answers, strict=True)
    ]


def as_vcd(records: Sequence[dict], answers: Sequence[str], _split: str) -> list[dict]:
    return [
        {**line, "prompt": record["text"] + " Please answer this question with one word."}
        | {"image": record["image"], "model_id": "m", "metadata": {}}
        for record, line in zip(records, as_llava(records, answers, ""), strict=True)
    ]


def as_lmms_eval(records: Sequence[dict], answers: Sequence[str], _split: str) -> list[dict]:
    """What version 0.7.3 writes: no document, one response."""
    return [
        {
            "doc_id": number,
            "target": record["label"],
            "filtered_resps": text,
            "input": record["text"] + SUFFIX,
            "doc_hash": "0",
            "pope_accuracy": {"question_id": str(record["question_id"]), "score": float("nan")},
        }
        for number, (record, text) in enumerate(zip(records, answers, strict=True))
    ]


def as_lmms_eval_with_doc(records: Sequence[dict], answers: Sequence[str], split: str) -> list:
    """What older versions write: the document, and lists of responses."""
    return [
        {
            "doc_id": number,
            "doc": {
                "question_id": f"q{number}",
                "question": record["text"],
                "answer": record["label"],
                "image_source": record["image"].removesuffix(".jpg"),
                "category": split,
            },
            "target": record["label"],
            "resps": [[text]],
            "filtered_resps": [text],
        }
        for number, (record, text) in enumerate(zip(records, answers, strict=True))
    ]


def as_vlmevalkit(records: Sequence[dict], answers: Sequence[str], split: str) -> list[dict]:
    """Rows of a result table, here without the name of the image."""
    return [
        {
            "index": 100 + number,
            "question": record["text"],
            "answer": record["label"].capitalize(),
            "category": split,
            "prediction": text,
        }
        for number, (record, text) in enumerate(zip(records, answers, strict=True))
    ]


def as_ids(records: Sequence[dict], answers: Sequence[str], _split: str) -> list[dict]:
    return [
        {"id": str(record["question_id"]), "response": text}
        for record, text in zip(records, answers, strict=True)
    ]


def as_rows(records: Sequence[dict], answers: Sequence[str], split: str) -> list[dict]:
    """Our own rows, after the header of a run."""
    rows = [
        Row(
            id=f"pope/{split}/{record['question_id']}",
            items=(f"pope/{split}/{record['question_id']}",),
            image=record["image"],
            question=record["text"] + SUFFIX,
            prompt="USER: ...",
            text=text,
            kept=16,
            total=64,
        )
        for record, text in zip(records, answers, strict=True)
    ]
    return [{"header": {"hash": "0"}}, *(json.loads(row.to_json()) for row in rows)]


Writer = Callable[[Sequence[dict], Sequence[str], str], list]
WITH_NAMES: tuple[Writer, ...] = (
    as_llava,
    as_vcd,
    as_lmms_eval,
    as_lmms_eval_with_doc,
    as_vlmevalkit,
    as_ids,
    as_rows,
)


def write_table(path: Path, rows: Sequence[dict], mark: str) -> Path:
    """A table with a mark between cells, quoted as csv does it."""
    import csv

    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
    return path


def mme_lines(task: str, images: int = 3) -> list[list[str]]:
    """Image, question and label of one task; the questions of two images are the same."""
    return [
        [
            f"{task}_{image:04d}.jpg",
            f"Is there {count} {task} thing{image // 2}?  Please answer yes or no.",
            label,
        ]
        for image in range(images)
        for count, label in (("one", "Yes"), ("two", "No"))
    ]


def write_mme(folder: Path, lines: dict[str, list[list[str]]]) -> Path:
    """The eval tool's folder."""
    folder.mkdir(exist_ok=True)
    for task, cells in lines.items():
        text = "".join("\t".join(line) + "\n" for line in cells)
        (folder / f"{task}.txt").write_text(text, encoding="utf-8")
    return folder
