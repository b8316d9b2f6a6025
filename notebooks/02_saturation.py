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
# # Saturation
#
# **The claim** {cite:p}`tao2024unlocking`: with more text the merged model stops improving, for
# important SFT parameters are lost in the merge. How they would be lost is spelled out here: the
# CT update grows, and in the election of TIES merging {cite:p}`yadav2023ties`, which lets the
# larger update decide the sign of every parameter, more and more SFT parameters are out-voted.
#
# This notebook shows the curve, and then its supposed cause: the share of SFT parameters that
# the election discards, layer by layer, as CT grows.

# %%
from importlib.util import find_spec

if find_spec("langmerge") is None:
    raise ModuleNotFoundError(
        "This notebook needs langmerge. Get the study (the book's download button has it as a "
        "zip), unpack it, run `pip install -e .` in its folder, and restart the kernel."
    )

import pandas as pd
import torch
from IPython.display import HTML, Markdown, display

from langmerge import (
    claims,
    languages,
    live,
    merging,
    other_languages,
    plotting,
    statistics,
    study,
)
from langmerge.data_card import marked
from langmerge.notebook import check_parameters, figure, glue
from langmerge.provenance import footer

# %% [markdown]
# ## Parameters

# %% tags=["parameters"]
language = "tam_Taml"  # FLORES code of a language with a file in data/languages, or zzz_NNNN
profile = "lab"  # how large the study is: data/profiles/<profile>.yaml
seeds = None  # run seeds, e.g. [0, 1, 2]; None takes the profile's
budgets = None  # CT tokens, e.g. [16384, 65536]; None takes the profile's
density = 0.7  # share of each task vector that the example below keeps

# %% tags=["hide-input"]
check_parameters(["language", "profile", "seeds", "budgets", "density"], globals())
target = languages.load(language)
plotting.use_style()
torch.set_num_threads(1)  # tiny models: more threads wait for one another
Markdown(f"The target language is **{target.name}** ({marked(target, target.autonym)}).")

# %%
results = study.run(language=language, profile=profile, seeds=seeds, budgets=budgets)
largest = max(results.budgets)

# %% [markdown]
# ## One item, live
#
# The first test item of the language's first task (*topic*, or *thing* with a core file) that the
# merged model answers rightly and the first that it does not, asked of the loaded checkpoints of
# the first seed and the largest budget.

# %%
shown = live.examples(results, ct_tokens=max(results.budgets))
for item in shown:
    display(HTML(live.html(item)))

# %% tags=["hide-input"]
figure(**shown[0].figure("fig-live-2-right-XXlangXX"))

# %% tags=["hide-input"]
figure(**shown[-1].figure("fig-live-2-wrong-XXlangXX"))

# %% [markdown]
# ## The curve
#
# The merges against the amount of text, and beside them the CT model that goes into each.

