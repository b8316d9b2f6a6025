"""`langmerge language new`: a language file with every slot, to be filled in by hand.

What the Unicode CLDR knows of the language (through Babel) is filled in already: its own
name, its script and direction, and the few words that are concepts of the world. The CLDR
has English in its gaps, so nothing is taken that is not in the script or that equals English.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from babel import Locale, UnknownLocaleError
from babel.core import get_global

from langmerge import orthography, paths
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.languages import CODE, CORE, ROLE, load
from langmerge.realize import Realizer
from langmerge.world import CONSTRUCTIONS, Proposition, concepts

#: Codes of ISO 15924 whose letters Unicode names otherwise than the CLDR calls the script.
UNICODE_NAMES = {
    "Beng": "Bengali",
    "Cans": "Canadian",
    "Hans": "CJK",
    "Hant": "CJK",
    "Jpan": "CJK",
    "Mtei": "Meetei",
    "Nkoo": "Nko",
    "Orya": "Oriya",
}
#: The day periods of the CLDR that are concepts of the world.
_DAY_PERIODS = {"morning": "morning1", "evening": "evening1", "night": "night1"}
_HEAD = """\
# {name}: a language file. Fill in what is between quotation marks, then run
#   langmerge language check {code}
# which says what is missing. How each entry is used: the book's chapter "Add your language".
# The English is beside each entry. Whatever is beyond the core may stay empty.

code: {code}
name: {name_}                 # in English
autonym: {autonym}            # in the language itself
script: {script}              # as Unicode names its letters: Latin, Cyrillic, Arabic, Oriya, …
family: ""                    # such as "Indo-European, Germanic"
word_order: ""                # of subject, object and verb: SOV, SVO, VSO, VOS, OVS or OSV
direction: {direction}        # ltr or rtl
word_separator: " "           # what stands between words: a space, or the tsheg of Tibetan
provenance: "written for this project"
reviewed: false               # true when a speaker has checked every word and template
tier: core                    # `full` when everything below is filled in

