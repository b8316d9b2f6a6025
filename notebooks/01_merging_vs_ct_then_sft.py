# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Merging against CT-then-SFT
#
# **The claim** {cite:p}`tao2024unlocking`: where text in a language is extremely scarce, a merge
# of a continually pre-trained model (CT) and a model fine-tuned on English instructions (SFT)
# solves tasks in that language better than the usual way, CT and then SFT. Neither sees a
# single instruction in the language.
#
# This notebook trains both ways from the same base, at several amounts of text, and asks them
# the same test items. The verdict at the end follows from rules that were written down in
# `data/claims.yaml` before the run.

# %%
from importlib.util import find_spec

if find_spec("langmerge") is None:
    raise ModuleNotFoundError(
        "This notebook needs langmerge. Get the study (the book's download button has it as a "
        "zip), unpack it, run `pip install -e .` in its folder, and restart the kernel."
    )

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from langmerge import claims, languages, live, other_languages, plotting, statistics, study
from langmerge.data_card import marked
from langmerge.notebook import check_parameters, figure, glue
from langmerge.provenance import footer

# %% [markdown]
# ## Parameters
#
# Change these and run the notebook again. What the store already holds is not computed twice.

# %% tags=["parameters"]
language = "tam_Taml"  # FLORES code of a language with a file in data/languages, or zzz_NNNN
profile = "lab"  # how large the study is: data/profiles/<profile>.yaml
seeds = None  # run seeds, e.g. [0, 1, 2]; None takes the profile's
budgets = None  # CT tokens, e.g. [16384, 65536]; None takes the profile's

# %% tags=["hide-input"]
check_parameters(["language", "profile", "seeds", "budgets"], globals())
target = languages.load(language)
plotting.use_style()
torch.set_num_threads(1)  # tiny models: more threads wait for one another
pd.set_option("display.precision", 3)
Markdown(
    f"The target language is **{target.name}** ({marked(target, target.autonym)}; {target.family}; "
    f"word order {target.word_order}). "
    + (
        "Its words are generated."
        if target.is_control
        else "Its words and templates were "
        + ("checked by a speaker." if target.reviewed else "not checked by a speaker yet.")
    )
)

# %% [markdown]
# ## The run
#
# One call computes what is missing and returns everything as tables. For each seed it
#
# - trains **CT** on text in the language and English, four parts to one, and keeps a
#   checkpoint at every budget;
# - trains **SFT** on English instructions;
# - trains **CT-then-SFT** from every CT checkpoint;
# - **merges** every CT checkpoint with the SFT model, without training;
# - asks each model the same test items, by log-likelihood, and measures its bits per byte on
#   held-out text in the language.
#
# The settings of all methods were chosen on two generated languages that are not reported,
# with an equal number of trials each, and frozen.

# %%
results = study.run(language=language, profile=profile, seeds=seeds, budgets=budgets)

# %% tags=["hide-input"]
variants = results.rows.groupby("method")["variant"].first()
COMPARED = ["ct_then_sft", "average", "task_arithmetic", "ties_mean", "ties_sum"]
settings = [
    {
        "method": method,
        "setting": name,
        "values": ", ".join(f"{knob.rstrip('_')} {value:g}" for knob, value in values.items()),
        "variant": variants[method],
    }
    for method in COMPARED
    if method in results.plan.default
    for name, values in results.plan.settings(method).items()
]
plotting.table(pd.DataFrame(settings), name="settings")

# %% [markdown]
# ## Does English SFT teach the tasks?
#
# A task counts only where the SFT model has learnt it in English: the lower end of its Wilson
# interval has to reach the floor that the profile sets, for every seed. What does not is left
# out of all that follows.

# %% tags=["hide-input"]
plotting.table(results.english_check(), name="english")

# %% tags=["hide-input"]
rules = results.rows.query("metric == 'accuracy'").groupby("task")["scoring"].first()
Markdown(
    "An item's score is the log-probability of an option where every option of the task is one "
    "token in this language, else the log-probability per byte. Here: "
    + ", ".join(f"*{task}* {rule}" for task, rule in rules.items())
    + "."
)

# %% [markdown]
# ## One item, live
#
# The checkpoints are loaded and asked one item. Nobody picks it: shown are the first test item
# of the language's first task (*topic*, or *thing* with a core file) that the merged model
# (mean-TIES) answers rightly and the first that it does not, with the experts of the first seed
# and the smallest budget.

