"""The chapter on the full reference run: figures and tables of its families, as Markdown.

Made when the book is built, from committed rows alone: those of `reference-full`, whose families
are merged from the study's own experts, those of `reference-baselines` and `reference-trained`,
whose families train anew, and `reference-faster`, which asks other languages what the last of these
showed. What has not been computed is named, and nothing is shown in its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from langmerge import (
    arms,
    claims,
    families,
    languages,
    markdown,
    plotting,
    plotting_families,
    profiles,
    reference,
    verdicts,
)
from langmerge import oracle as oracles
from langmerge.claims import Claim, Verdict
from langmerge.profiles import BEYOND
from langmerge.statistics import select
from langmerge.study import Results

#: The profiles of the full run, and what their parts of the page are called.
PROFILES = {
    "reference-full": "Remedies and interventions",
    "reference-baselines": "Stronger baselines",
    "reference-trained": "Settings, bilingual text and other rates",
    "reference-faster": "Twice the rate of CT, in other languages",
}
Section = Callable[[Results, Path], Iterator[str]]
#: The claims that hold a remedy against TIES with slack, in accuracy and in bits per byte.
AGAINST_SLACK = ("f4-widen", "f4-widen-language")
#: What the run itself is called beside its arms.
NOW = {"bilingual": "monolingual", "rates": "rate x 1"}
#: Where it stands among them: the arms in the order of what they change.
PLACE = {"bilingual": 0, "rates": 1}
BASELINES = (
    "ct_then_sft", "ct_then_sft_slow", "ct_then_sft_replay", "sft_then_ct", "joint", "ties_mean",
)  # fmt: skip
#: The claims on mean-TIES whose effect is told of every setting that was swept.
SETTING_BY_SETTING = {
    "f1-accuracy": "over CT-then-SFT, scarcest two budgets",
    "f2-merge-stops": "largest over middle budget",
}
ENDS = ("lowest", "highest")
#: Effects that differ by less are one.
ALIKE = 1e-9
#: The claims whose effect is told of every arm.
BY_ARM = {
    "f1-accuracy": "TIES over CT-then-SFT, scarcest two budgets",
    "f2-merge-stops": "TIES, largest over middle budget",
    "f3-accuracy": "TIES with slack over without, largest budget",
}
REMEDIES = ("ties_mean", "ties_sv", "task_arithmetic", "chat_vector", *BEYOND)


def page(folder: Path) -> str:
    """The chapter's generated part; its figures are saved into a folder."""
    runs = {name: reference.load(name) for name in PROFILES}
    folder.mkdir(parents=True, exist_ok=True)
    parts = [_absent(name) if run is None else _run(run, folder) for name, run in runs.items()]
    return "\n".join(line for part in parts for line in part) + "\n"


def _run(full: Results, folder: Path) -> Iterator[str]:
    """The sections of one of the runs: those of the families that it has."""
    there = set(full.plan.families)
    yield f"## {PROFILES[full.profile]}"
    yield ""
    yield from about(full)
    yield from verdict_table(full)
    for families_of_it, section in SECTIONS:
        if families_of_it <= there:
            yield from section(full, folder)


def _absent(profile: str) -> Iterator[str]:
    what = ", ".join(families.of(profiles.load(profile)))
    yield f"## {PROFILES[profile]}"
    yield ""
    yield (
        f"The run `{profile}` ({what}) has not been computed with the present base and settings: "
        f"`langmerge reference --profile {profile}` does, and this page then shows it."
    )
    yield ""


def about(full: Results) -> Iterator[str]:
    """What a run is of: its languages, budgets, run seeds and models."""
    names = ", ".join(
        f"{languages.load(code).name} ({languages.load(code).word_order})"
        for code in full.languages
    )
    budgets = ", ".join(f"{budget:,}" for budget in full.budgets)
    models = full.rows.drop_duplicates(
        ["language", "seed", "method", "setting", "slack", "ct_tokens"]
    )
    yield f"Languages: {names}. CT tokens: {budgets}. Run seeds: {len(full.seeds)}."
    yield f"Models: {len(models):,}, all asked the same items of their language."
    yield ""