# The forms that your templates need of each kind of word, the citation form first.
# With [word] every word is one string. A language that marks the object of a sentence has
#   thing: [nominative, accusative]
# and gives each thing as {{nominative: "…", accusative: "…"}}. Delete what you do not need.
forms:
"""


def write(code: str, name: str | None = None, out: Path | None = None) -> Path:
    """Write a new language file (default: into the ``languages`` of the home folder); its path.

    Raises LangmergeError for a code that is none, and where the file or a shipped language of
    that code is there already: nothing is overwritten.
    """
    script = script_of(code)
    target = out or paths.home() / "languages" / f"{code}.yaml"
    if target.exists():
        raise LangmergeError(f"{target} is there already: it is yours to edit, or to move away")
    if out is None and paths.find("languages", code):
        raise LangmergeError(
            f"{code} is a shipped language ({paths.find('languages', code)}). To correct words in "
            "it, copy that file into "
            f"{paths.home() / 'languages'}, where it comes before the shipped one."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, draft(code, script, name))
    return target


def script_of(code: str) -> str:
    """The script of a FLORES code (``gsw_Latn``) as Unicode names it, or a LangmergeError."""
    if not CODE.fullmatch(code):
        raise LangmergeError(
            f"{code!r} is no code of a language and its script: three small letters of ISO 639-3, "
            "an underscore and four letters of ISO 15924, such as gsw_Latn"
        )
    iso = code[4:]
    script = UNICODE_NAMES.get(iso) or Locale("en").scripts.get(iso)
    if script is None or not orthography.is_script(script):
        raise LangmergeError(f"{code}: {iso} is no script whose letters Unicode names")
    return script


def locale_of(code: str) -> Locale | None:
    """What the CLDR knows of a language in that script, or None where it does not have it."""
    language = code.partition("_")[0]
    short = get_global("language_aliases").get(language, language)
    for tag in (f"{short}_{code[4:]}", short):
        try:
            return Locale.parse(tag)
        except (UnknownLocaleError, ValueError):
            continue
    return None


def draft(code: str, script: str, name: str | None = None) -> str:
    """The text of a new file."""
    locale = locale_of(code)
    known = _known(locale, script)
    english_name = name or (locale.english_name or "" if locale else "")
    lines = [
        _HEAD.format(
            code=code,
            name=name or code,
            name_=_quoted(_plain(english_name)),
            autonym=_quoted(known.get("autonym", "")),
            script=_quoted(script),
            direction=orthography.direction(script),
        ).rstrip("\n")
    ]
    lines += [f"  {role}: [word]" for role in ROLE.values()]
    lines += ["", *_templates()]
    lines += ["", "words:"]
    for kind in ("persons", "things", "actions", "topics", "places", "properties", "times"):
        lines += _words(kind, known)
    lines += ["", "hub:", f"  flores: {code}"]
    text = re.sub(r" +$", "", "\n".join(lines), flags=re.MULTILINE) + "\n"
    # The comments of the head in one column.
    return re.sub(r"^(\w+: \S.*?) {2,}#", lambda it: f"{it[1].ljust(37)} #", text, flags=re.M)


def _plain(name: str) -> str:
    """A name of a language without what the CLDR adds in brackets."""
    return re.sub(r"\s*\(.*\)", "", name)


def _known(locale: Locale | None, script: str) -> dict[str, str]:
    """What the CLDR has for us: the autonym and words by concept."""
    if locale is None:
        return {}
    english = load("eng_Latn")
    found = {"autonym": _plain(locale.get_display_name() or "")}
    for concept, period in _DAY_PERIODS.items():
        said = _day_period(locale, period)
        if said and said.casefold() != english.form("time", concept).casefold():
            found[concept] = said
    return {
        concept: text
        for concept, text in found.items()
        if text and not list(orthography.problems(script, text))
    }


def _day_period(locale: Locale, period: str) -> str | None:
    """How a time of the day is said in a sentence, where the CLDR has it in full."""
    said = locale.day_periods.get("format", {})
    full = (said.get(width, {}).get(period) for width in ("wide", "abbreviated"))
    return next((text for text in full if text and "." not in text), None)


def _templates() -> Iterator[str]:
    yield "# A template is a sentence with {slots}; {thing.accusative} asks for a form. The core's"
    yield "# three come first. An answer that stays empty is the word as `act` (or `kind`) has it."
    yield "templates:"
    say = Realizer(load("eng_Latn"))
    beyond = [name for name in CONSTRUCTIONS if name not in CORE]
    for name in (*CORE, None, *beyond):
        if name is None:
            yield "  # --- beyond the core ---"
            continue
        roles = CONSTRUCTIONS[name]
        slots = " ".join(f"{{{role}}}" for role in roles)
        said = say(_example(name))
        yield f'  {name}: ""'.ljust(24) + f"# {said}" + (f"   slots: {slots}" if slots else "")


def _example(construction: str) -> Proposition:
    """A plain instance of a construction."""
    ids = {
        "person": "mother",
        "action": "cook",
        "thing": "rice",
        "topic": "food",
        "place": "kitchen",
        "property": "white",
        "time": "today",
    }
    return Proposition.of(construction, **{role: ids[role] for role in CONSTRUCTIONS[construction]})


def _words(kind: str, known: dict[str, str]) -> Iterator[str]:
    """One kind of word: the core topic by topic, then what is beyond it."""
    core = concepts().core.get(kind, [])
    yield f"  {kind}:"
    for title, wanted in (("core", True), ("beyond the core", False)):
        groups = _by_topic(kind, core, wanted)
        if not groups:
            continue
        yield f"    # --- {title} ---"
        for topic, ids in groups.items():
            if topic:
                yield f"    # {topic}"
            for concept in ids:
                entry = f"    {concept}: {_quoted(known.get(concept, ''))}"
                yield f"{entry.ljust(23)} # {_english(kind, concept)}"


def _by_topic(kind: str, core: list[str], wanted: bool) -> dict[str, list[str]]:
    world = concepts()
    groups: dict[str, list[str]] = {}
    for concept in world.by_kind()[kind]:
        if (concept in core) == wanted:
            topic = world.topic_of(concept) if kind in ("things", "actions") else None
            group = topic or ("of any topic" if kind == "actions" else "")
            groups.setdefault(group, []).append(concept)
    return groups


def _english(kind: str, concept: str) -> str:
    """How English says a concept: as the sentences have it."""
    english = load("eng_Latn")
    word = english.form(ROLE[kind], concept)
    return (
        f"{english.form('action', concept, 'bare')}: the mother {word} …"
        if (kind == "actions")
        else word
    )


def _quoted(text: str) -> str:
    """A string of YAML between quotation marks, in which no word is a number or a boolean."""
    return yaml.safe_dump(text, default_style='"', allow_unicode=True, width=10**6).strip()
