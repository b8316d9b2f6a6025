"""A finding in other languages: the reference run, with a run of the reader's own over it.

What the notebooks show in their section of that name. `gather` reads the reference run and
measures the claims of a finding in it; the methods of what it returns give the figures, with
caption and alternative text, and the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from langmerge import base as lab_base
from langmerge import claims, corpus, languages, plotting, reference, statistics, tokenizer
from langmerge.errors import LangmergeError
from langmerge.statistics import Results, select

#: Documents that tokens a word are counted in.
DOCUMENTS = 60
#: By finding, the models whose accuracies are subtracted; None stands for the same model at the
#: smallest budget.
COMPARED = {
    1: (("ties_mean", "tuned"), ("ct_then_sft", "tuned")),
    2: (("ties_mean", "tuned"), None),
    3: (("ties_sv", "tuned"), ("ties_sv", "without slack")),
}
GAINS = {
    1: "TIES minus CT-then-SFT",
    2: "TIES minus TIES at the smallest budget",
    3: "TIES with slack minus the same without",
}
_RUN = ["language", "base", "seed"]


@dataclass(frozen=True)
class Others:
    """A finding in the languages of the reference run, and in a run of the reader's own.

    many: the reference run, or None where there is none of the present base and settings: then
    everything is about the reader's run alone. effects: as `claims.across` gives, of the reference
    run; own: the same of the reader's.
    """

    finding: int
    mine: Results
    many: Results | None
    effects: pd.DataFrame
    own: pd.DataFrame

    @property
    def names(self) -> dict[str, str]:
        """The languages' names, by code."""
        codes = dict.fromkeys(code for code in self.effects["language"] if code)
        return {code: languages.load(code).name for code in codes}

    def by_language(self, name: str) -> dict[str, object]:
        """The effects of every claim, language by language, as `notebook.figure` takes it."""
        own = None if self.many is None else self.own
        fig = plotting.effects_by_language(self.effects, self.names, own)
        return _shown(fig, name, f"Effects by language{self._whose()}")

    def by_trait(self, name: str) -> dict[str, object]:
        """The headline claim's effects against what the languages are like."""
        claim = claims.FINDINGS[self.finding][1]
        its = self.effects[(self.effects["claim"] == claim) & (self.effects["language"] != "")]
        own = self.own[self.own["claim"] == claim]
        own = own.iloc[:0] if self.many is None else own
        known = traits([*its["language"], *own["language"]])
        fig = plotting.effects_against(its, known, claim, own)
        what = "word order, script, tokens a word, and how well English fine-tuning alone does"
        return _shown(fig, name, f"The effect of {claim} against {what}{self._whose()}")

    def by_condition(self, name: str) -> dict[str, object]:
        """Gains in accuracy against norm ratio and discarded share, by language and budget."""
        many = None if self.many is None else gains(self.many, self.finding)
        mine = gains(self.mine, self.finding)
        drawn = mine if many is None else many
        fig = plotting.gains_against(drawn, GAINS[self.finding], None if many is None else mine)
        what = "the length of the CT update over that of SFT, and the discarded SFT share"
        return _shown(fig, name, f"{GAINS[self.finding]}, against {what}{self._whose()}")

    def curves(self, name: str) -> dict[str, object]:
        """The reader's run drawn over the reference run, against CT tokens."""
        panels = _panels(self.finding)
        mine = {title: read(self.mine) for title, read in panels.items()}
        many = {title: read(self.many) for title, read in panels.items()} if self.many else {}
        titles = " and ".join(panels)
        caption = f"{titles[0].upper()}{titles[1:]}{self._whose()}"
        return _shown(plotting.over_reference(mine, many), name, caption)

    def pooled(self) -> Styler | None:
        """The reference run's verdicts on the finding; None without a reference run."""
        if self.many is None:
            return None
        return claims.styled(claims.judge(self.many, self.finding), f"pooled-{self.finding}")

    def notes(self) -> Markdown | None:
        """What the words of the reference run's verdicts do not say; None without any of it."""
        judged = [] if self.many is None else claims.judge(self.many, self.finding)
        said = [f"- `{it.claim}`: {it.note}" for it in judged if it.note]
        return Markdown("\n".join(said)) if said else None

    def kinds(self) -> Styler | None:
        """Mean effects of kinds of languages as a table; None without a reference run."""
        if self.many is None:
            return None
        return plotting.table(claims.kinds_table(self.effects), f"kinds-{self.finding}")

    def _whose(self) -> str:
        name = languages.load(self.mine.languages[0]).name
        if self.many is None:
            return ". This run alone: there is no reference run of the present base and settings."
        return (
            f" ({len(self.names)} languages, bases: {self.many.rows['base'].nunique()}, run seeds: "
            f"{len(self.many.seeds)}), and the run of this page ({name})."
        )