def verdict_table(full: Results, findings: Sequence[int] = ()) -> Iterator[str]:
    """The claims that this part decides; those of another part's findings stand there.

    findings: of several that it decides these alone.
    """
    its = [finding for finding, part in verdicts.PROFILES.items() if part == full.profile]
    findings = findings or its
    if not findings:
        return
    yield "| Claim | Effect | 95 % interval | In the lab |"
    yield "|---|---|---|---|"
    for finding in findings:
        for it in claims.judge(full, finding, missing_ok=True):
            if it.verdict != claims.NOT_TESTED:
                told = (it.statement, claims.effect(it), it.bounds(), f"**{it.verdict}**")
                yield f"| {' | '.join(told)} |"
    yield ""


def _remedies(full: Results, folder: Path) -> Iterator[str]:
    yield "### Other remedies"
    yield ""
    there = [method for method in REMEDIES if _tuned(full, method) and method != "scaled_sft"]
    fig = plotting_families.over_languages(full, there, intervals=False)
    yield from markdown.picture(
        folder,
        "full-remedies",
        fig,
        "Remedies as tuned: mean over the languages (dots). Intervals over so few would hide it; "
        "the claims above have theirs. Chat Vector is task arithmetic as it was tuned.",
    )
    yield from markdown.table(
        ["method", "tuned", "untuned", "bits per byte, tuned", "untuned"],
        (_remedy_row(full, method) for method in REMEDIES if _tuned(full, method)),
    )
    yield "Accuracy (%) and bits per byte at the largest CT budget, mean over the languages."
    yield ""
    yield from markdown.table(
        ["method", "accuracy (points)", "bits per byte (%)"],
        (
            [plotting.label(method), *(_against_slack(full, method, its) for its in AGAINST_SLACK)]
            for method in REMEDIES
            if _tuned(full, method) and method != "ties_sv"
        ),
    )
    yield (
        "The same models, as tuned, minus TIES with slack: mean of the languages' differences with "
        "the 95 % interval over the languages, each by itself, with no correction for their number."
    )
    yield ""


def _remedy_row(full: Results, method: str) -> list[str]:
    """Accuracy and bits per byte of a method at the largest budget, tuned and untuned."""
    cells = [plotting.label(method)]
    for form in FORMS:
        for settings in (["tuned", "fixed"], ["default"]):
            cells.append(mean_of(full, method, settings, form, [0, max(full.budgets)]))
    return cells


def mean_of(
    full: Results, method: str, settings: list[str], metric: str, budgets: list[int]
) -> str:
    """The mean of a method's models in words; empty where there are none."""
    its = select(full.rows, method=method, setting=settings, metric=metric, ct_tokens=budgets)
    if metric == "accuracy":
        its = its[its["task"].isin(full.tasks)]
    return FORMS[metric](its["value"].mean()) if len(its) else ""


def from_to(run: Results, method: str, setting: str, first: list[int], last: list[int]) -> str:
    """A method's mean accuracy at some CT budgets and at others, "45.0 → 62.1".

    One number where there is no CT in it; a dash where it was not run.
    """

    def at(budgets: list[int]) -> str:
        return mean_of(run, method, [setting], "accuracy", budgets)

    ends = [at(first), at(last)]
    return at([0]) or (" → ".join(end or "—" for end in ends) if any(ends) else "—")


def _against_slack(full: Results, method: str, measure: str) -> str:
    """A method's difference to TIES with slack, in the metric of a claim that measures WIDEN's."""
    (claim,) = (claim for claim in claims.load() if claim.id == measure)
    ours, theirs = claim.contrast
    tokens = set(select(full.rows, method=method, setting=["tuned", "fixed"])["ct_tokens"])
    ours = ours.model_copy(
        update={"method": method, "budgets": "none" if tokens == {0} else "largest"}
    )
    return with_interval(full, claim.model_copy(update={"contrast": (ours, theirs)}))


