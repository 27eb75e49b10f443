"use strict";
(() => { // a scope of its own

// One board at a time: #task and #metric say which, and `draw` puts all sections in line with them.
// Whatever comes from rows reaches the page as text, through `h`, and Plotly through `plain`.

const content = JSON.parse(document.getElementById("content").textContent);
const byId = (id) => document.getElementById(id);
const state = { board: content.boards[0], metric: "", sort: {}, hidden: new Set(), against: {} };
const WORDS = {
  step: "step", t: "flow time t", seconds: "training seconds", score_calls: "score calls in training",
  log_prob_calls: "log-density calls in training", draw_calls: "target draws in training",
  sample_seconds: "seconds for moving the judged points", sample_calls: "score calls per judged point",
};

function h(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const number = (value, digits = 3) => (value === null || value === undefined ? "–" : tidy(value, digits));

function tidy(value, digits) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(digits - 1).replace("e+", "e");
  return String(size >= 10 ** digits ? Math.round(value) : Number(value.toPrecision(digits)));
}

function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => h("option", { value }, text)));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : pairs[0]?.[0] ?? "";
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

// a method's name, which may break where its settings begin
const named = (method) => method.split(/(?<=[:,])/).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

// ---- tables -----------------------------------------------------------------------------------------------------

// columns: {id, head, key(row) for sorting, cell(row), text, title}; `sort` is kept by the caller: {id, down}
function table(columns, rows, sort, again) {
  const by = columns.find((column) => column.id === sort.id);
  const sign = sort.down ? -1 : 1;
  const none = (key) => key === null || key === undefined || key === "";
  const sorted = by ? [...rows].sort((one, other) => {
    const [a, b] = [by.key(one), by.key(other)];
    if (none(a) || none(b)) return none(a) - none(b);
    return sign * (typeof a === "string" ? a.localeCompare(b) : a - b);
  }) : rows;
  const head = columns.map((column) => {
    const on = column.id === sort.id;
    const click = () => {
      Object.assign(sort, { id: column.id, down: on ? !sort.down : Boolean(column.down) });
      const place = document.activeElement.dataset.column;
      again();
      document.querySelector(`#${sort.host} [data-column="${CSS.escape(place ?? "")}"]`)?.focus();
    };
    return h("th", { scope: "col", class: column.text && "text", "aria-sort": on && (sort.down ? "descending" : "ascending") },
      h("button", { type: "button", onclick: click, title: column.title, "data-column": column.id }, column.head));
  });
  const body = sorted.map((row) => h("tr", { class: row.role && row.role !== "method" && "aside" },
    ...columns.map((column) => h("td", { class: column.text }, column.cell(row)))));
  byId(sort.host).replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...body)));
}

function shown() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const information = byId("information").value;
  return state.board.lines.filter((line) =>
    words.every((word) => `${line.method} ${line.information}`.toLowerCase().includes(word))
    && (!information || line.information === information));
}

function valueColumn(metric, head) {
  return {
    id: `value ${metric}`, head, down: state.board.better[metric] === "higher",
    title: `${metric}: median over seeds [95 % interval] (range of two seeds); ${state.board.better[metric]} is better`,
    key: (line) => line.cells[metric]?.value,
    cell: (line) => {
      const cell = line.cells[metric];
      if (!cell || cell.shown.value === "-") return "–";
      const range = cell.shown.interval && ` ${cell.shown.interval}`;
      const label = `${line.method}: ${metric} ${cell.shown.value}${range}, where it comes from`;
      return h("button", { type: "button", "aria-label": label, onclick: () => provenance(line, metric) },
        cell.shown.value, h("span", { class: "range" }, range));
    },
  };
}

function floorOf(metric) {
  return state.board.lines.find((line) => line.role === "floor" && line.cells[metric]?.value !== null && line.cells[metric]);
}

function againstFloor(line, metric) {
  const cell = line.cells[metric];
  if (cell?.verdict === "alarm") return h("strong", { class: "bad", title: cell.why }, "ALARM");
  if (!cell || cell.value === null) return "–";
  if (cell.verdict === "floor") return "at floor";
  const floor = floorOf(metric)?.cells[metric].value;
  return floor > 0 && line.role !== "floor" ? `${number(cell.value / floor, 2)} ×` : line.role === "floor" ? "floor" : "–";
}

