// ---- plots ------------------------------------------------------------------------------------------------------

const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // Plotly reads HTML
const short = (name) => plain(name.length > 40 ? `${name.slice(0, 39)}…` : name);
const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const lookOf = (method) => content.looks[method];

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

// a section's controls and plot, or nothing at all where there is nothing to draw
function section(name, traces, x, y, across, note) {
  byId(name).hidden = false;
  const host = byId(`${name}-plot`);
  byId(`${name}-note`).textContent = traces.length ? note : "All methods that have it are hidden.";
  if (traces.length) plot(host, traces, x, y, across);
  else if (host.data) Plotly.purge(host);
}

function axisChoice(select, key, names, usual) {
  const chosen = names.includes(at[key]) ? at[key] : usual;
  options(byId(select), names.map((name) => [name, AXES[name]]), chosen);
  return chosen;
}

function legend(name, methods) {
  byId(name).querySelector(".legend").replaceChildren(...methods.map((method) => h("button", {
    type: "button", "aria-pressed": String(!at.hide.includes(method)), "data-method": method,
    onclick: () => {
      go({ hide: at.hide.includes(method) ? at.hide.filter((one) => one !== method) : [...at.hide, method] }, true);
      byId(name).querySelector(`[data-method="${CSS.escape(method)}"]`)?.focus();
    },
  }, mark(method), h("span", {}, named(method)))));
  return (one) => !at.hide.includes(one.method);
}

// floors and controls as lines across a plot; Plotly wants a note on a log axis in logarithms, and a line in values
function levels(controls, up) {
  const drawn = controls.map(({ method, value }) => ({ method, value: up.at(value) }));
  return {
    shapes: drawn.map(({ method, value }) => ({
      type: "line", xref: "paper", x0: 0, x1: 1, y0: value, y1: value, line: { color: lookOf(method).colour, width: 1.4, dash: lookOf(method).line },
    })),
    annotations: drawn.map(({ method, value }) => ({
      xref: "paper", x: 1, xanchor: "right", yanchor: "bottom", showarrow: false, text: short(method), font: { size: 11, color: ink("quiet") }, y: up.log ? Math.log10(value) : value,
    })),
  };
}

// The vertical axis for these medians. It is logarithmic where all are positive, or where those are a factor of WIDE
// apart and nearer to 0 is better: then what is 0 or less stands on its lower edge, and on its upper one what is more
// than FAR times as far away as not moving. Intervals may reach beyond it.
const WIDE = 20;
const FAR = 10;

function upright(title, values, floored, controls) {
  const still = controls.find((one) => one.method === "still")?.value;
  const ceiling = floored && still > 0 ? FAR * still : Infinity;
  const medians = values.map((value) => Math.min(value, ceiling));
  const over = medians.filter((value) => value > 0);
  const [low, high] = [Math.min(...over), Math.max(...over)];
  const log = over.length > 0 && (over.length === medians.length || (floored && high > WIDE * Math.max(low, Math.abs(Math.min(...medians)))));
  const [least, most] = log ? [Math.log10(low), Math.log10(high)] : [Math.min(...medians), Math.max(...medians)];
  const room = 0.08 * (most - least) || 0.1 * Math.abs(most) || 1;
  const range = [least - (log && over.length < medians.length ? 2 : 1) * room, most + room];
  const edge = log ? 10 ** (range[0] + 0.3 * room) : -Infinity;
  return {
    log, at: (value) => (log && !(value > edge) ? edge : Math.min(value, ceiling)), axis: { ...axis(title, log), range },
    note: (log && over.length < medians.length ? " On the lower edge: values of zero or less." : "")
      + (values.some((value) => value > ceiling) ? ` On the upper edge: values more than ${FAR} times that of not moving.` : ""),
  };
}

const controlsOf = (board, metric) => board.lines.filter((line) => line.role !== "method" && !missing(line.cells[metric]?.value))
  .map((line) => ({ method: line.method, value: line.cells[metric].value }));

// what can be drawn against cost: {method, value, low, high, costs}
function costPoints(group, board, metric) {
  if (!board) {
    return suiteRows(group).filter((row) => !missing(row.score))
      .map((row) => ({ method: row.method, value: row.score, costs: { total: row.total, oracle: row.oracle, seconds: row.train } }));
  }
  return board.lines.filter((line) => line.role === "method" && !missing(line.cells[metric]?.value))
    .map((line) => ({ method: line.method, ...line.cells[metric], costs: line.costs }));
}

// names beside their points, or where another point is near, around it
const AROUND = ["middle right", "top center", "bottom center", "middle left"];

function placesOf(spots) {
  const spread = (i) => Math.max(...spots.map((spot) => spot[i])) - Math.min(...spots.map((spot) => spot[i])) || 1;
  const size = [spread(0), spread(1)];
  return spots.map((spot, i) => AROUND[spots.slice(0, i).filter((one) => [0, 1].every((k) => Math.abs(one[k] - spot[k]) < 0.06 * size[k])).length % AROUND.length]);
}