def with_interval(run: Results, claim: Claim) -> str:
    """What a claim's contrast measures, with its 95 % interval where there is one."""
    its = claims.measure(run, claim)
    said = [claims.as_text(claim.metric, value) for value in (its.estimate, its.low, its.high)]
    return f"{said[0]} ({said[1]} to {said[2]})" if math.isfinite(its.low) else said[0]


def _baselines(full: Results, folder: Path) -> Iterator[str]:
    there = [method for method in BASELINES if _tuned(full, method)]
    fig = plotting_families.over_languages(full, there, intervals=False)
    yield from markdown.picture(
        folder, "full-baselines", fig,
        "Merging against other ways to train on both: mean over the languages (dots).",
    )  # fmt: skip
    ends = (sorted(full.budgets)[:2], [max(full.budgets)])
    yield from markdown.table(
        ["method", "scarcest two: accuracy", "bits per byte", "largest: accuracy", "bits per byte"],
        (
            [
                plotting.label(method),
                *(mean_of(full, method, ["tuned"], form, its) for its in ends for form in FORMS),
            ]
            for method in there
        ),
        numbers=True,
    )
    yield (
        "Accuracy (%) and bits per byte at the two scarcest CT budgets and at the largest, mean "
        "over the languages."
    )
    yield ""
    yield (
        "A trial of these trains anew, so they were tuned with six trials each, where merges had "
        "twelve; CT-then-SFT itself had twelve."
    )
    yield ""


def _causes(full: Results, folder: Path) -> Iterator[str]:
    yield "### The cause, by intervention"
    yield ""
    ends = [min(full.budgets), max(full.budgets)]
    for code in full.languages:
        name = languages.load(code).name
        fig = plotting_families.interventions(full, ends, code)
        yield from markdown.picture(
            folder,
            f"full-causes-{code}",
            fig,
            f"Interventions on plain TIES, {name}. Bars are 95 % intervals; the line is plain "
            "TIES.",
        )


def _sweeps(full: Results, folder: Path) -> Iterator[str]:
    yield "### One setting at a time"
    yield ""
    yield "The other settings stay at those that were tuned, unless the caption says so."
    yield ""
    for name in families.SWEEPS:
        fig = plotting_families.sweep(full, name)
        caption = f"Sweep of {plotting_families.AXES[name]}: mean over the languages (dots)."
        file = f"full-sweep-{name.replace(', ', '-').replace(' ', '-')}"
        yield from markdown.picture(folder, file, fig, caption)

    yield from _of_settings(full)


def _of_settings(full: Results) -> Iterator[str]:
    """Whether a finding would be another with another setting: its effect over every sweep."""
    stated = {claim.id: claim for claim in claims.load()}
    every = {name: _over_sweeps(full, stated[name]) for name in SETTING_BY_SETTING}
    yield "### Whether a finding hangs on a setting"
    yield ""
    yield from markdown.table(
        ["setting", *(f"{what}: {end}" for what in SETTING_BY_SETTING.values() for end in ENDS)],
        (
            [plotting_families.AXES[sweep], *(_end(its[sweep], end) for its in every.values()
             for end in ENDS)]
            for sweep in families.SWEEPS
        ),
    )  # fmt: skip
    first = stated["f1-accuracy"]
    effects = pd.concat(every["f1-accuracy"])
    least = first.smallest_effect
    ahead, behind = int((effects >= least).sum()), int((effects <= -least).sum())
    yield (
        "Points of accuracy, mean over the languages, and the value that gives it; what is "
        "compared is a model as swept, with CT-then-SFT as tuned or with itself. These are the "
        "ends of many, and no interval was computed for any: they tell how far a choice could "
        f"move a finding, not which is right. Of the {len(effects)} settings {ahead} put the merge "
        f"{100 * least:g} points or more ahead of CT-then-SFT there, and {behind} as much behind."
    )
    yield ""