function status(line) {
  const parts = Object.entries(line.verified).map(([word, count]) =>
    h("span", { class: (word === "different" || word === "not run") && "bad" }, `${count} ${word}`));
  if (line.stale) parts.unshift(h("span", { class: "bad", title: line.stale }, "stale"));
  return parts.length ? h("span", {}, ...parts.flatMap((part, i) => (i ? [", ", part] : [part]))) : "–";
}

function drawBoard() {
  const { board, metric } = state;
  if (!board) return;
  const all = byId("every").checked;
  const method = {
    id: "method", head: "method", text: "text fold", key: (line) => line.method,
    cell: (line) => h("span", { class: "who" }, mark(line.method), h("span", {}, ...named(line.method))),
  };
  const cost = (id, head) => ({ id, head, title: WORDS[id], key: (line) => line.costs[id], cell: (line) => number(line.costs[id]) });
  const words = (id, head, text) => ({ id, head, text, key: (line) => line[id], cell: (line) => line[id] || "–" });
  const chosen = all ? board.metrics.map((name) => valueColumn(name, name)) : [
    valueColumn(metric, metric),
    { id: "tier", head: "tier", text: "text", title: "methods that share a letter can't be told apart", key: (line) => line.cells[metric]?.tier,
      cell: (line) => h("span", { class: "tier" }, line.cells[metric]?.tier || "–") },
    { id: "floor", head: "floor", title: "times the noise floor of exact draws", key: (line) => line.cells[metric]?.value, cell: (line) => againstFloor(line, metric) },
  ];
  const columns = [
    method, ...chosen, words("seeds", "seeds", "text"), ...Object.entries(content.heads).map(([id, head]) => cost(id, head)),
    words("information", "information", "text fold"),
    { id: "status", head: "verified", text: "text", title: "runs that were repeated, with the result; stale: made by other code than today's",
      key: (line) => line.stale || Object.keys(line.verified).join(), cell: status },
  ];
  const rows = shown();
  byId("count").textContent = `${rows.length} of ${board.lines.length} rows`;
  table(columns, rows, state.sort, drawBoard);
  byId("board-note").textContent = boardNote(all ? null : metric);
}

function boardNote(metric) {
  const lines = [];
  if (metric) {
    const floor = floorOf(metric);
    if (floor) lines.push(`Floor (${floor.method}): ${number(floor.cells[metric].value)} at n = ${number(floor.cells[metric].n, 6)}.`);
    lines.push(...state.board.power[metric]);
    lines.push("Tiers: methods that use the same information and share a letter can't be told apart (paired t tests, Holm, 5 %); a failed seed counts as the worst value.");
  }
  lines.push(content.notes, ...state.board.remarks);
  const alarms = state.board.lines.flatMap((line) => Object.values(line.cells)).filter((cell) => cell.verdict === "alarm");
  if (alarms.length) lines.push(`${alarms.length} values are too good to be true: ALARM.`);
  return lines.join("\n");
}

// ---- where a number comes from ----------------------------------------------------------------------------------

function facts(pairs) {
  return h("dl", {}, ...pairs.filter(([, value]) => value !== "" && value !== null && value !== undefined)
    .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value))]));
}

function provenance(line, metric) {
  const cell = line.cells[metric];
  const runs = line.runs.map((run) => Object.fromEntries(content.run.map((name, i) => [name, run[i]])));
  const own = new Map(cell.values.map(([seed, value, se]) => [seed, { value, se }]));
  const worst = new Map(cell.worst);
  const counts = (pairs) => pairs.map(([word, count]) => `${count} ${word}`).join(", ");
  const each = (name) => [...new Set(runs.map((run) => run[name]))].filter((value) => value !== "").join(", ");
  const copy = h("button", { type: "button", id: "copy", onclick: () => toClipboard(line.command) }, "Copy");
  byId("cell-head").textContent = `${line.method} on ${state.board.task}: ${metric}`;
  const heads = ["seed", "value", "standard error", "train s", "status", "run key", "attempt"];
  const seeds = h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, ...runs.map((run) => h("tr", {}, ...[
      run.seed, worst.has(run.seed) ? `worst: ${worst.get(run.seed)}` : number(own.get(run.seed)?.value, 6), number(own.get(run.seed)?.se, 2), number(run.seconds),
      run.reason ? `${run.status}: ${run.reason}` : run.status, run.run_key, run.attempt,
    ].map((text) => h("td", {}, String(text)))))));
  byId("cell-body").replaceChildren(
    facts([
      ["median", `${cell.shown.value} ${cell.shown.interval}`],
      ["at", `n = ${number(cell.n, 7)}${state.board.t === null ? ", the last law" : `, t = ${state.board.t}`}`],
      ["tier", cell.tier], ["against the floor", { floor: "shown to be at it", alarm: `${cell.why}: look for a leak` }[cell.verdict]],
      ["values left out", counts(Object.entries(cell.left))], ["seeds", line.seeds], ["stale", line.stale],
      ["run again", counts(Object.entries(line.verified))],
    ]),
    h("h3", {}, "Run it again"), h("pre", { id: "command" }, line.command), copy,
    h("h3", {}, "Seeds"), h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Seeds" }, seeds),
    h("h3", {}, "Settings"),
    facts([
      ["device", each("device")], ["precision", each("dtype")], ["budget", each("budget") || "none"],
      ["seeds trained together", each("batch")], ["information", line.information],
      ["metric", `version ${cell.version}, source ${cell.code}`], ["source of task and method", each("code")],
    ]),
    h("h3", {}, "Environment"), ...[...new Set(runs.map((run) => run.env))].map(environment));
  byId("cell").showModal();
}

