// Layer profiles, maps and subjects: one small Vega chart a panel.
const MOST_PANELS = 12;
const [MAP_ROW, SUBJECTS_ROW, LABEL_LINE, LETTER, MARGINS] = [22, 26, 13, 6, 60]; // pixels
const NARROW = 500; // pixels of the window
const MOST_FLAT = 3; // columns of a map whose names lie flat
const MOST_UPRIGHT = 6; // columns of a map whose names stand in several lines
const MOST_NUMBERED = 10; // columns of a map whose cells hold their number
const MOST_ROWS_IN_TABLE = 1000;
let highlighted = "";
const views = { profiles: [], subjects: [], maps: [], board: [] };

const withField = (spec, channel, name) =>
  spec.layer.map((layer) => layer.encoding[channel]).filter((one) => one?.field === name);

function setScale(spec, channel, name, scale) {
  for (const one of withField(spec, channel, name)) one.scale = { ...one.scale, ...scale };
}

const setParam = (spec, name, value) => {
  spec.params.find((one) => one.name === name).value = value;
};

// Panels of one section: old views are let go, new ones drawn, in order.
function drawPanels(kind, root, panels) {
  for (const view of views[kind]) view.finalize();
  views[kind] = [];
  const drawn = panels.slice(0, MOST_PANELS);
  root.replaceChildren(...drawn.map(({ title, below, words, spec }) => {
    const chart = element("div", { class: "chart", role: "img", "aria-label": words });
    const heading = element("h3", {}, title, below ? element("small", {}, ` ${below}`) : null);
    const options = {
      actions: false, renderer: "svg", ast: true, defaultStyle: false,
      tooltip: { disableDefaultStyle: true },
    };
    spec.description = words;
    // A chart measures its place, so it is drawn when it has one.
    queueMicrotask(() => vegaEmbed(chart, spec, options).then((made) => {
      chart.querySelector("svg").setAttribute("aria-hidden", "true"); // its frame has the words
      if (chart.isConnected) views[kind].push(made.view);
      else made.view.finalize();
    }));
    return element("figure", {}, element("figcaption", {}, heading), chart);
  }));
  return panels.length > drawn.length
    ? `${drawn.length} of ${panels.length} panels are drawn: choose a dataset, region or metric.` : "";
}

const reached = metrics.map((_, metric) => {
  const all = profiles.filter((one) => one.metric === metric).flatMap((one) => one.mean);
  const [low, high] = widest([0, ...all]);
  return low === high ? [low, low + 1] : [low, high];
});

const pairs = (some) => [...new Map(some.map((one) => [`${one.metric} ${one.target}`, one])).values()]
  .sort((a, b) => a.metric - b.metric || a.target - b.target);

function band(some) {
  const ceiling = some.find((one) => one.ceiling)?.ceiling;
  if (!ceiling) return [];
  const [low, high] = ceiling.ends;
  return [{ low, high, said: `${range(ceiling.ends)} (${ceiling.kind})` }];
}

const titled = (one) => ({
  title: targets[one.target].name,
  below: metrics[one.metric].name + (one.distance ? ", lower is closer" : ""),
});

function domainOf(metric) {
  const [low, high] = extents[metric];
  return [low, high + 0.03 * (high - low)];
}

function drawProfiles(mine) {
  const deep = mine.filter((one) => one.layers.length > 1);
  const panels = pairs(deep).map((place) => {
    const own = mine.filter((one) => one.target === place.target && one.metric === place.metric);
    const spec = structuredClone(data.charts.profile);
    const points = own.flatMap((one) => one.layers.map((layer, i) => ({
      model: models[one.model].name, layer, place: one.places[i], value: one.mean[i],
      low: one.intervals[i]?.[0] ?? null, high: one.intervals[i]?.[1] ?? null,
      interval: range(one.intervals[i]) ?? "none", ceiling: one.ceiling ? range(one.ceiling.ends) : "none",
      single: one.layers.length === 1,
    }))).filter((point) => point.value != null);
    spec.datasets = {
      points: points.filter((point) => !point.single),
      lines: points.filter((point) => point.single),
      band: band(own),
    };
    setParam(spec, "chosen", highlighted);
    setParam(spec, "names", data.axis.names ?? []);
    for (const y of ["value", "low"]) setScale(spec, "y", y, { domain: domainOf(place.metric), nice: false });
    const places = points.filter((point) => !point.single).map((point) => point.place);
    setScale(spec, "x", "place", { domain: places.length ? [Math.min(...places), Math.max(...places)] : [0, 1] });
    for (const x of withField(spec, "x", "place")) {
      x.axis.title = data.axis.label;
      if (data.axis.names) {
        Object.assign(x.axis, { values: data.axis.names.map((_, i) => i), labelExpr: "names[datum.value]", labelAngle: -35 });
      }
    }
    const best = own.filter((one) => one.best != null).map((one) =>
      `${models[one.model].name} ${digits(scoreOf(one))} at ${one.layers[one.best]}`);
    const words = `Score against layer, ${targets[place.target].name}, ${metrics[place.metric].name}. Best: ${best.join("; ")}.`;
    return { ...titled(place), words, spec };
  });
  byId("profiles-note").textContent = panels.length
    ? drawPanels("profiles", byId("profiles"), panels)
    : (drawPanels("profiles", byId("profiles"), []), "No model that is shown has more than one layer.");
  fillWhenOpened(byId("profiles-table"), () => {
    const rows = deep.flatMap((one) => one.layers.map((layer, i) => [
      targets[one.target].name, metrics[one.metric].name, models[one.model].name, layer,
      one.mean[i], range(one.intervals[i])]));
    const cut = rows.length > MOST_ROWS_IN_TABLE ? ` The first ${MOST_ROWS_IN_TABLE} of ${rows.length}; the table of all comparisons has the rest.` : "";
    return plainTable(`Score of each layer.${cut}`,
      ["Target", "Metric", "Model", "Layer", "Score", data.interval], rows.slice(0, MOST_ROWS_IN_TABLE));
  });
}

