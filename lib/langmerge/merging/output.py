"""What a merged checkpoint carries beside its weights: configuration, tokenizer, card, licence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from langmerge import __version__
from langmerge.checkpoints import Checkpoint
from langmerge.dtypes import Dtype
from langmerge.files import write_text

GENERATION = ("generation_config.json",)
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
#: Licence texts that have to go with what is made of a model (Llama's asks for its notice).
LICENCES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE", "NOTICE.txt", "USE_POLICY.md")
#: Other files without which a configuration is of no use.
OTHERS = ("preprocessor_config.json",)

CARD = """\
# A merge of {names}

Made by `langmerge` {version}, method `{method}`{licence_note}.

## Recipe

```yaml
{recipe}```

## Inputs

{inputs}

The hash is xxh3 (128 bits) over the names, types, shapes and bytes of all tensors, in the order
of their names: it does not depend on how they are spread over files.

## Output

{tensors} tensors, {parameters:,} parameters, {dtypes}; the same hash: `{digest}`.
"""


class Input(NamedTuple):
    """A model that went into a merge: how the recipe calls it, and its hashes."""

    name: str
    role: str
    digest: str
    sha256: Mapping[str, str]


def side_files(
    source: Checkpoint, tokenizer: Path | None, others: Sequence[Checkpoint]
) -> dict[str, Path]:
    """Which file is copied from where: name to path.

    Everything is the source's; a tokenizer or generation configuration that it lacks is that of
    the first other model that has one, as a whole and not file by file.
    """
    folders = [source.folder, *(other.folder for other in others)]
    found: dict[str, Path] = {}
    for names, places in (
        (GENERATION, folders),
        (TOKENIZER, [tokenizer] if tokenizer else folders),
        (LICENCES, folders[:1]),
        (OTHERS, folders),
    ):
        for folder in places:
            here = {name: folder / name for name in names if (folder / name).is_file()}
            if here:
                found.update(here)
                break
    return found


def write_side_files(
    out: Path, source: Checkpoint, files: Mapping[str, Path], dtype: Dtype | None, tied: bool
) -> None:
    """Copy them, and write a configuration that says what the weights are."""
    for name, path in files.items():
        shutil.copyfile(path, out / name)
    if not source.config:
        return
    config = dict(source.config)
    if dtype is not None:
        key = "dtype" if "dtype" in config else "torch_dtype"
        config[key] = dtype.value
    if not tied and config.get("tie_word_embeddings"):
        config["tie_word_embeddings"] = False
    config.pop("_name_or_path", None)
    write_text(out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def card(
    method: str,
    recipe: str,
    inputs: Sequence[Input],
    folders: Sequence[Path],
    *,
    tensors: int,
    parameters: int,
    dtypes: Sequence[str],
    digest: str,
) -> str:
    """The model card: metadata that the hub reads, recipe, hashes of everything."""
    licence = inherited_licence(folders)
    front = {
        "base_model": [one.name for one in inputs],
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["merge", "langmerge"],
        **licence,
    }
    names = ", ".join(f"`{one.name}`" for one in inputs)
    text = CARD.format(
        names=names,
        version=__version__,
        method=method,
        licence_note=_licence_note(licence),
        recipe=recipe if recipe.endswith("\n") else recipe + "\n",
        inputs="\n".join(_line(one) for one in inputs),
        tensors=tensors,
        parameters=parameters,
        dtypes=", ".join(dtypes),
        digest=digest,
    )
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{text}"


def inherited_licence(folders: Sequence[Path]) -> dict[str, str]:
    """The licence of the inputs' model cards: theirs where all say the same, else all by name."""
    said = [_licence(folder) for folder in folders]
    different = sorted({licence for licence in said if licence})
    if not different:
        return {}
    if len(different) == 1:
        return {"license": different[0]}
    return {"license": "other", "license_name": " and ".join(different)}


def _licence_note(licence: Mapping[str, str]) -> str:
    if not licence:
        return "; no input states a licence, so look at where they come from before you share it"
    name = licence.get("license_name", licence["license"])
    return f", under the inputs' licence: {name}"


def _licence(folder: Path) -> str | None:
    path = folder / "README.md"
    if not path.is_file():
        return None
    parts = path.read_text(encoding="utf-8", errors="replace").split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        front = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None  # a card that is not readable states nothing
    if not isinstance(front, dict):
        return None
    return front.get("license_name") or front.get("license")


def _line(one: Input) -> str:
    lines = [f"- {one.role}: `{one.name}`, `{one.digest}`"]
    lines += [f"  - `{name}`: SHA-256 `{value}`" for name, value in one.sha256.items()]
    return "\n".join(lines)