function environment(hash) {
  const known = content.environments[hash]?.facts ?? {};
  const lost = Object.keys(known).length ? [] : [["facts", "lost"]];
  return facts([["hash", hash], ...Object.entries(known), ...lost]);
}

async function toClipboard(text) {
  const button = byId("copy");
  try {
    await navigator.clipboard.writeText(text);
  } catch {  // a page from a file may not be allowed to
    getSelection().selectAllChildren(byId("command"));
    button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
    return;
  }
  button.textContent = "Copied";
}

// ---- plots ------------------------------------------------------------------------------------------------------

const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function short(name) {
  return plain(name.length > 40 ? `${name.slice(0, 39)}…` : name);
}

function axis(title, log) {
  return {
    title: { text: title, standoff: 8 }, type: log ? "log" : "linear", gridcolor: ink("line"), linecolor: ink("line"), zeroline: false,
    exponentformat: "power", automargin: true,
  };
}

function plot(host, traces, x, y, across = {}) {
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink("text"), size: 12, family: "system-ui, sans-serif" },
    margin: { l: 60, r: 12, t: 14, b: 46 }, showlegend: false, hovermode: "closest", xaxis: x, yaxis: y, ...across,
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
    hoverlabel: { bgcolor: ink("raised"), bordercolor: ink("line"), font: { color: ink("text") } },
  };
  Plotly.react(host, traces, layout, { responsive: true, displayModeBar: false });
}

function empty(host, note, text) {
  if (host.data) Plotly.purge(host);
  host.replaceChildren();
  note.textContent = text;
}

// a number as a range under it and over it, for Plotly's error bars
function bars(cells) {
  return {
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: cells.map((cell) => (cell.high === null ? 0 : cell.high - cell.value)),
    arrayminus: cells.map((cell) => (cell.low === null ? 0 : cell.value - cell.low)),
  };
}

function controls(metric) {
  return state.board.lines.filter((line) => line.role !== "method" && (line.cells[metric]?.value ?? null) !== null);
}

// which axis this is, and what it leaves out
function axisNote(metric, log) {
  if (!log) return " The vertical axis is linear: there are values of zero or less.";
  const off = controls(metric).filter((line) => !(line.cells[metric].value > 0));
  return off.length ? ` Not on this axis: ${off.map((line) => `${line.method} at ${number(line.cells[metric].value)}`).join(", ")}.` : "";
}

// floors and controls as lines across a plot; Plotly wants a note on a log axis in logarithms, and a line in values
function levels(metric, log) {
  const found = controls(metric).filter((line) => !log || line.cells[metric].value > 0);
  return {
    shapes: found.map((line) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: line.cells[metric].value, y1: line.cells[metric].value,
      line: { color: content.looks[line.method].colour, width: 1.4, dash: content.looks[line.method].line },
    })),
    annotations: found.map((line) => ({
      xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", showarrow: false, text: short(line.method), font: { size: 11, color: ink("quiet") },
      y: log ? Math.log10(line.cells[metric].value) : line.cells[metric].value,
    })),
  };
}