// Names of columns in lines: flat where there is room, else upright, and in one line where crowded.
function nameColumns(spec, columns, points, flat) {
  const lines = (name) => name.replace(" (", ", (").split(", ").length;
  const longest = Math.max(...points.map((point) => point.row.length));
  const room = innerWidth < NARROW ? innerWidth - MARGINS - LETTER * longest : Infinity;
  const most = Math.max(...points.map((point) => lines(point.column)));
  const crowded = columns > MOST_UPRIGHT || columns * most * LABEL_LINE > room;
  for (const x of withField(spec, "x", "column")) {
    if (crowded && columns > flat) Object.assign(x.axis, { labelAngle: -90, labelLimit: 300 });
    else x.axis.labelExpr = "split(replace(datum.label, ' (', ', ('), ', ')";
    if (columns <= flat) {
      Object.assign(x.axis, { labelPadding: 4 + LABEL_LINE * (most - 1), labelLimit: 118 });
    } else if (!crowded) {
      Object.assign(x.axis, { labelAngle: -90, labelOffset: (-LABEL_LINE / 2) * (most - 1) });
    }
  }
}

function mapSpec(metric, distance, points, wide) {
  const spec = structuredClone(data.charts.map);
  const [low, high] = reached[metric];
  setScale(spec, "color", "value", { domain: [low, high], reverse: distance });
  setParam(spec, "middle", low + 0.6 * (high - low));
  if (distance) {
    const number = spec.layer.at(-1).encoding.color;
    number.condition.test = "datum.value < middle";
  }
  const columns = new Set(points.map((point) => point.column)).size;
  nameColumns(spec, columns, points, innerWidth < NARROW ? 2 : MOST_FLAT + wide);
  if (columns > MOST_NUMBERED) spec.layer.pop();
  spec.height = MAP_ROW * new Set(points.map((point) => point.row)).size;
  spec.datasets = { points };
  return spec;
}

const mapPoint = (one, layer, i) => ({
  column: targets[one.target].name, target: targets[one.target].name, layer,
  model: models[one.model].name, metric: metrics[one.metric].name, value: one.mean[i],
});