def gather(results: Results, finding: int) -> Others:
    """Measure a finding in the reference run, beside a run of the reader's own.

    Raises LangmergeError where a file of the reference run was edited, and MissingResults where a
    run lacks what a claim compares.
    """
    many = reference.load()
    own = claims.across(results, finding)
    return Others(
        finding, results, many, own if many is None else claims.across(many, finding), own
    )


def traits(codes: Sequence[str]) -> pd.DataFrame:
    """What languages are like, a row a code: what effects may depend on.

    Columns: word order, script, tokens a word (on documents of its text, by the base's tokenizer),
    English SFT alone (mean accuracy above chance on the base's card, dev items, in points; NaN
    where the card does not have it).
    """
    base = lab_base.load()
    rows = []
    for code in dict.fromkeys(codes):
        it = languages.load(code)
        texts = list(islice(corpus.documents(code, np.random.default_rng([47])), DOCUMENTS))
        standing = base.standing(code)
        rows.append(
            {
                "language": code,
                "word order": it.word_order,
                "script": it.script,
                "tokens a word": tokenizer.fertility(base.tokenizer, texts),
                "English SFT alone": np.nan
                if standing is None
                else 100 * float((standing["value"] - standing["chance"]).mean()),
            }
        )
    return pd.DataFrame(rows).set_index("language")


def gains(results: Results, finding: int) -> pd.DataFrame:
    """The gain in accuracy that a finding is about, and the merge's condition, by run and budget.

    Columns: language, base, seed, ct_tokens, gain (in shares), norm_ratio and discarded_sft_share
    (of the merge that could gain). Raises LangmergeError where the results lack one of them.
    """
    first, second = COMPARED[finding]
    ours = accuracy(results, *first)
    if second is None:
        start = ours[ours["ct_tokens"] == min(results.budgets)]
        theirs = start.drop(columns="ct_tokens")
        both = ours.merge(theirs, on=_RUN, suffixes=("", "_other"))
    else:
        both = ours.merge(
            accuracy(results, *second), on=[*_RUN, "ct_tokens"], suffixes=("", "_other")
        )
    merge = second if finding == 3 else first
    lost = discarded(results, *merge).drop(columns="value")
    found = both.merge(lost, on=[*_RUN, "ct_tokens"])
    if found.empty:
        raise LangmergeError(
            f"the results of profile {results.profile!r} lack {first}, {second} or the diagnostics "
            "of their merge: run the study with tuned settings."
        )
    return found.assign(gain=found["value"] - found["value_other"]).drop(
        columns=["value", "value_other"]
    )


def accuracy(results: Results, method: str, setting: str) -> pd.DataFrame:
    """Mean accuracy over the reported tasks: language, base, seed, ct_tokens, value."""
    rows = select(results.rows, metric="accuracy", method=method, setting=setting)
    rows = rows[rows["task"].isin(list(results.tasks))]
    return rows.groupby([*_RUN, "ct_tokens"])["value"].mean().reset_index()


def bits(results: Results, method: str, setting: str) -> pd.DataFrame:
    """Bits per byte of the target language, in the columns of `accuracy`."""
    rows = select(results.rows, metric="bits_per_byte", method=method, setting=setting)
    return rows.groupby([*_RUN, "ct_tokens"])["value"].mean().reset_index()


def discarded(results: Results, method: str, setting: str) -> pd.DataFrame:
    """A merge's discarded SFT share (`value` too) and norm ratio, in the columns of `accuracy`."""
    whole = statistics.whole_model(select(results.diagnostics, method=method, setting=setting))
    whole = whole.assign(value=whole["discarded_sft_share"])
    columns = ["value", "discarded_sft_share", "norm_ratio"]
    return whole[[*_RUN, "ct_tokens", *columns]]


def _panels(finding: int) -> dict:
    """What is drawn over the reference run, by the panel's title."""
    if finding == 1:
        return {
            "accuracy of CT-then-SFT (%)": lambda it: accuracy(it, "ct_then_sft", "tuned"),
            "accuracy of TIES (%)": lambda it: accuracy(it, "ties_mean", "tuned"),
        }
    if finding == 2:
        return {
            "accuracy of TIES (%)": lambda it: accuracy(it, "ties_mean", "tuned"),
            "SFT parameters out-voted (%)": lambda it: discarded(it, "ties_mean", "tuned"),
        }
    return {
        "gain in accuracy by slack (points)": lambda it: gains(it, 3).assign(
            value=lambda frame: frame["gain"]
        ),
        "its cost in bits per byte (%)": _cost_of_slack,
    }


def _cost_of_slack(results: Results) -> pd.DataFrame:
    both = bits(results, "ties_sv", "tuned").merge(
        bits(results, "ties_sv", "without slack"), on=[*_RUN, "ct_tokens"], suffixes=("", "_other")
    )
    return both.assign(value=both["value"] / both["value_other"] - 1)


def _shown(fig: Figure, name: str, caption: str) -> dict[str, object]:
    caption = caption if caption.endswith(".") else f"{caption}."
    return {"fig": fig, "name": name, "caption": caption, "alt": plotting.alt(fig)}
