/** One sample: what was asked, and what each configuration kept and said: methods by budgets, or budget by budget. */
const MARKS = { r: ["✓", "right"], p: ["◐", "partly right"], q: ["◔", "partly right, below a half"], w: ["✗", "wrong"], f: ["!", "failed"], "?": ["·", "not judged row by row"] };
const budgetNodes = (budget) => [budget.replace(/pct$/, " %"), make("span", { class: "unit" }, /^\d+$/.test(budget) ? " tokens" : "")];

/** An answer with its mark, in colour, as a symbol and in words. */
const answerNode = (record, state) => {
  const [symbol, word] = MARKS[state];
  const said = record[0].trim() ? make("bdi", { class: "said" }, record[0]) : make("span", { class: "said blank" }, "(empty)");
  return make("span", { class: `answer state-${STATES[state]}` }, make("span", { class: "mark", title: word, "aria-hidden": "true" }, symbol), spoken(`${word}: `), said);
};
const STATES = { r: "right", p: "part", q: "part", w: "wrong", f: "failed", "?": "unknown" };

/** "8 of 144 tokens" at a layer, from the bits or, without them, from what was counted. */
const countText = (record, sample, layer) => {
  const [, , , kept, all, marks] = record;
  if (marks) {
    const found = counted(marks, sample.places, layer);
    const merged = found.merged ? ` + ${found.merged} merged` : "";
    return `${grouped(found.kept)}${merged} of ${grouped(found.all)}`;
  }
  return kept === null ? "" : `${grouped(kept)}${all === null ? "" : ` of ${grouped(all)}`}`;
};

class Card {
  constructor(atlas, sample, view) {
    this.atlas = atlas;
    this.brief = sample;
    this.view = view;
    const link = make("a", { href: `#sample=${encodeURIComponent(atlas.name)}/${encodeURIComponent(sample.index)}` }, sample.index);
    this.node = make("article", { class: "card waiting" }, make("h3", {}, make("span", { class: "of" }, `${atlas.name} `), link));
    this.node.card = this;
  }

  /** Parses the sample and shows it, once its pictures are decoded. */
  async fill() {
    if (this.filling) return this.filling;
    this.filling = this.show();
    return this.filling;
  }

  async show() {
    this.sample = this.atlas.sample(this.brief.at);
    this.images = await Promise.all(this.sample.pictures.map((i) => this.atlas.picture(i)));
    this.node.append(make("div", { class: "body" }, this.asked(), this.answers()));
    this.node.classList.remove("waiting");
    for (const canvas of this.node.querySelectorAll("canvas")) this.view.watch(canvas);
  }

  // what was asked

  asked() {
    const { full } = this.view.mine;
    const record = full >= 0 ? this.sample.records[full] : null;
    const unpruned = record ? [make("dt", {}, "Unpruned"), make("dd", {}, answerNode(record, this.brief.states[full]))] : [];
    const facts = make("dl", { class: "said-of" }, make("dt", {}, "Reference"), make("dd", { dir: "auto" }, this.sample.answer || "(none)"), ...unpruned);
    return make("div", { class: "asked" }, this.strip(), this.maps(), make("p", { class: "question", dir: "auto" }, this.brief.question), facts);
  }

  /** The pictures as they were shown: several, and the frames of a video, side by side. */
  strip() {
    const several = this.images.length > 1;
    this.shown = this.images.map((image, i) => {
      const name = `${this.sample.frames ? "Frame" : "Picture"} ${i + 1}`;
      const picture = image ? make("img", { alt: name, src: image.src }) : make("span", { class: "none" }, "picture not found");
      const heat = make("canvas", { class: "heat", hidden: true, "aria-hidden": "true" });
      return { image, heat, node: make("figure", {}, make("div", { class: "frame" }, picture, heat), several ? make("figcaption", {}, String(i + 1)) : null) };
    });
    const attributes = several ? { class: "strip several", tabindex: "0", role: "region", "aria-label": this.sample.frames ? "Frames" : "Pictures" } : { class: "strip" };
    return make("div", attributes, this.shown.map((one) => one.node));
  }