def _over_sweeps(full: Results, claim: Claim) -> dict[str, pd.Series]:
    """A claim's effect with the models of every sweep in place of mean-TIES, by setting."""
    found = {}
    for sweep in families.SWEEPS:
        method = f"sensitivity/{sweep}"
        settings = select(full.rows, method=method)["setting"].unique()
        found[sweep] = pd.Series(
            {
                setting: claims.measure(full, _instead(claim, method, setting)).estimate
                for setting in settings
            }
        )
    return found


def _instead(claim: Claim, method: str, setting: str) -> Claim:
    """A claim on mean-TIES, on another model."""
    put = {"method": method, "setting": setting}
    terms = (
        term.model_copy(update=put) if term.method == "ties_mean" else term
        for term in claim.contrast
    )
    return claim.model_copy(update={"contrast": tuple(terms)})


def _end(effects: pd.Series, end: str) -> str:
    if effects.max() - effects.min() < ALIKE:
        return f"{claims.as_text('accuracy', effects.mean())} (all)"
    at = effects.idxmin() if end == ENDS[0] else effects.idxmax()
    return f"{claims.as_text('accuracy', effects[at])} ({at.replace('inf', '∞')})"


def _arms(full: Results, folder: Path) -> Iterator[str]:
    yield "### Where the findings hold"
    yield ""
    titles = {
        "bilingual": "CT with bilingual documents: monolingual as in the study, 10 % and 30 %.",
        "rates": "CT at other rates, as factors of the study's.",
    }
    every = []
    for family, caption in titles.items():
        names = list(arms.ARMS[family])
        effects = plotting_families.regime_effects(full, names, NOW[family])
        order = [*names[: PLACE[family]], NOW[family], *names[PLACE[family] :]]
        fig = plotting_families.regimes(effects, order)
        yield from markdown.picture(
            folder, f"full-{family}", fig, f"{caption} Points of accuracy, or of SFT parameters."
        )
        every.append(effects)
    yield from _by_arm(full)
    both = pd.concat(every).drop_duplicates(["effect", "language", "seed", "ct_tokens", "value"])
    yield from markdown.picture(
        folder, "full-diagnosis", plotting_families.against_diagnosis(both),
        "The findings' effects against two numbers that `langmerge diagnose` measures of models of "
        "any size: each point a language, a budget and an arm.",
    )  # fmt: skip
    yield (
        "The third axis of such a map, the trace of a language in the base, is that of "
        "{doc}`other_traces`: here every language has the same share of the base's text, and what "
        "differs between them is word order, script and how well English instructions carry over."
    )
    yield ""


def _by_arm(full: Results) -> Iterator[str]:
    """The findings' effects in every arm, with their intervals."""
    stated = {claim.id: claim for claim in claims.load()}
    names = ["", *(f"{name}/" for family in NOW for name in arms.ARMS[family])]
    yield from markdown.table(
        ["CT", *BY_ARM.values()],
        (
            [prefix.strip("/") or "as in the study", *(_in_arm(full, stated[it], prefix)
             for it in BY_ARM)]
            for prefix in names
        ),
    )  # fmt: skip
    yield (
        "Points of accuracy: mean of the languages' differences with the 95 % interval over the "
        f"{len(full.languages)} languages, each by itself, with no correction for their number. No "
        "claim was stated on these: description."
    )
    yield ""


def _in_arm(full: Results, claim: Claim, prefix: str) -> str:
    terms = (
        term.model_copy(update={"method": f"{prefix}{term.method}"}) for term in claim.contrast
    )
    return with_interval(full, claim.model_copy(update={"contrast": tuple(terms)}))


