"""A made-up AMBER folder: four drawn images, their descriptions and a dozen questions each."""

import json
from pathlib import Path

import numpy as np

RELATED = {
    "tree": ["forest", "bush"],
    "forest": ["tree", "wood"],
    "lake": ["water", "pond"],
    "sea": ["water"],
    "dog": [],
    "cat": ["kitten"],
    "knife": [],
    "TV": ["screen"],
    "orange": [],
}
SAFE = ("orange", "light")
OBJECTS = (
    (["tree", "forest", "lake"], ["dog", "sea"]),
    (["dog", "dog", "TV"], ["cat", "forest", "tree"]),
    (["sea", "lake"], ["knife"]),
    (["cat"], ["dog", "lake", "orange"]),
)
KINDS = {
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-hallucination": "existence",
    "discriminative-relation": "relation",
    "relation": "relation",
}


def write_amber(folder: Path) -> Path:
    """Write the four files of `data/`; existence is always no, as in the real one."""
    rng = np.random.default_rng(0)
    annotations, queries = [], []
    for number, (truth, hallu) in enumerate(OBJECTS, 1):
        annotations.append({"type": "generative", "truth": truth, "hallu": hallu})
        queries.append({"image": f"AMBER_{number}.jpg", "query": "Describe this image."})
    for number in range(1, len(OBJECTS) + 1):
        for kind in [*KINDS, *KINDS]:
            truth = "no" if kind == "discriminative-hallucination" else rng.choice(["yes", "no"])
            annotations.append({"type": kind, "truth": str(truth)})
            queries.append({"image": f"AMBER_{number}.jpg", "query": f"Is it {len(queries)}?"})
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("annotations", annotations), ("query_all", queries)):
        numbered = [{"id": number, **row} for number, row in enumerate(rows, 1)]
        (folder / f"{name}.json").write_text(json.dumps(numbered))
    (folder / "relation.json").write_text(json.dumps(RELATED))
    (folder / "safe_words.txt").write_text("\n".join(SAFE))
    return folder
