"""The book's explorer: a page on which the reference run's merges are chosen and compared.

A reader chooses language, CT tokens, trim and slack, and sees accuracy, bits per byte and the
discarded share move. Nothing is computed in the browser: the page holds every point as JSON,
with its interval and what it rests on, and ``book/_static/explorer.js`` shows the one that is
chosen. It reads no other file, so the page works from a disk. Where scripts are off, a figure
that is drawn here from the same points stands in its place.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from scipy import stats

from langmerge import languages, plotting, statistics
from langmerge.data_card import tag
from langmerge.errors import LangmergeError
from langmerge.files import write_text
from langmerge.statistics import Results

#: The merges that can be chosen, and the models that stand beside them.
MERGES = ("ties_mean", "ties_sv")
BESIDE = {"sft": "fixed", "ct": "fixed", "ct_then_sft": "tuned"}
FIGURE = "explorer.png"
TABLE = "explorer.csv"
MISSING = (
    "There is no reference run of the present base and settings, and so there is nothing to "
    "explore: run `langmerge reference`, then build the book again."
)
#: What tells the models of a language apart in results, and points on the page.
_MODEL = ["method", "setting", "slack", "ct_tokens"]
_KEYS = ("language", "series", "slack", "ct_tokens")
_SETTINGS = {
    "both": "keep {:.0%}",
    "density_ct": "keep {:.0%} of CT",
    "density_sft": "keep {:.0%} of SFT",
    "w_ct": "CT × {:g}",
    "w_sft": "SFT × {:g}",
    "lambda_": "λ = {:g}",
}


@dataclass(frozen=True)
class Point:
    """One model of one language: its two scores, each with a 95 % interval, and what it discards.

    items, texts: what accuracy and bits per byte rest on. discarded is the share of the SFT
    entries that survived trim and were out-voted, out of `surviving` entries; None for a model
    that holds no election. An interval of one seed's share is None.
    """

    language: str
    series: str
    slack: float | None
    ct_tokens: int
    accuracy: float
    low: float
    high: float
    items: int
    bits_per_byte: float
    bits_low: float
    bits_high: float
    texts: int
    seeds: int
    discarded: float | None = None
    discarded_low: float | None = None
    discarded_high: float | None = None
    surviving: int | None = None


def points(results: Results) -> list[Point]:
    """Every point of the page, language by language.

    A merge's series are its settings but slack; plain TIES is slack 0. Raises LangmergeError,
    naming the run to make, where a language lacks a point that another has.
    """
    told = _series(results)
    found = [point for code in results.languages for point in _points(results, code, told)]
    _require_all(found, list(results.languages))
    return found


def _series(results: Results) -> pd.DataFrame:
    """The merges' settings but slack by (method, setting, slack): what a series consists of."""
    keys = ["method", "setting", "slack", "params"]
    merges = results.rows[results.rows["method"].isin(MERGES)][keys].drop_duplicates()
    series = [_without_slack(params) for params in merges["params"]]
    return merges.assign(series=series, slack=merges["slack"].fillna(0.0))


def _without_slack(params: str) -> str:
    settings = json.loads(params)
    settings.pop("slack", None)
    return json.dumps(settings, sort_keys=True)


def _points(results: Results, code: str, series: pd.DataFrame) -> Iterator[Point]:
    view = _one(results, code)
    shares = _shares(view)
    named = {(it.method, it.setting, it.slack): it.series for it in series.itertuples()}
    seen = set()
    for row in _accuracy(view).merge(_bits(view), on=_MODEL).itertuples():
        merge = row.method in MERGES
        name = named[row.method, row.setting, row.slack] if merge else row.method
        slack = row.slack if merge else None
        if (name, slack, row.ct_tokens) in seen:  # the sweep passes through the tuned setting
            continue
        seen.add((name, slack, row.ct_tokens))
        share = shares.get((row.method, row.setting, row.slack, row.ct_tokens), {})
        yield Point(
            code, name, slack, row.ct_tokens,
            row.accuracy, row.low, row.high, row.items,
            row.bits_per_byte, row.bits_low, row.bits_high, row.texts,
            row.seeds, **share,
        )  # fmt: skip