def _oracle(full: Results, folder: Path) -> Iterator[str]:
    yield "### Settings chosen on the language itself"
    yield ""
    yield (
        "A secondary column and no result: at every budget the best of a few settings on the "
        "language's own dev items, asked the test items. Mean accuracy (%) over languages and "
        "budgets."
    )
    yield ""
    rows = []
    for method in oracles.METHODS:
        its = select(full.rows, method=method, metric="accuracy")
        its = its[its["task"].isin(full.tasks)]
        mean = its.groupby("setting")["value"].mean()
        if {"tuned", "oracle"} <= set(mean.index):
            told = [_percent(mean[one]) for one in ("tuned", "oracle")]
            rows.append([plotting.label(method), *told])
    yield from markdown.table(["method", "tuned elsewhere", "on its own dev items (oracle)"], rows)


def _faster(full: Results, folder: Path) -> Iterator[str]:
    """The models of the claims on CT at twice the rate, beside those at the study's."""
    yield outcome({it.claim: it for it in claims.judge(full, 8, missing_ok=True)})
    yield ""
    (name,) = arms.ARMS["faster"]
    yield from markdown.table(
        [
            "model",
            *(
                f"{budget:,}, {rate}"
                for rate in ("study's rate", "twice")
                for budget in full.budgets
            ),
        ],
        (
            [
                told,
                *(
                    mean_of(full, f"{prefix}{method}", [setting], metric, [budget])
                    for prefix in ("", f"{name}/")
                    for budget in full.budgets
                ),
            ]
            for told, method, setting, metric in AT_TWICE
        ),
        numbers=True,
    )
    yield (
        "Accuracy (%), and bits per byte where it says so, by CT tokens at the two rates: means "
        f"over languages and run seeds. Chance is {_percent(chance(full))}."
    )
    yield ""


def chance(full: Results) -> float:
    """What guessing gives, mean of the reported tasks."""
    accuracy = select(full.rows, metric="accuracy", task=list(full.tasks))
    return accuracy.groupby("task")["chance"].mean().mean()


def outcome(judged: dict[str, Verdict]) -> str:
    """What is said by the rule that was written down before the run (`design-log.md`)."""
    second, third = (
        {judged[claim].verdict for claim in names}
        for names in (("f8-saturates", "f8-ct"), ("f8-slack", "f8-slack-more"))
    )
    if claims.NOT_TESTED in second | third:
        return "By the rule that was written down before, nothing is said: a model is missing."
    said = {
        frozenset({"holds"}): "reproduces in the lab where CT goes far enough",
        frozenset({"fails"}): "does not stand in these languages: the three others misled",
    }
    words = [
        said.get(frozenset(verdicts_on), "stays open where CT goes further")
        for verdicts_on in (second, third)
    ]
    return (
        "By the rule that was written down before, on this base the paper's second finding "
        "(saturation) "
        f"{words[0]}, and the third (slack) {words[1]}."
    )


#: What is told at both rates: name, method, setting and metric.
AT_TWICE = (
    ("CT only", "ct", "fixed", "accuracy"),
    ("CT only, bits per byte", "ct", "fixed", "bits_per_byte"),
    ("TIES (mean)", "ties_mean", "tuned", "accuracy"),
    ("TIES with slack", "ties_sv", "tuned", "accuracy"),
    ("the same without its slack", "ties_sv", "without slack", "accuracy"),
)
#: What each section needs, in the order of the page.
SECTIONS: tuple[tuple[set[str], Section], ...] = (
    ({"beyond"}, _remedies),
    ({"baselines"}, _baselines),
    ({"mechanism"}, _causes),
    ({"sensitivity"}, _sweeps),
    ({"bilingual", "rates"}, _arms),
    ({"oracle"}, _oracle),
    ({"faster"}, _faster),
)


def _tuned(full: Results, method: str) -> bool:
    return not select(full.rows, method=method, setting=["tuned", "fixed"]).empty


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _plain(value: float) -> str:
    return f"{value:.3f}"


#: How the metrics are written in tables.
FORMS: dict[str, Callable[[float], str]] = {"accuracy": _percent, "bits_per_byte": _plain}
