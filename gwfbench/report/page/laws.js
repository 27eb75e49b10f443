// ---- laws: particles in the plane, and images -------------------------------------------------------------------

const unpack = (text) => new Uint16Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);

let panels = []; // of the plane that is shown: {canvas, caption, cloud, plane, laws, truth}

function readPlane(task) {
  const plane = content.views.planes.find((one) => one.task === task);
  byId("plane").hidden = !plane;
  const truth = plane?.truth ? unpack(plane.truth) : new Uint16Array(0);
  panels = (plane?.clouds ?? []).map((cloud) => {
    const canvas = h("canvas", { role: "img", "aria-label": `${cloud.method}, seed ${cloud.seed}: particles and draws of the truth` });
    const caption = h("span", {});
    const figure = h("figure", {}, canvas, h("figcaption", { class: "who" }, mark(cloud.method), h("div", {}, named(cloud.method), " ", caption)));
    return { figure, canvas, caption, cloud, plane, truth, laws: cloud.laws.map(unpack) };
  });
  byId("plane-panels").replaceChildren(...panels.map((panel) => panel.figure));
  const last = Math.max(0, ...panels.map((panel) => panel.laws.length - 1));
  byId("time").parentNode.hidden = last === 0;
  byId("paths").parentNode.hidden = !panels.some((panel) => panel.cloud.paired && panel.laws.length > 1);
  byId("time").max = last;
  byId("time").value = last;
}

function drawPlane() {
  const slider = byId("time");
  const share = Number(slider.max) ? Number(slider.value) / Number(slider.max) : 1;
  const texts = panels.map((panel) => {
    const step = Math.round(share * (panel.laws.length - 1));
    const outside = drawPanel(panel, step);
    panel.caption.textContent = `seed ${panel.cloud.seed}, ${panel.cloud.times[step]}${outside ? `; ${outside} % outside` : ""}`;
    return panel.cloud.times[step];
  });
  slider.setAttribute("aria-valuetext", [...new Set(texts)].slice(0, 3).join("; "));
}

// a step of 1, 2 or 5 times a power of ten that divides a range into three to six
function ticks(low, high) {
  const power = 10 ** Math.floor(Math.log10((high - low) / 3));
  const step = [5, 2, 1].map((times) => times * power).find((one) => one <= (high - low) / 3);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(6)));
}

// draws one law; returns how many per cent of its points are outside the frame
function drawPanel({ canvas, cloud, plane, laws, truth }, step) {
  const size = canvas.clientWidth * devicePixelRatio;
  if (!size) return 0;
  Object.assign(canvas, { width: size, height: size });
  const draw = canvas.getContext("2d");
  const [x0, x1, y0, y1] = plane.box;
  const [left, right, low, high] = plane.shown;
  const across = (value) => ((value - left) / (right - left)) * size;
  const up = (value) => size - ((value - low) / (high - low)) * size;
  const x = (value) => across(x0 + (value / 65535) * (x1 - x0));
  const y = (value) => up(y0 + (value / 65535) * (y1 - y0));
  const dots = (law, colour, alpha, radius) => {
    Object.assign(draw, { fillStyle: colour, globalAlpha: alpha });
    for (let i = 0; i < law.length; i += 2) draw.fillRect(x(law[i]) - radius, y(law[i + 1]) - radius, 2 * radius, 2 * radius);
  };
  const colour = lookOf(cloud.method).colour;
  const unit = size / 250;
  dots(truth, ink("quiet"), 0.45, 0.8 * unit);
  if (byId("paths").checked && cloud.paired) {
    Object.assign(draw, { strokeStyle: colour, globalAlpha: 0.45, lineWidth: 0.7 * unit });
    for (let i = 0; i < Math.min(160, laws[0].length); i += 2) {
      draw.beginPath();
      for (let k = 0; k <= step; k += 1) draw.lineTo(x(laws[k][i]), y(laws[k][i + 1]));
      draw.stroke();
    }
  }
  dots(laws[step], colour, 0.8, 1.05 * unit);
  const font = 11 * devicePixelRatio;
  Object.assign(draw, { fillStyle: ink("quiet"), strokeStyle: ink("quiet"), globalAlpha: 1, lineWidth: devicePixelRatio, font: `${font}px system-ui, sans-serif` });
  for (const value of ticks(left, right).filter((one) => across(one) > 2 * font && across(one) < size - 2 * font)) {
    draw.fillRect(across(value), size - 0.4 * font, devicePixelRatio, 0.4 * font);
    draw.textAlign = "center";
    draw.fillText(typeset(value), across(value), size - 0.6 * font);
  }
  for (const value of ticks(low, high).filter((one) => up(one) > 2 * font && up(one) < size - 2 * font)) {
    draw.fillRect(0, up(value), 0.4 * font, devicePixelRatio);
    draw.textAlign = "left";
    draw.fillText(typeset(value), 0.6 * font, up(value) + 0.35 * font);
  }
  const inside = (i) => x(laws[step][i]) >= 0 && x(laws[step][i]) <= size && y(laws[step][i + 1]) >= 0 && y(laws[step][i + 1]) <= size;
  let outside = 0;
  for (let i = 0; i < laws[step].length; i += 2) outside += inside(i) ? 0 : 1;
  return Math.ceil((200 * outside) / laws[step].length);
}

function drawImages(task) {
  const grids = content.views.grids.filter((grid) => grid.task === task);
  byId("images").hidden = !grids.length;
  byId("images-panels").replaceChildren(...grids.map((grid) => h("figure", {},
    h("img", { src: grid.source, alt: `${grid.name}: ${grid.what}` }),
    h("figcaption", { class: "who" }, mark(grid.name), h("div", {}, named(grid.name), " ", h("span", {}, grid.what))))));
}

// ---- how well the metrics see, and where all of it ran ----------------------------------------------------------

function drawCalibration(task) {
  const { columns, rows, notes } = content.calibration;
  const place = (name) => columns.indexOf(name);
  const own = rows.filter((row) => task && row[place("task")] === task.replace(/:.*$/s, ""));
  const heads = { ratio: "still/floor", apart: "apart (standard errors)", shift: "least shift seen", scale: "least widening seen", seconds: "CPU s" };
  const names = columns.filter((name) => name !== "task" && own.some((row) => !missing(row[place(name)])) && (name !== "status" || own.some((row) => row[place(name)] !== "ok")));
  byId("calibration").hidden = !own.length;
  byId("calibration-table").replaceChildren(plainTable(names.map((name) => heads[name] ?? name),
    own.map((row) => names.map((name) => (typeof row[place(name)] === "number" ? number(row[place(name)]) : row[place(name)] ?? "–"))), "Calibration of the metrics"));
  byId("calibration-note").textContent = notes;
}

function drawMachines() {
  byId("machines-list").replaceChildren(...Object.entries(content.environments).map(([hash, env]) => h("details", {},
    h("summary", {}, `${plural(env.runs, "run")}: ${env.facts.commit ? `commit ${env.facts.commit}` : "commit not known"}${env.facts.cpu ? `, ${env.facts.cpu}` : ""}`),
    environment(hash))));
}
