"""`lvlm-prune build-pope`: yes/no questions about one's own images, built as POPE's were."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def build_pope(
    annotations: Annotated[
        Path,
        typer.Argument(
            help='JSON or JSON Lines of {"image": ..., "objects": [...]}, or COCO instances.'
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the three question files.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images; each has to be there.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all draws.")] = 0,
    per_image: Annotated[
        int, typer.Option(min=2, help="Questions about an image, half of them yes.")
    ] = 6,
    min_objects: Annotated[
        int, typer.Option(min=1, help="Images with fewer objects are left out.")
    ] = 3,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Draw this many images; POPE has 500.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace question files that are there already.")
    ] = False,
) -> None:
    """Make POPE questions (random, popular, adversarial) from annotated images.

    For each image, objects that are there are asked for in turn with objects that are not: drawn
    from all (random), the most frequent ones (popular), and those that most often stand beside
    the object before them (adversarial). The same seed gives the same files. Annotations have to
    be complete: an object that is there but not named becomes a wrong no. Names that differ in
    capitals or white space alone are one object.

    \b
    Examples:
      lvlm-prune build-pope objects.jsonl --out shelf --images photos
      lvlm-prune build-pope instances_val2014.json --out coco --sample 500 --seed 1
      lvlm-prune eval --benchmark pope --data shelf --images photos
    """
    from lvlm_prune.eval.build_pope import SPLITS, build
    from lvlm_prune.eval.object_annotations import read_annotations

    paths = {split: out / f"{annotations.stem}_pope_{split}.json" for split in SPLITS}
    there = [path for path in paths.values() if path.exists()]
    if there and not overwrite:
        raise FileExistsError(
            f"{', '.join(map(str, there))} would be replaced, and answers to the old questions fit "
            "no more; pass another --out, or --overwrite"
        )
    scenes = read_annotations(annotations)
    splits = build(scenes, seed, per_image, min_objects, sample)
    used = list(dict.fromkeys(record["image"] for record in splits["random"]))
    missing = [] if images is None else [name for name in used if not (images / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(used)} images are not in {images}, such as {missing[0]}"
        )
    for split, records in splits.items():
        _write(paths[split], records)
        typer.echo(f"written     {paths[split]} ({len(records)} questions)")
    typer.echo(f"images      {len(used)} of {len(scenes)}")


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    """Write one file of questions, whole or not at all."""
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise OSError(
            f"--out {path.parent} cannot be written: {error.strerror}; pass a folder of yours, or "
            "one that is not there yet"
        ) from error