def _one(results: Results, code: str) -> SimpleNamespace:
    """The results of one language and of the models of the page; no slack is slack 0."""
    frames = {"items": statistics.items_with_base(results)}
    frames |= {name: getattr(results, name) for name in ("rows", "diagnostics")}
    for name, frame in frames.items():
        its = frame[(frame["language"] == code) & frame["method"].isin([*MERGES, *BESIDE])]
        chosen = its["method"].isin(MERGES) | (its["setting"] == its["method"].map(BESIDE))
        frames[name] = its[chosen].assign(slack=its["slack"].fillna(0.0))
    return SimpleNamespace(**frames, languages=[code], tasks=list(results.tasks))


def _accuracy(view: SimpleNamespace) -> pd.DataFrame:
    """As `statistics.summarize`, for all models at once: they have the same items."""
    items = view.items[view.items["task"].isin(view.tasks)]
    replicate = items["base"].astype(str) + "/" + items["seed"].astype(str)
    wide = items.assign(replicate=replicate, correct=items["correct"].astype(float)).pivot_table(
        index=_MODEL, columns=["replicate", "task", "item", "concept"], values="correct"
    )
    if wide.isna().any(axis=None):
        raise LangmergeError(_lacking(view.languages[0], "answer to some item", None))
    asked = wide.columns.to_frame()
    strata = asked["replicate"] + "/" + asked["task"].astype(str)
    middle, error, clusters = statistics.cluster_robust(wide, asked["concept"], strata)
    half = error * stats.t.ppf((1 + statistics.LEVEL) / 2, clusters - 1) if clusters > 1 else error
    scored = {"accuracy": middle, "low": middle - half, "high": middle + half}
    counted = {"items": wide.shape[1], "seeds": asked["replicate"].nunique()}
    return pd.DataFrame(scored | counted, index=wide.index).reset_index()


def _bits(view: SimpleNamespace) -> pd.DataFrame:
    bits = statistics.summarize(view, "bits_per_byte")
    names = {"value": "bits_per_byte", "low": "bits_low", "high": "bits_high", "n": "texts"}
    return bits.rename(columns=names)[[*_MODEL, *names.values()]]


def _shares(view: SimpleNamespace) -> dict[tuple, dict[str, Any]]:
    """The discarded share of every merge: mean over seeds with its t interval."""
    whole = statistics.whole_model(view.diagnostics)
    found = {}
    for key, part in whole.groupby(_MODEL):
        effect = statistics.t_interval(part["discarded_sft_share"])
        known = math.isfinite(effect.low)
        found[key] = {
            "discarded": effect.estimate,
            "discarded_low": max(effect.low, 0.0) if known else None,
            "discarded_high": min(effect.high, 1.0) if known else None,
            "surviving": round((part["kept_sft"] + part["outvoted_sft"]).mean()),
        }
    return found


def _require_all(found: Sequence[Point], codes: Sequence[str]) -> None:
    """Raise LangmergeError where a language lacks a model, or a merge its discarded share."""
    models = {code: set() for code in codes}
    for point in found:
        models[point.language].add((point.series, point.slack, point.ct_tokens))
        if point.slack is not None and point.discarded is None:
            raise LangmergeError(_lacking(point.language, "discarded share", point.slack))
    every = set().union(*models.values())
    for code, its in models.items():
        for series, slack, ct_tokens in sorted(every - its, key=str):
            what = f"model ({series}) at {ct_tokens:,} CT tokens"
            raise LangmergeError(_lacking(code, what, slack))
    if not any(slack is not None for _, slack, _ in every):
        raise LangmergeError(_lacking(codes[0], "TIES merge", None))


