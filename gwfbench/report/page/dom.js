// ---- nodes, numbers and names: whatever comes from rows reaches the page as text, through `h` ---------------------

const byId = (id) => document.getElementById(id);

function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child || child === 0));
  return node;
}

const missing = (value) => value === null || value === undefined || value === "";

// with a minus sign that is as wide as a plus
const typeset = (text) => String(text).replaceAll("e+", "e").replace(/(^|[^\w])-(?=\d)|(e)-(?=\d)/g, "$1$2−").replace(/e(−?)0+(?=\d)/g, "e$1");

function number(value, digits = 3) {
  if (missing(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return typeset(value.toExponential(digits - 1).replace(/\.?0+e/, "e"));
  return typeset(size >= 10 ** digits ? Math.round(value) : Number(value.toPrecision(digits)));
}

// numbers with their points one below the other: figure spaces are as wide as digits
function aligned(texts) {
  const tails = texts.map((text) => (/\d/.test(text) ? text.replace(/^[^.e]*/, "") : ""));
  const longest = Math.max(0, ...tails.map((tail) => tail.length));
  const point = tails.some((tail) => tail.includes("."));
  return texts.map((text, i) => text + (point && !tails[i].includes(".") && longest > tails[i].length ? "\u2008" : "")
    + "\u2007".repeat(Math.max(0, longest - tails[i].length - (point && !tails[i].includes(".") ? 1 : 0))));
}

// a name, which may break where its settings begin
const named = (name) => name.split(/(?<=[:,@_])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

const says = (kind, name) => content.about.says[`${kind} ${name.replace(/[:@ ].*$/s, "")}`] ?? "";

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => h("option", { value }, text)));
  select.value = chosen;
}

function facts(pairs) {
  return h("dl", {}, pairs.filter(([, value]) => !missing(value))
    .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value))]));
}

async function copy(text, button, source) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {  // a page from a file may not be allowed to
    if (source) getSelection().selectAllChildren(source);
    button.textContent = source && document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
  }
}

// ---- looks: what the figures for papers use too -----------------------------------------------------------------

const SHAPES = {
  circle: "M15 2a4 4 0 1 0 .01 0z", square: "M11 2h8v8h-8z", diamond: "M15 .5l5.5 5.5-5.5 5.5-5.5-5.5z",
  "triangle-up": "M15 1l5 9h-10z", "triangle-down": "M15 11l5-9h-10z", pentagon: "M15 1.2l5 3.7-1.9 5.8h-6.2l-1.9-5.8z",
  cross: "M13.4 1.5h3.2v3h3v3.1h-3v3h-3.2v-3h-3v-3.1h3z", x: "M11.7 1l3.3 3.2 3.3-3.2 1.8 1.8-3.2 3.2 3.2 3.2-1.8 1.8-3.3-3.2-3.3 3.2-1.8-1.8 3.2-3.2-3.2-3.2z",
};
const DASHES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3" };

function mark(method) {
  const look = content.looks[method];
  if (!look) return "";
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const part = (tag, props) => {
    const node = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
    svg.append(node);
  };
  svg.setAttribute("class", "mark");
  svg.setAttribute("viewBox", "0 0 30 12");
  svg.setAttribute("aria-hidden", "true");
  part("path", { d: "M0 6h30", stroke: look.colour, "stroke-width": 2, "stroke-dasharray": DASHES[look.line] });
  part("path", { d: SHAPES[look.marker], fill: look.colour });
  return svg;
}
