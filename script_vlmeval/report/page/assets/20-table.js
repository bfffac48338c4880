/** Tables that are sorted by a click on a head, filtered by words, and shown some hundred lines at a time. */
const LINES = 200;
const LONG = 48; // letters of a text beyond which it goes on in another line
const SIGNS = { better: "▲", worse: "▼", even: "≈" };
const collator = new Intl.Collator("en", { numeric: true });

const figure = (value, digits) => {
  if (digits >= 4 && value > 0 && value < 0.0001) return "< 0.0001";
  return digits === 0 ? grouped(Math.round(value)) : value.toFixed(digits);
};

/** A cell of the data as {value to sort by, text, beside, below, letters, marks}. */
const cellOf = (raw, column) => {
  const cell = raw !== null && typeof raw === "object" ? raw : { v: raw };
  const value = cell.v ?? cell.t ?? null;
  const number = typeof value === "number";
  const text = cell.t ?? (number ? figure(value, column.digits ?? 1) : value ?? "");
  return { value, text, beside: cell.s ?? "", below: cell.u ?? "", letters: cell.l ?? "", marks: cell.m ? cell.m.split(" ") : [] };
};

const cellNode = (cell, column, first) => {
  const starred = cell.marks.includes("incomplete");
  const sign = cell.marks.map((mark) => SIGNS[mark]).find(Boolean);
  return make(
    first ? "th" : "td",
    { class: [column.kind === "number" ? "number" : "text", cell.text.length > LONG ? "long" : "", ...cell.marks].join(" "), scope: first ? "row" : null, dir: "auto" },
    sign ? make("span", { class: "sign", "aria-hidden": "true" }, `${sign} `) : null,
    cell.text,
    starred ? make("span", { class: "star" }, "*", spoken(" incomplete")) : null,
    cell.letters ? make("sup", {}, cell.letters) : null,
    cell.beside ? make("span", { class: "beside" }, ` ${cell.beside}`) : null,
    cell.below ? make("span", { class: "beside below" }, cell.below) : null,
  );
};

/** Negative where a comes first; what is missing comes last whichever way. */
const compare = (a, b, down) => {
  if (a === null || b === null) return (a === null) - (b === null);
  const kinds = (typeof a === "string") - (typeof b === "string");
  if (kinds) return kinds;
  const order = typeof a === "number" ? a - b : collator.compare(a, b);
  return down ? -order : order;
};

class Table {
  constructor(box, spec, name) {
    this.columns = spec.columns;
    this.rows = spec.rows.map((row) => row.map((raw, i) => cellOf(raw, spec.columns[i])));
    this.texts = this.rows.map((row) => row.map((cell) => cell.text).join("\u0001").toLowerCase());
    this.order = this.rows.map((_, i) => i);
    this.sorted = { column: -1, down: false };
    this.query = [];
    this.limit = LINES;
    this.heads = this.columns.map((column, i) => this.head(column, i));
    this.body = make("tbody");
    this.count = make("p", { class: "count", role: "status" });
    this.more = make("button", { type: "button", class: "more", onclick: () => this.show(this.limit + 5 * LINES) });
    const search = field("Filter", (value) => this.filter(value));
    const table = make("table", { class: "data" }, make("thead", {}, make("tr", {}, this.heads)), this.body);
    box.append(make("div", { class: "tools" }, search.node, this.count), scroller(name, table), this.more);
    this.show(LINES);
  }

  head(column, i) {
    const button = make("button", { type: "button", onclick: () => this.sort(i) }, column.head, make("span", { class: "arrow", "aria-hidden": "true" }));
    return make("th", { scope: "col", class: column.kind, "aria-sort": "none" }, button);
  }

  /** Numbers from the largest, texts from A; again: the other way. */
  sort(i) {
    const again = this.sorted.column === i;
    const down = again ? !this.sorted.down : this.columns[i].kind === "number";
    this.sorted = { column: i, down };
    this.order.sort((a, b) => compare(this.rows[a][i].value, this.rows[b][i].value, down) || a - b);
    this.heads.forEach((head, k) => head.setAttribute("aria-sort", k !== i ? "none" : down ? "descending" : "ascending"));
    this.show(LINES);
  }

  filter(query) {
    this.query = words(query);
    this.show(LINES);
  }

  show(limit) {
    this.limit = limit;
    const found = this.order.filter((i) => holds(this.texts[i], this.query));
    const lines = found.slice(0, limit).map((i) => make("tr", {}, this.rows[i].map((cell, k) => cellNode(cell, this.columns[k], k === 0))));
    this.body.replaceChildren(...lines);
    const rest = found.length - lines.length;
    this.more.hidden = rest <= 0;
    this.more.textContent = `Show ${grouped(Math.min(rest, 5 * LINES))} more of ${grouped(rest)}`;
    const all = this.rows.length;
    this.count.textContent = `${found.length === all ? "" : `${grouped(found.length)} of `}${grouped(all)} row${all === 1 ? "" : "s"}`;
  }
}

let parsed = null;
const allTables = () => (parsed ??= JSON.parse(textOf("tables")));

const showTables = () => {
  const tables = allTables();
  for (const box of document.querySelectorAll("[data-table]")) {
    const spec = tables[box.dataset.table];
    if (spec.rows.length && spec.columns.length) new Table(box, spec, box.dataset.table);
    else box.append(make("p", { class: "none" }, "There is nothing to show here."));
  }
};