def _lacking(code: str, what: str, slack: float | None) -> str:
    with_slack = "" if slack is None else f" with slack {slack:g}"
    return (
        f"The reference run has no {what}{with_slack} for {code}, and the explorer would be empty "
        "there. Remove that language's folder from data/results and run `langmerge reference`."
    )


def data(results: Results, found: Sequence[Point]) -> dict[str, Any]:
    """What the page's script reads: the choices, the chances, and every point as a short list.

    Points are lists in the order of ``fields``, by language, series, slack and CT tokens.
    """
    fields = [name for name in Point.__dataclass_fields__ if name not in _KEYS]
    table: dict[str, Any] = {}
    for point in found:
        its = table.setdefault(point.language, {}).setdefault(point.series, {})
        at = its.setdefault(_slack_key(point.slack), {})
        at[str(point.ct_tokens)] = [_short(getattr(point, name)) for name in fields]
    merges = dict.fromkeys(point.series for point in found if point.slack is not None)
    most = max(merges, key=lambda series: len(_slacks(found, series)))
    chances = results.rows[results.rows["task"].isin(results.tasks)].groupby("task")["chance"]
    return {
        "fields": fields,
        "languages": [_language(code) for code in results.languages],
        "budgets": sorted({point.ct_tokens for point in found if point.ct_tokens}),
        "trims": [
            {"series": series, "label": _settings(series), "slacks": _slacks(found, series)}
            for series in sorted(merges, key=lambda one: one != most)
        ],
        "slacks": sorted({slack for one in merges for slack in _slacks(found, one)}, key=float),
        "beside": {method: plotting.label(method) for method in BESIDE},
        "chance": _short(float(chances.first().mean())),
        "points": table,
    }


def _language(code: str) -> dict[str, str]:
    it = languages.load(code)
    named = "" if it.is_control else it.autonym
    return {"code": code, "name": it.name, "own": named, "lang": tag(code), "dir": it.direction}


def _settings(series: str) -> str:
    """A series' settings in words."""
    settings = json.loads(series)
    if settings.get("density_ct") == settings.get("density_sft") is not None:
        settings = {"both": settings.pop("density_ct")} | settings
        settings.pop("density_sft")
    order = [*_SETTINGS, *sorted(settings)]
    told = [
        _SETTINGS.get(name, f"{name} = {{}}").format(settings[name]).replace("%", " %")
        for name in sorted(settings, key=order.index)
    ]
    return ", ".join(told) or "as run"


def _slacks(found: Sequence[Point], series: str) -> list[str]:
    those = {point.slack for point in found if point.series == series and point.slack is not None}
    return [_slack_key(slack) for slack in sorted(those)]  # ∞ last


def _slack_key(slack: float | None) -> str:
    return "" if slack is None else f"{slack:g}"


def _short(value: Any) -> Any:
    """A number with as many digits as anybody reads; no infinity, which JSON does not have."""
    if not isinstance(value, float):
        return None if value is None else int(value)
    return float(f"{value:.4g}") if math.isfinite(value) else None