function legend(section, lines) {
  const host = byId(section).querySelector(".legend");
  host.replaceChildren(...lines.map((line) => h("button", {
    type: "button", "aria-pressed": String(!state.hidden.has(line.method)),
    onclick: (event) => {
      if (!state.hidden.delete(line.method)) state.hidden.add(line.method);
      const [group, place] = [event.currentTarget.parentNode, [...event.currentTarget.parentNode.children].indexOf(event.currentTarget)];
      drawPlots();
      group.children[place]?.focus();
    },
  }, mark(line.method), h("span", {}, ...named(line.method)))));
}

function drawCost() {
  const { board, metric } = state;
  const [host, note, by] = [byId("cost-plot"), byId("cost-note"), byId("cost-x").value];
  const known = board.lines.filter((line) => line.cells[metric] && line.cells[metric].value !== null);
  const methods = known.filter((line) => line.role === "method");
  legend("cost", methods);
  const visible = methods.filter((line) => !state.hidden.has(line.method));
  const logY = methods.every((line) => line.cells[metric].value > 0 && (line.cells[metric].low ?? 1) > 0);
  const placed = visible.filter((line) => line.costs[by] > 0);
  if (!placed.length) {
    empty(host, note, methods.length ? `No method that is shown has any ${WORDS[by]}.` : "No method has this metric.");
    return;
  }
  const traces = placed.map((line) => ({
    x: [line.costs[by]], y: [line.cells[metric].value], error_y: bars([line.cells[metric]]), name: plain(line.method), mode: "markers",
    type: "scatter", marker: { color: content.looks[line.method].colour, symbol: content.looks[line.method].marker, size: 11 },
    hovertemplate: `${short(line.method)}<br>%{x:.3g} ${WORDS[by]}<br>${plain(metric)} %{y:.4g}<extra></extra>`,
  }));
  plot(host, traces, axis(`${WORDS[by]} (median)`, true), axis(plain(metric), logY), levels(metric, logY));
  const lost = visible.length - placed.length;
  note.textContent = `Median over seeds with its 95 % interval; ${board.better[metric]} is better. Lines: floor and controls.`
    + (lost ? ` Without any ${WORDS[by]}, so not on this axis: ${visible.filter((line) => !placed.includes(line)).map((line) => line.method).join("; ")}.` : "")
    + axisNote(metric, logY);
}

function drawCurve() {
  const { board, metric } = state;
  const [host, note, by] = [byId("curve-plot"), byId("curve-note"), byId("curve-x").value];
  const place = content.along.indexOf(by);
  const curves = board.lines.filter((line) => line.curves[metric]?.filter(Boolean).length > 1)
    .filter((line) => line.role === "method" || by === "t");
  legend("curve", curves);
  const visible = curves.filter((line) => !state.hidden.has(line.method));
  const all = curves.filter((line) => line.role === "method").flatMap((line) => line.curves[metric]).filter(Boolean);
  const logY = all.every(([value, low]) => value > 0 && (low ?? 1) > 0);
  const logX = by !== "t" && by !== "step";
  const traces = visible.flatMap((line) => {
    const look = content.looks[line.method];
    const points = line.steps.map((step, i) => [step[place], line.curves[metric][i]])
      .filter(([x, band]) => band && x !== null && (!logX || x > 0));
    const x = points.map((point) => point[0]);
    const edge = (i) => ({
      x, y: points.map(([, band]) => band[i] ?? band[0]), mode: "lines", line: { width: 0, color: look.colour }, hoverinfo: "skip", type: "scatter",
      ...(i === 2 ? { fill: "tonexty", fillcolor: `${look.colour}26` } : {}),
    });
    return [edge(1), edge(2), {
      x, y: points.map(([, band]) => band[0]), mode: "lines+markers", type: "scatter", name: plain(line.method),
      line: { color: look.colour, dash: look.line, width: 1.8 }, marker: { symbol: look.marker, size: 6, color: look.colour },
      hovertemplate: `${short(line.method)}<br>%{x:.3g}<br>${plain(metric)} %{y:.4g}<extra></extra>`,
    }];
  });
  if (!traces.some((trace) => trace.x.length)) {
    empty(host, note, curves.length ? `No curve that is shown has any ${WORDS[by]}.` : "These rows have one law per run: there is no curve to draw.");
    return;
  }
  plot(host, traces, axis(WORDS[by], logX), axis(plain(metric), logY), by === "t" ? {} : levels(metric, logY));
  note.textContent = `${by === "t" ? "Error along the flow" : "Quality on the way"}: median over the seeds that reached each law, with its 95 % interval as a band; ${board.better[metric]} is better.`
    + axisNote(metric, logY);
}