# %%
shown = live.examples(results, ct_tokens=min(results.budgets))
for item in shown:
    display(HTML(live.html(item)))

# %% tags=["hide-input"]
figure(**shown[0].figure("fig-live-right-XXlangXX"))

# %% tags=["hide-input"]
figure(**shown[-1].figure("fig-live-wrong-XXlangXX"))

# %% [markdown]
# ## Task accuracy against CT tokens
#
# The mean over the tasks, all weighing the same. Dots are seeds; the bar is the 95 % interval
# of the mean, clustered by the concept that an item is about.

# %% tags=["hide-input"]
fig = plotting.accuracy_against_tokens(results)
figure(
    fig,
    name="fig-accuracy-XXlangXX",
    caption=f"Task accuracy in {target.name} against tokens of continual pre-training. "
    "Models without CT are horizontal lines.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
fig = plotting.per_task(results)
figure(
    fig,
    name="fig-tasks-XXlangXX",
    caption=f"The same, task by task ({target.name}).",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## The balance
#
# A model that solves tasks but no longer speaks the language is no gain. The better corner of
# the next figure is the upper left: high accuracy, few bits per byte.

# %% tags=["hide-input"]
fig = plotting.balance(results, ct_tokens=sorted(results.budgets)[len(results.budgets) // 2 - 1])
figure(
    fig,
    name="fig-balance-XXlangXX",
    caption=f"Task accuracy and bits per byte of held-out text in {target.name}, one point a "
    "model, at a middle CT budget.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## All numbers
#
# Tuned settings, with the untuned defaults beside them. Accuracy with its 95 % interval;
# `items` is the number of answers behind a row.

# %% tags=["hide-input"]
METHODS = [
    "base",
    "sft",
    "ct",
    "ct_then_sft",
    "average",
    "task_arithmetic",
    "ties_mean",
    "ties_sum",
]
plotting.table(statistics.comparison(results, METHODS), name="numbers")

# %% [markdown]
# ## Controls
#
# What could pass for an effect of merging? Half of the SFT vector without any CT; the CT
# vector shuffled within each tensor; the CT vector scaled to the length of the SFT vector;
# the plain sum of both vectors (Chat Vector); and, as a ceiling, SFT in the language itself,
# from the CT model of the same budget.

# %% tags=["hide-input"]
CONTROLS = ["half_sft", "shuffled_ct", "norm_matched_ct", "chat_vector", "target_sft"]
plotting.table(statistics.comparison(results, CONTROLS), name="controls")

# %% [markdown]
# ## Where the difference comes from
#
# The same comparison item by item: accuracy of a merge minus that of CT-then-SFT, by task and
# budget, with its 95 % interval. A positive number speaks for merging. A merge with a little CT is
# close to the SFT model, so *SFT only* stands beside it.

# %% tags=["hide-input"]
items = statistics.items_with_base(results)
differences = []
for method in ["sft", "average", "task_arithmetic", "ties_mean"]:
    for tokens in results.budgets:
        for task in results.tasks:
            chosen = items[(items["task"] == task) & items["setting"].isin(["tuned", "fixed"])]
            ours = chosen[chosen["method"] == method]
            ours = ours[ours["ct_tokens"].isin([0, tokens])].assign(ct_tokens=tokens)
            theirs = statistics.select(chosen, method="ct_then_sft", ct_tokens=tokens)
            effect = statistics.paired(ours, theirs)
            found = f"{effect.estimate:+.2f} ({effect.low:+.2f} to {effect.high:+.2f})"
            found = found.replace("-", "−")
            differences.append(
                {"method": method, "CT tokens": tokens, "task": task, "difference": found}
            )
wide = pd.DataFrame(differences).pivot_table(
    index=["method", "CT tokens"], columns="task", values="difference", aggfunc="first"
)
plotting.table(wide.reset_index().rename_axis(columns=None), name="differences")

# %% [markdown]
# ## In other languages
#
# One language is one draw. The *reference run* asks the same of many, real and generated, and
# ships with its answers; `langmerge reference --plan` says what it consists of. Thin lines are its
# languages; the run of this page is drawn over them, with bars over its run seeds (with few of
# them they are long; those of the figure above are over test items).

# %%
others = other_languages.gather(results, finding=1)

# %% tags=["hide-input"]
figure(**others.curves("fig-over-1-XXlangXX"))

# %% [markdown]
# Each panel is a claim of this finding: an effect for each language with its 95 % interval (a
# point without a bar is one seed's value), their mean with an interval over the languages, and the
# run of this page. All languages share a run seed's SFT expert, so that this interval does not hold
# what another expert would give; the book's page *Other seeds* asks many.

# %% tags=["hide-input"]
figure(**others.by_language("fig-across-1-XXlangXX"))

# %% tags=["hide-input"]
others.pooled()

# %% tags=["hide-input"]
others.notes()

# %% [markdown]
# Does the effect depend on the kind of language? Means over the languages of a kind, with 95 %
# intervals over them; where a kind has few languages the interval is wide. Nothing here was
# claimed before the run, so it is for finding questions, not for answering them.

# %% tags=["hide-input"]
others.kinds()

# %% tags=["hide-input"]
figure(**others.by_trait("fig-traits-1-XXlangXX"))

# %% [markdown]
# Or on the state of the merge? The two axes below are what `langmerge diagnose` measures of real
# checkpoints without running them, so that a model of any size has a place on them.

# %% tags=["hide-input"]
figure(**others.by_condition("fig-conditions-1-XXlangXX"))

# %% [markdown]
# ## The verdict

# %% tags=["hide-input"]
verdicts = claims.judge(results, finding=1)
for name, text in claims.numbers(verdicts).items():
    glue(name, text)
claims.styled(verdicts, uuid="verdicts-1")

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
Markdown("\n".join(f"- {verdict.sentence()}" for verdict in verdicts))

# %% [markdown]
# ## Try it
#
# The first takes minutes, the last an hour.

# %% [markdown] tags=["solution"]
# Each has a solution below it, folded away.

# %% [markdown]
# **1.** Which task gains most from CT, and which from SFT?

# %% tags=["hide-cell"]
accuracy = results.rows[results.rows["task"].isin(results.tasks)]
ends = accuracy[accuracy["ct_tokens"].isin([0, max(results.budgets)])]
gains = ends.pivot_table(index="task", columns="method", values="value")[["base", "ct", "sft"]]
gains = gains.sub(gains["base"], axis=0).drop(columns="base").reset_index()
plotting.table(gains.rename_axis(columns=None), name="solution-1-1")

# %% [markdown]
# **2.** The control *half of SFT* uses no text in the language at all. How much of what a weighted
# average gains over the base, at the smallest budget, does it explain?

# %% tags=["hide-cell"]
start = accuracy[accuracy["ct_tokens"].isin([0, min(results.budgets)])]
start = start[start["setting"].isin(["tuned", "fixed"])].groupby("method")["value"].mean()
gain = 100 * (start - start["base"])
Markdown(
    f"The average gains {gain['average']:+.1f} points over the base, half of SFT alone "
    f"{gain['half_sft']:+.1f} points."
)

# %% [markdown]
# **3.** Is the order of the methods the same in other languages? Compare their ranks at the largest
# budget with the ranks in this run.

# %% tags=["hide-cell"]
RANKED = ["ct_then_sft", "average", "task_arithmetic", "ties_mean", "ties_sum", "ties_sv"]


def at_the_largest(run):
    """Mean accuracy of each method (rows) in each language (columns)."""
    found = statistics.select(
        run.rows, method=RANKED, setting="tuned", task=list(run.tasks), ct_tokens=max(run.budgets)
    )
    return found.pivot_table(index="method", columns="language", values="value")


alike = at_the_largest(others.many or results).corrwith(
    at_the_largest(results)[language], method="spearman"
)
plotting.table(alike.rename("Spearman's ρ").reset_index(), name="solution-1-3")

# %% [markdown]
# **4.** Five languages are more than most papers have. Draw five of those above at random, many
# times: how often does their mean effect point the other way than that of all?

# %% tags=["hide-cell"]
across = others.effects
effects = across[(across["claim"] == "f1-accuracy") & (across["language"] != "")]["effect"]
rng = np.random.default_rng(0)
draws = [rng.choice(effects, size=min(5, len(effects)), replace=False) for _ in range(10_000)]
other_way = np.mean([np.sign(drawn.mean()) != np.sign(effects.mean()) for drawn in draws])
Markdown(f"In {other_way:.1%} of the draws from {len(effects)} languages.")

# %% tags=["hide-input"]
footer(results)