function drawCost(group, board, metric) {
  const points = costPoints(group, board, metric);
  const axes = ["total", "oracle", "seconds", "score_calls", "log_prob_calls", "draw_calls"].filter((name) => points.some((one) => one.costs[name] > 0));
  byId("cost").hidden = !axes.length;
  if (!axes.length) return;
  const by = axisChoice("cost-x", "x", axes, axes[0]);
  const placed = points.filter((one) => one.costs[by] > 0);
  const visible = placed.filter(legend("cost", placed.map((one) => one.method)));
  const name = board ? metric : "score over all tasks";
  const controls = board ? controlsOf(board, metric) : [];
  const up = board ? upright(plain(name), [...points, ...controls].map((one) => one.value), board.better[metric] === "lower", controls)
    : { at: (value) => value, log: false, note: "", axis: { ...axis(name, false), range: [-0.03, 1.05] } };
  const places = placesOf(visible.map((one) => [Math.log(one.costs[by]), up.log ? Math.log(up.at(one.value)) : one.value]));
  const traces = visible.map((one, i) => ({
    x: [one.costs[by]], y: [up.at(one.value)], name: plain(one.method), mode: "markers+text", type: "scatter",
    text: [short(one.method)], textposition: places[i], textfont: { size: 11, color: ink("quiet") }, cliponaxis: false,
    error_y: {
      type: "data", symmetric: false, thickness: 1.2, width: 3, array: [missing(one.high) ? 0 : Math.max(0, up.at(one.high) - up.at(one.value))],
      arrayminus: [missing(one.low) ? 0 : Math.max(0, up.at(one.value) - up.at(one.low))],
    },
    marker: { color: lookOf(one.method).colour, symbol: lookOf(one.method).marker, size: 11 },
    hovertemplate: `${short(one.method)}<br>%{x:.3g} ${AXES[by]}<br>${plain(name)} ${number(one.value, 4)}<extra></extra>`,
  }));
  const lost = points.filter((one) => !placed.includes(one)).map((one) => one.method);
  section("cost", traces, axis(`${AXES[by]} (${board ? "median" : "medians, summed over tasks"})`, true), up.axis, levels(controls, up),
    `Further down and to the left is better${board && board.better[metric] === "higher" ? " (here: further up)" : ""}. ${board ? "Bars: 95 % intervals. Lines: exact draws and controls." : ""}`
    + (lost.length ? ` Without ${AXES[by]}: ${lost.join("; ")}.` : "") + up.note);
}

function drawCurve(board, metric) {
  const curves = (board?.lines ?? []).filter((line) => line.role === "method" && line.curves[metric]?.filter(Boolean).length > 1);
  byId("curve").hidden = !curves.length;
  if (!curves.length) return;
  const axes = ["t", "seconds", "score_calls", "log_prob_calls", "draw_calls", "step"]
    .filter((name) => curves.some((line) => line.steps.some((step) => step[content.along.indexOf(name)] > 0)));
  const by = axisChoice("curve-x", "along", axes, axes[0] ?? "step");
  const place = content.along.indexOf(by);
  const visible = curves.filter(legend("curve", curves.map((line) => line.method)));
  const all = curves.flatMap((line) => line.curves[metric]).filter(Boolean);
  const controls = by === "t" ? [] : controlsOf(board, metric);
  const up = upright(plain(metric), [...all.map((band) => band[0]), ...controls.map((one) => one.value)], board.better[metric] === "lower", controls);
  const logX = by !== "t" && by !== "step";
  const traces = visible.flatMap((line) => {
    const look = lookOf(line.method);
    const points = line.steps.map((step, i) => [step[place], line.curves[metric][i]]).filter(([x, band]) => band && x !== null && (!logX || x > 0));
    const x = points.map((point) => point[0]);
    const edge = (i) => ({
      x, y: points.map(([, band]) => up.at(band[i] ?? band[0])), mode: "lines", line: { width: 0, color: look.colour }, hoverinfo: "skip", type: "scatter",
      ...(i === 2 ? { fill: "tonexty", fillcolor: `${look.colour}26` } : {}),
    });
    return [edge(1), edge(2), {
      x, y: points.map(([, band]) => up.at(band[0])), mode: "lines+markers", type: "scatter", name: plain(line.method),
      line: { color: look.colour, dash: look.line, width: 1.8 }, marker: { symbol: look.marker, size: 6, color: look.colour },
      hovertemplate: `${short(line.method)}<br>%{x:.3g}<br>${plain(metric)} %{customdata:.4g}<extra></extra>`, customdata: points.map(([, band]) => band[0]),
    }];
  });
  section("curve", traces, axis(AXES[by], logX), up.axis, levels(controls, up),
    `Median over the seeds that reached each law, with its 95 % interval as a band; ${board.better[metric]} is better.` + up.note);
}

function drawPlots(group, board) {
  const metric = board && metricShown(board) !== "*" ? metricShown(board) : board?.headline;
  if (at.paper) for (const name of ["cost", "curve"]) byId(name).hidden = true;
  else if (window.Plotly) {
    drawCost(group, board, metric);
    drawCurve(board, metric);
  }
}