def embedded(value: Any) -> str:
    """JSON that may stand in a script element and in a fenced block: nothing in it ends either."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for sign in "<>&`":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


@mpl.rc_context(plotting.STYLE)
def figure(told: dict[str, Any], code: str) -> Figure:
    """The static figure of a language: three panels against CT tokens, one line a slack.

    Shown are the settings that most slacks were computed for.
    """
    trim = told["trims"][0]
    fig = Figure(figsize=(9.6, 3.6), layout="constrained", facecolor="white")
    panels = (
        ("accuracy", "low", "high", "accuracy, mean of the tasks (%)", 100),
        ("bits_per_byte", "bits_low", "bits_high", "bits per byte", 1),
        ("discarded", "discarded_low", "discarded_high", "SFT parameters out-voted (%)", 100),
    )
    shades = mpl.colormaps["viridis"]
    for ax, (name, low, high, axis, unit) in zip(fig.subplots(1, 3), panels, strict=True):
        for index, slack in enumerate(trim["slacks"]):
            its = told["points"][code][trim["series"]][slack]
            rows = [dict(zip(told["fields"], its[str(at)], strict=True)) for at in told["budgets"]]
            middle = [unit * row[name] for row in rows]
            ends = [[unit * row[end] for row in rows] for end in (low, high) if rows[0][end]]
            spread = [[abs(m - e) for m, e in zip(middle, end, strict=True)] for end in ends]
            ax.errorbar(
                told["budgets"],
                middle,
                yerr=spread or None,
                label="∞" if slack == "inf" else slack,
                color=shades(0.85 * index / max(1, len(trim["slacks"]) - 1)),
                marker="os^DvP"[index % 6],
                capsize=2,
            )
        ax.set_xscale("log")
        ax.set_xlabel("CT tokens")
        ax.set_ylabel(axis)
    handles, labels = fig.axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside right center", title="slack ξ")
    fig.alt_text = _alt(told, code)
    return fig


def _alt(told: dict[str, Any], code: str) -> str:
    """What the static figure shows at the largest budget, in numbers."""
    trim, most = told["trims"][0], told["budgets"][-1]
    parts = []
    for slack in trim["slacks"]:
        values = told["points"][code][trim["series"]][slack][str(most)]
        row = dict(zip(told["fields"], values, strict=True))
        parts.append(
            f"slack {slack}: accuracy {100 * row['accuracy']:.0f} %, {row['bits_per_byte']:.3f} "
            f"bits per byte, {100 * row['discarded']:.0f} % of the SFT parameters out-voted"
        )
    return (
        f"Accuracy, bits per byte and discarded share against CT tokens, {code}, one line a slack. "
        f"At {most:,} CT tokens, {'; '.join(parts)}."
    )


def page(results: Results | None, folder: Path) -> str:
    """The computed part of the explorer's chapter as Markdown; its figure and table in `folder`.

    Without results it says which run makes them, and shows neither figure nor form.
    """
    if results is None:
        return f":::{{admonition}} No results\n:class: warning\n{MISSING}\n:::\n"
    found = points(results)
    told = data(results, found)
    fig = figure(told, results.languages[0])
    plotting.save(fig, folder / FIGURE)
    csv = pd.DataFrame(map(asdict, found)).to_csv(index=False, float_format="%.5g")
    write_text(folder / TABLE, csv)
    rests = (
        f"{len(results.languages)} languages, {_number(len(results.seeds), 'run seed')}, profile "
        f"`{results.profile}`"
    )
    return chapter(told, plotting.alt(fig), rests)


def chapter(told: dict[str, Any], alt: str, rests: str) -> str:
    """The Markdown of the page: what the script reads, and the figure for where there is none."""
    caption = (
        f"{plain(told['languages'][0]['name'])}: accuracy, bits per byte and the share of SFT "
        f"parameters that the election discards. Settings: {told['trims'][0]['label']}. Bars are "
        "95 % intervals."
    )
    return _PAGE.format(
        data=embedded(told), image=FIGURE, alt=alt, caption=caption, table=TABLE, rests=rests
    )


def plain(text: str) -> str:
    """A text that Markdown and HTML show as it is, on one line."""
    return re.sub(r"([^\w\s])", r"\\\1", " ".join(text.split()))


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


_PAGE = """\
``````{{raw}} html
<div id="merge-explorer" class="explorer" hidden></div>
<script type="application/json" id="explorer-data">{data}</script>
<script src="../_static/explorer.js" defer></script>
<noscript>
``````

```{{figure}} _executed/{image}
:name: fig-explorer
:alt: {alt}

{caption}
```

``````{{raw}} html
</noscript>
``````

The numbers rest on {rests}.
All of them: {{download}}`explorer.csv <_executed/{table}>`.
"""
