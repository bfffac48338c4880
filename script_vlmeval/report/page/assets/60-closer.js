/** One configuration's kept tokens, large, with all that is known of the answer. Arrow keys go to its neighbours. */
class Closer {
  constructor(view) {
    this.view = view;
    this.title = make("h3", {});
    this.canvas = make("canvas", { class: "kept" });
    this.facts = make("dl", { class: "said-of" });
    const close = make("button", { type: "button", class: "plain", onclick: () => this.node.close() }, "Close");
    const steps = [[-1, "Previous"], [1, "Next"]].map(([step, name]) => make("button", { type: "button", class: "plain", onclick: () => this.step(step) }, name));
    this.node = make("dialog", { "aria-label": "One configuration", onkeydown: (event) => this.key(event) }, make("header", {}, this.title, make("span", { class: "buttons" }, steps, close)), this.canvas, this.facts);
    document.body.append(this.node);
  }

  open(card, i) {
    this.card = card;
    this.i = i;
    if (!this.node.open) this.node.showModal();
    this.draw();
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) this.step(step);
  }

  step(by) {
    const there = this.view.shown.filter((i) => this.card.sample.records[i]);
    this.i = there[(there.indexOf(this.i) + by + there.length) % there.length];
    this.draw();
  }

  draw() {
    const { card, i } = this;
    const record = card.sample.records[i];
    const [, read, worth, kept, all, marks] = record;
    this.title.textContent = card.atlas.configs[i].name;
    this.canvas.hidden = !card.images.length;
    if (card.images.length) {
      const shape = shapeOf(card.images);
      this.canvas.style.aspectRatio = shape;
      this.canvas.style.width = `min(100%, ${Math.round(62 * shape)}vh)`;
      drawKept(this.canvas, card.images, marks, card.sample.places, this.view.layer);
    }
    const stages = marks ? [...new Set(marks.flatMap((part) => Object.keys(part[2])))].map(Number).sort((a, b) => a - b) : [];
    const facts = [
      ["Question", card.brief.question],
      ["Reference", card.sample.answer || "(none)"],
      ["Answer", answerNode(record, card.brief.states[i])],
      read ? ["Read as", read] : null,
      worth === null ? null : ["Worth", worth],
      kept === null ? null : ["Visual tokens, mean over the layers", `${grouped(kept)}${all === null ? "" : ` of ${grouped(all)}`}`],
      marks && allTables().clear[card.atlas.configs[i].name] ? ["Clear cells", allTables().clear[card.atlas.configs[i].name]] : null,
      ...stages.map((stage) => [stage ? `From layer ${stage} on` : "Before the language model", countText(record, card.sample, stage)]),
    ];
    this.facts.replaceChildren(...facts.filter(Boolean).flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, value)]));
  }
}
