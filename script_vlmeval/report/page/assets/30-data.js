/** A benchmark's samples: what filters need is parsed at once, a sample when it is shown, a picture when it is drawn. */
class Atlas {
  constructor(block) {
    this.id = block.id;
    this.name = block.dataset.atlas;
    const front = JSON.parse(block.textContent);
    this.configs = front.configs;
    this.stages = front.stages;
    this.left = front.left;
    this.samples = front.samples.map(([index, question, states, said], at) => ({ at, index, question, states, said, text: `${index} ${question}`.toLowerCase() }));
    this.images = new Map();
  }

  sample(at) {
    this.lines ??= textOf(`${this.id}-samples`).split("\n");
    return JSON.parse(this.lines[at]);
  }

  /** The picture, decoded; null for one that was not found. */
  picture(i) {
    if (i < 0) return Promise.resolve(null);
    this.sources ??= textOf(`${this.id}-pictures`).split("\n");
    if (!this.images.has(i)) {
      const image = new Image();
      image.src = `data:${this.sources[i]}`;
      this.images.set(i, image.decode().then(() => image, () => null));
    }
    return this.images.get(i);
  }

  /** Decoded pictures of a page that is left need not stay. */
  forget() {
    this.images.clear();
  }

  get models() {
    return [...new Set(this.configs.map((config) => config.model))];
  }

  /** Places of a model's configurations: the unpruned one (-1 without), and the others. */
  of(model) {
    const mine = this.configs.map((_, i) => i).filter((i) => this.configs[i].model === model);
    return { full: mine.find((i) => this.configs[i].full) ?? -1, pruned: mine.filter((i) => !this.configs[i].full) };
  }
}

const RIGHT = "rp";
const WRONG = "wqf";

/** 1 where pruning made a wrong answer right, -1 where a right one wrong, 0 otherwise or where it cannot be told. */
const flipped = (states, full, config) => {
  if (full < 0) return 0;
  if (RIGHT.includes(states[full]) && WRONG.includes(states[config])) return -1;
  return WRONG.includes(states[full]) && RIGHT.includes(states[config]) ? 1 : 0;
};

/** Whether two methods at one budget were read differently. */
const disagree = (sample, configs, pruned) => {
  const said = new Map();
  for (const i of pruned.filter((i) => sample.said[i] >= 0)) {
    const budget = configs[i].budget;
    if (said.has(budget) && said.get(budget) !== sample.said[i]) return true;
    said.set(budget, sample.said[i]);
  }
  return false;
};

const KINDS = {
  all: ["all samples", () => true],
  flipped: ["flipped by pruning", (sample, mine, chosen) => chosen.some((i) => flipped(sample.states, mine.full, i))],
  lost: ["right unpruned, wrong pruned", (sample, mine, chosen) => chosen.some((i) => flipped(sample.states, mine.full, i) < 0)],
  won: ["wrong unpruned, right pruned", (sample, mine, chosen) => chosen.some((i) => flipped(sample.states, mine.full, i) > 0)],
  disagree: ["methods disagree", (sample, mine, chosen, configs) => disagree(sample, configs, mine.pruned)],
  failed: ["failed", (sample, mine, chosen) => [...chosen, mine.full].some((i) => sample.states[i] === "f")],
};

/** The samples that filters leave. config: one configuration's place, or -1 for any. */
const chosenSamples = (atlas, { model, kind, config, query }) => {
  const mine = atlas.of(model);
  const chosen = config < 0 ? mine.pruned : [config];
  const test = KINDS[kind][1];
  const wanted = words(query);
  return atlas.samples.filter((sample) => holds(sample.text, wanted) && test(sample, mine, chosen, atlas.configs));
};
