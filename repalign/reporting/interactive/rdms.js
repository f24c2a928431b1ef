// Two RDMs side by side: of a recording, and of a layer. Ranks of the upper triangle, one byte each.
const ANCHORS = [[68, 1, 84], [70, 50, 126], [54, 92, 141], [39, 127, 142], [31, 161, 135], [74, 193, 109], [160, 218, 57], [253, 231, 37]];
const UNDEFINED = [127, 127, 127];
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f"];
const STRIPE = 0.025; // of a matrix, for the groups of its conditions

const colourAt = (rank) => {
  if (rank === 0) return UNDEFINED;
  const place = ((rank - 1) / 254) * (ANCHORS.length - 1);
  const i = Math.min(Math.floor(place), ANCHORS.length - 2);
  return ANCHORS[i].map((start, channel) => Math.round(start + (place - i) * (ANCHORS[i + 1][channel] - start)));
};

function unpack(text, n) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  const square = new Uint8Array(n * n).fill(0);
  let at = 0;
  for (let row = 0; row < n; row += 1) {
    for (let column = row + 1; column < n; column += 1) {
      square[row * n + column] = bytes[at];
      square[column * n + row] = bytes[at];
      at += 1;
    }
  }
  return square;
}

// Pearson correlation of the ranks of the pairs that both have.
function correlation(a, b, n) {
  const sums = [0, 0, 0, 0, 0, 0];
  for (let row = 0; row < n; row += 1) {
    for (let column = row + 1; column < n; column += 1) {
      const [x, y] = [a[row * n + column], b[row * n + column]];
      if (x && y) [1, x, y, x * x, y * y, x * y].forEach((term, i) => { sums[i] += term; });
    }
  }
  const [count, x, y, xx, yy, xy] = sums;
  const spread = Math.sqrt((count * xx - x * x) * (count * yy - y * y));
  return spread > 0 ? (count * xy - x * y) / spread : null;
}

