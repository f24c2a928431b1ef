// What is shown, the leaderboard, and the table of all comparisons. All text goes through
// textContent: nothing from a result is ever markup.
const data = JSON.parse(document.getElementById("data").textContent);
const { targets, metrics, models, profiles } = data;
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const FIRST_ROWS = 100;
const MOST_COLUMNS = 30;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value != null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child != null));
  return made;
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function digits(value, places = 3) {
  if (value == null) return "–";
  if (Number.isInteger(value) && places === 0) return value.toLocaleString("en");
  const small = value !== 0 && Math.abs(value) < 0.0005;
  const text = small ? value.toExponential(1) : value.toFixed(places);
  return (Number(text) === 0 && !small ? text.replace("-", "") : text).replace(/-/g, "−");
}

const range = (ends) => (ends ? ends.map((end) => digits(end, 2)).join(" to ") : null);
const better = (a, b, distance) => (distance ? a < b : a > b);
const scoreOf = (profile) => (profile.best == null ? null : profile.mean[profile.best]);
const counted = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;
const DASHES = ["", "5 3", "2 2", "8 3 2 3"];

function swatch(model) {
  const line = shape("line", { x1: 1, x2: 25, y1: 6, y2: 6, "stroke-width": 3 });
  line.setAttribute("stroke", `var(--c${model.colour})`);
  line.setAttribute("stroke-dasharray", DASHES[model.twin % DASHES.length]);
  return shape("svg", { width: 26, height: 12, class: "swatch", "aria-hidden": "true" }, line);
}

// What is shown: one choice for the leaderboard, the charts and the table.
const filters = byId("filters");
const field = (name) => filters.elements[name].value;

function chosen() {
  const words = field("text").toLowerCase().split(/\s+/).filter(Boolean);
  const named = ({ name, card }) =>
    words.every((word) => `${name} ${card}`.toLowerCase().includes(word));
  return {
    models: new Set(models.flatMap((model, i) => (named(model) ? [i] : []))),
    targets: new Set(targets.flatMap((target, i) =>
      (!field("dataset") || target.dataset === field("dataset")) &&
      (!field("region") || target.region === field("region")) ? [i] : [])),
    metrics: new Set(metrics.flatMap((metric, i) =>
      !field("metric") || metric.label === field("metric") ? [i] : [])),
  };
}

const shows = (shown, one) =>
  shown.models.has(one.model) && shown.targets.has(one.target) && shown.metrics.has(one.metric);

// A head whose button sorts; missing values stay last in both directions.
function sortHead(text, state, key, first, redraw, ...below) {
  const button = element("button", { type: "button" }, text);
  const head = element("th", { scope: "col" }, button, ...below);
  if (state.key === key) head.setAttribute("aria-sort", state.sign > 0 ? "ascending" : "descending");
  button.addEventListener("click", () => {
    state.sign = state.key === key ? -state.sign : first;
    state.key = key;
    redraw(key);
  });
  return head;
}

function compareValues(a, b, sign) {
  if (a == null || b == null) return (a == null) - (b == null);
  return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
}

// The focus stays on the head that was pressed, though the table is drawn again.
function keepFocus(root, act) {
  const heads = () => [...root.querySelectorAll("thead button")];
  const place = heads().indexOf(document.activeElement);
  act();
  if (place >= 0) heads()[place]?.focus();
}

// Leaderboard: one row a model, one column a target and metric.
const boardState = { key: null, sign: 1 };