# %% tags=["hide-input"]
fig = plotting.accuracy_against_tokens(
    results, methods=["base", "sft", "ct", "average", "task_arithmetic", "ties_mean", "ties_sum"]
)
figure(
    fig,
    name="fig-saturation-XXlangXX",
    caption=f"Task accuracy in {target.name} of CT and of the merges against CT tokens.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## What an election does
#
# A *task vector* is what training changed in a model. TIES keeps the largest entries of each
# vector, adds the two, and lets the sign of the sum decide: where the two disagree, the smaller
# entry is thrown away. Below are the tensors of the first layer, with the first seed's experts.
#
# Here, and in exercises 1, 3 and 4, both vectors weigh alike and are trimmed by the parameter
# `density`; the figures and the table of losses are of TIES as it was tuned, so that their shares
# are others. In tables layers count from 0 and the embedding is −1; the figure counts from 1.

# %%
first_ct = results.model("ct", largest)
sft = results.model("sft")
base = first_ct.load_base()
example = merging.diagnose(
    base.weights,
    first_ct.weights(),
    sft.weights(),
    density_ct=density,
    density_sft=density,
)
COLUMNS = ["parameter", "n", "conflict_rate", "kept_sft", "trimmed_sft", "outvoted_sft"]
plotting.table(example[example["layer"] == 0][COLUMNS], name="example")

# %% [markdown]
# Every SFT entry has one of three fates: kept, trimmed for being small, or out-voted. The
# *discarded share* is the out-voted part of those that survived the trim.
#
# ## How long the update is

# %% tags=["hide-input"]
fig = plotting.norms(results)
figure(
    fig,
    name="fig-norms-XXlangXX",
    caption="Length of the CT task vector over that of the SFT task vector, against CT tokens.",
    alt=plotting.alt(fig),
)

# %% [markdown]
# ## How much of SFT is discarded

# %% tags=["hide-input"]
fig = plotting.discarded_by_layer(results)
figure(
    fig,
    name="fig-discarded-XXlangXX",
    caption="SFT parameters that the election discards as CT grows: the whole model (left) and "
    "layer by layer (right). Of those that survived the trim, by count.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
losses = statistics.whole_model(
    results.diagnostics.query("method == 'ties_mean' and setting == 'tuned'")
)
COUNTS = ["kept_sft", "trimmed_sft", "outvoted_sft", "discarded_sft_share", "norm_ratio"]
plotting.table(losses[["seed", "ct_tokens", *COUNTS]], name="losses")

# %% [markdown]
# ## Cause or company?
#
# That the discarded share and the curve move together does not make one the cause of the
# other. Two things are worth holding against it.
#
# - *Size alone.* The control `norm_matched_ct` scales the CT vector to the length of the SFT
#   vector before the election, so that CT cannot win by being large.
# - *Forgetting.* CT on text in the language can also wear down what the base knew of tasks and
#   of how the languages correspond. CT-then-SFT, which no election touches, would then fall too.

# %% tags=["hide-input"]
fig = plotting.accuracy_against_tokens(
    results, methods=["sft", "ct_then_sft", "ties_mean", "norm_matched_ct", "shuffled_ct"]
)
figure(
    fig,
    name="fig-causes-XXlangXX",
    caption=f"Mean-TIES in {target.name} beside the same merge with the CT vector scaled to the "
    "length of the SFT vector, with the CT vector shuffled, and beside CT-then-SFT.",
    alt=plotting.alt(fig),
)

# %% tags=["hide-input"]
METHODS = ["ct", "ct_then_sft", "ties_mean", "ties_sum", "norm_matched_ct", "shuffled_ct"]
plotting.table(statistics.comparison(results, METHODS, ["tuned", "fixed"]), name="numbers")

# %% [markdown]
# ## In other languages
#
# One language is one draw, so the *reference run* asks the same of many. Thin lines are its
# languages; the run of this page is drawn over them, with bars over its run seeds (with few of
# them they are long; those of the figure above are over test items).

# %%
others = other_languages.gather(results, finding=2)

# %% tags=["hide-input"]
figure(**others.curves("fig-over-2-XXlangXX"))

# %% [markdown]
# Each panel is a claim of this finding: an effect for each language with its 95 % interval (a
# point without a bar is one seed's value), their mean with an interval over the languages, and the
# run of this page. All start from one base, so that this interval does not hold what another base
# would give; the book's page *Other bases* asks four more.

# %% tags=["hide-input"]
figure(**others.by_language("fig-across-2-XXlangXX"))

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
figure(**others.by_trait("fig-traits-2-XXlangXX"))

# %% [markdown]
# Or on the state of the merge? The two axes below are what `langmerge diagnose` measures of real
# checkpoints without running them, so that a model of any size has a place on them. The book's
# page *The full reference run* moves them by the rate of CT: at twice the rate CT goes further
# from the base, and there the TIES merge falls on the base that ships, in six languages asked after
# three had shown it, and on one of four other bases.

# %% tags=["hide-input"]
figure(**others.by_condition("fig-conditions-2-XXlangXX"))

# %% [markdown]
# ## The verdict

# %% tags=["hide-input"]
verdicts = claims.judge(results, finding=2)
for name, text in claims.numbers(verdicts).items():
    glue(name, text)
claims.styled(verdicts, uuid="verdicts-2")

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
# **1.** How do the three fates of an SFT entry change when trim keeps a fifth of each vector?

# %% tags=["hide-cell"]
FATES = ["kept_sft", "trimmed_sft", "outvoted_sft"]


def fates(ct_weights, **settings):
    """The shares of the three fates over all tensors."""
    found = merging.diagnose(base.weights, ct_weights, sft.weights(), **settings)
    return found[FATES].sum() / found["n"].sum()


kept = {
    share: fates(first_ct.weights(), density_ct=share, density_sft=share) for share in (0.2, 0.7)
}
plotting.table(pd.DataFrame(kept).T.rename_axis("density").reset_index(), name="solution-2-1")

# %% [markdown]
# **2.** In which layers does the election discard most? Is that where CT changes most?

# %% tags=["hide-cell"]
merged = results.diagnostics.query("method == 'ties_mean' and setting == 'tuned'")
by_layer = statistics.whole_model(merged[merged["ct_tokens"] == largest], by=["layer"])
by_layer = by_layer.groupby("layer")[["discarded_sft_share", "norm_ratio"]].mean().reset_index()
plotting.table(by_layer, name="solution-2-2")

# %% [markdown]
# **3.** Is it length that wins elections? Let CT vote with half and with twice its weight.

# %% tags=["hide-cell"]
weighed = {weight: fates(first_ct.weights(), w_ct=weight) for weight in (0.5, 1.0, 2.0)}
plotting.table(pd.DataFrame(weighed).T.rename_axis("w_ct").reset_index(), name="solution-2-3")

# %% [markdown]
# **4.** Or is it chance? Shuffle the CT vector within each tensor, which keeps its length and
# forgets what CT has learnt. How much less is discarded?

# %% tags=["hide-cell"]
generator = torch.Generator().manual_seed(0)


def shuffled(tensor, start):
    """The start plus the task vector's entries in random places."""
    order = torch.randperm(tensor.numel(), generator=generator)
    return start + (tensor - start).flatten()[order].view_as(tensor)


strangers = {name: shuffled(it, base.weights[name]) for name, it in first_ct.weights().items()}
both = pd.DataFrame({"CT": fates(first_ct.weights()), "shuffled CT": fates(strangers)}).T
plotting.table(both.rename_axis("vector").reset_index(), name="solution-2-4")

# %% tags=["hide-input"]
footer(results)
