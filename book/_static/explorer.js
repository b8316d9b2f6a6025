/* The explorer: shows the points that langmerge.explorer wrote into the page. Nothing is
   computed here but the places of what is drawn, nothing is loaded, and every text goes into the
   page as text, never as markup. */
"use strict";
(() => {
  const root = document.getElementById("merge-explorer");
  const source = document.getElementById("explorer-data");
  if (!root || !source) return;
  const told = JSON.parse(source.textContent);
  const at = Object.fromEntries(told.fields.map((name, index) => [name, index]));
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 340, HEIGHT = 236, LEFT = 54, RIGHT = 12, TOP = 12, BOTTOM = 44;
  const PANELS = [
    { id: "accuracy", title: "Accuracy, mean of the tasks", unit: 100, digits: 1,
      fields: ["accuracy", "low", "high"], beside: true },
    { id: "bits", title: "Bits per byte of the language", unit: 1, digits: 3,
      fields: ["bits_per_byte", "bits_low", "bits_high"], beside: true },
    { id: "discarded", title: "SFT parameters discarded", unit: 100, digits: 1,
      fields: ["discarded", "discarded_low", "discarded_high"], beside: false },
  ];

  function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function shape(name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  const grouped = (count) => count.toLocaleString("en");
  const slackName = (slack) => (slack === "inf" ? "∞" : slack);
  const plural = (count, what) => `${grouped(count)} ${what}${count === 1 ? "" : "s"}`;

  /* What is chosen. */
  const state = { language: 0, budget: told.budgets.length - 1, trim: 0, slack: "0" };
  const language = () => told.languages[state.language];
  const trim = () => told.trims[state.trim];
  const ofLanguage = () => told.points[language().code];
  const point = (series, slack, tokens) =>
    ((ofLanguage()[series] || {})[slack] || {})[String(tokens)];
  const merged = (tokens) => point(trim().series, state.slack, tokens);

  /* The form. */
  function options(select, names, chosen) {
    names.forEach((name, index) => {
      const option = element("option", { value: index }, name);
      option.selected = index === chosen;
      select.append(option);
    });
    return select;
  }
  function labelled(id, text, control) {
    control.id = id;
    return element("div", { class: "explorer-choice" }, element("label", { for: id }, text), control);
  }
  const languageChoice = options(element("select"), told.languages.map((it) => it.name), state.language);
  const trimChoice = options(element("select"), told.trims.map((one) => one.label), state.trim);
  const tokensChoice = element("input", {
    type: "range", min: 0, max: told.budgets.length - 1, step: 1, value: state.budget,
  });
  const tokensShown = element("output", { for: "explorer-tokens" });
  const slackChoice = element("fieldset", { class: "explorer-choice" },
    element("legend", {}, "Slack ξ (0: plain TIES; ∞: SFT is never out-voted)"));
  const radios = told.slacks.map((slack) => {
    const radio = element("input", {
      type: "radio", name: "explorer-slack", value: slack, id: `explorer-slack-${slack}`,
    });
    slackChoice.append(element("span", { class: "explorer-radio" }, radio,
      element("label", { for: radio.id }, slackName(slack))));
    return radio;
  });
  const slackNote = element("small", {});
  slackChoice.append(slackNote);
  const tokens = labelled("explorer-tokens", "CT tokens", tokensChoice);
  tokens.append(tokensShown);
  const form = element("form", { class: "explorer-form", "aria-label": "What to show" },
    labelled("explorer-language", "Language", languageChoice), tokens,
    labelled("explorer-trim", "Trim and weights", trimChoice), slackChoice);
  form.addEventListener("submit", (event) => event.preventDefault());

  /* What it shows. */
  const sentence = element("p", { class: "explorer-sentence", role: "status", "aria-live": "polite" });
  const panels = element("div", { class: "explorer-panels" });
  const figures = PANELS.map((panel) => {
    const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    const value = element("strong", { id: `explorer-${panel.id}` });
    const basis = element("span", { class: "explorer-basis" });
    panels.append(element("section", { class: "explorer-panel", "aria-label": panel.title },
      element("h3", {}, panel.title), element("p", {}, value, " ", basis), picture));
    return { panel, picture, value, basis };
  });
  const legend = element("ul", { class: "explorer-legend" });
  [["merge", "the merge that you chose"], ["plain", "the same without slack"],
    ...Object.entries(told.beside)].forEach(([kind, name]) => {
    const sample = shape("svg", { viewBox: "0 0 30 10", "aria-hidden": "true" });
    sample.append(shape("path", { d: "M0 5 H30", class: `line ${kind}` }));
    sample.append(shape("circle", { cx: 15, cy: 5, r: kind === "merge" ? 3.5 : 1.8, class: `dot ${kind}` }));
    legend.append(element("li", {}, sample, ` ${name}`));
  });
  root.append(form, sentence, panels, legend);

  function shown(values, panel) {
    return values ? panel.fields.map((field) => {
      const value = values[at[field]];
      return value === null || value === undefined ? null : value * panel.unit;
    }) : [null, null, null];
  }
  /* Every value that the panel may show for this language, so that its axis stands still. */
  function range(panel) {
    let low = Infinity, high = -Infinity;
    for (const slacks of Object.values(ofLanguage()))
      for (const its of Object.values(slacks))
        for (const values of Object.values(its))
          for (const value of shown(values, panel))
            if (value !== null) { low = Math.min(low, value); high = Math.max(high, value); }
    if (panel.id === "discarded") low = 0;
    if (!(high > low)) high = low + 1;
    return [low, high];
  }
  function ticks(low, high) {
    const rough = (high - low) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
    const places = [];
    for (let n = Math.ceil(low / step); n * step <= high; n += 1) places.push(n * step);
    return { places, digits: Math.max(0, -Math.floor(Math.log10(step))) };
  }
  const across = (index) => LEFT + ((WIDTH - LEFT - RIGHT) * (index + 0.5)) / told.budgets.length;
  const brief = (count) => (count >= 1000 ? `${Math.round(count / 1000)} k` : String(count));

  function curve(picture, up, panel, kind, read, withBars) {
    const places = told.budgets.map((budget, index) => [across(index), shown(read(budget), panel), index]);
    const there = places.filter(([, [middle]]) => middle !== null);
    if (!there.length) return;
    const path = there.map(([x, [middle]], n) => `${n ? "L" : "M"}${x} ${up(middle)}`).join("");
    picture.append(shape("path", { d: path, class: `line ${kind}` }));
    for (const [x, [middle, low, high], index] of there) {
      if (withBars && low !== null && high !== null)
        picture.append(shape("path", { d: `M${x} ${up(low)}V${up(high)}`, class: `bar ${kind}` }));
      const radius = withBars ? (index === state.budget ? 6.5 : 3.5) : 1.8;
      picture.append(shape("circle", { cx: x, cy: up(middle), r: radius, class: `dot ${kind}` }));
    }
  }

  function draw({ panel, picture, value, basis }) {
    const [low, high] = range(panel);
    const up = (number) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - (number - low) / (high - low));
    picture.replaceChildren();
    const { places, digits } = ticks(low, high);
    for (const place of places) {
      picture.append(shape("path", { d: `M${LEFT} ${up(place)}H${WIDTH - RIGHT}`, class: "grid" }));
      picture.append(shape("text", { x: LEFT - 6, y: up(place) + 4, "text-anchor": "end" },
        `${place.toFixed(digits)}${panel.unit === 100 ? " %" : ""}`));
    }
    told.budgets.forEach((budget, index) => picture.append(shape("text",
      { x: across(index), y: HEIGHT - BOTTOM + 16, "text-anchor": "middle" }, brief(budget))));
    picture.append(shape("text", { x: LEFT + (WIDTH - LEFT - RIGHT) / 2, y: HEIGHT - 6,
      "text-anchor": "middle" }, "CT tokens"));
    picture.append(shape("path", { class: "guide",
      d: `M${across(state.budget)} ${TOP}V${HEIGHT - BOTTOM}` }));
    if (panel.beside)
      for (const method of Object.keys(told.beside))
        curve(picture, up, panel, method,
          (budget) => point(method, "", budget) || point(method, "", 0), false);
    curve(picture, up, panel, "plain", (budget) => point(trim().series, "0", budget), false);
    curve(picture, up, panel, "merge", merged, true);
    const values = merged(told.budgets[state.budget]);
    const [middle, below, above] = shown(values, panel);
    const unit = panel.unit === 100 ? " %" : "";
    value.textContent = `${middle.toFixed(panel.digits)}${unit}`;
    const interval = below === null || above === null
      ? "one seed, so no interval"
      : `95 % interval ${below.toFixed(panel.digits)} to ${above.toFixed(panel.digits)}`;
    const n = {
      accuracy: () => `n = ${plural(values[at.items], "item")}; chance ${(100 * told.chance).toFixed(0)} %`,
      bits: () => `n = ${plural(values[at.texts], "text")}`,
      discarded: () => `of ${plural(values[at.surviving], "SFT parameter")} left by trim`,
    }[panel.id]();
    basis.textContent = `(${interval}; ${n})`;
    picture.setAttribute("aria-label", `${panel.title} against CT tokens: ` + told.budgets
      .map((budget) => `${shown(merged(budget), panel)[0].toFixed(panel.digits)}${unit} at ${grouped(budget)}`)
      .join(", "));
  }

  function tell() {
    const budget = told.budgets[state.budget], values = merged(budget);
    const percent = (number) => `${(100 * number).toFixed(1)} %`;
    const two = point("ct_then_sft", "", budget);
    sentence.replaceChildren(
      element("b", {}, language().name),
      ...(language().own ? [" (", element("span",
        { lang: language().lang, dir: language().dir }, language().own), ")"] : []),
      `, ${grouped(budget)} CT tokens, slack ${slackName(state.slack)}: accuracy `
      + `${percent(values[at.accuracy])}, ${values[at.bits_per_byte].toFixed(3)} bits per byte, `
      + `${percent(values[at.discarded])} of the SFT parameters discarded `
      + `(${plural(values[at.seeds], "seed")}). `
      + (two ? `CT-then-SFT at the same budget: accuracy ${percent(two[at.accuracy])}, `
        + `${two[at.bits_per_byte].toFixed(3)} bits per byte.` : ""));
  }

  function update() {
    if (!trim().slacks.includes(state.slack)) state.slack = trim().slacks[0];
    for (const radio of radios) {
      radio.disabled = !trim().slacks.includes(radio.value);
      radio.checked = radio.value === state.slack;
    }
    const left = told.slacks.filter((slack) => !trim().slacks.includes(slack)).map(slackName);
    slackNote.textContent = left.length
      ? `With this trim the reference run has not computed slack ${left.join(", ")}.` : "";
    const budget = `${grouped(told.budgets[state.budget])} tokens`;
    tokensShown.textContent = budget;
    tokensChoice.setAttribute("aria-valuetext", budget);
    figures.forEach(draw);
    tell();
  }
  languageChoice.addEventListener("change", () => { state.language = +languageChoice.value; update(); });
  trimChoice.addEventListener("change", () => { state.trim = +trimChoice.value; update(); });
  tokensChoice.addEventListener("input", () => { state.budget = +tokensChoice.value; update(); });
  slackChoice.addEventListener("change", (event) => { state.slack = event.target.value; update(); });
  root.hidden = false;
  update();
})();