function drawBoard() {
  const shown = chosen();
  const mine = profiles.filter((one) => shows(shown, one));
  const columns = [...new Map(mine.map((one) => [`${one.target} ${one.metric}`, one])).values()]
    .sort((a, b) => a.metric - b.metric || a.target - b.target);
  const drawn = columns.slice(0, MOST_COLUMNS);
  const cells = new Map(mine.map((one) => [`${one.model} ${one.target} ${one.metric}`, one]));
  const at = (model, column) => cells.get(`${model} ${column.target} ${column.metric}`);
  const score = (model, column) => { const one = at(model, column); return one ? scoreOf(one) : null; };
  const rows = [...shown.models].filter((model) => columns.some((column) => at(model, column)));
  const ranks = new Map(rows.map((model) => [model, []]));
  for (const column of columns) {
    const known = rows.filter((model) => score(model, column) != null);
    for (const model of known) {
      const [own, distance] = [score(model, column), at(model, column).distance];
      const above = known.filter((other) => better(score(other, column), own, distance)).length;
      const equal = known.filter((other) => score(other, column) === own).length;
      ranks.get(model).push(above + (equal + 1) / 2);
    }
  }
  const mean = (all) => (all.length ? all.reduce((a, b) => a + b, 0) / all.length : null);
  const keys = new Map(drawn.map((column) => [`${column.target} ${column.metric}`, column]));
  if (boardState.key !== "model" && boardState.key !== "rank" && !keys.has(boardState.key)) {
    boardState.key = drawn.length === 1 ? [...keys.keys()][0] : "rank";
    boardState.sign = drawn.length === 1 && !drawn[0].distance ? -1 : 1;
  }
  const value = (model) => boardState.key === "model" ? models[model].name
    : boardState.key === "rank" ? mean(ranks.get(model)) : score(model, keys.get(boardState.key));
  rows.sort((a, b) => compareValues(value(a), value(b), boardState.sign) || a - b);

  const table = byId("board");
  keepFocus(table, () => {
    const heads = [sortHead("Model", boardState, "model", 1, drawBoard)];
    if (drawn.length > 1) heads.push(sortHead("Mean rank", boardState, "rank", 1, drawBoard));
    for (const [key, column] of keys) {
      const ceiling = mine.find((one) => one.target === column.target && one.metric === column.metric && one.ceiling)?.ceiling;
      heads.push(sortHead(
        targets[column.target].name, boardState, key, column.distance ? 1 : -1, drawBoard,
        element("small", {}, metrics[column.metric].name + (column.distance ? ", lower is closer" : "")),
        element("small", {}, ceiling ? `ceiling ${range(ceiling.ends)}` : "no ceiling"),
      ));
    }
    table.tHead.replaceChildren(element("tr", {}, ...heads));
    table.tBodies[0].replaceChildren(...rows.map((model) => {
      const name = element("th", { scope: "row" }, swatch(models[model]), models[model].name);
      const rank = element("td", { class: "number rank" }, digits(mean(ranks.get(model)), 1));
      return element("tr", {}, name, ...(drawn.length > 1 ? [rank] : []),
        ...drawn.map((column) => boardCell(at(model, column), rows.map((other) => score(other, column)))));
    }));
  });
  byId("board-note").textContent = drawn.length < columns.length
    ? `${drawn.length} of ${columns.length} columns are drawn: choose a dataset, region or metric.` : "";
  byId("count").textContent =
    `${rows.length} of ${counted(models.length, "model")}, ${counted(columns.length, "column")} of scores`;
}

function boardCell(one, column) {
  const value = one ? scoreOf(one) : null;
  if (value == null) return element("td", { class: "missing" }, one ? "undefined" : "–");
  const others = column.filter((other) => other != null);
  const first = others.every((other) => other === value || !better(other, value, one.distance));
  const ends = one.spread ?? one.intervals[one.best];
  const said = [
    one.layers.length > 1 ? `${one.layers[one.best]}, best of ${one.layers.length}` : one.layers[0],
    [
      ends ? `${one.spread ? "subjects" : data.interval} ${range(ends)}` : null,
      one.fraction == null ? null : `${Math.round(100 * one.fraction)} % of the ceiling`,
    ].filter(Boolean).join(", "),
    one.crossed == null ? null : `${digits(one.crossed)} at the layer of other subjects`,
  ].filter(Boolean);
  return element("td", { class: first ? "first" : null },
    element("span", { class: "score" }, digits(value)), bullet(one, value, ends),
    ...said.map((words) => element("span", { class: "detail" }, words)));
}

// Lowest and highest of some numbers, of which some may be missing.
function widest(all) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of all) {
    if (value != null) [low, high] = [Math.min(low, value), Math.max(high, value)];
  }
  return [low, high];
}

const extents = metrics.map((_, metric) => {
  const all = profiles.filter((one) => one.metric === metric).flatMap((one) => [
    ...one.mean, ...one.intervals.flat(), ...(one.spread ?? []), ...(one.ceiling?.ends ?? []),
  ]);
  const [low, high] = widest([0, ...all]);
  return low === high ? [low, low + 1] : [low, high];
});