function drawPlots() {
  if (!window.Plotly || !state.board) return;
  drawCost();
  drawCurve();
}

// ---- laws in the plane ------------------------------------------------------------------------------------------

const unpack = (text) => new Uint16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

let panels = []; // of the plane that is shown: {canvas, caption, cloud, laws}

function readPlane() {
  const plane = content.views.planes.find((one) => one.task === state.board?.task);
  byId("plane-controls").hidden = !plane;
  const notes = content.views.notes.filter((note) => !/^\S+: /.test(note) || note.startsWith(`${state.board?.task}: `));
  byId("plane-note").textContent = plane
    ? "Up to 512 particles of one run per method; grey: draws of the truth. Paths are shown for methods that move particles."
    : notes[0] ?? "This task's laws are not in the plane.";
  panels = (plane?.clouds ?? []).map((cloud) => {
    const canvas = h("canvas", { role: "img", "aria-label": `${cloud.method}, seed ${cloud.seed}: particles and draws of the truth` });
    const caption = h("span", {});
    const figure = h("figure", {}, canvas, h("figcaption", { class: "who" }, mark(cloud.method), h("div", {}, ...named(cloud.method), " ", caption)));
    return { figure, canvas, caption, cloud, plane, laws: cloud.laws.map(unpack) };
  });
  if (panels.length) panels[0].truth = plane.truth ? unpack(plane.truth) : new Uint16Array(0);
  byId("plane-panels").replaceChildren(...panels.map((panel) => panel.figure));
  const last = Math.max(0, ...panels.map((panel) => panel.laws.length - 1));
  Object.assign(byId("time"), { max: last, disabled: last === 0 });
  byId("time").value = last;
}

function drawPlane() {
  const slider = byId("time");
  const share = Number(slider.max) ? Number(slider.value) / Number(slider.max) : 1;
  const texts = panels.map((panel) => {
    const at = Math.round(share * (panel.laws.length - 1));
    panel.caption.textContent = `seed ${panel.cloud.seed}, ${panel.cloud.times[at]}`;
    drawPanel(panel, at);
    return panel.cloud.times[at];
  });
  slider.setAttribute("aria-valuetext", [...new Set(texts)].slice(0, 3).join("; "));
}

function drawPanel({ canvas, cloud, plane, laws }, at) {
  const size = canvas.clientWidth * devicePixelRatio;
  if (!size) return;
  Object.assign(canvas, { width: size, height: size });
  const draw = canvas.getContext("2d");
  const [x0, x1, y0, y1] = plane.box;
  const [left, right, low, high] = plane.shown;
  const x = (value) => ((x0 + (value / 65535) * (x1 - x0) - left) / (right - left)) * size;
  const y = (value) => size - ((y0 + (value / 65535) * (y1 - y0) - low) / (high - low)) * size;
  const dots = (law, colour, alpha, radius) => {
    Object.assign(draw, { fillStyle: colour, globalAlpha: alpha });
    for (let i = 0; i < law.length; i += 2) draw.fillRect(x(law[i]) - radius, y(law[i + 1]) - radius, 2 * radius, 2 * radius);
  };
  const colour = content.looks[cloud.method].colour;
  const unit = size / 250;
  dots(panels[0].truth, ink("quiet"), 0.45, 0.8 * unit);
  if (byId("paths").checked && cloud.paired) {
    Object.assign(draw, { strokeStyle: colour, globalAlpha: 0.45, lineWidth: 0.7 * unit });
    for (let i = 0; i < Math.min(160, laws[0].length); i += 2) {
      draw.beginPath();
      for (let k = 0; k <= at; k += 1) draw.lineTo(x(laws[k][i]), y(laws[k][i + 1]));
      draw.stroke();
    }
  }
  dots(laws[at], colour, 0.8, 1.05 * unit);
}

// ---- the rest ---------------------------------------------------------------------------------------------------

function drawImages() {
  const grids = content.views.grids.filter((grid) => grid.task === state.board?.task);
  byId("images-panels").replaceChildren(...grids.map((grid) => h("figure", {},
    h("img", { src: grid.source, alt: `${grid.name}: ${grid.what}` }),
    h("figcaption", { class: "who" }, content.looks[grid.name] ? mark(grid.name) : "", h("div", {}, ...named(grid.name), " ", h("span", {}, grid.what))))));
  byId("images-note").textContent = grids.length ? "The first images of the last law." : "This task has no images, or none were kept.";
}

