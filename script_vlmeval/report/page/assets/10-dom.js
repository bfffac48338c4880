/** An element with attributes (those that are null are left out, `on...` are listeners) and children: nodes, texts or null. */
const make = (tag, attributes, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
};

/** A box that scrolls, with a shadow at either side beyond which there is more. */
const scroller = (name, child) => {
  const box = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": name }, child);
  const frame = make("div", { class: "cut" }, box);
  const look = () => {
    frame.classList.toggle("more-before", box.scrollLeft > 1);
    frame.classList.toggle("more-after", box.scrollLeft < box.scrollWidth - box.clientWidth - 1);
    frame.style.setProperty("--bar", `${box.offsetWidth - box.clientWidth}px`);
  };
  box.addEventListener("scroll", look, { passive: true });
  const resized = new ResizeObserver(look);
  [box, child].forEach((node) => resized.observe(node));
  return frame;
};

/** Text for those who hear the page. */
const spoken = (text) => make("span", { class: "spoken" }, text);

let named = 0;

/** A control under its label. */
const labelled = (label, control) => {
  control.id = `control-${(named += 1)}`;
  return make("div", { class: "choice" }, make("label", { for: control.id }, label), control);
};

/** A choice. options: [value, text]. */
const choice = (label, options, onchange) => {
  const select = make("select", { onchange: () => onchange(select.value) });
  select.append(...options.map(([value, text]) => make("option", { value }, text)));
  return { node: labelled(label, select), select };
};

/** A field for text that waits until typing pauses. */
const field = (label, oninput) => {
  let timer = 0;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(() => oninput(input.value), 120);
  };
  const input = make("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: later });
  return { node: labelled(label, input), input };
};

const textOf = (id) => document.getElementById(id).textContent;

const grouped = (value) => value.toLocaleString("en-GB");

/** All words of a query must occur. */
const words = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);
const holds = (text, query) => query.every((word) => text.includes(word));
