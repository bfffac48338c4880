/** The atlas: filters, pages of samples, and what is drawn when it comes into view. */
const CARDS = 10;

class View {
  constructor(box, blocks) {
    this.blocks = blocks;
    this.atlases = new Map();
    this.state = { kind: "all", config: -1, query: "", page: 0 };
    this.layer = Infinity;
    this.closer = new Closer(this);
    this.near = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => this.come(one.target)), { rootMargin: "600px" });
    this.drawn = new IntersectionObserver((seen) => seen.forEach((one) => this.paint(one.target, one.isIntersecting)), { rootMargin: "300px" });
    this.choices = this.filters();
    this.status = make("p", { class: "count", role: "status" });
    this.cards = make("div", { class: "cards" });
    this.pager = make("div", { class: "pager" });
    box.append(make("form", { class: "filters", onsubmit: (event) => event.preventDefault() }, Object.values(this.choices).map((one) => one.node)), this.status, this.cards, this.pager);
    this.follow() || this.benchmark(0);
    addEventListener("hashchange", () => this.follow());
    addEventListener("beforeprint", () => this.paintAll());
    let timer = 0;
    addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.repaint(), 150);
    });
  }

  filters() {
    const names = this.blocks.map((block, i) => [i, block.dataset.atlas]);
    const go = (change) => { Object.assign(this.state, change, { page: 0 }); this.show(); };
    return {
      benchmark: choice("Benchmark", names, (value) => this.benchmark(Number(value))),
      model: choice("Model", [], (value) => { this.model(value); this.show(); }),
      kind: choice("Show", Object.entries(KINDS).map(([value, [text]]) => [value, text]), (value) => go({ kind: value })),
      config: choice("Configuration", [], (value) => go({ config: Number(value) })),
      layer: choice("Tokens", [], (value) => this.relayer(value)),
      search: field("Search questions", (value) => go({ query: value })),
    };
  }

  refill({ node, select }, options, least = 2) {
    select.replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
    node.hidden = options.length < least;
  }

  /** Another benchmark: its data is parsed on first sight. */
  benchmark(i) {
    this.atlas?.forget();
    if (!this.atlases.has(i)) this.atlases.set(i, new Atlas(this.blocks[i]));
    this.atlas = this.atlases.get(i);
    this.choices.benchmark.select.value = i;
    this.choices.benchmark.node.hidden = this.blocks.length < 2;
    this.refill(this.choices.model, this.atlas.models.map((name) => [name, name]));
    const stages = this.atlas.stages.map((stage) => [stage, stage ? `that stand from layer ${stage} on` : "that enter the language model"]);
    this.refill(this.choices.layer, [["", "that stand at the end"], ...stages], this.atlas.stages.some(Boolean) ? 2 : 9999);
    this.layer = Infinity;
    this.model(this.atlas.models.includes(this.state.model) ? this.state.model : this.atlas.models[0] ?? "");
    this.show();
  }

  model(name) {
    this.state = { ...this.state, model: name, config: -1, page: 0 };
    this.choices.model.select.value = name;
    this.mine = this.atlas.of(name);
    this.refill(this.choices.config, [[-1, "any"], ...this.mine.pruned.map((i) => [i, this.atlas.configs[i].name])]);
  }

  relayer(value) {
    this.layer = value === "" ? Infinity : Number(value);
    for (const count of this.cards.querySelectorAll(".tokens")) count.recount();
    this.repaint();
  }

  /** The page of samples that the filters leave, as cards that are filled when they come near. */
  show() {
    this.shown = this.state.config < 0 ? this.mine.pruned : [this.state.config];
    this.found = chosenSamples(this.atlas, this.state);
    const pages = Math.max(1, Math.ceil(this.found.length / CARDS));
    this.state.page = Math.min(Math.max(this.state.page, 0), pages - 1);
    const start = this.state.page * CARDS;
    const cards = this.found.slice(start, start + CARDS).map((sample) => new Card(this.atlas, sample, this));
    this.near.disconnect();
    this.drawn.disconnect();
    this.cards.replaceChildren(...cards.map((card) => card.node));
    cards.forEach((card) => this.near.observe(card.node));
    const range = cards.length ? `${grouped(start + 1)} to ${grouped(start + cards.length)} of ` : "";
    const left = this.atlas.left ? ` This page had no room for ${grouped(this.atlas.left)} more: they are in atlas/${this.atlas.name}.` : "";
    this.status.textContent = `${range}${grouped(this.found.length)} samples${this.found.length < this.atlas.samples.length ? `, chosen from ${grouped(this.atlas.samples.length)}` : ""}.${left}`;
    this.pages(pages);
  }

  pages(pages) {
    const at = this.state.page;
    const to = (page, text) => make("button", { type: "button", disabled: page < 0 || page >= pages || page === at, onclick: () => this.turn(page) }, text);
    const all = [to(0, "First"), to(at - 1, "Previous"), make("span", {}, `Page ${grouped(at + 1)} of ${grouped(pages)}`), to(at + 1, "Next"), to(pages - 1, "Last")];
    this.pager.replaceChildren(...(pages > 1 ? all : []));
  }

  turn(page) {
    this.state.page = page;
    this.atlas.forget();
    this.show();
    document.getElementById("samples").scrollIntoView();
    this.choices.benchmark.node.parentNode.querySelector("select, input").focus({ preventScroll: true });
  }

  // what comes into view

  come(node) {
    this.near.unobserve(node);
    node.card.fill();
  }

  watch(canvas) {
    if (canvas.job) this.drawn.observe(canvas);
  }

  /** Draws what comes into view, and lets go of the pixels of what leaves it. */
  paint(canvas, visible) {
    if (visible && !canvas.dataset.drawn) {
      canvas.job.draw();
      canvas.dataset.drawn = "yes";
    } else if (!visible && canvas.dataset.drawn) {
      canvas.width = canvas.height = 1;
      delete canvas.dataset.drawn;
    }
  }

  paintAll() {
    for (const canvas of this.cards.querySelectorAll("canvas")) if (canvas.job) this.paint(canvas, true);
  }

  repaint() {
    for (const canvas of this.cards.querySelectorAll("canvas[data-drawn]")) canvas.job.draw();
    if (this.closer.node.open) this.closer.draw();
  }

  /** Shows the sample that the address names, `#sample=BENCHMARK/INDEX`. Whether it names one. */
  follow() {
    const [name, index] = (location.hash.match(/^#sample=([^/]*)\/(.*)$/) ?? []).slice(1).map(readable);
    const i = this.blocks.findIndex((block) => block.dataset.atlas === name);
    if (i < 0) return false;
    Object.assign(this.state, { kind: "all", query: "", config: -1 });
    this.choices.kind.select.value = "all";
    this.choices.search.input.value = "";
    this.benchmark(i);
    const at = this.found.findIndex((sample) => sample.index === index);
    if (at < 0) return true;
    this.state.page = Math.floor(at / CARDS);
    this.show();
    this.cards.children[at % CARDS].scrollIntoView();
    return true;
  }
}

const readable = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
};

const showAtlas = () => {
  const box = document.getElementById("atlas");
  const blocks = [...document.querySelectorAll("script[data-atlas]")];
  if (blocks.length) new View(box, blocks);
  else box.append(make("p", { class: "none" }, "No kept tokens were recorded for this folder: run with --atlas 100 to see them here."));
};