const calibrationSort = { host: "calibration-table" };

function drawCalibration() {
  const { columns, rows, notes } = content.calibration;
  const heads = { ratio: "still/floor", apart: "apart (se)", seconds: "CPU s" };
  const words = new Set(["task", "metric", "status", "note"]);
  const shownColumns = columns.map((id, i) => ({
    id, head: heads[id] ?? id, text: words.has(id) ? (id === "note" ? "text note-cell" : "text") : "", key: (row) => (row[i] === content.calibration.beyond ? Infinity : row[i]),
    cell: (row) => (typeof row[i] === "string" || words.has(id) ? row[i] || "" : number(row[i])),
  }));
  const place = columns.indexOf("task");
  const task = state.board?.task.split(":")[0];
  const some = byId("calibrated").checked ? rows : rows.filter((row) => row[place] === task);
  table(shownColumns, some, calibrationSort, drawCalibration);
  byId("calibration-table").hidden = !some.length;
  byId("calibrated").parentNode.parentNode.hidden = !rows.length;
  byId("calibration-note").textContent = some.length ? notes
    : rows.length ? `${task} is not among the calibrated tasks.` : "There is no calibration.csv next to these rows.";
}

function drawProvenance() {
  byId("provenance-list").replaceChildren(...Object.entries(content.environments).map(([hash, env]) => h("details", {},
    h("summary", {}, `${env.runs} runs: ${env.facts.commit ? `commit ${env.facts.commit}` : "commit not known"}, ${env.facts.cpu ?? ""} (${hash})`),
    environment(hash), facts(Object.entries(env.what).map(([task, methods]) => [task, methods.join(", ")])))));
}

function chooseBoard() {
  const board = content.boards.find((one) => one.task === byId("task").value);
  if (!board) return;
  state.board = board;
  options(byId("metric"), board.metrics.map((name) => [name, name]), state.metric);
  const distinct = (name) => [["", "any"], ...[...new Set(board.lines.map((line) => line[name]))].filter(Boolean).map((text) => [text, text])];
  options(byId("information"), distinct("information"), "");
  const costs = ["seconds", "score_calls", "log_prob_calls", "draw_calls", "sample_seconds", "sample_calls"];
  const used = costs.filter((name) => board.lines.some((line) => line.role === "method" && line.costs[name] > 0));
  options(byId("cost-x"), (used.length ? used : ["seconds"]).map((name) => [name, WORDS[name]]), state.against["cost-x"]);
  const steps = board.lines.filter((line) => line.role === "method").flatMap((line) => line.steps);
  const along = ["t", "seconds", "score_calls", "log_prob_calls", "draw_calls", "step"]
    .filter((name) => steps.some((step) => step[content.along.indexOf(name)] > 0));
  options(byId("curve-x"), (along.length ? along : ["step"]).map((name) => [name, WORDS[name]]), state.against["curve-x"]);
  readPlane();
  drawPlane();
  drawImages();
  drawCalibration();
  chooseMetric();
}

function chooseMetric() {
  state.metric = byId("metric").value;
  state.sort = { host: "board-table", id: `value ${state.metric}`, down: state.board.better[state.metric] === "higher" };
  drawBoard();
  drawPlots();
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function repaint() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  drawPlots();
  drawPlane();
}

const listen = (id, event, action) => byId(id).addEventListener(event, action);
listen("task", "change", chooseBoard);
listen("metric", "change", chooseMetric);
for (const id of ["information", "every"]) listen(id, "change", drawBoard);
listen("search", "input", drawBoard);
listen("calibrated", "change", drawCalibration);
for (const id of ["cost-x", "curve-x"]) listen(id, "change", (event) => { state.against[id] = event.target.value; drawPlots(); });
listen("time", "input", drawPlane);
listen("paths", "change", drawPlane);
listen("theme", "click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; repaint(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
addEventListener("resize", drawPlane);
addEventListener("DOMContentLoaded", repaint); // Plotly's script comes last: the tables don't wait for it

options(byId("task"), content.boards.map((board) => [board.task, board.t === null ? board.task : `${board.task} at t = ${board.t}`]), "");
chooseBoard();
drawProvenance();

})();