function bullet(one, value, ends) {
  const [low, high] = extents[one.metric];
  const x = (number) => (2 + (116 * (number - low)) / (high - low)).toFixed(1);
  const parts = [];
  if (one.ceiling) {
    const [a, b] = one.ceiling.ends.map(x);
    parts.push(shape("rect", { class: "band", x: a, width: Math.max(b - a, 2), y: 0, height: 12 }));
  }
  parts.push(shape("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 12 }));
  const colour = `var(--c${models[one.model].colour})`;
  if (ends?.every((end) => end != null)) {
    parts.push(shape("line", { class: "whisker", x1: x(ends[0]), x2: x(ends[1]), y1: 6, y2: 6, stroke: colour }));
  }
  parts.push(shape("circle", { cx: x(value), cy: 6, r: 3.5, fill: colour }));
  return shape("svg", { class: "bullet", width: 120, height: 12, "aria-hidden": "true" }, ...parts);
}

// All comparisons: sorted and filtered as numbers, drawn as far as they are asked for.
const all = data.rows;
const total = all.target.length;
const COLUMNS = [
  ["Target", (i) => targets[all.target[i]].name],
  ["Subject", (i) => all.subjects[all.subject[i]] || null],
  ["Model", (i) => models[all.model[i]].name],
  ["Layer", (i) => all.layers[all.layer[i]] || null],
  ["Metric", (i) => metrics[all.metric[i]].name],
  ["Value", (i) => all.value[i]],
  ["Interval low", (i) => all.ci_low[i]],
  ["Interval high", (i) => all.ci_high[i]],
  ["Ceiling low", (i) => all.ceiling_low[i]],
  ["Ceiling high", (i) => all.ceiling_high[i]],
  ["Null", (i) => all.null_mean[i]],
  ["p", (i) => all.p[i]],
  ["Stimuli", (i) => all.n_stimuli[i], 0],
  ["Neuroids", (i) => all.n_neuroids[i], 0],
].filter(([, value]) => all.target.some((_, i) => value(i) != null));
const allState = { key: null, sign: 1, every: false };

function drawAll() {
  const shown = chosen();
  const found = [];
  for (let i = 0; i < total; i += 1) {
    if (shown.models.has(all.model[i]) && shown.targets.has(all.target[i]) && shown.metrics.has(all.metric[i])) {
      found.push(i);
    }
  }
  if (allState.key != null) {
    const value = COLUMNS[allState.key][1];
    const keyed = found.map((i) => [value(i), i]);
    keyed.sort((a, b) => compareValues(a[0], b[0], allState.sign) || a[1] - b[1]);
    keyed.forEach(([, i], place) => { found[place] = i; });
  }
  const drawn = allState.every ? found : found.slice(0, FIRST_ROWS);
  const table = byId("all");
  const isNumber = COLUMNS.map(([, value]) => all.target.some((_, i) => typeof value(i) === "number"));
  keepFocus(table, () => {
    table.tHead.replaceChildren(element("tr", {}, ...COLUMNS.map(([name], place) => {
      const head = sortHead(name, allState, place, name === "Value" ? -1 : 1, drawAll);
      if (isNumber[place]) head.className = "number";
      return head;
    })));
    table.tBodies[0].replaceChildren(...drawn.map((i) => element("tr", {},
      ...COLUMNS.map(([, value, places], place) => {
        const own = value(i);
        const kind = [isNumber[place] ? "number" : "", own == null ? "missing" : ""].join(" ").trim();
        return element("td", { class: kind || null },
          own == null ? "–" : typeof own === "number" ? digits(own, places) : own);
      }))));
  });
  const words = `${drawn.length.toLocaleString("en")} of ${counted(found.length, "row")} shown`;
  byId("all-count").textContent = words;
  const more = byId("all-more");
  more.hidden = drawn.length === found.length && !allState.every;
  more.textContent = allState.every ? `Show the first ${FIRST_ROWS}` : `Show all ${found.length.toLocaleString("en")}`;
}

byId("all-more").addEventListener("click", () => { allState.every = !allState.every; drawAll(); });

// A plain table, for those who cannot see a chart.
function plainTable(caption, heads, rows) {
  const cell = (value) => element("td", { class: typeof value === "number" ? "number" : null },
    value == null ? "–" : typeof value === "number" ? digits(value) : value);
  return element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    element("table", {}, element("caption", {}, element("span", {}, caption)),
      element("thead", {}, element("tr", {}, ...heads.map((head) => element("th", { scope: "col" }, head)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map(cell))))));
}

function fillWhenOpened(details, make) {
  const fill = () => { if (details.open) details.replaceChildren(details.firstElementChild, make()); };
  details.ontoggle = fill;
  fill();
}