function startViewer() {
  const viewer = byId("viewer");
  const input = (name) => viewer.elements[name];
  const canvases = [byId("rdm-brain"), byId("rdm-layer")];
  const sheets = data.rdms.map((one) => {
    if (!one.sheet) return null;
    const image = new Image();
    image.src = one.sheet;
    return image;
  });
  let state = null;
  let place = [0, 1];
  let modelBefore = null;

  const options = (select, names, first) => {
    const before = select.value;
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(before)) select.value = before;
    else if (names.includes(first)) select.value = first;
  };

  function choose() {
    const number = Number(input("recording").value);
    const one = data.rdms[number];
    options(input("target"), Object.keys(one.brains));
    options(input("model"), Object.keys(one.layers), one.first);
    const model = input("model").value;
    if (model !== modelBefore) input("layer").replaceChildren(); // so that its best layer comes up
    modelBefore = model;
    options(input("layer"), Object.keys(one.layers[model] ?? {}), one.best[model]);
    options(input("labels"), [...Object.keys(one.labels), "as recorded"]);
    draw();
  }

  function draw() {
    const number = Number(input("recording").value);
    const one = data.rdms[number];
    const n = one.stimuli.length;
    const groups = one.labels[input("labels").value] ?? null;
    const order = one.stimuli.map((_, i) => i);
    const names = groups ? [...new Set(groups)] : [];
    if (groups) order.sort((a, b) => names.indexOf(groups[a]) - names.indexOf(groups[b]) || a - b);
    const layer = one.layers[input("model").value]?.[input("layer").value];
    const brain = one.brains[input("target").value];
    state = { one, n, order, groups, names, sheet: sheets[number],
      squares: [brain ? unpack(brain, n) : null, layer ? unpack(layer, n) : null] };
    place = [Math.min(place[0], n - 1), Math.min(place[1], n - 1)];
    canvases.forEach((canvas, side) => paint(canvas, state.squares[side]));
    byId("rdm-brain-name").textContent = `${one.name}: ${input("target").value || "no RDM"}`;
    byId("rdm-layer-name").textContent = layer ? `${input("model").value}, ${input("layer").value}` : "no layer";
    const r = layer && brain ? correlation(...state.squares, n) : null;
    byId("rdm-words").textContent = `${counted(n, "stimulus").replace("stimuluss", "stimuli")}; rank correlation of the two as they are shown: ${digits(r)}.`;
    byId("rdm-groups").replaceChildren(...names.map((name, i) => element("li", {},
      shape("svg", { width: 12, height: 12, "aria-hidden": "true" },
        shape("rect", { width: 12, height: 12, rx: 2, fill: PALETTE[i % PALETTE.length] })), name)));
    canvases.forEach((canvas, side) => canvas.setAttribute("aria-label",
      `${side ? byId("rdm-layer-name").textContent : byId("rdm-brain-name").textContent}: dissimilarity matrix; arrow keys move over pairs of stimuli`));
    fillWhenOpened(byId("rdm-table"), pairTable);
    point(null);
  }

  function paint(canvas, square) {
    const { n, order, groups, names } = state;
    const edge = groups ? Math.max(2, Math.round(STRIPE * n)) : 0;
    const cell = Math.max(1, Math.floor(560 / (n + edge)));
    canvas.width = canvas.height = (n + edge) * cell;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!square) return;
    const tiny = new OffscreenCanvas(n, n);
    const small = tiny.getContext("2d");
    const pixels = small.createImageData(n, n);
    for (let row = 0; row < n; row += 1) {
      for (let column = 0; column < n; column += 1) {
        const rank = square[order[row] * n + order[column]];
        pixels.data.set([...(row === column ? ANCHORS[0] : colourAt(rank)), 255], 4 * (row * n + column));
      }
    }
    small.putImageData(pixels, 0, 0);
    context.imageSmoothingEnabled = false;
    context.drawImage(tiny, edge * cell, edge * cell, n * cell, n * cell);
    if (!groups) return;
    order.forEach((stimulus, i) => {
      context.fillStyle = PALETTE[names.indexOf(groups[stimulus]) % PALETTE.length];
      context.fillRect(0, (edge + i) * cell, (edge - 0.6) * cell, cell);
      context.fillRect((edge + i) * cell, 0, cell, (edge - 0.6) * cell);
    });
  }

  function thumbnail(canvas, stimulus) {
    const { one, sheet } = state;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    canvas.hidden = !sheet;
    if (!sheet || !sheet.complete) return;
    const [row, column] = [Math.floor(stimulus / one.across), stimulus % one.across];
    context.drawImage(sheet, column * one.size, row * one.size, one.size, one.size, 0, 0, canvas.width, canvas.height);
  }

  // Thumbnails and words of the pair that is pointed at; a null leaves the words of the whole.
  function point(at) {
    if (at) place = at;
    const { one, n, order, groups, squares } = state;
    const [a, b] = place.map((i) => order[i]);
    thumbnail(byId("rdm-first"), a);
    thumbnail(byId("rdm-second"), b);
    const rank = (square) => square && square[a * n + b] ? `${Math.round(((square[a * n + b] - 1) / 254) * 100)}\u00a0%` : "–";
    const called = (i) => one.stimuli[i] + (groups && !one.stimuli[i].includes(groups[i]) ? ` (${groups[i]})` : "");
    byId("rdm-pair").textContent = a === b ? `${called(a)}: the diagonal`
      : `${called(a)} and ${called(b)}: dissimilarity rank ${rank(squares[0])} in the recording, ${rank(squares[1])} in the layer`;
    if (at) canvases.forEach((canvas, side) => { paint(canvas, squares[side]); mark(canvas); });
  }

  function mark(canvas) {
    const edge = state.groups ? Math.max(2, Math.round(STRIPE * state.n)) : 0;
    const cell = canvas.width / (state.n + edge);
    const context = canvas.getContext("2d");
    context.lineWidth = 2;
    for (const [colour, grow] of [["#000000", 2], ["#ffffff", 0]]) {
      context.strokeStyle = colour;
      context.strokeRect((edge + place[1]) * cell - 2 - grow / 2, (edge + place[0]) * cell - 2 - grow / 2, cell + 4 + grow, cell + 4 + grow);
    }
  }

  function pairTable() {
    const { one, n, groups, names, squares } = state;
    if (groups) {
      const means = (square, x, y) => {
        let [sum, count] = [0, 0];
        for (let row = 0; row < n; row += 1) for (let column = row + 1; column < n; column += 1) {
          const fits = (groups[row] === x && groups[column] === y) || (groups[row] === y && groups[column] === x);
          const rank = square ? square[row * n + column] : 0;
          if (fits && rank) { sum += (rank - 1) / 254; count += 1; }
        }
        return count ? sum / count : null;
      };
      const rows = names.flatMap((x, i) => names.slice(i).map((y) => [x, y, means(squares[0], x, y), means(squares[1], x, y)]));
      return plainTable("Mean dissimilarity rank within and between groups, 0 (most similar pair) to 1.", ["Group", "Group", "Recording", "Layer"], rows);
    }
    const all = [];
    for (let row = 0; row < n; row += 1) for (let column = row + 1; column < n; column += 1) {
      const ranks = squares.map((square) => (square && square[row * n + column] ? (square[row * n + column] - 1) / 254 : null));
      all.push([one.stimuli[row], one.stimuli[column], ...ranks]);
    }
    all.sort((x, y) => compareValues(x[2], y[2], 1));
    return plainTable("The 20 most similar pairs of the recording; rank 0 (most similar) to 1.", ["Stimulus", "Stimulus", "Recording", "Layer"], all.slice(0, 20));
  }

  viewer.addEventListener("submit", (event) => event.preventDefault());
  viewer.addEventListener("input", choose);
  for (const canvas of canvases) {
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const edge = state.groups ? Math.max(2, Math.round(STRIPE * state.n)) : 0;
      const at = [event.clientY - box.top, event.clientX - box.left]
        .map((pixel) => Math.floor((pixel / box.width) * (state.n + edge)) - edge);
      if (at.every((i) => i >= 0 && i < state.n)) point(at);
    });
    canvas.addEventListener("focus", () => point(place));
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      event.preventDefault();
      point(place.map((i, axis) => Math.min(Math.max(i + step[axis], 0), state.n - 1)));
    });
  }
  for (const sheet of sheets) sheet?.addEventListener("load", () => point(null));
  choose();
}

if (data.rdms.length) startViewer();