function drawMaps(mine) {
  const ordered = [...mine].sort((a, b) => a.metric - b.metric || a.model - b.model || a.target - b.target);
  const deep = ordered.filter((one) => one.layers.length > 1);
  const groups = Map.groupBy(deep, (one) => `${one.metric} ${one.model}`);
  const panels = [...groups.values()].map((own) => {
    const [{ metric, model, distance }] = own;
    const points = own.flatMap((one) => one.layers.map((layer, i) => ({ ...mapPoint(one, layer, i), row: layer })));
    const words = `Heat map of scores: ${models[model].name}, a row for each of ${own[0].layers.length} layers, a column for each of ${counted(own.length, "target")}.`;
    return { title: models[model].name, below: metrics[metric].name, words, spec: mapSpec(metric, distance, points, false) };
  });
  byId("maps-note").textContent = panels.length ? drawPanels("maps", byId("maps"), panels)
    : (drawPanels("maps", byId("maps"), []), "No model that is shown has more than one layer.");
  const byMetric = [...Map.groupBy(ordered, (one) => one.metric).values()];
  byId("models-note").textContent = drawPanels("board", byId("models"), byMetric.map((own) => {
    const points = own.filter((one) => one.best != null).map((one) => ({
      ...mapPoint(one, one.layers[one.best], one.best), row: models[one.model].name }));
    const [{ metric, distance }] = own;
    const words = `Heat map of best scores by ${metrics[metric].name}: a row a model, a column a target.`;
    return { title: metrics[metric].name, below: distance ? "lower is closer" : "", words, spec: mapSpec(metric, distance, points, true) };
  }));
  for (const id of ["maps-ramp", "models-ramp"]) {
    const shownMetrics = new Set(mine.map((one) => one.metric));
    const ramp = byId(id);
    const only = shownMetrics.size === 1 ? [...shownMetrics][0] : null;
    const far = only != null && mine.some((one) => one.distance);
    const ends = only == null ? ["least similar", "most similar, by metric"] : reached[only].map((end) => digits(end, 2));
    if (far) ends.reverse();
    ramp.hidden = !mine.length;
    ramp.replaceChildren(element("span", {}, ends[0]), element("span", { "aria-hidden": "true" }), element("span", {}, ends[1]));
  }
  fillWhenOpened(byId("models-table"), () => {
    const places = pairs(ordered);
    const held = new Map(ordered.map((one) => [`${one.model} ${one.target} ${one.metric}`, one]));
    const rows = [...new Set(ordered.map((one) => one.model))].map((model) => [models[model].name,
      ...places.map((place) => { const one = held.get(`${model} ${place.target} ${place.metric}`); return one ? scoreOf(one) : null; })]);
    return plainTable("Best score of each model.", ["Model", ...places.map((place) => `${targets[place.target].name}, ${metrics[place.metric].name}`)], rows);
  });
}

function drawSubjects(mine) {
  const several = mine.filter((one) => one.subjects.length);
  const panels = pairs(several).map((place) => {
    const own = several.filter((one) => one.target === place.target && one.metric === place.metric && one.best != null);
    const spec = structuredClone(data.charts.subjects);
    const point = (one, subject, value) => ({ model: models[one.model].name, layer: one.layers[one.best], subject, value });
    spec.datasets = {
      points: own.flatMap((one) => one.subjects.map((subject, i) => point(one, subject, one.values[i])).filter((p) => p.value != null)),
      lines: own.map((one) => point(one, "mean", scoreOf(one))),
      band: band(own),
    };
    setParam(spec, "chosen", highlighted);
    for (const name of ["value", "low"]) setScale(spec, "x", name, { domain: domainOf(place.metric), nice: false });
    const kept = new Set(own.map((one) => models[one.model].name));
    spec.height = SUBJECTS_ROW * kept.size;
    for (const y of withField(spec, "y", "model")) y.sort = y.sort.filter((name) => kept.has(name));
    const words = `One circle a subject, at the best layer of each model: ${titled(place).title}, ${titled(place).below}.`;
    return { ...titled(place), words, spec };
  });
  byId("subjects-note").textContent = panels.length ? drawPanels("subjects", byId("subjects"), panels)
    : (drawPanels("subjects", byId("subjects"), []), "No target that is shown has more than one subject.");
  fillWhenOpened(byId("subjects-table"), () => plainTable("Score of each subject at the best layer.",
    ["Target", "Metric", "Model", "Layer", "Subject", "Score"],
    several.flatMap((one) => one.best == null ? [] : one.subjects.map((subject, i) => [targets[one.target].name,
      metrics[one.metric].name, models[one.model].name, one.layers[one.best], subject, one.values[i]])).slice(0, MOST_ROWS_IN_TABLE)));
}

// Chips are the legend, and highlight one model in all charts.
function drawChips(mine) {
  const shown = [...new Set(mine.map((one) => one.model))].sort((a, b) => a - b);
  if (!shown.some((model) => models[model].name === highlighted)) highlighted = "";
  for (const root of document.querySelectorAll(".chips")) {
    root.replaceChildren(...shown.map((model) => {
      const { name } = models[model];
      const button = element("button", { type: "button", class: "plain", "aria-pressed": String(name === highlighted) },
        swatch(models[model]), name);
      button.addEventListener("click", () => {
        highlighted = highlighted === name ? "" : name;
        for (const other of document.querySelectorAll(".chips button")) {
          other.setAttribute("aria-pressed", String(other.textContent === highlighted));
        }
        for (const view of [...views.profiles, ...views.subjects]) view.signal("chosen", highlighted).run();
      });
      return element("li", {}, button);
    }));
  }
}

function drawCharts() {
  const shown = chosen();
  const mine = profiles.filter((one) => shows(shown, one));
  drawChips(mine);
  drawProfiles(mine);
  drawMaps(mine);
  drawSubjects(mine);
}

let waiting = null;
function drawEverything() {
  drawBoard();
  drawAll();
  clearTimeout(waiting); // charts wait until typing stops
  waiting = setTimeout(drawCharts, 120);
}

filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("input", drawEverything);
filters.addEventListener("reset", () => setTimeout(drawEverything));
drawBoard();
drawAll();
drawCharts();