  maps() {
    const mine = [this.view.mine.full, ...this.view.mine.pruned];
    const seen = this.sample.seen.filter((map) => map.by.some((i) => mine.includes(i)));
    if (!seen.length) return null;
    const names = seen.map((map) => map.source || "relevance");
    this.buttons = seen.map((map, i) => {
      const twice = names.indexOf(names[i]) !== names.lastIndexOf(names[i]);
      const name = twice ? `${names[i]}, ${this.atlas.configs[map.by[0]].name}` : names[i];
      return make("button", { type: "button", "aria-pressed": "false", onclick: (event) => this.heat(event.currentTarget, map) }, name);
    });
    return make("div", { class: "maps" }, make("span", {}, "Relevance map"), this.buttons, make("span", { class: "ramp", hidden: true }, make("span", {}, "low"), make("i", {}), make("span", {}, "high")));
  }

  /** Shows a relevance map over the pictures, or hides the one that is there. */
  heat(button, map) {
    const on = button.getAttribute("aria-pressed") !== "true";
    this.buttons.forEach((other) => other.setAttribute("aria-pressed", String(on && other === button)));
    this.node.querySelector(".ramp").hidden = !on;
    this.shown.forEach(({ image, heat }, i) => {
      const parts = map.parts.filter(([pictures]) => pictures.includes(i));
      heat.hidden = !on || !parts.length || !image;
      if (!heat.hidden) drawSeen(heat, image, parts, this.sample.places);
    });
  }

  // what was kept

  /** A table where at least half of it is there, so that columns compare; otherwise only what there is. */
  answers() {
    const configs = this.atlas.configs;
    const mine = this.view.shown.filter((i) => this.sample.records[i]);
    if (!mine.length) return make("p", { class: "none" }, "No other answers to this sample.");
    const budgets = [...new Set(mine.map((i) => configs[i].budget))];
    const methods = [...new Set(mine.map((i) => configs[i].method))].sort(collator.compare);
    return 2 * mine.length >= budgets.length * methods.length ? this.grid(mine, budgets, methods) : this.groups(mine, budgets);
  }

  /** Budget by budget, the methods side by side. */
  groups(mine, budgets) {
    const configs = this.atlas.configs;
    const group = (budget) => {
      const here = mine.filter((i) => configs[i].budget === budget).sort((a, b) => collator.compare(configs[a].method, configs[b].method));
      return make("section", { class: "group" }, make("h4", {}, budgetNodes(budget)), make("div", { class: "cells" }, here.map((i) => this.cell(i))));
    };
    return make("div", { class: "groups" }, budgets.map(group));
  }

  grid(mine, budgets, methods) {
    const configs = this.atlas.configs;
    const head = make("tr", {}, make("td", {}), budgets.map((budget) => make("th", { scope: "col" }, budgetNodes(budget))));
    const lines = methods.map((method) => {
      const cells = budgets.map((budget) => {
        const i = mine.find((k) => configs[k].method === method && configs[k].budget === budget);
        return make("td", {}, i === undefined ? null : this.cell(i));
      });
      return make("tr", {}, make("th", { scope: "row" }, method), cells);
    });
    const table = make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, lines));
    return scroller("What each configuration kept and answered", table);
  }

  cell(i) {
    const record = this.sample.records[i];
    const turned = flipped(this.brief.states, this.view.mine.full, i);
    const name = this.atlas.configs[i].name;
    const canvas = this.images.length ? make("canvas", { class: "kept", "aria-hidden": "true" }) : null;
    const count = make("span", { class: "tokens" });
    if (canvas) canvas.style.aspectRatio = shapeOf(this.images);
    const job = { canvas, count, draw: () => drawKept(canvas, this.images, record[5], this.sample.places, this.view.layer) };
    const button = make("button", { type: "button", class: "look", "aria-label": `${name}: look closer`, onclick: () => this.view.closer.open(this, i) }, canvas);
    if (canvas) canvas.job = job;
    count.textContent = countText(record, this.sample, this.view.layer);
    count.recount = () => (count.textContent = countText(record, this.sample, this.view.layer));
    const clear = record[5] ? allTables().clear[name] : null;
    const flag = turned ? make("span", { class: "flipped" }, turned < 0 ? "lost by pruning" : "won by pruning") : null;
    return make("div", { class: `cell${turned ? " turned" : ""}` }, make("span", { class: "who", "aria-hidden": "true" }, this.atlas.configs[i].method), button, answerNode(record, this.brief.states[i]), make("span", { class: "beneath" }, count, flag), clear ? make("span", { class: "clear" }, clear) : null);
  }
}
